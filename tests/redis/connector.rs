//! Streams to a server that the application opens itself.

use std::io;
use std::sync::{Arc, Mutex};

#[cfg(feature = "tls")]
use clustered_sessions::RedisTls;
use clustered_sessions::{RedisAddress, RedisConfig, SessionStore, StoreErrorKind};
use support::redis::RedisServer;
#[cfg(target_os = "linux")]
use support::wait::eventually;
#[cfg(feature = "tls")]
use support::{
    program::has_tls,
    tls::{Authority, TlsServer},
};
use tokio::net::{TcpStream, UnixStream};

use crate::nodes::{Data, config, store};

/// The state of an open connection in `/proc/net/tcp`.
#[cfg(target_os = "linux")]
const ESTABLISHED: &str = "01";
/// The timer of keepalives there.
#[cfg(target_os = "linux")]
const KEEPALIVE: &str = "02";

#[tokio::test]
async fn a_connector_opens_each_connection_and_learns_the_address() {
    let server = RedisServer::start();
    let (port, asked) = (server.port(), Arc::new(Mutex::new(Vec::new())));
    let redis = RedisConfig::new("redis.internal", 6379).connector({
        let asked = asked.clone();
        move |address| {
            asked.lock().unwrap().push(address);
            TcpStream::connect(("127.0.0.1", port))
        }
    });
    let node = store(config().redis(redis)).await;
    let _ = node.create(Data::of("ada")).await.unwrap();
    let address = RedisAddress::tcp("redis.internal", 6379);
    assert_eq!(*asked.lock().unwrap(), [address.clone(), address]);
}

/// Linux lists the timer of each connection, and the hundredths of a second until it fires.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_connection_sends_keepalives_after_a_minute() {
    let server = RedisServer::start();
    let node = store(config().redis(RedisConfig::new("127.0.0.1", server.port()))).await;
    let _ = node.create(Data::of("ada")).await.unwrap();
    let remote = format!(":{:04X}", server.port());
    // A connection for commands and one for the subscription. While data awaits its
    // acknowledgement, another timer is listed.
    let both_have_timers = async || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let timers = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_ours = fields[2].ends_with(&remote) && fields[3] == ESTABLISHED;
            is_ours.then(|| fields[5].split_once(':').unwrap())
        });
        let keepalives = timers.filter(|(kind, left)| {
            *kind == KEEPALIVE && (1..=6000).contains(&u32::from_str_radix(left, 16).unwrap())
        });
        keepalives.count() == 2
    };
    eventually(both_have_timers, "both connections have a timer for keepalives").await;
}

#[tokio::test]
async fn a_connector_that_fails_is_the_cause_of_the_error() {
    let redis = RedisConfig::new("redis.internal", 6379)
        .connector(|_| async { Err::<TcpStream, _>(io::Error::other("the tunnel is closed")) });
    let store: SessionStore<Data> =
        SessionStore::new(config().redis(redis).enable_retry(false).build().unwrap());
    let error = store.create(Data::of("ada")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let causes = "no connection to redis.internal:6379: the tunnel is closed";
    assert!(format!("{error:?}").ends_with(causes), "{error:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_runs_over_the_stream_of_a_connector_and_expects_the_name_of_the_address() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("redis.internal"));
    let port = server.port();
    let redis = RedisConfig::new("redis.internal", 6379)
        .tls(RedisTls::new().root_certificates(authority.root()))
        .connector(move |_| TcpStream::connect(("127.0.0.1", port)));
    let node = store(config().redis(redis)).await;
    let _ = node.create(Data::of("ada")).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_used_by_url_or_connector() {
    let dir = support::files::Files::new();
    let path = dir.path("redis.sock");
    let server = RedisServer::with_args(&["--unixsocket", &path]);
    let by_url = RedisConfig::from_url(&format!("redis+unix://{path}")).unwrap();
    let by_connector = RedisConfig::new("redis.internal", 6379).connector({
        let path = path.clone();
        move |_| UnixStream::connect(path.clone())
    });
    let one = store(config().redis(by_url)).await;
    let two = store(config().redis(by_connector)).await;
    let id = one.create(Data::of("ada")).await.unwrap().id;
    assert!(two.find(id).await.unwrap().is_some());
    let clients: String = server.command(&["CLIENT", "LIST"]);
    let over_socket = |field: &str| field.starts_with("addr=") && field.contains(&path);
    assert_eq!(clients.split(' ').filter(|field| over_socket(field)).count(), 4, "{clients}");
}
