//! The coherence contract, checked against a history: several nodes over one backend that delays, fails, loses answers and cuts
//! subscriptions, under a paused clock.
//!
//! Each session holds a number that only goes up, so that "older" has a meaning: a read that begins at a time t must not bring
//! less than what was acknowledged before t minus the staleness bound, and on the node that wrote, not less than what was
//! acknowledged at all. A deleted session counts as more than any number.
//!
//! `COHERENCE_SEEDS` sets how many histories are tried (default 300), `COHERENCE_SEED` tries one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test fails by panicking")]
#![allow(clippy::await_holding_refcell_ref, reason = "at the end nobody else looks at the histories")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::testing::{Faults, FaultyBackend};
use clustered_sessions::{
    Clock, ClusterConfig, MemoryBackend, Secret, SessionConfig, SessionId, SessionStore, StoreErrorKind,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

const NODES: usize = 3;
const SESSIONS: usize = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 60;
const MAX_STALENESS: Duration = Duration::from_millis(400);
const DELETED: u64 = u64::MAX;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Counter {
    count: u64,
}

struct Node {
    store: SessionStore<Counter>,
    faults: Faults,
}

/// What is known about one session from the outside.
#[derive(Default)]
struct History {
    /// When which node was told that which number is there.
    acknowledged: Vec<(Instant, usize, u64)>,
    increments: u64,
    /// Increments that may or may not have been made.
    unknown: u64,
    /// A deletion was tried, so the session may be gone.
    may_be_deleted: bool,
}

impl History {
    /// The least that a read of this node may bring that begins now.
    fn floor(&self, node: usize) -> u64 {
        let now = Instant::now();
        let visible = |(at, writer, _): &&(Instant, usize, u64)| *writer == node || *at + MAX_STALENESS < now;
        self.acknowledged.iter().filter(visible).map(|(.., count)| *count).max().unwrap_or(0)
    }

    fn acknowledge(&mut self, node: usize, count: u64) {
        self.acknowledged.push((Instant::now(), node, count));
    }

    fn is_deleted(&self) -> bool {
        self.acknowledged.iter().any(|(.., count)| *count == DELETED)
    }
}

type Histories = Rc<RefCell<HashMap<SessionId, History>>>;

/// Decides what happens, from the seed alone.
#[derive(Clone)]
struct Dice(Rc<RefCell<u64>>);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % sides
    }

    fn pick<'a, V>(&self, from: &'a [V]) -> &'a V {
        &from[self.roll(from.len() as u64) as usize]
    }

    fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below))
    }
}

fn node(memory: &MemoryBackend, clock: &Clock, number: usize, seed: u64) -> Node {
    let (backend, faults) = FaultyBackend::new(memory.clone(), seed * NODES as u64 + number as u64);
    let config = SessionConfig::development(Secret::insecure_dev("coherence"))
        .clock(clock.clone())
        .backend(backend)
        .cluster(ClusterConfig::new().node_id(format!("node-{number}")).max_staleness(MAX_STALENESS))
        .build()
        .unwrap();
    Node { store: SessionStore::new(config), faults }
}

/// What one client does to one session through one node. Some clients hang up before it is done.
async fn step(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories, dice: &Dice) {
    let patience = if dice.roll(10) == 0 { dice.millis(100) } else { Duration::from_secs(3600) };
    match dice.roll(100) {
        0..70 => {
            let fresh = dice.roll(10) == 0;
            // A read that was cut short says nothing.
            let _ = timeout(patience, read(node, store, id, histories, fresh)).await;
        }
        70..97 => {
            if timeout(patience, increment(node, store, id, histories)).await.is_err() {
                with_history(histories, id, |history| history.unknown += 1);
            }
        }
        97..99 => store.evict_from_cache(id),
        // A deletion that was cut short is one that may have been made, which is noted when it begins.
        _ => drop(timeout(patience, delete(node, store, id, histories)).await),
    }
}

fn with_history(histories: &Histories, id: SessionId, note: impl FnOnce(&mut History)) {
    note(histories.borrow_mut().entry(id).or_default());
}

async fn read(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories, fresh: bool) {
    let (floor, began) = (histories.borrow()[&id].floor(node), Instant::now());
    let all = if fresh { floor_of_all(&histories.borrow()[&id]) } else { 0 };
    let answer = if fresh { store.find_fresh(id).await } else { store.find(id).await };
    let Ok(found) = answer else { return };
    let histories = histories.borrow();
    let history = &histories[&id];
    match found {
        Some(record) => {
            let count = record.data().count;
            assert!(
                count >= floor.max(all),
                "node {node} read {count} at {began:?} (fresh: {fresh}), but {} was acknowledged before: {:?}",
                floor.max(all),
                history.acknowledged
            );
        }
        None => assert!(history.may_be_deleted, "node {node} says that a session is gone that nobody deleted"),
    }
}

