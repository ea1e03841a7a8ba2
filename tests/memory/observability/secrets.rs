//! Neither log lines nor metrics contain secrets, tokens or session data.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{
    MemoryBackend, OutagePolicy, Session, SessionConfigBuilder, SessionLayer, StoreErrorKind,
};
use support::log::Log;

use super::{Scrape, visit};
use crate::web::{self, Browser, COOKIE, Data, HasBackend as _, Spy, config, serve, settle};

/// The private part of the data of sessions.
const PRIVATE: &str = "the-name-of-somebody";

fn somebody() -> Data {
    Data { user: Some(PRIVATE.to_owned()), visits: 0 }
}

/// Returns the token and the tag of a browser's cookie.
fn credential(browser: &Browser) -> Vec<String> {
    browser.cookie(COOKIE).unwrap().split('.').map(str::to_owned).collect()
}

#[track_caller]
fn assert_absent(output: &str, private: &[String]) {
    for word in private {
        assert!(!output.contains(word.as_str()), "{word} is in:\n{output}");
    }
}

/// Runs the requests of a visitor who logs in, changes the session, meets all kinds of faults and
/// logs out. Returns the words that must not appear in any output.
async fn run_visitor(layer: &SessionLayer<Data>, spy: &Spy) -> Vec<String> {
    let login = serve(layer, async |session: Session<Data>| {
        session.update(|data| *data = somebody());
        session.regenerate();
    });
    let count = serve(layer, async |session: Session<Data>| session.update(visit));
    let read = serve(layer, async |session: Session<Data>| drop(session.data()));
    let logout = serve(layer, async |session: Session<Data>| session.destroy());
    let late = serve(layer, async |session: Session<Data>| {
        tokio::spawn(async move {
            settle().await;
            session.update(visit);
        });
    });
    let mut browser = Browser::new();
    let mut private = Vec::new();
    for app in [&login, &count, &read, &login, &late, &count] {
        browser.visit(app).await;
        settle().await;
        private.extend(credential(&browser));
    }
    for kind in [
        StoreErrorKind::Unavailable,
        StoreErrorKind::Timeout,
        StoreErrorKind::OutcomeUnknown,
        StoreErrorKind::Refused,
        StoreErrorKind::Corrupt,
        StoreErrorKind::TooLarge,
        StoreErrorKind::Conflict,
    ] {
        for app in [&count, &read, &login] {
            layer.store().coordinator().local_cache().clear();
            spy.fail_next(1, kind);
            browser.visit(app).await;
            private.extend(credential(&browser));
        }
    }
    browser.visit(&logout).await;
    settle().await;
    private
}

fn outage(spy: &Spy) -> SessionConfigBuilder<Data> {
    config(spy).enable_retry(true).on_outage(OutagePolicy::Anonymous)
}

#[tokio::test(start_paused = true)]
async fn no_secret_token_or_data_appears_in_logs_or_metrics() {
    let (log, scrape, spy) = (Log::default(), Scrape::new(), Spy::new());
    let guard = log.capture("trace");
    let layer = scrape.start(outage(&spy)).await;
    let mut private = run_visitor(&layer, &spy).await;
    // Without retries, the faults reach the requests.
    let (backend, faults) = FaultyBackend::new(spy.backend(), 1);
    let careless = scrape.start(config(&spy).backend(backend)).await;
    private.extend(run_visitor(&careless, &spy).await);
    faults.cut_subscriptions();
    faults.fail_calls(1.0);
    let mut browser = Browser::with(&layer, somebody()).await;
    private.extend(credential(&browser));
    browser.visit(&serve(&careless, async |session: Session<Data>| session.destroy())).await;
    settle().await;
    layer.store().shutdown().await;
    drop(guard);

    let secret = "a secret for tests, long enough for all";
    private.extend([secret, PRIVATE].map(str::to_owned));
    private.extend([URL_SAFE_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(PRIVATE)]);
    let logged = log.text();
    for expected in [
        "session.load",
        "session.commit",
        "session.backend",
        "could not be committed",
        "retrying a call",
    ] {
        assert!(logged.contains(expected), "{expected} was not logged:\n{logged}");
    }
    assert!(private.len() > 40, "{}", private.len());
    assert_absent(&logged, &private);
    assert_absent(&scrape.0.handle().render(), &private);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_logged_with_its_id_alone() {
    let (log, memory) = (Log::default(), MemoryBackend::new());
    let layer = web::start(config(&memory)).await;
    let browser = Browser::with(&layer, somebody()).await;
    let id = web::only_id(&layer).await;
    let _guard = log.capture("trace");
    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Other {
        #[serde(rename = "user")]
        _number: u64,
    }
    let other = clustered_sessions::SessionConfig::<Other>::builder(web::secret()).backend(memory);
    let other = clustered_sessions::SessionStore::new(other.build().unwrap());
    assert_eq!(other.find(id).await.err().unwrap().kind(), StoreErrorKind::Corrupt);
    let logged = log.text();
    assert!(logged.contains("cannot be read") && logged.contains(&id.to_string()), "{logged}");
    let mut private = credential(&browser);
    private.push(PRIVATE.to_owned());
    assert_absent(&logged, &private);
}
