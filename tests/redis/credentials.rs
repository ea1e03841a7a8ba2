//! Users and passwords that rotate.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::{
    RedisConfig, RedisCredentials, SessionConfigBuilder, SessionStore, StoreErrorKind,
};
use support::log::Log;
use support::redis::RedisServer;
use support::wait::eventually;

use crate::nodes::{self, Data, store};
use crate::web::RedisAddress as _;

fn config() -> SessionConfigBuilder<Data> {
    nodes::config().enable_retry(false)
}

/// Adds a user who may do everything.
fn add_user(server: &RedisServer, user: &str) {
    let password = format!(">password of {user}");
    let () = server.command(&["ACL", "SETUSER", user, "on", &password, "~*", "&*", "+@all"]);
}

/// The source of credentials of a test.
#[derive(Clone)]
struct Vault {
    user: Arc<Mutex<String>>,
    validity: Duration,
    is_sealed: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Vault {
    fn with(user: &str, validity: Duration) -> Self {
        Vault {
            user: Arc::new(Mutex::new(user.to_owned())),
            validity,
            is_sealed: Arc::default(),
            asked: Arc::default(),
        }
    }

    fn rotate(&self, user: &str) {
        user.clone_into(&mut self.user.lock().unwrap());
    }

    fn seal(&self, is_sealed: bool) {
        self.is_sealed.store(is_sealed, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn redis(&self, server: &RedisServer) -> RedisConfig {
        let vault = self.clone();
        RedisConfig::new("127.0.0.1", server.port()).credentials_provider(move || {
            let vault = vault.clone();
            async move {
                vault.asked.fetch_add(1, Ordering::SeqCst);
                if vault.is_sealed.load(Ordering::SeqCst) {
                    return Err(io::Error::other("the vault is sealed"));
                }
                let user = vault.user.lock().unwrap().clone();
                let password = format!("password of {user}");
                Ok(RedisCredentials::new(user, password).valid_for(vault.validity))
            }
        })
    }
}

/// Returns the number of connections of a user.
fn connections_of(server: &RedisServer, user: &str) -> usize {
    let list: String = server.command(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains(&format!(" user={user} "))).count()
}

#[tokio::test]
async fn credentials_rotate_under_load_and_nothing_is_lost() {
    let server = RedisServer::start();
    add_user(&server, "monday");
    let vault = Vault::with("monday", Duration::from_millis(1400));
    let node = store(config().redis(vault.redis(&server))).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    assert_eq!(connections_of(&server, "monday"), 2);

    let is_over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (node, is_over) = (node.clone(), is_over.clone());
        async move {
            let mut visits = 0;
            while !is_over.load(Ordering::SeqCst) {
                node.modify(id, |data| data.visits += 1).await.unwrap();
                node.find_fresh(id).await.unwrap().unwrap();
                visits += 1;
            }
            visits
        }
    });
    add_user(&server, "tuesday");
    vault.rotate("tuesday");
    let has_rotated = async || connections_of(&server, "tuesday") == 2;
    eventually(has_rotated, "both connections have authenticated again").await;
    // Closes what connections the user still has.
    let () = server.command(&["ACL", "DELUSER", "monday"]);
    is_over.store(true, Ordering::SeqCst);
    let visits = load.await.unwrap();
    assert_eq!(node.find_fresh(id).await.unwrap().unwrap().data().visits, visits);
    assert_eq!(node.coordinator().disconnects(), 0);
    assert!(node.coordinator().is_listening());
}

#[tokio::test]
async fn a_provider_is_asked_for_each_connection_and_not_for_a_command() {
    let server = RedisServer::start();
    add_user(&server, "app");
    let vault = Vault::with("app", Duration::from_secs(3600));
    let node = store(config().redis(vault.redis(&server))).await;
    for _ in 0..10 {
        let _ = node.create(Data::of("ada")).await.unwrap();
    }
    assert_eq!(vault.asked(), 2);
}

#[tokio::test]
async fn a_provider_that_fails_is_the_cause_of_the_error() {
    let server = RedisServer::start();
    let vault = Vault::with("app", Duration::from_secs(3600));
    vault.seal(true);
    let store: SessionStore<Data> =
        SessionStore::new(config().redis(vault.redis(&server)).build().unwrap());
    let error = store.create(Data::of("ada")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the vault is sealed");
    assert_eq!(server.connections(), 0, "no connection is made without credentials");
}

#[tokio::test]
async fn a_provider_that_fails_later_is_asked_again_and_the_connections_stay() {
    let log = Log::default();
    let _guard = log.capture("clustered_sessions=warn");
    let server = RedisServer::start();
    add_user(&server, "app");
    let vault = Vault::with("app", Duration::from_millis(1400));
    let node = store(config().redis(vault.redis(&server))).await;
    vault.seal(true);
    let asked = vault.asked();
    eventually(async || vault.asked() >= asked + 4, "the provider is asked again").await;
    let _ = node.create(Data::of("ada")).await.unwrap();
    vault.seal(false);
    let calls = server.calls().get("auth").copied().unwrap_or_default();
    let has_renewed = async || server.calls().get("auth").copied().unwrap_or_default() >= calls + 2;
    eventually(has_renewed, "both connections have authenticated again").await;
    assert_eq!(node.coordinator().disconnects(), 0);
    let warnings = log.text().matches("could not authenticate with new credentials").count();
    assert_eq!(warnings, 2, "one for each connection");
}

#[tokio::test]
async fn a_user_who_needs_no_password_is_not_the_default_user() {
    let server = RedisServer::start();
    let () = server.command(&["ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all"]);
    let node = store(config().redis(server.config().user("app"))).await;
    node.create(Data::of("ada")).await.map(drop).unwrap();
    let clients: String = server.command(&["CLIENT", "LIST"]);
    assert_eq!(clients.matches("user=app").count(), 2, "{clients}");

    add_user(&server, "other");
    let redis = config().redis(server.config().user("other")).build().unwrap();
    let error = SessionStore::<Data>::new(redis).create(Data::of("ada")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused, "its password is missing");
}
