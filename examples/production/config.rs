//! The configuration, from the environment.

use std::env;
use std::error::Error;
use std::time::Duration;

use clustered_sessions::{
    ClusterConfig, CookieConfig, OutagePolicy, RedisConfig, Secret, SessionConfig,
    SessionConfigBuilder,
};

use crate::app::UserSession;

/// The preset has retries, the circuit breaker, encryption, and the cache's figures; what is said here is what is this
/// application's own.
pub(crate) fn sessions() -> Result<SessionConfig<UserSession>, Box<dyn Error>> {
    let mut config = SessionConfig::production(Secret::from_env("SESSION_SECRET")?)
        .timeout(Duration::from_secs(2 * 3600))
        .absolute_timeout(Duration::from_secs(24 * 3600))
        .redis(RedisConfig::from_env("REDIS_URL")?)
        .cluster(cluster())
        // A session that this node knows can still be looked at while Redis is down, for a minute.
        .on_outage(OutagePolicy::ServeCached { max_age: Duration::from_secs(60) });
    if is_plain_http() {
        config = config.cookie(CookieConfig::development());
    }
    rotation(config)
}

fn cluster() -> ClusterConfig {
    let cluster = ClusterConfig::production().channel("session:invalidate");
    match env::var("NODE_ID") {
        Ok(node_id) => cluster.node_id(node_id),
        Err(_) => cluster,
    }
}

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

/// Empty is as good as unset: Compose files cannot leave a variable out.
fn secret(name: &str) -> Result<Option<Secret>, Box<dyn Error>> {
    let value = env::var(name).ok().filter(|value| !value.is_empty());
    Ok(value.map(Secret::new).transpose()?)
}

pub(crate) fn is_plain_http() -> bool {
    env::var("PLAIN_HTTP").is_ok_and(|value| value == "yes")
}

pub(crate) fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}
