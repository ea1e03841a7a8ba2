//! A server that answers and yet does not do what it is asked, or whose answer is lost.

use std::time::Duration;

use clustered_sessions::{
    CircuitState, ClusterConfig, RedisConfig, SessionConfigBuilder, SessionId, SessionStore,
    StoreError, StoreErrorKind,
};
use support::log::Log;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::replication::pair;
use support::wait::eventually;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::nodes::{self, Data, store};
use crate::web::RedisAddress as _;

fn config() -> SessionConfigBuilder<Data> {
    nodes::config().enable_retry(false)
}

fn kind<R>(result: Result<R, StoreError>) -> Option<StoreErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test]
async fn a_server_that_runs_another_clients_long_script_is_unavailable() {
    let server = RedisServer::with_args(&["--busy-reply-threshold", "50"]);
    let node = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let url = server.url();
    let script = std::thread::spawn(move || {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut connection)
    });
    let is_busy = async || {
        server.try_command::<String>(&["PING"]).is_err_and(|error| error.code() == Some("BUSY"))
    };
    eventually(is_busy, "the server is busy").await;
    assert_eq!(kind(node.find_fresh(id).await), Some(StoreErrorKind::Unavailable));
    assert_eq!(kind(node.delete(id).await), Some(StoreErrorKind::Unavailable));
    // Long enough that a heartbeat is refused, too.
    sleep(Duration::from_millis(700)).await;
    let () = server.command(&["SCRIPT", "KILL"]);
    script.join().unwrap().unwrap_err();
    assert!(node.find_fresh(id).await.unwrap().is_some());
    assert_eq!(node.coordinator().disconnects(), 0);
}

#[tokio::test]
async fn a_server_that_takes_no_more_clients_is_unavailable() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "&*"]);
    let with_password = server.config().user("app").password("secret");
    for redis in [server.config(), with_password, server.config().database(1)] {
        takes_no_more_clients_for_a_moment(&server, redis).await;
    }
}

async fn takes_no_more_clients_for_a_moment(server: &RedisServer, redis: RedisConfig) {
    let mut only = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut limit = |clients: u32| {
        redis::cmd("CONFIG").arg(&["SET", "maxclients"]).arg(clients).exec(&mut only).unwrap();
    };
    limit(1);
    let node: SessionStore<Data> = SessionStore::new(config().redis(redis).build().unwrap());
    let id = SessionId::from_bytes([1; 16]);
    assert_eq!(kind(node.find(id).await), Some(StoreErrorKind::Unavailable));
    limit(100);
    eventually(async || node.find(id).await.is_ok(), "the node can connect").await;
}

#[tokio::test]
async fn a_server_without_enough_replicas_is_unavailable() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let () = server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(
        kind(node.modify(id, |data| data.visits += 1).await),
        Some(StoreErrorKind::Unavailable)
    );
    assert_eq!(kind(node.find_fresh(id).await), Some(StoreErrorKind::Unavailable));
    let () = server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    node.modify(id, |data| data.visits += 1).await.unwrap();
    assert_eq!(node.find_fresh(id).await.unwrap().unwrap().data().visits, 1);
}

#[tokio::test]
async fn a_server_that_cannot_save_refuses_changes_and_is_still_read() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    server.fail_to_save().await;
    let before = server.connections_accepted();
    assert_eq!(
        kind(node.modify(id, |data| data.visits += 1).await),
        Some(StoreErrorKind::Unavailable)
    );
    assert_eq!(kind(node.delete(id).await), Some(StoreErrorKind::Unavailable));
    // Longer than `max_staleness`, so that the lease rests on heartbeats that do not write.
    sleep(Duration::from_millis(2500)).await;
    assert!(node.find_fresh(id).await.unwrap().is_some());
    let hits = node.cache_stats().hits;
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!(node.cache_stats().hits, hits + 1);
    assert_eq!(node.coordinator().disconnects(), 0);
    assert_eq!(server.connections_accepted() - before, 1, "that of this test's own command");

    server.need_not_save();
    node.modify(id, |data| data.visits += 1).await.unwrap();
    assert_eq!(node.find_fresh(id).await.unwrap().unwrap().data().visits, 1);
}

