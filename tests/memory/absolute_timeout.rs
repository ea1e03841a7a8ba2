//! The absolute timeout ends sessions after their creation, even if they are in use.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use clustered_sessions::{
    Clock, ClusterConfig, CookieConfig, MemoryBackend, Session, SessionConfigBuilder, SessionLayer,
    StoreErrorKind,
};
use tokio::time::advance;

use crate::web::{
    Browser, Call, Data, HasBackend as _, Spy, ada, config, eventually, only_id, settle, start,
};

const MINUTE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(10 * 60);
const ABSOLUTE: Duration = Duration::from_secs(60 * 60);

/// A memory backend whose sessions expire by tokio's clock, and the nodes that share it.
struct Cluster {
    clock: Clock,
    spy: Spy,
}

impl Cluster {
    fn new() -> Self {
        let clock = Clock::tokio();
        let spy = Spy::over(&MemoryBackend::with_clock(clock.clone()));
        Cluster { clock, spy }
    }

    fn config(&self) -> SessionConfigBuilder<Data> {
        let cluster =
            ClusterConfig::new().local_cache_ttl(IDLE).max_staleness(Duration::from_secs(2));
        config(&self.spy).clock(self.clock.clone()).timeout(IDLE).cluster(cluster)
    }

    async fn node(&self) -> SessionLayer<Data> {
        start(self.config().absolute_timeout(ABSOLUTE)).await
    }
}

fn app(sessions: &SessionLayer<Data>) -> Router {
    let who = async |session: Session<Data>| session.data().user.clone().unwrap_or_default();
    let regenerate = async |session: Session<Data>| session.regenerate();
    Router::new().route("/", get(who)).route("/regenerate", get(regenerate)).layer(sessions.clone())
}

/// Lets background tasks finish, advances the clock, and waits until the node holds the lease.
async fn advance_and_settle(sessions: &SessionLayer<Data>, time: Duration) {
    settle().await;
    advance(time).await;
    eventually(async || sessions.store().coordinator().is_listening()).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_cached_session_in_use_ends_at_its_absolute_timeout() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    let id = only_id(&sessions).await;
    for minute in 1..60 {
        advance_and_settle(&sessions, MINUTE).await;
        assert_eq!(browser.visit(&app).await.body, "Ada", "minute {minute}");
    }
    advance_and_settle(&sessions, MINUTE - Duration::from_millis(1)).await;
    let hits = sessions.store().cache_stats().hits;
    assert_eq!(browser.visit(&app).await.body, "Ada");
    assert_eq!(
        sessions.store().cache_stats().hits,
        hits + 1,
        "the session is cached until it ends"
    );
    advance_and_settle(&sessions, Duration::from_millis(1)).await;
    assert_eq!(browser.visit(&app).await.body, "");
    assert!(sessions.store().find_fresh(id).await.unwrap().is_none());
    assert_eq!(sessions.store().size().await.unwrap(), 0, "the record has expired in the backend");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_lives_until_its_absolute_timeout_is_touched_only_to_record_its_use() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    for _ in 0..11 {
        advance_and_settle(&sessions, 5 * MINUTE).await;
        browser.visit(&app).await;
    }
    // The deadline is the absolute one now, so an extension gains only a new time of the last use.
    settle().await;
    cluster.spy.take_calls();
    for _ in 0..8 {
        advance_and_settle(&sessions, MINUTE / 2).await;
        assert_eq!(browser.visit(&app).await.body, "Ada");
    }
    let calls = cluster.spy.take_calls();
    let touches = calls.iter().filter(|call| **call == Call::Touch).count();
    assert_eq!(touches, 1, "once in a quarter of the idle timeout");
    assert!(sessions.store().touch(only_id(&sessions).await).await.unwrap());
    advance_and_settle(&sessions, MINUTE).await;
    assert_eq!(browser.visit(&app).await.body, "", "an explicit touch does not extend it either");
}

