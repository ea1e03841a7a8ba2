//! Servers that come to have earlier data again: a restart from an old file, or a failover to a
//! replica that lags behind. What was acknowledged after the snapshot is lost, which the contract
//! allows. But within `max_staleness` every node must see what the servers have now, and nothing of
//! the lost future.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{SessionId, SessionLayer, SessionStore, StoreErrorKind};
use tokio::time::{Instant, sleep};

use crate::promise::promise;
use crate::redis::{Info, PairWorld, Rollback};
use crate::{Counter, Dice, MAX_STALENESS, World as _, run_all};

const NODES: usize = 3;
const SESSIONS: usize = 4;

/// What each session held when the snapshot was made.
type State = HashMap<SessionId, Option<u64>>;

#[test]
fn after_a_rollback_no_node_serves_what_the_servers_have_lost() {
    run_all(300, rollback);
}

pub(crate) async fn rollback(seed: u64) {
    let dice = Dice::new(seed);
    // A seed for which sessions do not end by themselves.
    // The chain of heartbeats alone notices that the data is earlier, whatever is said about it.
    let info = [Info::Everywhere, Info::OutsideScripts, Info::Nowhere][seed as usize / 3 % 3];
    let world = Rc::new(PairWorld::new(NODES, seed * 8 + seed % 4, info));
    let layers = world.layers();
    sleep(Duration::from_secs(1)).await;
    let mut ids = Vec::new();
    for _ in 0..SESSIONS {
        ids.push(layers[0].store().create(Counter::default()).await.unwrap().id);
    }
    for _ in 0..10 {
        change(&layers, &ids, &dice).await;
    }
    let mut before = state(dice.pick(&layers).store(), &ids).await;
    let snapshot = world.snapshot();

    // The future that will be lost: changes, deletions and a new session, known to all nodes.
    for _ in 0..10 {
        change(&layers, &ids, &dice).await;
    }
    layers[0].store().delete(ids[0]).await.unwrap();
    let new = dice.pick(&layers).store().create(Counter::default()).await.unwrap().id;
    before.insert(new, None);
    ids.push(new);
    for layer in &layers {
        state(layer.store(), &ids).await;
    }

    let readers = start_readers(&layers, &ids, &dice);
    world.delay_by(dice.millis(100));
    sleep(dice.millis(400)).await;
    let how = [Rollback::Restart, Rollback::FailOver, Rollback::FlipAndBack][seed as usize % 3];
    world.roll_back(snapshot, how);
    let due = Instant::now() + MAX_STALENESS;
    for reader in readers {
        for (begun, id, seen) in reader.await.unwrap() {
            promise!(
                Stale,
                begun < due || seen == before[&id],
                "{how:?}: {seen:?} was read when {:?} was due",
                before[&id]
            );
        }
    }

    // And the sessions can be used as if nothing had happened.
    world.heal();
    sleep(Duration::from_secs(3)).await;
    for layer in &layers {
        assert_eq!(state(layer.store(), &ids).await, before);
    }
    for (id, count) in &before {
        let changed = dice.pick(&layers).store().modify(*id, increment).await;
        match count {
            Some(count) => assert_eq!(changed.unwrap(), count + 1),
            None => assert_eq!(changed.unwrap_err().kind(), StoreErrorKind::NotFound),
        }
    }
}

fn increment(data: &mut Counter) -> u64 {
    data.count += 1;
    data.count
}

/// Changes a session on one node. Two nodes read it before and after.
async fn change(layers: &[SessionLayer<Counter>], ids: &[SessionId], dice: &Dice) {
    let id = *dice.pick(ids);
    dice.pick(layers).store().find(id).await.unwrap();
    dice.pick(layers).store().modify(id, increment).await.unwrap();
    dice.pick(layers).store().find(id).await.unwrap();
    sleep(dice.millis(50)).await;
}

/// Returns what a node reads.
async fn state(store: &SessionStore<Counter>, ids: &[SessionId]) -> State {
    let mut state = State::new();
    for id in ids {
        state.insert(*id, store.find(*id).await.unwrap().map(|record| record.data().count));
    }
    state
}

/// A read: when it began, of which session, and what it returned.
type Read = (Instant, SessionId, Option<u64>);

/// Starts a reader on each node, which reads for two seconds.
fn start_readers(
    layers: &[SessionLayer<Counter>],
    ids: &[SessionId],
    dice: &Dice,
) -> Vec<tokio::task::JoinHandle<Vec<Read>>> {
    let reader = |layer: &SessionLayer<Counter>| {
        let (store, ids) = (layer.store().clone(), ids.to_vec());
        let dice = dice.clone();
        let mut reads = Vec::new();
        tokio::task::spawn_local(async move {
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                let (begun, id) = (Instant::now(), *dice.pick(&ids));
                // A read may fail, but must not return the wrong state.
                if let Ok(found) = store.find(id).await {
                    reads.push((begun, id, found.map(|record| record.data().count)));
                }
                sleep(dice.millis(20)).await;
            }
            reads
        })
    };
    layers.iter().map(reader).collect()
}
