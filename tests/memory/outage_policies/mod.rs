//! Responses while the backend is unreachable, under each outage policy.

mod anonymous;
#[cfg(feature = "redis")]
mod on_redis;
mod reject;
mod serve_cached;

use std::time::Duration;

use clustered_sessions::testing::{Faults, FaultyBackend};
use clustered_sessions::{
    Clock, ClusterConfig, Fresh, MemoryBackend, OutagePolicy, Session, SessionConfig, SessionError,
    SessionLayer, SessionStore, StoreErrorKind,
};
use http::{StatusCode, header, request};

use crate::session_faults::error;
use crate::web::{
    self, Browser, Call, Data, HasBackend as _, Page, Spy, ada, secret, serve, settle,
};

const MAX_STALENESS: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(3600);

/// A node whose backend can fail, and a healthy node over the same memory. Needs a paused clock.
struct Site {
    sessions: SessionLayer<Data>,
    faults: Faults,
    /// Records the calls that reach the backend.
    spy: Spy,
    /// The healthy node.
    elsewhere: SessionLayer<Data>,
}

impl Site {
    async fn new(policy: OutagePolicy) -> Self {
        Self::with(policy, ClusterConfig::new().max_staleness(MAX_STALENESS)).await
    }

    async fn with(policy: OutagePolicy, cluster: ClusterConfig) -> Self {
        let clock = Clock::tokio();
        let memory = MemoryBackend::with_clock(clock.clone());
        let spy = Spy::over(&memory);
        let (backend, faults) = FaultyBackend::new(spy.backend(), 1);
        let config = || {
            SessionConfig::builder(secret())
                .enable_retry(false)
                .timeout(TIMEOUT)
                .clock(clock.clone())
        };
        let sessions =
            web::start(config().cluster(cluster).on_outage(policy).backend(backend)).await;
        let elsewhere = web::start(config().backend(memory)).await;
        Site { sessions, faults, spy, elsewhere }
    }

    fn store(&self) -> &SessionStore<Data> {
        self.sessions.store()
    }

    /// Returns a visitor whose session is cached on the node.
    async fn visitor(&self) -> Browser {
        let browser = Browser::with(&self.sessions, ada()).await;
        assert_eq!(browser.clone().visit(&self.reading()).await.body, "Ada 0");
        browser
    }

    /// Makes all calls to the backend fail, and ends the node's subscription.
    async fn outage(&self) {
        self.lose_subscription().await;
        self.faults.fail_calls(1.0);
    }

    /// Ends the node's subscription, while the backend still answers calls.
    async fn lose_subscription(&self) {
        self.faults.refuse_subscriptions();
        self.faults.cut_subscriptions();
        settle().await;
        assert!(!self.store().coordinator().is_listening());
    }

    /// Ends all faults and waits until the node receives announcements again.
    async fn recovery(&self) {
        self.faults.heal();
        while !self.store().coordinator().is_listening() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn reading(&self) -> axum::Router {
        reading(&self.sessions)
    }

    async fn read(&self, browser: &mut Browser) -> (StatusCode, String) {
        let page = browser.visit(&self.reading()).await;
        assert_eq!(page.set_cookies().len(), 0, "a read sets no cookie");
        (page.status, page.body)
    }
}

/// Returns an application that responds with the user, the visits, and a note during an outage.
fn reading(sessions: &SessionLayer<Data>) -> axum::Router {
    serve(sessions, async |session: Session<Data>| {
        let outage = if session.outage().is_some() { " (outage)" } else { "" };
        session.read(|data| {
            format!("{} {}{outage}", data.user.as_deref().unwrap_or("stranger"), data.visits)
        })
    })
}

/// Makes the change named `how` to a session, as a handler would.
async fn change(session: &Session<Data>, how: &str) {
    match how {
        "update" => session.update(|data| data.visits += 1),
        "overwrite" => session.overwrite(Data { user: Some("Bob".into()), visits: 7 }),
        "regenerate" => session.regenerate(),
        "login" => {
            session.update(|data| data.user = Some("Bob".into()));
            session.regenerate();
        }
        "modify" => assert_read_only(&session.modify(|data| data.visits += 1).await.unwrap_err()),
        "save" => {
            session.update(|data| data.visits += 1);
            assert_read_only(&session.save().await.unwrap_err());
        }
        _ => unreachable!(),
    }
}

const CHANGES: [&str; 6] = ["update", "overwrite", "regenerate", "login", "modify", "save"];

#[track_caller]
fn assert_read_only(error: &SessionError) {
    assert!(
        matches!(error, SessionError::ReadOnly(cause) if cause.kind() == StoreErrorKind::Unavailable),
        "{error:?}"
    );
}

/// Asserts that a response is an empty 503 with `Retry-After` that sets no cookie.
#[track_caller]
fn assert_unavailable(page: &Page) {
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""));
    assert_eq!(page.all(header::RETRY_AFTER), ["1"]);
    assert_eq!(page.set_cookies().len(), 0);
}

fn rejected() -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, String::new())
}

fn answered(body: &str) -> (StatusCode, String) {
    (StatusCode::OK, body.to_owned())
}

fn cached_for(seconds: u64) -> OutagePolicy {
    OutagePolicy::ServeCached { max_age: Duration::from_secs(seconds) }
}
