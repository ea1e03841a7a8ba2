//! Connections over TLS, to servers that have a good certificate or a bad one.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clustered_sessions::{
    ConfigError, RedisConfig, RedisTls, SessionStore, StoreError, StoreErrorKind,
};
use http::StatusCode;
use support::client::Client;
use support::files::Files;
use support::node::Node;
use support::program::has_tls;
use support::tls::{Authority, Identity, TlsServer};
use support::wait::eventually;
use tokio::net::TcpStream;

use crate::nodes::{Data, config, store};

fn trusting(authority: &Authority) -> RedisTls {
    RedisTls::new().root_certificates(authority.root())
}

fn redis(port: u16, tls: RedisTls) -> RedisConfig {
    RedisConfig::new("localhost", port).tls(tls)
}

/// Returns the error of a first operation, which must come within the connect timeout.
async fn first_error(redis: RedisConfig) -> StoreError {
    let limit = Duration::from_secs(1);
    let config = config().redis(redis.connect_timeout(limit)).enable_retry(false);
    let store: SessionStore<Data> = SessionStore::new(config.build().unwrap());
    let error = tokio::time::timeout(limit * 2, store.create(Data::of("ada"))).await;
    error.expect("the error comes in time").unwrap_err()
}

/// Returns the error of a first operation, which must be a refusal.
async fn refusal(redis: RedisConfig) -> StoreError {
    let error = first_error(redis).await;
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{}", chain(&error));
    error
}

/// Returns the texts of an error and its sources.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[tokio::test]
async fn sessions_are_shared_and_revoked_over_tls() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let one = store(config().redis(redis(server.port(), trusting(&authority)))).await;
    let two = store(config().redis(redis(server.port(), trusting(&authority)))).await;
    let id = one.create(Data::of("ada")).await.unwrap().id;
    assert!(two.find(id).await.unwrap().is_some());
    one.delete(id).await.unwrap();
    eventually(async || two.find(id).await.unwrap().is_none(), "the session is revoked").await;
    let clients: String = server.server.command(&["CLIENT", "LIST"]);
    let is_encrypted = |line: &str| line.contains(&format!("laddr=127.0.0.1:{}", server.port()));
    assert_eq!(clients.lines().filter(|line| is_encrypted(line)).count(), 4, "{clients}");
}

