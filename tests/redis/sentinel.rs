//! Nodes that find their master by sentinels, under load, while the master fails.
//!
//! Each trial prints `fault | requests failed for | of that after the switch | a revoked session
//! was served for | acknowledged changes that replication forgot | cache used again after the
//! switch`.

use std::error::Error as _;
use std::time::{Duration, Instant};

use clustered_sessions::backend::{Backend as _, Event, RedisBackend};
use clustered_sessions::{
    RedisAddress, RedisConfig, RedisSentinels, SessionId, SessionStore, StoreError, StoreErrorKind,
};
use support::failover::FailoverTrial;
use support::program::skipped;
use support::proxy::{Proxy, Purpose};
use support::redis::RedisServer;
use support::sentinel::{PASSWORD, Protection, SENTINEL_PASSWORD, SERVICE, Service};
use support::wait::{DEADLINE, eventually, eventually_within};
#[cfg(feature = "tls")]
use support::{files::Files, program::has_tls, tls::Authority};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::nodes::{Data, config, key, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_sentinels_when_the_master_is_killed() {
    let mut service = Service::start().await;
    let trial = FailoverTrial::start(&[("REDIS_URL", &service.url())]).await;
    service.servers[0].kill();
    let began = Instant::now();
    service.has_switched().await;
    trial.end("Sentinel: the master is killed", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_sentinels_when_the_master_is_frozen_and_stay_when_it_resumes() {
    let service = Service::start().await;
    let trial = FailoverTrial::start(&[("REDIS_URL", &service.url())]).await;
    service.servers[0].freeze();
    let began = Instant::now();
    service.has_switched().await;
    let switched = Instant::now();
    // Until the sentinels reach it, it takes itself for a master.
    service.servers[0].thaw();
    trial.end("Sentinel: the master is frozen, and resumes", began, switched).await.check();
}

/// From its beginning, the sentinels are asked as often as it needs their word.
#[tokio::test]
async fn a_subscription_with_frequent_heartbeats_lasts() {
    let service = Service::start().await;
    let redis = RedisConfig::from_url(&service.url()).unwrap();
    let backend = RedisBackend::new(&redis, "announcements").unwrap();
    let mut subscription = backend.subscribe(Duration::from_millis(250)).await.unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match subscription.next().await {
            Some(Event::Alive(sent_at)) if sent_at > end => return,
            Some(_) => {}
            None => panic!("the subscription has ended: {:?}", subscription.cause()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_leave_an_old_master_though_their_connections_to_it_live() {
    let service = Service::start().await;
    let trial = FailoverTrial::start(&[("REDIS_URL", &service.url())]).await;
    let began = Instant::now();
    service.fail_over();
    service.has_switched().await;
    trial.end("Sentinel: a failover is ordered", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_lose_no_acknowledged_change_in_a_coordinated_failover() {
    let service = Service::start().await;
    if !service.can_coordinate() {
        skipped("these sentinels cannot coordinate a failover, as those of Valkey 9 can");
        return;
    }
    let trial = FailoverTrial::start(&[("REDIS_URL", &service.url())]).await;
    let began = Instant::now();
    service.fail_over_coordinated();
    service.has_switched().await;
    let cost = trial.end("Sentinel: a coordinated failover is ordered", began, Instant::now());
    assert_eq!(cost.await.check(), 0, "acknowledged changes are forgotten");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_sentinels_over_tls() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let mut service = Service::with(Protection::Tls(&authority)).await;
    let files = Files::new();
    let roots = files.write("roots.pem", authority.root());
    let url = format!("rediss-sentinel://{}", service.address(""));
    let trial = FailoverTrial::start(&[("REDIS_URL", &url), ("SSL_CERT_FILE", &roots)]).await;
    service.servers[0].kill();
    let began = Instant::now();
    service.has_switched().await;
    trial.end("Sentinel over TLS: the master is killed", began, Instant::now()).await.check();
}

/// Returns the error of the first operation of a node.
async fn first_error(redis: RedisConfig) -> StoreError {
    let config = config().redis(redis).enable_retry(false);
    let store: SessionStore<Data> = SessionStore::new(config.build().unwrap());
    store.create(Data::of("ada")).await.unwrap_err()
}

#[tokio::test]
async fn servers_and_sentinels_have_passwords_of_their_own() {
    let service = Service::with(Protection::Passwords).await;
    let url = |password: &str, sentinel_password: &str| {
        let address = service.address(&format!("&sentinelPassword={sentinel_password}"));
        RedisConfig::from_url(&format!("redis-sentinel://app:{password}@{address}")).unwrap()
    };
    store(config().redis(url(PASSWORD, SENTINEL_PASSWORD))).await;
    for wrong in [url(PASSWORD, PASSWORD), url(SENTINEL_PASSWORD, SENTINEL_PASSWORD)] {
        let error = first_error(wrong).await;
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
    }
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_refused() {
    let service = Service::start().await;
    let sentinels =
        RedisSentinels::new("store", [("127.0.0.1", service.sentinels[0].service_port())]);
    let error = first_error(RedisConfig::sentinel(sentinels)).await;
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("No such master"), "{cause}");
}

/// Checks that a node reads a session without its cache.
async fn is_read_from_the_master(node: &SessionStore<Data>, id: SessionId) {
    let bypasses = node.cache_stats().bypasses;
    assert!(node.find(id).await.unwrap().is_some());
    assert_eq!(node.cache_stats().bypasses, bypasses + 1);
}

#[tokio::test]
async fn a_master_that_only_the_sentinels_have_lost_is_left() {
    let service = Service::behind_proxy().await;
    let proxy = service.to_master.as_ref().unwrap();
    let (old, named, real) = (&service.servers[0], proxy.port(), service.servers[0].port());
    // The node reaches the master on another way than the sentinels.
    let redis = RedisConfig::from_url(&service.url()).unwrap().connector(move |address| {
        let RedisAddress::Tcp { host, port } = address else { unreachable!() };
        TcpStream::connect((host, if port == named { real } else { port }))
    });
    let node = store(config().redis(redis).enable_retry(false)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    for replica in &service.servers[1..] {
        replica.has_caught_up_with(old).await;
    }
    proxy.cut();
    let new = service.has_switched().await;
    let has_left = async || node.coordinator().disconnects() > 0;
    eventually(has_left, "the subscription to the old master ends").await;
    eventually(async || node.coordinator().is_listening(), "the node listens again").await;
    node.modify(id, |data| data.visits += 1).await.unwrap();
    assert!(old.command::<String>(&["INFO", "replication"]).contains("role:master"));
    let key = key(id);
    assert_ne!(old.command::<Vec<u8>>(&["GET", &key]), new.command::<Vec<u8>>(&["GET", &key]));
}

#[tokio::test]
async fn without_sentinels_the_master_is_used_and_the_cache_is_not() {
    let mut service = Service::start().await;
    let redis = RedisConfig::from_url(&service.url()).unwrap();
    let node = store(config().redis(redis).enable_retry(false)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    service.sentinels.iter_mut().for_each(support::sentinel::Sentinel::kill);
    node.modify(id, |data| data.visits += 1).await.unwrap();
    let has_ended = async || !node.coordinator().is_listening();
    eventually(has_ended, "the subscription ends, though its connection lives").await;
    // The node finds its way back by itself.
    for kind in ["normal", "pubsub"] {
        let _: u64 = service.servers[0].command(&["CLIENT", "KILL", "TYPE", kind]);
    }
    let works = async || node.modify(id, |data| data.visits += 1).await.is_ok();
    eventually(works, "the node uses the master again").await;
    // Another master may be in use, of which the node cannot hear.
    eventually(async || !node.coordinator().is_listening(), "the cache is not used").await;
    is_read_from_the_master(&node, id).await;
}

#[tokio::test]
async fn a_sentinel_that_answers_later_than_the_others_is_listened_to_nevertheless() {
    let service = Service::start().await;
    let [near, far, _] = &service.sentinels[..] else { unreachable!() };
    let proxy = Proxy::start(far.service_port()).await;
    proxy.delay(Purpose::Commands, Duration::from_millis(150));
    let addresses = [near.service_port(), proxy.port()].map(|port| ("127.0.0.1", port));
    let redis = RedisConfig::sentinel(RedisSentinels::new(SERVICE, addresses));
    let _node = store(config().redis(redis)).await;
    let is_listened_to = async || {
        let clients: Option<String> = far.try_command(&["CLIENT", "LIST"]);
        clients.is_some_and(|clients| clients.contains("sub=2"))
    };
    eventually(is_listened_to, "the node listens to the distant sentinel").await;
}

/// Their hosts may have lost power, so that nothing refuses a connection.
#[tokio::test]
async fn while_all_sentinels_are_silent_a_new_connection_leads_to_the_last_master() {
    let service = Service::start().await;
    let redis = RedisConfig::from_url(&service.url()).unwrap();
    let node = store(config().redis(redis).enable_retry(false)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    service.sentinels.iter().for_each(support::sentinel::Sentinel::freeze);
    let _: u64 = service.servers[0].command(&["CLIENT", "KILL", "TYPE", "normal"]);
    let works = async || node.modify(id, |data| data.visits += 1).await.is_ok();
    eventually(works, "the node uses the master again").await;
}

#[tokio::test]
async fn a_sentinel_that_is_behind_does_not_lead_nodes_back() {
    let service = Service::start().await;
    service.sentinels[2].freeze();
    let redis = RedisConfig::from_url(&service.url()).unwrap();
    let node = store(config().redis(redis)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    service.fail_over();
    service.has_switched().await;
    let has_left = async || node.coordinator().disconnects() > 0;
    eventually(has_left, "the node leaves the old master").await;
    eventually(async || node.coordinator().is_listening(), "the node listens again").await;
    let disconnects = node.coordinator().disconnects();
    service.sentinels[2].thaw();
    let asked = async || service.sentinels[2].master().is_some();
    eventually(asked, "the third sentinel answers").await;
    node.modify(id, |data| data.visits += 1).await.unwrap();
    // More than one round of questions.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(node.coordinator().disconnects(), disconnects);
}

/// Starts a false sentinel that names a server by its port, and an epoch. Returns its own port.
async fn liar(claims: watch::Receiver<(u16, u64)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(lie(stream, claims.clone()));
        }
    });
    port
}

/// Returns the claim that a server is the master since the latest failover.
fn latest(port: u16) -> watch::Receiver<(u16, u64)> {
    watch::channel((port, 999)).1
}

async fn lie(mut stream: TcpStream, claims: watch::Receiver<(u16, u64)>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let commands = String::from_utf8_lossy(&buffer[..length]).to_string();
        let mut reply = String::new();
        if commands.contains("HELLO") {
            reply += "%1\r\n$5\r\nproto\r\n:3\r\n";
        }
        if commands.contains("SUBSCRIBE") {
            reply += "-ERR unknown command\r\n";
        }
        if commands.contains("GET-MASTER-ADDR-BY-NAME") {
            let (port, epoch) = *claims.borrow();
            let (port, epoch) = (port.to_string(), epoch.to_string());
            reply += &format!("%1\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n", epoch.len());
            reply += &format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
        }
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn no_old_master_is_used_while_the_new_one_cannot_be_reached() {
    let service = Service::start().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unreachable = gone.local_addr().unwrap().port();
    drop(gone);
    let sentinels = [liar(latest(unreachable)).await, service.sentinels[0].service_port()];
    let sentinels = RedisSentinels::new(SERVICE, sentinels.map(|port| ("127.0.0.1", port)));
    let error = first_error(RedisConfig::sentinel(sentinels)).await;
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(service.servers[0].command::<u64>(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn a_server_is_used_only_if_it_is_a_master_and_carries_out_a_write() {
    let service = Service::start().await;
    let replica = &service.servers[1];
    // It would carry out writes, and still is no master.
    let () = replica.command(&["CONFIG", "SET", "replica-read-only", "no"]);
    let sentinels = [liar(latest(replica.port())).await, service.sentinels[0].service_port()];
    let sentinels = RedisSentinels::new(SERVICE, sentinels.map(|port| ("127.0.0.1", port)));
    let node = store(config().redis(RedisConfig::sentinel(sentinels))).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let key = key(id);
    assert_eq!(service.servers[0].command::<u64>(&["EXISTS", &key]), 1);
    service.fail_over();
    let new = service.has_switched().await;
    let follows = async || {
        let Ok(created) = node.create(Data::of("bob")).await else { return false };
        new.command::<u64>(&["EXISTS", &format!("session:{}", created.id)]) == 1
    };
    eventually(follows, "the node follows the sentinel that is right").await;
}

#[test]
fn a_failover_is_noticed_though_the_runtime_of_the_first_connection_has_gone() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let [old, new] = [RedisServer::start(), RedisServer::start()];
    let (named, claims) = watch::channel((old.port(), 1));
    let of_sentinel = runtime();
    let sentinels = [("127.0.0.1", of_sentinel.block_on(liar(claims)))];
    let redis = RedisConfig::sentinel(RedisSentinels::new(SERVICE, sentinels));
    // As an application does that prepares its store before it starts its server.
    let node = runtime().block_on(store(config().redis(redis)));
    runtime().block_on(async {
        let _ = node.create(Data::of("ada")).await.unwrap();
        // The old master stays up, and the connections to it live.
        named.send((new.port(), 2)).unwrap();
        eventually(async || creates_on(&node, &new).await, "the node uses the new master").await;
    });
}

/// Returns `true` if a session is created on this server.
async fn creates_on(node: &SessionStore<Data>, server: &RedisServer) -> bool {
    node.create(Data::of("bob")).await.is_ok() && server.command::<u64>(&["DBSIZE"]) > 0
}

/// As they are after all of them have lost their configuration, or after `SENTINEL REMOVE` and
/// `SENTINEL MONITOR`.
#[tokio::test]
async fn sentinels_that_are_set_up_again_are_followed_to_another_master() {
    let [old, new] = [RedisServer::start(), RedisServer::start()];
    let (named, claims) = watch::channel((old.port(), 7));
    let sentinels = RedisSentinels::new(SERVICE, [("127.0.0.1", liar(claims).await)]);
    let node = store(config().redis(RedisConfig::sentinel(sentinels)).enable_retry(false)).await;
    let _ = node.create(Data::of("ada")).await.unwrap();
    named.send((new.port(), 1)).unwrap();
    let has_left = async || !node.coordinator().is_listening();
    eventually(has_left, "no sentinel names the master, so the cache is not used").await;
    let follows =
        async || node.create(Data::of("bob")).await.is_ok() && new.command::<u64>(&["DBSIZE"]) > 0;
    eventually_within(DEADLINE * 2, follows, "the node follows the sentinels").await;
    eventually(async || node.coordinator().is_listening(), "the cache is used again").await;
}
