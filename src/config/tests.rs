//! The builder, and the errors that it reports.

use super::*;

fn builder() -> SessionConfigBuilder<()> {
    SessionConfig::builder(Secret::new("x".repeat(32)).unwrap())
}

#[test]
fn a_clone_has_the_same_options_and_shares_the_backend() {
    struct NotClone;
    let config = SessionConfig::<NotClone>::builder(Secret::new("x".repeat(32)).unwrap())
        .timeout(Duration::from_secs(60))
        .absolute_timeout(Duration::from_secs(120))
        .owner(|_| Some("ada".to_owned()))
        .build()
        .unwrap();
    let clone = config.clone();
    assert_eq!(format!("{clone:?}"), format!("{config:?}"));
    assert_eq!(clone.absolute_timeout, config.absolute_timeout);
    assert_eq!(clone.owner.unwrap()(&NotClone).as_deref(), Some("ada"));
    assert!(Arc::ptr_eq(&clone.backend, &config.backend));
}

#[test]
fn each_mistake_has_its_error() {
    assert!(builder().build().is_ok());
    for timeout in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        assert_eq!(builder().timeout(timeout).build().unwrap_err(), ConfigError::Timeout(timeout));
    }
    for absolute in [Duration::from_secs(24 * 3600 - 1), Duration::MAX] {
        let error = builder().absolute_timeout(absolute).build().unwrap_err();
        assert_eq!(
            error,
            ConfigError::AbsoluteTimeout { absolute, idle: Duration::from_secs(24 * 3600) }
        );
    }
    assert!(
        builder()
            .timeout(Duration::from_secs(60))
            .absolute_timeout(Duration::from_secs(60))
            .build()
            .is_ok()
    );
    for share in [0.0, -1.0, 1.0, f64::NAN] {
        assert_eq!(builder().touch_after(share).build().unwrap_err(), ConfigError::TouchAfter);
    }
    let cookie = CookieConfig::new().domain("example.com");
    assert_eq!(builder().cookie(cookie).build().unwrap_err(), ConfigError::HostPrefix);
    let cluster = ClusterConfig::new().channel("");
    assert_eq!(builder().cluster(cluster).build().unwrap_err(), ConfigError::Channel);
    let policy = OutagePolicy::ServeCached { max_age: Duration::from_secs(60) };
    let uncached =
        builder().cluster(ClusterConfig::new().local_cache_enabled(false)).on_outage(policy);
    assert_eq!(uncached.build().unwrap_err(), ConfigError::ServeCachedWithoutCache);
    assert_eq!(builder().max_record_size(0).build().unwrap_err(), ConfigError::MaxRecordSize(0));
    #[cfg(feature = "metrics")]
    for label in [String::new(), "s".repeat(129)] {
        assert_eq!(builder().metrics_label(label).build().unwrap_err(), ConfigError::MetricsLabel);
    }
}

#[cfg(feature = "redis")]
#[test]
fn two_backends_are_refused() {
    use crate::backend::MemoryBackend;

    let two = builder().redis(RedisConfig::new("localhost", 6379)).backend(MemoryBackend::new());
    assert_eq!(two.build().unwrap_err(), ConfigError::TwoBackends);
    let two = builder().redis(RedisConfig::new("localhost", 6379)).in_memory();
    assert_eq!(two.build().unwrap_err(), ConfigError::TwoBackends);
    let two = builder().backend(MemoryBackend::new()).in_memory();
    assert_eq!(two.build().unwrap_err(), ConfigError::TwoBackends);
}

#[cfg(feature = "redis")]
#[test]
fn the_default_realm_is_the_cookie_name_and_the_key_prefix() {
    let keys = |builder: SessionConfigBuilder<()>| -> Vec<_> {
        builder.build().unwrap().keys.derive("a purpose").map(|key| key.bytes).collect()
    };
    let stored_under = |prefix| {
        let redis = RedisConfig::new("localhost", 6379).key_prefix(prefix);
        builder().cookie(CookieConfig::new().name("sid")).redis(redis)
    };
    assert_eq!(keys(stored_under("shop:")), keys(builder().realm("sid@shop:")));
    assert_ne!(keys(stored_under("shop:")), keys(stored_under("admin:")));
    let explicit = stored_under("shop:").realm("both");
    assert_eq!(keys(explicit), keys(stored_under("admin:").realm("both")));
}

#[cfg(feature = "redis")]
#[test]
fn max_staleness_must_not_be_below_the_response_timeout() {
    let (max_staleness, response_timeout) =
        (Duration::from_millis(200), Duration::from_millis(500));
    let strict = || ClusterConfig::new().max_staleness(max_staleness);
    let slow =
        |cluster| builder().redis(RedisConfig::new("localhost", 6379)).cluster(cluster).build();
    let expected = ConfigError::MaxStalenessBelowTimeout { max_staleness, response_timeout };
    assert_eq!(slow(strict()).unwrap_err(), expected);
    assert!(slow(strict().enabled(false)).is_ok(), "without a listener there is no heartbeat");
}

#[test]
fn a_limit_of_sessions_needs_an_owner_and_a_place() {
    let limited = |max| {
        SessionConfig::<()>::development(Secret::insecure_dev("dev"))
            .max_sessions_of_owner(max, LimitPolicy::EndOldest)
    };
    assert_eq!(limited(1).build().unwrap_err(), ConfigError::OwnerLimitWithoutOwner);
    let owned = |max| limited(max).owner(|_| Some("ada".to_owned())).build();
    assert_eq!(owned(0).unwrap_err(), ConfigError::OwnerLimitZero);
    assert!(owned(1).is_ok());
}

#[test]
fn the_debug_form_of_an_error_is_its_sentence() {
    let error: Box<dyn std::error::Error> =
        builder().timeout(Duration::ZERO).build().unwrap_err().into();
    assert_eq!(
        format!("{error:?}"),
        "a session timeout is 0ns but must be between 1 second and 400 days"
    );
}
