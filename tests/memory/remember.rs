//! "Remember me": a login chooses how long its session lives, and if browsers keep its cookie.

use std::time::Duration;

use axum::Router;
use clustered_sessions::{
    Clock, ClusterConfig, ConfigError, Encryption, MemoryBackend, Session, SessionConfigBuilder,
    SessionError, SessionLayer, StoreErrorKind,
};
use http::StatusCode;
use tokio::time::advance;

use crate::web::{Browser, Data, ada, config, only_id, serve, settle, start};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns a configuration with ordinary sessions of half an hour, and four hours at most.
/// Remembered ones live for two weeks, and 90 days at most. Records are encrypted.
fn both(memory: &MemoryBackend) -> SessionConfigBuilder<Data> {
    config(memory)
        .clock(Clock::tokio())
        .cluster(ClusterConfig::new().max_staleness(HOUR).local_cache_ttl(MINUTE))
        .timeout(HOUR / 2)
        .absolute_timeout(4 * HOUR)
        .encrypt_redis_data(Encryption::Required)
        .remember_me(14 * DAY, 90 * DAY)
}

fn memory() -> MemoryBackend {
    MemoryBackend::with_clock(Clock::tokio())
}

fn login(sessions: &SessionLayer<Data>, remember: bool) -> Router {
    serve(sessions, async move |session: Session<Data>| {
        session.replace(ada());
        session.remember_me(remember);
    })
}

fn who(sessions: &SessionLayer<Data>) -> Router {
    serve(sessions, async |session: Session<Data>| session.data().user.clone().unwrap_or_default())
}

/// Lets time pass. Without a lease, the next read comes from the backend.
async fn pass(time: Duration) {
    settle().await;
    advance(time).await;
    settle().await;
}

/// Logs in and returns the browser and its `Set-Cookie` header.
async fn logged_in(sessions: &SessionLayer<Data>, remember: bool) -> (Browser, String) {
    let mut browser = Browser::new();
    let page = browser.visit(&login(sessions, remember)).await;
    assert_eq!(page.status, StatusCode::OK);
    (browser, page.set_cookies().remove(0))
}

#[tokio::test(start_paused = true)]
async fn a_remembered_login_and_an_ordinary_one_live_side_by_side() {
    let sessions = start(both(&memory())).await;
    let (mut ordinary, cookie) = logged_in(&sessions, false).await;
    assert!(!cookie.contains("Max-Age"), "{cookie}");
    let (mut remembered, cookie) = logged_in(&sessions, true).await;
    assert!(cookie.ends_with(&format!("Max-Age={}", 90 * DAY.as_secs())), "{cookie}");
    let app = who(&sessions);
    pass(HOUR / 2 - MINUTE).await;
    assert_eq!(ordinary.visit(&app).await.body, "Ada");
    pass(HOUR / 2 + MINUTE).await;
    assert_eq!(ordinary.visit(&app).await.body, "", "the server ends it");
    assert_eq!(remembered.visit(&app).await.body, "Ada");
    for _ in 0..6 {
        pass(13 * DAY).await;
        assert_eq!(remembered.visit(&app).await.body, "Ada", "it is extended by its own timeout");
    }
    pass(12 * DAY).await;
    assert_eq!(remembered.visit(&app).await.body, "", "the absolute timeout has passed");
}

