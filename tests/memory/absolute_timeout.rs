//! Sessions end a time after their creation, however much they are used.

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

/// Memory whose sessions expire by tokio's clock, and the nodes over it.
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
        let cluster = ClusterConfig::new().local_cache_ttl(IDLE);
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

/// What goes on in the background comes to its end, time passes, and the node goes on hearing the others.
async fn pass(sessions: &SessionLayer<Data>, time: Duration) {
    settle().await;
    advance(time).await;
    eventually(async || sessions.store().coordinator().is_listening()).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_ends_all_the_same_though_it_is_cached() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    let id = only_id(&sessions).await;
    for minute in 1..60 {
        pass(&sessions, MINUTE).await;
        assert_eq!(browser.visit(&app).await.body, "Ada", "minute {minute}");
    }
    pass(&sessions, MINUTE - Duration::from_millis(1)).await;
    let hits = sessions.store().cache_stats().hits;
    assert_eq!(browser.visit(&app).await.body, "Ada");
    assert_eq!(sessions.store().cache_stats().hits, hits + 1, "it is cached to its last moment");
    pass(&sessions, Duration::from_millis(1)).await;
    assert_eq!(browser.visit(&app).await.body, "");
    assert!(sessions.store().find_fresh(id).await.unwrap().is_none());
    assert_eq!(sessions.store().size().await.unwrap(), 0, "the backend has forgotten it, too");
}

#[tokio::test(start_paused = true)]
async fn near_its_end_a_session_is_not_extended_again_and_again() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    for _ in 0..11 {
        pass(&sessions, 5 * MINUTE).await;
        browser.visit(&app).await;
    }
    // It lives until its end now, and there is nothing to be gained.
    settle().await;
    cluster.spy.take_calls();
    for _ in 0..8 {
        pass(&sessions, MINUTE / 2).await;
        assert_eq!(browser.visit(&app).await.body, "Ada");
    }
    assert!(!cluster.spy.take_calls().contains(&Call::Touch));
    assert!(sessions.store().touch(only_id(&sessions).await).await.unwrap());
    pass(&sessions, MINUTE).await;
    assert_eq!(browser.visit(&app).await.body, "", "a touch by hand does not extend it either");
}

#[tokio::test(start_paused = true)]
async fn a_new_token_begins_a_new_life() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let (app, mut browser) = (app(&sessions), Browser::with(&sessions, ada()).await);
    for _ in 0..11 {
        pass(&sessions, 5 * MINUTE).await;
        browser.visit(&app).await;
    }
    browser.visit_path(&app, "/regenerate").await;
    for _ in 0..11 {
        pass(&sessions, 5 * MINUTE).await;
        assert_eq!(browser.visit(&app).await.body, "Ada");
    }
    pass(&sessions, 5 * MINUTE).await;
    assert_eq!(browser.visit(&app).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_change_does_not_carry_a_session_beyond_its_end() {
    let cluster = Cluster::new();
    let sessions = cluster.node().await;
    let store = sessions.store();
    let id = store.create(ada()).await.unwrap().id;
    for _ in 0..11 {
        pass(&sessions, 5 * MINUTE).await;
        store.modify(id, |data| data.visits += 1).await.unwrap();
    }
    let record = store.get(id).await.unwrap();
    assert_eq!(record.expires_at(), record.created_at() + ABSOLUTE);
    pass(&sessions, 5 * MINUTE).await;
    let error = store.modify(id, |data| data.visits += 1).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_setting_ends_the_sessions_that_exist() {
    let cluster = Cluster::new();
    let before = start(cluster.config().timeout(ABSOLUTE)).await;
    let after = cluster.node().await;
    let (young, old) = (
        before.store().create(ada()).await.unwrap().id,
        before.store().create(ada()).await.unwrap().id,
    );
    pass(&after, ABSOLUTE / 2).await;
    assert!(before.store().touch(young).await.unwrap() && before.store().touch(old).await.unwrap());
    let record = after.store().get(young).await.unwrap();
    assert_eq!(record.expires_at(), record.created_at() + ABSOLUTE);
    // The backend would keep it for longer.
    pass(&after, ABSOLUTE / 2).await;
    for id in [young, old] {
        assert!(before.store().find_fresh(id).await.unwrap().is_some());
        assert!(after.store().find(id).await.unwrap().is_none());
        assert!(after.store().find_fresh(id).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_logged_out_everywhere_is_so_where_the_time_is_not_over_yet() {
    let cluster = Cluster::new();
    let owned = |config: SessionConfigBuilder<Data>| config.owner(|data: &Data| data.user.clone());
    let lenient = start(owned(cluster.config().timeout(2 * ABSOLUTE))).await;
    let strict = start(owned(cluster.config().absolute_timeout(ABSOLUTE))).await;
    let id = lenient.store().create(ada()).await.unwrap().id;
    pass(&strict, ABSOLUTE).await;
    assert!(strict.store().find(id).await.unwrap().is_none());
    assert!(strict.store().sessions_of("Ada").await.unwrap().is_empty());
    assert!(lenient.store().find_fresh(id).await.unwrap().is_some());
    assert_eq!(strict.store().delete_all_of("Ada").await.unwrap().deleted, 1);
    assert!(lenient.store().find_fresh(id).await.unwrap().is_none());

    let _ = lenient.store().create(ada()).await.unwrap();
    pass(&strict, ABSOLUTE).await;
    assert_eq!(strict.store().bulk_delete(|_| true).await.unwrap().deleted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_time_ends_before_its_new_token_has_none() {
    let cluster = Cluster::new();
    // The backend keeps it for longer.
    let lenient = start(cluster.config().timeout(2 * ABSOLUTE)).await;
    let strict = start(cluster.config().absolute_timeout(ABSOLUTE)).await;
    let mut browser = Browser::with(&lenient, ada()).await;
    pass(&strict, ABSOLUTE - MINUTE).await;
    let slow = async |session: Session<Data>| {
        advance(MINUTE).await;
        session.regenerate();
    };
    let page = browser.visit(&Router::new().route("/", get(slow)).layer(strict.clone())).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.set_cookies().is_empty());
    assert_eq!(lenient.store().size().await.unwrap(), 1, "there is the old one, and nothing else");
}

/// Its owner changes, so that an entry in the index comes before it, and takes as long as the session has left.
#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn a_change_that_comes_too_late_by_a_moment_is_neither_made_nor_announced() {
    let cluster = Cluster::new();
    let (backend, faults) =
        clustered_sessions::testing::FaultyBackend::new(cluster.spy.backend(), 1);
    let config = cluster.config().absolute_timeout(ABSOLUTE).owner(|data: &Data| data.user.clone());
    let sessions = start(config.backend(backend)).await;
    let store = sessions.store();
    let id = store.create(ada()).await.unwrap().id;
    for _ in 0..11 {
        pass(&sessions, 5 * MINUTE).await;
        assert!(store.touch(id).await.unwrap());
    }
    pass(&sessions, 5 * MINUTE - Duration::from_millis(10)).await;
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
