//! One history: clients read, count and delete on several nodes, while a checker holds each answer against what was acknowledged
//! before.
//!
//! Each session holds a number that only goes up, so that "older" has a meaning: a read that begins at a time t must not bring
//! less than what was acknowledged before t minus the staleness bound, and on the node that wrote, or one that knows that it does
//! not hear, not less than what was acknowledged at all. A deleted session counts as more than any number.
#![allow(clippy::await_holding_refcell_ref, reason = "at the end nobody else looks at the histories")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{SessionId, SessionStore, StoreErrorKind};
use tokio::time::{Instant, sleep, timeout};

use super::{Counter, Dice, MAX_STALENESS, Node, calm, nodes, trouble};

const NODES: usize = 3;
const SESSIONS: usize = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 60;
const DELETED: u64 = u64::MAX;
/// Stands where a node does that was told of something, and is none.
const NOBODY: usize = usize::MAX;

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
    fn floor(&self, node: usize, strict: bool) -> u64 {
        let now = Instant::now();
        let visible = |(at, writer, _): &&(Instant, usize, u64)| strict || *writer == node || *at + MAX_STALENESS < now;
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
    let began = Instant::now();
    // A node that knows that it does not hear must not rest on what it has heard.
    let strict = fresh || !store.coordinator().is_listening();
    let floor = histories.borrow()[&id].floor(node, strict);
    let answer = if fresh { store.find_fresh(id).await } else { store.find(id).await };
    let Ok(found) = answer else { return };
    let histories = histories.borrow();
    let history = &histories[&id];
    match found {
        Some(record) => {
            let count = record.data().count;
            assert!(
                count >= floor,
                "node {node} read {count} at {began:?} (strict: {strict}), but {floor} was acknowledged before: {:?}",
                history.acknowledged
            );
        }
        None => assert!(history.may_be_deleted, "node {node} says that a session is gone that nobody deleted"),
    }
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

/// What was acknowledged, when and by whom, for each session.
pub type Told = Vec<Vec<(Duration, usize, u64)>>;

/// One history: clients at work while things go wrong, and what is left when they do not.
pub async fn history(seed: u64) -> Told {
    let start = Instant::now();
    let (dice, nodes) = (Dice::new(seed), nodes(NODES as u64, seed));
    let histories: Histories = Rc::default();
    let ids = Rc::new(RefCell::new(Vec::new()));
    create_sessions(nodes[0].store(), &histories, &ids).await;
    let mut tasks = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone(), 12))];
    if seed.is_multiple_of(4) {
        let (nodes, histories, dice, ids) = (nodes.clone(), histories.clone(), dice.clone(), ids.clone());
        tasks.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(3000)).await;
            restart_empty(&nodes, &histories);
            create_sessions(dice.pick(&nodes).store(), &histories, &ids).await;
        }));
    }
    for _ in 0..CLIENTS {
        let (nodes, histories, dice, ids) = (nodes.clone(), histories.clone(), dice.clone(), ids.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..STEPS {
                let node = dice.roll(NODES as u64) as usize;
                let id = *dice.pick(&ids.borrow());
                step(node, nodes[node].store(), id, &histories, &dice).await;
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
    ids.borrow().iter().map(told).collect()
}

/// Tries until there are some more.
async fn create_sessions(store: &SessionStore<Counter>, histories: &Histories, ids: &RefCell<Vec<SessionId>>) {
    let mut missing = SESSIONS;
    while missing > 0 {
        if let Ok(session) = store.create(Counter::default()).await {
            histories.borrow_mut().insert(session.id, History::default());
            ids.borrow_mut().push(session.id);
            missing -= 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The server is started again without its data: all sessions are gone, and nobody is told.
fn restart_empty(nodes: &[Node], histories: &Histories) {
    nodes[0].memory.restart_empty();
    for history in histories.borrow_mut().values_mut() {
        history.may_be_deleted = true;
        history.acknowledge(NOBODY, DELETED);
    }
}

/// When the trouble is over, all nodes use their caches again and agree, and no update is lost or counted twice.
async fn recovers(nodes: &[Node], histories: &Histories) {
    calm(nodes).await;
    let histories = histories.borrow();
    for (id, history) in histories.iter() {
        let mut found = Vec::new();
        for node in nodes {
            let before = node.store().cache_stats().hits;
            let first = node.store().find(*id).await.unwrap();
            let second = node.store().find(*id).await.unwrap();
            assert!(node.store().cache_stats().hits > before, "a node does not use its cache again");
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
