//! Watches in a loop that always has something else to do, because a client sends one message after
//! the other. Each call of `changed` is dropped after one poll, as `select!` drops it.

use std::future::Future;
use std::time::Duration;

use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{
    Clock, ClusterConfig, Ended, MemoryBackend, Record, SessionWatch, StoreError,
};
use futures_util::future::poll_immediate;
use tokio::time::{Instant, sleep, timeout};

use crate::watch::{GRACE, MAX_STALENESS, Nodes, PULSE, SECOND, node, regenerate};
use crate::web::{Data, ada, only_id};

const MESSAGE: Duration = Duration::from_millis(1);

/// Asks a watch again and again. Fails if it has told nothing within a time.
async fn busily(
    watch: &mut SessionWatch<Data>,
    limit: Duration,
) -> Option<Result<Record<Data>, Ended>> {
    let begun = Instant::now();
    while begun.elapsed() <= limit {
        if let Some(answer) = poll_immediate(watch.changed()).await {
            return Some(answer);
        }
        sleep(MESSAGE).await;
    }
    None
}

/// A read takes longer than the client does for a message.
async fn slow_nodes(there: ClusterConfig) -> Nodes {
    let nodes = Nodes::with(there).await;
    nodes.faults.delay_calls_by(SECOND / 50..SECOND / 25);
    nodes
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_the_time_learns_of_the_end_of_its_session() {
    // A node without a cache does not learn why.
    for (caches, reason) in [(true, Ended::Revoked), (false, Ended::Deleted)] {
        let nodes = slow_nodes(ClusterConfig::new().local_cache_enabled(caches)).await;
        let id = nodes.session().await;
        let mut watch = nodes.there.store().watch(id);
        assert!(busily(&mut watch, SECOND).await.unwrap().is_ok());
        assert!(busily(&mut watch, SECOND * 2).await.is_none(), "nothing has changed");
        assert!(nodes.here.store().delete(id).await.unwrap());
        let ended = busily(&mut watch, MAX_STALENESS).await;
        assert_eq!(ended.expect("it is told").unwrap_err(), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_the_time_is_told_when_its_node_is_cut_off() {
    let nodes = slow_nodes(ClusterConfig::new()).await;
    let mut watch = nodes.there.store().watch(nodes.session().await);
    assert!(busily(&mut watch, SECOND).await.unwrap().is_ok());
    nodes.faults.stall_subscriptions();
    nodes.faults.delay_calls_by(SECOND * 3600..SECOND * 7200);
    let ended = busily(&mut watch, MAX_STALENESS + GRACE + PULSE).await;
    assert_eq!(ended.expect("it is told").unwrap_err(), Ended::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_the_time_keeps_a_session_that_can_be_read() {
    let nodes = slow_nodes(ClusterConfig::new().local_cache_enabled(false)).await;
    let mut watch = nodes.there.store().watch(nodes.session().await);
    assert!(busily(&mut watch, SECOND).await.unwrap().is_ok());
    assert!(busily(&mut watch, GRACE * 2).await.is_none(), "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_all_the_time_follows_its_session_to_a_new_id() {
    let nodes = slow_nodes(ClusterConfig::new()).await;
    let cookie = nodes.here.cookie_for(ada()).await.unwrap();
    let mut watch = nodes.there.store().watch(only_id(&nodes.here).await);
    assert!(busily(&mut watch, SECOND).await.unwrap().is_ok());
    regenerate(&nodes.here, cookie).await;
    let moved = busily(&mut watch, SECOND).await.expect("it is told").unwrap();
    assert_eq!(watch.id(), moved.id());
    assert!(nodes.here.store().delete(moved.id()).await.unwrap());
    assert_eq!(busily(&mut watch, SECOND).await.expect("it is told").unwrap_err(), Ended::Revoked);
}

/// Answers come late, so they may be outdated.
#[derive(Clone)]
struct LateAnswers;

impl Interposer for LateAnswers {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        let answer = call.await;
        if method == BackendMethod::Load {
            sleep(SECOND).await;
        }
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_between_two_calls_is_told_although_a_read_that_began_before_it_continues() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let here = node(&clock, memory.clone(), ClusterConfig::new()).await;
    let late = Interposed::with_interposer(memory, LateAnswers);
    let there = node(&clock, late, ClusterConfig::new()).await;
    let id = here.store().create(ada()).await.unwrap().id;
    let mut watch = there.store().watch(id);
    watch.changed().await.unwrap();
    there.store().coordinator().local_cache().clear();
    assert!(poll_immediate(watch.changed()).await.is_none(), "it begins to read");
    sleep(SECOND / 10).await;
    here.store().modify(id, |data| data.visits += 1).await.unwrap();
    sleep(SECOND / 10).await;
    let changed = timeout(SECOND * 5, watch.changed()).await;
    assert_eq!(changed.expect("the change is told").unwrap().data().visits, 1);
}
