//! A Redis server that is killed, frozen or cut off, under `ServeCached`.

use clustered_sessions::RedisConfig;

use super::*;
use crate::web::RedisAddress as _;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::eventually;

/// Starts a node and creates a visitor whose session is cached on it.
async fn node(redis: RedisConfig) -> (SessionLayer<Data>, Browser) {
    let cluster = ClusterConfig::new().max_staleness(Duration::from_millis(500));
    let redis = redis.response_timeout(Duration::from_millis(200));
    let config =
        SessionConfig::builder(secret()).redis(redis).cluster(cluster).on_outage(cached_for(600));
    let sessions = web::start(config).await;
    let browser = Browser::with(&sessions, ada()).await;
    eventually(
        async || answers_from_memory(&sessions, &browser, "Ada 0").await,
        "the session is cached",
    )
    .await;
    (sessions, browser)
}

async fn answers_from_memory(sessions: &SessionLayer<Data>, browser: &Browser, body: &str) -> bool {
    let before = sessions.store().cache_stats().hits;
    assert_eq!(read(sessions, &mut browser.clone()).await, answered(body));
    sessions.store().cache_stats().hits > before
}

async fn read(sessions: &SessionLayer<Data>, browser: &mut Browser) -> (StatusCode, String) {
    let page = browser.visit(&reading(sessions)).await;
    assert_eq!(page.set_cookies().len(), 0);
    (page.status, page.body)
}

/// Asserts that all reads are answered, that changes are refused, and that cookies are kept.
async fn assert_cut_off(sessions: &SessionLayer<Data>, browser: &mut Browser) {
    let known = async || read(sessions, &mut browser.clone()).await == answered("Ada 0 (outage)");
    eventually(known, "the cached session is served").await;
    let visit =
        serve(sessions, async |session: Session<Data>| session.update(|data| data.visits += 1));
    let page = browser.visit(&visit).await;
    assert_unavailable(&page);
    assert!(matches!(error(&page), SessionError::ReadOnly(_)), "{:?}", error(&page));
    assert_eq!(read(sessions, browser).await, answered("Ada 0 (outage)"));
    assert_eq!(read(sessions, &mut Browser::new()).await, answered("stranger 0"));
}

/// Asserts that the node receives announcements again, and serves the 5 visits of the server.
async fn assert_recovered(sessions: &SessionLayer<Data>, browser: &mut Browser) {
    eventually(
        async || sessions.store().coordinator().is_listening(),
        "the node receives announcements again",
    )
    .await;
    let before = sessions.store().cache_stats().misses;
    assert_eq!(
        read(sessions, browser).await,
        answered("Ada 5"),
        "entries from before the outage are not used"
    );
    assert!(sessions.store().cache_stats().misses > before);
    eventually(
        async || answers_from_memory(sessions, browser, "Ada 5").await,
        "the cache is used again",
    )
    .await;
    assert_eq!(sessions.store().size().await.unwrap(), 1, "no session was created");
}

async fn change_elsewhere(server: &RedisServer) {
    let config = SessionConfig::<Data>::builder(secret()).redis(server.config());
    let elsewhere = web::start(config).await;
    let id = web::only_id(&elsewhere).await;
    elsewhere.store().modify(id, |data| data.visits = 5).await.unwrap();
}

#[tokio::test]
async fn while_redis_is_dead_sessions_are_read_and_nothing_is_lost() {
    let mut server = RedisServer::with_args(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (sessions, mut browser) = node(server.config()).await;
    server.kill();
    assert_cut_off(&sessions, &mut browser).await;
    server.restart();
    change_elsewhere(&server).await;
    assert_recovered(&sessions, &mut browser).await;
}

#[tokio::test]
async fn while_redis_is_frozen_sessions_are_read_and_nothing_is_lost() {
    let server = RedisServer::start();
    let (sessions, mut browser) = node(server.config()).await;
    server.freeze();
    assert_cut_off(&sessions, &mut browser).await;
    server.thaw();
    change_elsewhere(&server).await;
    assert_recovered(&sessions, &mut browser).await;
}

#[tokio::test]
async fn a_session_revoked_while_a_node_is_cut_off_is_gone_after_its_recovery() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let (sessions, mut browser) = node(proxy.config()).await;
    proxy.cut();
    assert_cut_off(&sessions, &mut browser).await;
    let elsewhere =
        web::start(SessionConfig::<Data>::builder(secret()).redis(server.config())).await;
    elsewhere.store().delete(web::only_id(&elsewhere).await).await.unwrap();
    assert_eq!(
        read(&sessions, &mut browser).await,
        answered("Ada 0 (outage)"),
        "the policy accepts this risk"
    );
    proxy.heal();
    eventually(
        async || sessions.store().coordinator().is_listening(),
        "the node receives announcements again",
    )
    .await;
    assert_eq!(read(&sessions, &mut browser).await, answered("stranger 0"));
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}