#[tokio::test(start_paused = true)]
async fn a_change_and_a_regeneration_keep_a_session_remembered_on_every_node() {
    let memory = memory();
    let (one, two) = (start(both(&memory)).await, start(both(&memory)).await);
    let (mut browser, _) = logged_in(&one, true).await;
    let change = async |session: Session<Data>| session.update(|data| data.visits += 1);
    browser.visit(&serve(&two, change)).await;
    let regenerate = async |session: Session<Data>| session.regenerate();
    let page = browser.visit(&serve(&two, regenerate)).await;
    assert!(page.set_cookies()[0].contains("Max-Age"), "the new cookie is persistent, too");
    let id = only_id(&one).await;
    assert!(one.store().get(id).await.unwrap().is_remembered());
    pass(13 * DAY).await;
    assert_eq!(browser.visit(&who(&one)).await.body, "Ada");

    let forget = async |session: Session<Data>| {
        session.regenerate();
        session.remember_me(false);
    };
    let page = browser.visit(&serve(&one, forget)).await;
    assert!(!page.set_cookies()[0].contains("Max-Age"));
    pass(HOUR / 2).await;
    assert_eq!(browser.visit(&who(&one)).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_the_timeouts_regenerates_a_remembered_session_as_an_ordinary_one() {
    let memory = memory();
    let with = start(both(&memory)).await;
    let (mut browser, _) = logged_in(&with, true).await;
    let plain = config(&memory).clock(Clock::tokio()).timeout(HOUR / 2);
    let without = start(plain.encrypt_redis_data(Encryption::Required)).await;
    let regenerate = async |session: Session<Data>| session.regenerate();
    let page = browser.visit(&serve(&without, regenerate)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert!(!page.set_cookies()[0].contains("Max-Age"));
    assert_eq!(browser.visit(&who(&with)).await.body, "Ada");
    pass(HOUR / 2).await;
    assert_eq!(browser.visit(&who(&with)).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn without_the_timeouts_no_session_is_remembered() {
    let memory = memory();
    let with = start(both(&memory)).await;
    let (browser, _) = logged_in(&with, true).await;
    let plain = config(&memory).clock(Clock::tokio()).timeout(HOUR / 2);
    let without = start(plain.encrypt_redis_data(Encryption::Required)).await;
    let page = Browser::new().visit(&login(&without, true)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    let Some(SessionError::Store(error)) = page.extensions.get() else { panic!("no error") };
    assert_eq!(error.kind(), StoreErrorKind::NotConfigured);
    let mut own = browser.clone();
    assert_eq!(own.visit(&login(&without, true)).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(own.visit(&who(&without)).await.body, "Ada", "a failed login logs nobody out");
    // A session that another node remembers can be read, and is changed with the ordinary timeout.
    let id = only_id(&with).await;
    without.store().modify(id, |data| data.visits += 1).await.unwrap();
    pass(HOUR / 2).await;
    assert_eq!(browser.clone().visit(&who(&with)).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_a_login_is_not_remembered() {
    let sessions = start(both(&memory())).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.remember_me(true);
        session.discard();
        session.update(|data| data.visits += 1);
    });
    let mut browser = Browser::new();
    assert!(!browser.visit(&app).await.set_cookies()[0].contains("Max-Age"));
    let id = only_id(&sessions).await;
    assert!(!sessions.store().get(id).await.unwrap().is_remembered());
}

#[test]
fn the_timeouts_are_checked_like_the_others() {
    let build = |idle, absolute| both(&memory()).remember_me(idle, absolute).build().map(drop);
    assert_eq!(build(Duration::ZERO, DAY), Err(ConfigError::Timeout(Duration::ZERO)));
    let too_short = build(DAY, HOUR).unwrap_err();
    assert!(
        matches!(too_short, ConfigError::AbsoluteTimeout { absolute: HOUR, idle: DAY, .. }),
        "{too_short}"
    );
    assert_eq!(build(DAY, DAY), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_remembered_only_if_it_brings_another_owner() {
    let owner = |data: &Data| data.user.clone();
    let sessions = start(both(&memory()).owner(owner)).await;
    let mut browser = Browser::with(&sessions, Data::default()).await;
    let change = |user: Option<&'static str>| {
        serve(&sessions, async move |session: Session<Data>| {
            session.update(move |data| {
                data.user = user.map(str::to_owned);
                data.visits += 1;
            });
            session.remember_me(true);
        })
    };
    assert!(browser.visit(&change(None)).await.set_cookies().is_empty());
    let cookie = browser.visit(&change(Some("Ada"))).await.set_cookies().remove(0);
    assert!(cookie.ends_with(&format!("Max-Age={}", 90 * DAY.as_secs())), "{cookie}");
    assert!(browser.visit(&change(Some("Ada"))).await.set_cookies().is_empty());
}
