//! The options, and the errors that they report.

use super::*;

/// Returns the address, user, password and database.
async fn parts(config: &RedisConfig) -> (String, Option<String>, Option<String>, u16) {
    let credentials = config.credentials.get().await.unwrap();
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let (user, password) = (owned(credentials.user()), owned(credentials.password()));
    (format!("{:?}", config.servers), user, password, config.database)
}

#[tokio::test]
async fn an_empty_user_or_password_is_none() {
    let by_method = RedisConfig::new("localhost", 6379).user("").password("").database(3);
    let by_url = RedisConfig::from_url("redis://:@localhost:6379/3").unwrap();
    for config in [by_method, by_url] {
        assert_eq!(parts(&config).await, ("localhost:6379".to_owned(), None, None, 3));
    }
    let config = RedisConfig::new("localhost", 6379).password("hunter2").user("");
    assert_eq!(parts(&config).await.2, Some("hunter2".to_owned()));
}

#[tokio::test]
async fn url_and_parts_give_the_same_configuration() {
    let url = "redis://app:hunter2@cache.example.com:6380/3";
    let by_parts = RedisConfig::new("cache.example.com", 6380).database(3);
    let by_parts = by_parts.user("app").password("hunter2");
    let (user, password) = (Some("app".to_owned()), Some("hunter2".to_owned()));
    for config in [RedisConfig::from_url(url).unwrap(), by_parts] {
        let address = "cache.example.com:6380".to_owned();
        assert_eq!(parts(&config).await, (address, user.clone(), password.clone(), 3));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn the_last_of_password_and_provider_counts() {
    let provider = || async { Ok::<_, io::Error>(RedisCredentials::new("app", "token")) };
    let redis = RedisConfig::new("localhost", 6379);
    let provided = redis.clone().password("hunter2").credentials_provider(provider);
    assert_eq!(parts(&provided).await.2, Some("token".to_owned()));
    let fixed = redis.credentials_provider(provider).password("hunter2");
    assert_eq!(parts(&fixed).await.1, None);
    assert_eq!(parts(&fixed).await.2, Some("hunter2".to_owned()));
    assert!(!format!("{fixed:?}").contains("hunter2"));
}

#[test]
fn each_mistake_has_its_error() {
    let new = || RedisConfig::new("localhost", 6379);
    assert_eq!(new().check(), Ok(()));
    for prefix in ["", "session", "s*:", "s[1]:", "{tag}:", &format!("{}:", "x".repeat(128))] {
        assert_eq!(new().key_prefix(prefix).check(), Err(ConfigError::KeyPrefix), "{prefix}");
    }
    assert_eq!(new().connect_timeout(Duration::ZERO).check(), Err(ConfigError::RedisTimeoutZero));
    assert_eq!(new().response_timeout(Duration::ZERO).check(), Err(ConfigError::RedisTimeoutZero));
}

#[test]
fn a_missing_variable_is_named() {
    let error = RedisConfig::from_env("NO_SUCH_REDIS_URL").unwrap_err();
    assert_eq!(error, ConfigError::MissingVariable { variable: "NO_SUCH_REDIS_URL".into() });
}