#[tokio::test]
async fn changes_that_a_server_refuses_because_it_cannot_save_do_not_keep_it_from_being_read() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config()).circuit_breaker_enabled(true)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    server.fail_to_save().await;
    for _ in 0..10 {
        // Nothing is read in between.
        let refused = node.create(Data::of("ada")).await;
        assert_eq!(kind(refused), Some(StoreErrorKind::Unavailable));
    }
    assert_eq!(node.circuit().state(), CircuitState::Closed);
    assert!(node.find_fresh(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_demoted_server_that_cannot_save_is_not_read() {
    let (master, other) = pair().await;
    let node = store(config().redis(master.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    other.promote();
    master.fail_to_save().await;
    other.freeze();
    master.replicate(other.port());
    assert_eq!(kind(node.find_fresh(id).await), Some(StoreErrorKind::Unavailable));
    eventually(async || !node.coordinator().is_listening(), "the lease has ended").await;
    other.thaw();
}

#[tokio::test]
async fn a_server_that_refuses_to_be_a_master_is_not_flooded_with_connections() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let () = server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let (before, start, mut reads) = (server.connections_accepted(), Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(kind(node.find_fresh(id).await), Some(StoreErrorKind::Unavailable));
        reads += 1;
    }
    // Ten in a second for commands and a few for subscriptions, however many reads there are.
    let connections = server.connections_accepted() - before;
    assert!(reads > 100 && connections < 50, "{connections} connections for {reads} reads");
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_sent_once() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    // Without a listener there are no heartbeats, which use `SET`, too.
    let cluster = ClusterConfig::new().local_cache_enabled(false);
    let node = SessionStore::new(config().cluster(cluster).redis(proxy.config()).build().unwrap());
    assert!(node.healthy().await);

    proxy.withhold_replies();
    let creation = tokio::spawn({
        let node = node.clone();
        async move { kind(node.create(Data::of("ada")).await) }
    });
    let sets = || server.calls().get("set").copied().unwrap_or_default();
    eventually(async || sets() == 1, "the server has created the session").await;
    proxy.cut();
    assert_eq!(creation.await.unwrap(), Some(StoreErrorKind::OutcomeUnknown));
    proxy.heal();
    assert_eq!(node.size().await.unwrap(), 1);
    assert_eq!(sets(), 1);
}

#[tokio::test]
async fn a_clear_that_cannot_be_announced_deletes_nothing() {
    let server = RedisServer::start();
    let node = store(config().redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let () = server.command(&["ACL", "SETUSER", "default", "-publish"]);
    assert_eq!(kind(node.clear().await), Some(StoreErrorKind::Refused));
    assert!(node.find_fresh(id).await.unwrap().is_some());
    let () = server.command(&["ACL", "SETUSER", "default", "+publish"]);
    assert_eq!(node.clear().await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_write_its_outcome() {
    let server = RedisServer::start();
    let cluster = ClusterConfig::new().local_cache_enabled(false);
    let node = SessionStore::new(config().cluster(cluster).redis(server.config()).build().unwrap());
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually(async || server.connections() == 0, "the server has closed the connection").await;
    // The node's runtime notices the end of the connection when it is polled next.
    sleep(Duration::from_millis(50)).await;
    assert!(node.delete(id).await.unwrap());
}

#[tokio::test]
async fn a_missing_password_is_named_and_nothing_else_is_complained_about() {
    let server = RedisServer::start();
    let () = server.command(&["CONFIG", "SET", "requirepass", "secret"]);
    let log = Log::default();
    let _guard = log.capture("clustered_sessions=warn");
    let node: SessionStore<Data> =
        SessionStore::new(config().redis(server.config()).build().unwrap());
    let error = node.find(SessionId::from_bytes([1; 16])).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(format!("{error:?}").contains("the server needs a password"), "{error:?}");
    assert!(!log.text().contains("can do without"), "{}", log.text());
}

#[tokio::test]
async fn an_error_names_the_server_that_cannot_be_reached() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let redis = RedisConfig::new("127.0.0.1", unused.port());
    let node: SessionStore<Data> = SessionStore::new(config().redis(redis).build().unwrap());
    let error = node.find(SessionId::from_bytes([1; 16])).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(format!("{error:?}").contains(&format!("no connection to {unused}: ")), "{error:?}");
}