#[tokio::test]
async fn a_server_that_is_known_by_its_ip_address_is_trusted_for_it() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("127.0.0.1"));
    let by_ip = RedisConfig::new("127.0.0.1", server.port()).tls(trusting(&authority));
    store(config().redis(by_ip)).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_accepted_if_the_configuration_names_it() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("redis.example.com"));
    let error = refusal(redis(server.port(), trusting(&authority))).await;
    assert!(chain(&error).contains("not valid for name"), "{}", chain(&error));
    let tls = trusting(&authority).server_name("redis.example.com");
    store(config().redis(redis(server.port(), tls))).await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    if !has_tls() {
        return;
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let error = refusal(redis(server.port(), trusting(&other))).await;
    assert!(chain(&error).contains("invalid peer certificate"), "{}", chain(&error));
    let error = refusal(redis(server.port(), RedisTls::new())).await;
    assert!(chain(&error).contains("UnknownIssuer"), "{}", chain(&error));
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue_until("localhost", 2021));
    let error = refusal(redis(server.port(), trusting(&authority))).await;
    assert!(chain(&error).contains("certificate expired"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_serves_no_client_without() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::for_known_clients(&authority, &authority.issue("localhost"));
    let error = refusal(redis(server.port(), trusting(&authority))).await;
    assert!(chain(&error).contains("received fatal alert"), "{}", chain(&error));

    let stranger = with_certificate(&authority, &Authority::new().issue("node"));
    let error = refusal(redis(server.port(), stranger)).await;
    assert!(chain(&error).contains("received fatal alert"), "{}", chain(&error));

    let node = with_certificate(&authority, &authority.issue("node"));
    store(config().redis(redis(server.port(), node))).await;
}

fn with_certificate(authority: &Authority, identity: &Identity) -> RedisTls {
    trusting(authority).client_certificate(&*identity.certificate, &*identity.key)
}

#[tokio::test]
async fn the_wrong_kind_of_port_is_reported_within_the_connect_timeout() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let encrypted = redis(server.server.port(), trusting(&authority));
    let plain = RedisConfig::new("localhost", server.port());
    for (redis, cause) in [(encrypted, "did not complete the TLS handshake"), (plain, "")] {
        let error = first_error(redis).await;
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{}", chain(&error));
        assert!(chain(&error).contains(cause), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_server_that_refuses_is_not_asked_again_and_again() {
    if !has_tls() {
        return;
    }
    let (authority, other) = (Authority::new(), Authority::new());
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let (port, connections) = (server.port(), Arc::new(AtomicUsize::new(0)));
    let redis = redis(port, trusting(&other)).connector({
        let connections = connections.clone();
        move |_| {
            connections.fetch_add(1, Ordering::SeqCst);
            TcpStream::connect(("127.0.0.1", port))
        }
    });
    let config = config().redis(redis).enable_retry(false).circuit_breaker_enabled(false);
    let store: SessionStore<Data> = SessionStore::new(config.build().unwrap());
    for _ in 0..1000 {
        store.create(Data::of("ada")).await.unwrap_err();
    }
    let attempts = connections.load(Ordering::SeqCst);
    assert!(attempts < 100, "{attempts} connections for 1000 operations");
}

#[test]
fn each_mistake_has_its_error() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identity = authority.issue("node");
    let build = |redis: RedisConfig| config().redis(redis).build().map(drop);
    let error = |tls: RedisTls| build(redis(6379, tls)).unwrap_err();
    let trusting = || trusting(&authority);
    assert_eq!(error(RedisTls::new().root_certificates("")), ConfigError::RedisRootCertificates);
    let damaged = authority.root().replace('M', "!");
    assert_eq!(
        error(RedisTls::new().root_certificates(damaged)),
        ConfigError::RedisRootCertificates
    );
    for (certificate, key) in [
        ("", &*identity.key),
        (&*identity.certificate, ""),
        (&*identity.certificate, &*other.issue("node").key),
    ] {
        assert_eq!(
            error(trusting().client_certificate(certificate, key)),
            ConfigError::RedisClientCertificate
        );
    }
    assert_eq!(error(trusting().server_name("no name")), ConfigError::RedisServerName);
    let socket = RedisConfig::from_url("redis+unix:///run/redis.sock").unwrap();
    assert_eq!(build(socket.clone().tls(trusting())), Err(ConfigError::RedisServerName));
    assert_eq!(build(socket.tls(trusting().server_name("redis"))), Ok(()));
}

#[test]
fn no_key_is_shown() {
    let identity = Authority::new().issue("node");
    let tls = RedisTls::new().client_certificate(&*identity.certificate, &*identity.key);
    let shown = format!("{tls:?} {:?}", redis(6379, tls.clone()));
    let secret = identity.key.lines().nth(1).unwrap();
    assert!(!shown.contains(secret), "{shown}");
}

/// The system's root certificates can be replaced by a file, which is how a node that is
/// configured by a URL alone trusts an authority of one's own.
#[tokio::test]
async fn a_node_with_a_url_trusts_the_authorities_of_its_environment() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let files = Files::new();
    let roots = files.write("roots.pem", authority.root());
    let url = format!("rediss://localhost:{}", server.port());
    let node = Node::start(&[("REDIS_URL", &url), ("SSL_CERT_FILE", &roots)]);
    let mut browser = Client::new();
    browser.post(&node.url("/login?user=ada")).await;
    assert_eq!(browser.get(&node.url("/me")).await.status, StatusCode::OK);
    assert!(server.server.command::<usize>(&["DBSIZE"]) > 0);
}
