//! One history: clients read, count and delete on several nodes, while a checker holds each answer against what was acknowledged
//! before.
//!
//! Each session holds a number that only goes up, so that "older" has a meaning: a read that begins at a time t must not bring
//! less than what was acknowledged before t minus the staleness bound, and on the node that wrote, or one that knows that it does
//! not hear, not less than what was acknowledged at all. A deleted session counts as more than any number. What a request is served
//! in an outage must not be less than what was acknowledged before t minus the policy's age, nor than what that node wrote.
#![allow(clippy::await_holding_refcell_ref, reason = "no other task uses the histories at the end")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clustered_sessions::{Session, SessionId, SessionStore, StoreErrorKind};
use http::{HeaderValue, Request, Response, header};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{Counter, Dice, MAX_AGE, MAX_STALENESS, Node, calm, nodes, trouble};

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
    /// The least that a read of this node may bring that begins now and may be behind by so much.
    fn floor(&self, node: usize, staleness: Duration) -> u64 {
        let now = Instant::now();
        let visible =
            |(at, writer, _): &&(Instant, usize, u64)| *writer == node || *at + staleness <= now;
        self.acknowledged.iter().filter(visible).map(|(.., count)| *count).max().unwrap_or(0)
    }

    fn acknowledge(&mut self, node: usize, count: u64) {
        self.acknowledged.push((Instant::now(), node, count));
    }

    /// Whether a read may have found this.
    fn judge(&mut self, node: usize, found: Option<u64>, floor: u64) {
        match found {
            Some(count) => assert!(
                count >= floor,
                "node {node} read {count} by {:?}, but {floor} was acknowledged before: {:?}",
                Instant::now(),
                self.acknowledged
            ),
            None => {
                assert!(
                    self.may_be_deleted,
                    "node {node} says that a session is gone that nobody deleted"
                );
                // From now on, that has been said.
                self.acknowledge(node, DELETED);
            }
        }
    }

    fn is_deleted(&self) -> bool {
        self.acknowledged.iter().any(|(.., count)| *count == DELETED)
    }
}

type Histories = Rc<RefCell<HashMap<SessionId, History>>>;

/// A session, and the cookie of a browser that has it.
#[derive(Clone)]
struct Known {
    id: SessionId,
    cookie: HeaderValue,
}

/// What one client does to one session through one node. Some clients hang up before it is done.
async fn step(number: usize, node: &Node, session: &Known, histories: &Histories, dice: &Dice) {
    let patience = if dice.roll(10) == 0 { dice.millis(100) } else { Duration::from_secs(3600) };
    let (store, id) = (node.store(), session.id);
    match dice.roll(100) {
        // A read that was cut short says nothing.
        0..45 => {
            let fresh = dice.roll(10) == 0;
            let _ = timeout(patience, read(number, store, id, histories, fresh)).await;
        }
        45..70 => drop(timeout(patience, visit(number, node, session, histories)).await),
        70..97 => {
            if timeout(patience, increment(number, store, id, histories)).await.is_err() {
                with_history(histories, id, |history| history.unknown += 1);
            }
        }
        97..99 => store.evict_from_cache(id),
        // A deletion that was cut short is one that may have been made, which is noted when it begins.
        _ => drop(timeout(patience, delete(number, store, id, histories)).await),
    }
}

fn with_history(histories: &Histories, id: SessionId, note: impl FnOnce(&mut History)) {
    note(histories.borrow_mut().entry(id).or_default());
}

async fn read(
    node: usize,
    store: &SessionStore<Counter>,
    id: SessionId,
    histories: &Histories,
    fresh: bool,
) {
    let floor = histories.borrow()[&id].floor(node, staleness(store, fresh));
    let answer = if fresh { store.find_fresh(id).await } else { store.find(id).await };
    let Ok(found) = answer else { return };
    with_history(histories, id, |history| {
        history.judge(node, found.map(|record| record.data().count), floor);
    });
}

/// By how much a read may be behind that begins now. A node that knows that it does not hear must not rest on what it has heard.
fn staleness(store: &SessionStore<Counter>, fresh: bool) -> Duration {
    if fresh || !store.coordinator().is_listening() { Duration::ZERO } else { MAX_STALENESS }
}

