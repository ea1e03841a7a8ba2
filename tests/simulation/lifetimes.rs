//! Lifetimes of sessions over days: they are used, extended, transferred to other owners and left
//! to expire, at moments that are critical for the lifetime of their entries in the owner index.
//! After each step, the index is compared with the records.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clustered_sessions::{ClusterConfig, SessionId};
use tokio::time::sleep;

use super::owners::{OWNERS, indexed, recorded};
use super::{Counter, Dice, Node, nodes_with};

const STEPS: usize = 80;
const HOUR: Duration = Duration::from_secs(3600);
/// Time for which a node may serve a stale entry: announcements are disabled here.
const STALE: Duration = Duration::from_secs(20);

fn data(dice: &Dice) -> Counter {
    Counter { count: 0, owner: Some((*dice.pick(&OWNERS)).to_owned()) }
}

/// Performs an operation some time after the node has cached the session, so the entry may be
/// stale. The operation may fail: only the state after it is checked.
async fn act(node: &Node, id: SessionId, dice: &Dice) {
    let store = node.store();
    drop(store.find(id).await);
    sleep(dice.millis(u64::try_from(STALE.as_millis()).unwrap())).await;
    match dice.roll(20) {
        0..10 => drop(store.touch(id).await),
        10..13 => drop(store.modify(id, |data| data.count += 1).await),
        13..18 => {
            let owner = data(dice).owner;
            drop(store.modify(id, |data| data.owner.clone_from(&owner)).await);
        }
        18 => drop(store.modify(id, |data| data.owner = None).await),
        _ => drop(store.delete(id).await),
    }
}

pub(crate) async fn lifetimes(seed: u64) {
    let dice = Dice::new(seed);
    let timeouts = [Duration::from_secs(600), HOUR, 5 * HOUR, 24 * HOUR];
    let timeout = *dice.pick(&timeouts);
    // Nodes have different timeouts while a new one is rolled out.
    let differ = dice.roll(4) == 0;
    let nodes = nodes_with(4, seed, |number, config| {
        let timeout = if differ { timeouts[number as usize] } else { timeout };
        config.timeout(timeout).cluster(ClusterConfig::new().enabled(false).local_cache_ttl(STALE))
    });
    // Each run starts at a full hour.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    sleep(HOUR - Duration::from_nanos((now.as_nanos() % HOUR.as_nanos()) as u64)).await;
    let start = tokio::time::Instant::now();

    let mut ids: Vec<SessionId> = Vec::new();
    for _ in 0..STEPS {
        if ids.is_empty() || dice.roll(10) == 0 {
            if let Ok(new) = dice.pick(&nodes).store().create(data(&dice)).await {
                ids.push(new.id);
            }
        } else {
            together(&nodes, *dice.pick(&ids), if differ { 1 } else { 3 }, &dice).await;
        }
        // Most sessions are in constant use.
        for id in &ids {
            if dice.roll(10) > 0 {
                drop(dice.pick(&nodes[1..]).store().touch(*id).await);
            }
        }
        assert_index_matches(&nodes[0]).await;
        pause(start, timeout, &dice).await;
        assert_index_matches(&nodes[0]).await;
    }
}

/// Several nodes perform operations on one session at about the same time.
async fn together(nodes: &Rc<Vec<Node>>, id: SessionId, most: u64, dice: &Dice) {
    let mut tasks = Vec::new();
    for _ in 0..=dice.roll(most) {
        let (nodes, dice) = (nodes.clone(), dice.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let node = dice.pick(&nodes[1..]);
            match dice.roll(6) {
                0 => node.faults.lose_answers(0.3),
                1 => node.faults.fail_calls(0.3),
                2 => node.faults.delay_by(Duration::ZERO..STALE / 2),
                _ => node.faults.heal(),
            }
            act(node, id, &dice).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for node in &nodes[1..] {
        node.faults.heal();
    }
    // Entries are removed from the index in the background.
    sleep(Duration::from_secs(60)).await;
}

/// Sleeps for part of a timeout, or until shortly before the end of the hour.
async fn pause(start: tokio::time::Instant, timeout: Duration, dice: &Dice) {
    let most = u64::try_from(timeout.as_millis()).unwrap();
    let pause = dice.millis(most / [2, 5, 10, 100][dice.roll(4) as usize]);
    let into_the_hour =
        Duration::from_nanos(((start.elapsed() + pause).as_nanos() % HOUR.as_nanos()) as u64);
    let rest = (HOUR - into_the_hour).saturating_sub(dice.millis(20_000));
    sleep(if rest < timeout / 2 && dice.roll(2) == 0 { pause + rest } else { pause }).await;
}

/// Checks the index against the records through a node that has no faults.
async fn assert_index_matches(node: &Node) {
    for owner in OWNERS {
        let (indexed, recorded): (BTreeSet<_>, BTreeSet<_>) =
            (indexed(node.store(), owner).await, recorded(node.store(), owner).await);
        assert_eq!(indexed, recorded, "the index of {owner} does not match the records");
    }
}