/// What a read past the cache must bring: everything that was acknowledged to anybody.
fn floor_of_all(history: &History) -> u64 {
    history.acknowledged.iter().map(|(.., count)| *count).max().unwrap_or(0)
}

async fn increment(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories) {
    let answer = store
        .update(id, |data| {
            data.count += 1;
            data.count
        })
        .await;
    with_history(histories, id, |history| match answer {
        Ok(count) => {
            history.increments += 1;
            history.acknowledge(node, count);
        }
        Err(error) if error.kind() == StoreErrorKind::OutcomeUnknown => history.unknown += 1,
        Err(error) if error.kind() == StoreErrorKind::NotFound => {
            assert!(history.may_be_deleted, "an update found nothing, though nobody deleted the session");
        }
        Err(_) => {}
    });
}

async fn delete(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories) {
    with_history(histories, id, |history| history.may_be_deleted = true);
    if store.delete(id).await.is_ok() {
        with_history(histories, id, |history| history.acknowledge(node, DELETED));
    }
}

/// Things go wrong for a while, and then they do not.
async fn trouble(nodes: Rc<Vec<Node>>, dice: Dice) {
    for _ in 0..12 {
        let faults = &dice.pick(&nodes).faults;
        match dice.roll(7) {
            0 => faults.delay_by(Duration::ZERO..dice.millis(150)),
            1 => faults.fail_calls(0.3),
            2 => faults.lose_answers(0.2),
            3 => faults.cut_subscriptions(),
            4 => faults.stall_subscriptions(),
            5 => faults.refuse_subscriptions(),
            _ => faults.heal(),
        }
        sleep(dice.millis(400)).await;
    }
}

/// What was acknowledged, when and by whom, for each session.
type Told = Vec<Vec<(Duration, usize, u64)>>;

async fn history(seed: u64) -> Told {
    let start = Instant::now();
    let dice = Dice(Rc::new(RefCell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)));
    let (memory, clock) = (MemoryBackend::with_clock(Clock::tokio()), Clock::tokio());
    let nodes: Rc<Vec<Node>> = Rc::new((0..NODES).map(|number| node(&memory, &clock, number, seed)).collect());
    let histories: Histories = Rc::default();
    let mut ids = Vec::new();
    for _ in 0..SESSIONS {
        let session = nodes[0].store.create(Counter::default()).await.unwrap();
        histories.borrow_mut().insert(session.id, History::default());
        ids.push(session.id);
    }
    let mut tasks = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone()))];
    for _ in 0..CLIENTS {
        let (nodes, histories, dice, ids) = (nodes.clone(), histories.clone(), dice.clone(), ids.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..STEPS {
                let node = dice.roll(NODES as u64) as usize;
                step(node, &nodes[node].store, *dice.pick(&ids), &histories, &dice).await;
                sleep(dice.millis(60)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    recovers(&nodes, &histories).await;
    let histories = histories.borrow();
    let told = |id| histories[id].acknowledged.iter().map(|(at, node, count)| (*at - start, *node, *count)).collect();
    ids.iter().map(told).collect()
}

fn run(seed: u64) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, history(seed))
}

/// When the trouble is over, all nodes use their caches again and agree, and no update is lost or counted twice.
async fn recovers(nodes: &[Node], histories: &Histories) {
    for node in nodes {
        node.faults.heal();
    }
    sleep(Duration::from_secs(30)).await;
    for node in nodes {
        assert!(node.store.coordinator().is_listening(), "a node does not find its way back");
    }
    let histories = histories.borrow();
    for (id, history) in histories.iter() {
        let mut found = Vec::new();
        for node in nodes {
            let before = node.store.cache_stats().hits;
            let first = node.store.find(*id).await.unwrap();
            let second = node.store.find(*id).await.unwrap();
            assert!(node.store.cache_stats().hits > before, "a node does not use its cache again");
            assert_eq!(first.as_ref().map(|record| record.data().count), second.map(|record| record.data().count));
            found.push(first.map(|record| record.data().count));
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "the nodes do not agree: {found:?}");
        match found[0] {
            Some(count) => {
                assert!(!history.is_deleted(), "a deleted session has come back");
                let range = history.increments..=history.increments + history.unknown;
                assert!(range.contains(&count), "{count} increments are there, {range:?} were made");
            }
            None => assert!(history.may_be_deleted, "a session has gone that nobody deleted"),
        }
    }
}

#[test]
fn no_history_breaks_the_contract() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("COHERENCE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("COHERENCE_SEEDS").unwrap_or(300),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("the history of COHERENCE_SEED={seed} breaks the contract");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_history_can_be_told_again() {
    assert_eq!(run(7), run(7));
}
