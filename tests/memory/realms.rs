//! Applications that share a secret and a backend.

use clustered_sessions::{
    CookieConfig, Encryption, MemoryBackend, Session, SessionConfigBuilder, StoreErrorKind,
};

use crate::web::{Browser, Data, ada, config, only_id, serve, start};

async fn user(session: Session<Data>) -> String {
    session.read(|data| data.user.clone()).unwrap_or_default()
}

fn owned(config: SessionConfigBuilder<Data>) -> SessionConfigBuilder<Data> {
    config.owner(|data: &Data| data.user.clone())
}

#[tokio::test]
async fn a_login_in_one_realm_is_no_login_in_another() {
    let memory = MemoryBackend::new();
    let shop = start(config(&memory).realm("shop")).await;
    let admin = start(config(&memory).realm("admin")).await;
    let mut browser = Browser::with(&shop, ada()).await;
    assert_eq!(browser.visit(&serve(&shop, user)).await.body, "Ada");
    assert_eq!(browser.visit(&serve(&admin, user)).await.body, "");
}

#[tokio::test]
async fn nodes_of_one_realm_accept_each_others_logins() {
    let memory = MemoryBackend::new();
    let one = start(config(&memory).realm("shop")).await;
    let other = start(config(&memory).realm("shop")).await;
    let mut browser = Browser::with(&one, ada()).await;
    assert_eq!(browser.visit(&serve(&other, user)).await.body, "Ada");
}

#[tokio::test]
async fn a_logout_everywhere_does_not_reach_into_another_realm() {
    let memory = MemoryBackend::new();
    let shop = start(owned(config(&memory)).realm("shop")).await;
    let admin = start(owned(config(&memory)).realm("admin")).await;
    Browser::with(&shop, ada()).await;
    assert_eq!(admin.store().sessions_of("Ada").await.unwrap().len(), 0);
    assert_eq!(admin.store().delete_all_of("Ada").await.unwrap().deleted, 0);
    assert_eq!(shop.store().sessions_of("Ada").await.unwrap().len(), 1);
}

#[tokio::test]
async fn by_default_the_cookies_name_is_the_realm() {
    let memory = MemoryBackend::new();
    let named = |name: &str| owned(config(&memory)).cookie(CookieConfig::new().name(name));
    let shop = start(named("__Host-shop")).await;
    let admin = start(named("__Host-admin")).await;
    Browser::with(&shop, ada()).await;
    assert_eq!(admin.store().delete_all_of("Ada").await.unwrap().deleted, 0);
    assert_eq!(shop.store().delete_all_of("Ada").await.unwrap().deleted, 1);
}

#[tokio::test]
async fn an_encrypted_record_of_another_realm_cannot_be_read() {
    let memory = MemoryBackend::new();
    let encrypted = || config(&memory).encrypt_redis_data(Encryption::Required);
    let shop = start(encrypted().realm("shop")).await;
    let admin = start(encrypted().realm("admin")).await;
    Browser::with(&shop, ada()).await;
    let id = only_id(&shop).await;
    let error = admin.store().find_fresh(id).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
}

#[cfg(feature = "redis")]
#[test]
fn a_secret_that_can_be_guessed_is_warned_of_if_sessions_are_in_redis() {
    use clustered_sessions::{RedisConfig, Secret, SessionConfig};
    use support::log::Log;

    let log_of = |secret: Secret, in_redis: bool| {
        let log = Log::default();
        let _guard = log.capture("clustered_sessions=warn");
        let config = SessionConfig::<Data>::development(secret);
        let redis = RedisConfig::new("localhost", 6379);
        let config = if in_redis { config.redis(redis) } else { config };
        config.build().unwrap();
        log.text()
    };
    let warning = "a secret that can be guessed";
    let weak = [Secret::insecure_dev("dev"), Secret::new("x".repeat(32)).unwrap()];
    for secret in weak {
        assert!(log_of(secret.clone(), true).contains(warning));
        assert_eq!(log_of(secret, false), "");
    }
    let hexadecimal = Secret::new("0f1e2d3c4b5a69788796a5b4c3d2e1f0").unwrap();
    assert_eq!(log_of(hexadecimal, true), "");
}