#[tokio::test(start_paused = true)]
async fn regenerating_restarts_the_absolute_timeout() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    for _ in 0..11 {
        advance_and_settle(&sessions, 5 * MINUTE).await;
        browser.visit(&app).await;
    }
    browser.visit_path(&app, "/regenerate").await;
    for _ in 0..11 {
        advance_and_settle(&sessions, 5 * MINUTE).await;
        assert_eq!(browser.visit(&app).await.body, "Ada");
    }
    advance_and_settle(&sessions, 5 * MINUTE).await;
    assert_eq!(browser.visit(&app).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_change_does_not_extend_a_session_past_its_absolute_timeout() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let store = sessions.store();
    let id = store.create(ada()).await.unwrap().id;
    for _ in 0..11 {
        advance_and_settle(&sessions, 5 * MINUTE).await;
        store.modify(id, |data| data.visits += 1).await.unwrap();
    }
    let record = store.get(id).await.unwrap();
    assert_eq!(record.expires_at(), record.created_at() + ABSOLUTE);
    advance_and_settle(&sessions, 5 * MINUTE).await;
    let error = store.modify(id, |data| data.visits += 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_absolute_timeout_applies_to_existing_sessions() {
    let cluster = Cluster::new();
    let before = start(cluster.config().timeout(ABSOLUTE)).await;
    let after = cluster.node().await;
    let (young, old) = (
        before.store().create(ada()).await.unwrap().id,
        before.store().create(ada()).await.unwrap().id,
    );
    advance_and_settle(&after, ABSOLUTE / 2).await;
    assert!(before.store().touch(young).await.unwrap() && before.store().touch(old).await.unwrap());
    let record = after.store().get(young).await.unwrap();
    assert_eq!(record.expires_at(), record.created_at() + ABSOLUTE);
    // The backend would keep the records for longer.
    advance_and_settle(&after, ABSOLUTE / 2).await;
    for id in [young, old] {
        assert!(before.store().find_fresh(id).await.unwrap().is_some());
        assert!(after.store().find(id).await.unwrap().is_none());
        assert!(after.store().find_fresh(id).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_include_sessions_that_have_expired_only_on_this_node() {
    let cluster = Cluster::new();
    let owned = |config: SessionConfigBuilder<Data>| config.owner(|data: &Data| data.user.clone());
    let lenient = start(owned(cluster.config().timeout(2 * ABSOLUTE))).await;
    let strict = start(owned(cluster.config().absolute_timeout(ABSOLUTE))).await;
    let id = lenient.store().create(ada()).await.unwrap().id;
    advance_and_settle(&strict, ABSOLUTE).await;
    assert!(strict.store().find(id).await.unwrap().is_none());
    assert!(strict.store().sessions_of("Ada").await.unwrap().is_empty());
    assert!(lenient.store().find_fresh(id).await.unwrap().is_some());
    assert_eq!(strict.store().delete_all_of("Ada").await.unwrap().deleted, 1);
    assert!(lenient.store().find_fresh(id).await.unwrap().is_none());

    let _ = lenient.store().create(ada()).await.unwrap();
    advance_and_settle(&strict, ABSOLUTE).await;
    assert_eq!(strict.store().bulk_delete(|_| true).await.unwrap().deleted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_before_its_regeneration_gets_no_new_token() {
    let cluster = Cluster::new();
    // The backend keeps the record for longer.
    let lenient = start(cluster.config().timeout(2 * ABSOLUTE)).await;
    let strict = start(cluster.config().absolute_timeout(ABSOLUTE)).await;
    let mut browser = Browser::with(&lenient, ada()).await;
    advance_and_settle(&strict, ABSOLUTE - MINUTE).await;
    let slow = async |session: Session<Data>| {
        advance(MINUTE).await;
        session.regenerate();
    };
    let page = browser.visit(&Router::new().route("/", get(slow)).layer(strict.clone())).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.set_cookies().is_empty());
    assert_eq!(lenient.store().size().await.unwrap(), 1, "only the old session is left");
}

/// The change also changes the owner, so an entry is added to the owner index first. That call
/// takes longer than the session's remaining time.
#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn a_change_just_after_the_absolute_timeout_is_neither_made_nor_announced() {
    let cluster = Cluster::new();
    let (backend, faults) =
        clustered_sessions::testing::FaultyBackend::new(cluster.spy.backend(), 1);
    let config = cluster.config().absolute_timeout(ABSOLUTE).owner(|data: &Data| data.user.clone());
    let sessions = start(config.backend(backend)).await;
    let store = sessions.store();
    let id = store.create(ada()).await.unwrap().id;
    for _ in 0..11 {
        advance_and_settle(&sessions, 5 * MINUTE).await;
        assert!(store.touch(id).await.unwrap());
    }
    advance_and_settle(&sessions, 5 * MINUTE - Duration::from_millis(10)).await;
    store.get(id).await.unwrap();
    faults.delay_calls_by(Duration::from_millis(20)..Duration::from_millis(20));
    cluster.spy.take_calls();
    let error = store.modify(id, |data| data.user = Some("Bob".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
    assert_eq!(cluster.spy.take_calls(), [Call::AddToOwner]);
}

#[tokio::test(start_paused = true)]
async fn a_persistent_cookie_is_kept_for_as_long_as_its_session_can_live() {
    let max_age = async |config: SessionConfigBuilder<Data>| {
        let sessions = start(config.cookie(CookieConfig::new().name("id").persistent(true))).await;
        let login = async |session: Session<Data>| {
            session.update(|data| data.user = Some("Ada".to_owned()));
        };
        let app = Router::new().route("/", get(login)).layer(sessions);
        let page = Browser::new().visit(&app).await;
        let cookie = page.set_cookies().join("");
        cookie
            .split("Max-Age=")
            .nth(1)
            .map(|rest| rest.split(';').next().unwrap_or_default().to_owned())
    };
    let cluster = Cluster::new();
    assert_eq!(max_age(cluster.config().absolute_timeout(ABSOLUTE)).await.as_deref(), Some("3600"));
    assert_eq!(max_age(cluster.config()).await.as_deref(), Some("34560000"), "400 days");
}
