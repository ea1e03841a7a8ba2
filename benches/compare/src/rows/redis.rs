//! A client of Redis as an application would write it by hand: the anchor of misses and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::IN_FLIGHT;
use crate::data::UserSession;

pub const TIMEOUT: Duration = Duration::from_secs(1);

pub fn connect(runtime: &Runtime, url: &str) -> MultiplexedConnection {
    runtime.block_on(async {
        let client = Client::open(url).expect("the server's URL is valid");
        client.get_multiplexed_async_connection().await.expect("the server is connected to")
    })
}

/// Runs operations on numbered sessions, as many at a time as [`IN_FLIGHT`], none of them on the
/// same session. Returns operations per second.
pub fn rate<F>(
    runtime: &Runtime,
    operations: usize,
    next: &Arc<AtomicUsize>,
    run: impl Fn(usize) -> F + Clone + Send + 'static,
) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    runtime.block_on(async {
        let mut workers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (run, next) = (run.clone(), next.clone());
            workers.spawn(async move {
                for _ in 0..operations / IN_FLIGHT {
                    run(next.fetch_add(1, Ordering::Relaxed)).await;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.expect("the operation succeeds");
        }
    });
    (operations / IN_FLIGHT * IN_FLIGHT) as f64 / begun.elapsed().as_secs_f64()
}

/// Returns the JSON of a numbered session.
pub fn json(number: usize) -> Vec<u8> {
    serde_json::to_vec(&UserSession::number(number as u64)).expect("the data is JSON")
}
