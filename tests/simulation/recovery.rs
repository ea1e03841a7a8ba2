//! What must hold at the end of a history, when there are no faults any more.
#![allow(clippy::await_holding_refcell_ref, reason = "no other task uses the histories at the end")]

use clustered_sessions::{SessionId, SessionLayer};
use tokio::time::sleep;

use crate::checker::Histories;
use crate::history::clear;
use crate::promise::promise;
use crate::{Counter, World, calm};

/// Checks that after the faults all nodes use their caches again and agree, and that no update was
/// lost or applied twice.
pub(crate) async fn assert_recovery(world: &impl World, histories: &Histories) {
    calm(world).await;
    // A connection that was closed while it was idle is noticed at its first use. If servers do not
    // tell their run ids, the subscription ends with it.
    for layer in world.layers() {
        let _ = layer.store().find_fresh(SessionId::from_bytes([0; 16])).await;
    }
    calm(world).await;
    let histories = histories.borrow();
    for (id, history) in histories.iter() {
        let mut found = Vec::new();
        for layer in world.layers() {
            let store = layer.store();
            let before = store.cache_stats().hits;
            let first = store.find(*id).await.unwrap();
            let second = store.find(*id).await.unwrap();
            assert!(
                store.cache_stats().hits > before,
                "a node does not use its cache after the faults"
            );
            found.extend([first, second].map(|found| found.map(|record| record.data().count)));
        }
        let agree = found.windows(2).all(|pair| pair[0] == pair[1]);
        promise!(Stale, agree, "the nodes disagree: {found:?}");
        match found[0] {
            Some(count) => {
                promise!(Revived, !history.is_deleted(), "a deleted session exists again");
                let range = history.increments..=history.increments + history.unknown;
                promise!(
                    Lost,
                    range.contains(&count) || history.puts > 0,
                    "the count is {count}, but {range:?} increments were made"
                );
            }
            None => {
                promise!(Lost, history.may_be_deleted, "a session is gone that was not deleted");
            }
        }
    }
}

/// Deletes all sessions through one node when there are no faults, which must succeed, and checks
/// that no node finds one.
pub(crate) async fn assert_cleared(
    layers: &[SessionLayer<Counter>],
    node: usize,
    histories: &Histories,
) {
    clear(node, layers[node].store(), histories).await.expect("the faults have ended");
    sleep(histories.max_staleness).await;
    for layer in layers {
        for id in histories.borrow().keys() {
            let found = layer.store().find(*id).await.unwrap();
            promise!(Stale, found.is_none(), "a node finds a session after all were deleted");
        }
    }
}
