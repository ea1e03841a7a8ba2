//! The lives of some sessions over days: they are used, extended, given away and left to expire, at moments at which it matters
//! whether their entries in the index last as long as they do. After each step the index is held against the records.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clustered_sessions::{ClusterConfig, SessionId};
use tokio::time::sleep;

use super::owners::{OWNERS, indexed, recorded};
use super::{Counter, Dice, Node, nodes_with};

const STEPS: usize = 80;
const HOUR: Duration = Duration::from_secs(3600);
/// How long a node may believe what is no longer so: nobody hears the others here.
const STALE: Duration = Duration::from_secs(20);

fn data(dice: &Dice) -> Counter {
    Counter { count: 0, owner: Some((*dice.pick(&OWNERS)).to_owned()) }
}

/// Some time after it has seen the session, so that what it knows may not be so any more. It may fail: what matters is what is there
/// afterwards.
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
    // As it is while a new timeout is rolled out.
    let differ = dice.roll(4) == 0;
    let nodes = nodes_with(4, seed, |number, config| {
        let timeout = if differ { timeouts[number as usize] } else { timeout };
        config.timeout(timeout).cluster(ClusterConfig::new().enabled(false).local_cache_ttl(STALE))
    });
    // The same moment of an hour, whenever it is run.
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
        // Most sessions are in use all the time.
        for id in &ids {
            if dice.roll(10) > 0 {
                drop(dice.pick(&nodes[1..]).store().touch(*id).await);
            }
        }
        agrees(&nodes[0]).await;
        pause(start, timeout, &dice).await;
        agrees(&nodes[0]).await;
    }
}

/// Several nodes at a time do something to one session, or nearly so.
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
    // What is taken from the index is taken in the background.
    sleep(Duration::from_secs(60)).await;
}

/// Some of a timeout, or until shortly before the hour is over.
async fn pause(start: tokio::time::Instant, timeout: Duration, dice: &Dice) {
    let most = u64::try_from(timeout.as_millis()).unwrap();
    let pause = dice.millis(most / [2, 5, 10, 100][dice.roll(4) as usize]);
    let into_the_hour =
        Duration::from_nanos(((start.elapsed() + pause).as_nanos() % HOUR.as_nanos()) as u64);
    let rest = (HOUR - into_the_hour).saturating_sub(dice.millis(20_000));
    sleep(if rest < timeout / 2 && dice.roll(2) == 0 { pause + rest } else { pause }).await;
}

/// By the eyes of a node that nothing happens to.
async fn agrees(node: &Node) {
    for owner in OWNERS {
        let (indexed, recorded): (BTreeSet<_>, BTreeSet<_>) =
            (indexed(node.store(), owner).await, recorded(node.store(), owner).await);
        assert_eq!(indexed, recorded, "the index of {owner} is not what the records say");
    }
}