/// A request that reads its session, under the outage policy. Some of these encrypt it anew when they are over.
async fn visit(number: usize, node: &Node, session: &Known, histories: &Histories) {
    let floor = |staleness| histories.borrow()[&session.id].floor(number, staleness);
    let (usual, in_outage) = (floor(staleness(node.store(), false)), floor(MAX_AGE));
    let service = node.layer.layer(service_fn(|request: Request<()>| async move {
        let session = Session::<Counter>::from_extensions(request.extensions()).await.ok();
        let seen = session.map(|session| {
            (session.id().map(|_| session.data().count), session.outage().is_some())
        });
        Ok::<_, Infallible>(Response::new(seen))
    }));
    let request = Request::builder().header(header::COOKIE, &session.cookie).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert!(!response.headers().contains_key(header::SET_COOKIE), "reading has touched the cookie");
    let Some((found, outage)) = response.into_body() else { return };
    with_history(histories, session.id, |history| {
        history.judge(number, found, if outage { in_outage } else { usual });
    });
}

async fn increment(
    node: usize,
    store: &SessionStore<Counter>,
    id: SessionId,
    histories: &Histories,
) {
    let answer = store
        .modify(id, |data| {
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
            assert!(
                history.may_be_deleted,
                "an update found nothing, though nobody deleted the session"
            );
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
pub(crate) type Told = Vec<Vec<(Duration, usize, u64)>>;

/// One history: clients at work while things go wrong, and what is left when they do not.
pub(crate) async fn history(seed: u64) -> Told {
    let start = Instant::now();
    let (dice, nodes) = (Dice::new(seed), nodes(NODES as u64, seed));
    let histories: Histories = Rc::default();
    let sessions = Rc::new(RefCell::new(Vec::new()));
    create_sessions(&nodes[0], &histories, &sessions).await;
    let mut tasks = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone(), 12))];
    if seed.is_multiple_of(4) {
        let (nodes, histories, dice, sessions) =
            (nodes.clone(), histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(3000)).await;
            restart_empty(&nodes, &histories);
            create_sessions(dice.pick(&nodes), &histories, &sessions).await;
        }));
    }
    for _ in 0..CLIENTS {
        let (nodes, histories, dice, sessions) =
            (nodes.clone(), histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..STEPS {
                let node = dice.roll(NODES as u64) as usize;
                let known = dice.pick(&sessions.borrow()).clone();
                step(node, &nodes[node], &known, &histories, &dice).await;
                sleep(dice.millis(60)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    recovers(&nodes, &histories).await;
    let histories = histories.borrow();
    let told = |known: &Known| {
        histories[&known.id]
            .acknowledged
            .iter()
            .map(|(at, node, count)| (*at - start, *node, *count))
            .collect()
    };
    sessions.borrow().iter().map(told).collect()
}

/// Tries to have some more. The node may be cut off for as long as the trouble lasts.
async fn create_sessions(node: &Node, histories: &Histories, sessions: &RefCell<Vec<Known>>) {
    let mut missing = SESSIONS;
    for _ in 0..100 {
        if missing == 0 {
            return;
        }
        if let Ok(cookie) = node.layer.cookie_for(Counter::default()).await {
            let id = id_of(&cookie);
            histories.borrow_mut().insert(id, History::default());
            sessions.borrow_mut().push(Known { id, cookie });
            missing -= 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The id is the hash of the token, which is what comes before the signature.
fn id_of(cookie: &HeaderValue) -> SessionId {
    let (_, value) = cookie.to_str().unwrap().split_once('=').unwrap();
    let (token, _) = value.split_once('.').unwrap();
    let digest = Sha256::digest(URL_SAFE_NO_PAD.decode(token).unwrap());
    SessionId::from_bytes(digest[..16].try_into().unwrap())
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
            assert!(
                node.store().cache_stats().hits > before,
                "a node does not use its cache again"
            );
            assert_eq!(
                first.as_ref().map(|record| record.data().count),
                second.map(|record| record.data().count)
            );
            found.push(first.map(|record| record.data().count));
        }
        assert!(
            found.windows(2).all(|pair| pair[0] == pair[1]),
            "the nodes do not agree: {found:?}"
        );
        match found[0] {
            Some(count) => {
                assert!(!history.is_deleted(), "a deleted session has come back");
                let range = history.increments..=history.increments + history.unknown;
                assert!(
                    range.contains(&count),
                    "{count} increments are there, {range:?} were made"
                );
            }
            None => assert!(history.may_be_deleted, "a session has gone that nobody deleted"),
        }
    }
}
