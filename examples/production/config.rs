//! The configuration, read from the environment.

use std::env;
use std::error::Error;
use std::time::Duration;

use clustered_sessions::{
    ClusterConfig, CookieConfig, OutagePolicy, RedisConfig, Secret, SessionConfig,
    SessionConfigBuilder,
};

use crate::app::UserSession;

/// Builds on the production preset, which enables retries, the circuit breaker and encryption, and
/// sizes the cache. Only the settings specific to this application appear here.
pub(crate) fn sessions() -> Result<SessionConfig<UserSession>, Box<dyn Error>> {
    let mut config = SessionConfig::production(Secret::from_env("SESSION_SECRET")?)
        .timeout(Duration::from_secs(2 * 3600))
        .absolute_timeout(Duration::from_secs(24 * 3600))
        .redis(RedisConfig::from_env("REDIS_URL")?)
        .cluster(cluster())
        // While Redis is down, sessions cached on this node can still be read, for up to a minute.
        .on_outage(OutagePolicy::ServeCached { max_age: Duration::from_secs(60) });
    if is_plain_http() {
        config = config.cookie(CookieConfig::development());
    }
    rotation(config)
}

fn cluster() -> ClusterConfig {
    let cluster = ClusterConfig::new();
    match env::var("NODE_ID") {
        Ok(node_id) => cluster.node_id(node_id),
        Err(_) => cluster,
    }
}

/// Adds the second secret that a rotation needs: see "Rotating the secret" in `docs/deployment.md`.
fn rotation(
    mut config: SessionConfigBuilder<UserSession>,
) -> Result<SessionConfig<UserSession>, Box<dyn Error>> {
    if let Some(secret) = secret("SESSION_SECRET_NEXT")? {
        config = config.next_secret(secret);
    }
    if let Some(secret) = secret("SESSION_SECRET_PREVIOUS")? {
        config = config.previous_secret(secret);
    }
    Ok(config.build()?)
}

/// Reads an optional secret. An empty variable counts as unset, because a Compose file cannot leave
/// a variable out.
fn secret(name: &str) -> Result<Option<Secret>, Box<dyn Error>> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    Ok(value.map(Secret::new).transpose()?)
}

fn is_plain_http() -> bool {
    env::var("PLAIN_HTTP").is_ok_and(|value| value == "yes")
}

/// Returns the interval at which cache statistics are logged, or `None` if that is disabled.
pub(crate) fn log_stats_interval() -> Result<Option<Duration>, Box<dyn Error>> {
    let seconds = variable("LOG_STATS_SECONDS", "60").parse()?;
    Ok(Some(Duration::from_secs(seconds)).filter(|interval| !interval.is_zero()))
}

/// Returns an environment variable, or its default.
pub(crate) fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}
