//! Nodes with the real Redis backend, over a simulated network and simulated servers. So the code
//! that makes connections, keeps the subscription, follows redirects and limits loads takes part in
//! the histories.

mod cluster;
mod network;
mod pair;
mod resp;
mod scripts;
mod sentinel;
mod server;

use std::time::Duration;

use clustered_sessions::backend::RedisBackend;
use clustered_sessions::{Clock, OutagePolicy, RedisConfig, SessionLayer};

pub(crate) use self::cluster::ClusterWorld;
pub(crate) use self::pair::{PairWorld, Rollback};
pub(crate) use self::sentinel::{DOUBT, SentinelWorld};
pub(crate) use self::server::Info;
use crate::{Counter, MAX_AGE, resilience, with_timeouts};

const CHANNEL: &str = "session:invalidate";
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(150);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Creates a node. It sends a heartbeat four times per `max_staleness`.
fn layer(
    number: usize,
    redis: RedisConfig,
    max_staleness: Duration,
    seed: u64,
) -> SessionLayer<Counter> {
    let redis = redis.response_timeout(RESPONSE_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    let config = crate::config()
        .clock(Clock::tokio())
        .backend(RedisBackend::new(&redis, CHANNEL).unwrap())
        .cluster(crate::cluster(number as u64, max_staleness))
        .on_outage(OutagePolicy::ServeCached { max_age: MAX_AGE });
    SessionLayer::new(resilience(with_timeouts(config, seed), seed).build().unwrap())
}
