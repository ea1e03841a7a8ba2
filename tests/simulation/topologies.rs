//! A session is changed on a master that a node has not heard of: the node must not go on answering
//! from its cache.

use std::time::Duration;

use clustered_sessions::{SessionId, SessionLayer, SessionStore};
use tokio::time::{sleep, timeout};

use crate::promise::promise;
use crate::redis::{ClusterWorld, DOUBT, SentinelWorld};
use crate::{Counter, MAX_STALENESS, World as _};

/// The node that does not hear of the new master, and the one that changes the session there.
const BEHIND: usize = 0;
const AHEAD: usize = 1;

/// A node that no sentinel can tell about another master leaves the old one.
pub(crate) async fn replaced_behind_the_back() {
    let world = SentinelWorld::new(2, 1);
    let replace = async || world.replace_master_behind_the_back_of(BEHIND).await;
    change_after(&world.layers(), replace, DOUBT.max(MAX_STALENESS)).await;
}

/// A node whose masters have voted, and do not know for whom, does not use its cache.
pub(crate) async fn elected_unheard() {
    let world = ClusterWorld::new(2, 1);
    change_after(&world.layers(), async || world.elect_unheard(AHEAD).await, MAX_STALENESS).await;
}

/// A node does not use its cache while the masters name one that it does not listen to.
pub(crate) async fn elected_elsewhere() {
    let world = ClusterWorld::new(2, 1);
    let elect = async || world.elect_behind_the_old_master().await;
    change_after(&world.layers(), elect, MAX_STALENESS).await;
}

/// A node does not use its cache while it hears from all masters but one.
pub(crate) async fn one_master_is_silent() {
    let world = ClusterWorld::new(2, 1);
    let isolate = async || world.isolate_owner_from(BEHIND);
    change_after(&world.layers(), isolate, MAX_STALENESS).await;
}

/// Changes a session, which both nodes have cached, through one node after this trouble. When the
/// staleness bound has passed, the other node must not answer with the old version.
async fn change_after(
    layers: &[SessionLayer<Counter>],
    trouble: impl AsyncFnOnce(),
    bound: Duration,
) {
    let id = cached_on_both(layers).await;
    trouble().await;
    change(layers[AHEAD].store(), id).await;
    sleep(bound).await;
    if let Ok(found) = layers[BEHIND].store().find(id).await {
        let count = found.map(|record| record.data().count);
        promise!(Stale, count == Some(1), "a node answers for an outdated session: {count:?}");
    }
}

async fn cached_on_both(layers: &[SessionLayer<Counter>]) -> SessionId {
    sleep(Duration::from_secs(2)).await;
    let id = layers[AHEAD].store().create(Counter::default()).await.unwrap().id;
    for layer in layers {
        let store = layer.store();
        assert!(store.find(id).await.unwrap().is_some());
        let before = store.cache_stats().hits;
        assert!(store.find(id).await.unwrap().is_some());
        assert_eq!(store.cache_stats().hits, before + 1, "the session is not cached");
    }
    id
}

/// Changes a session as soon as that succeeds.
async fn change(store: &SessionStore<Counter>, id: SessionId) {
    let changing = async {
        while store.modify(id, |data| data.count += 1).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), changing).await.expect("the new master is not found");
}
