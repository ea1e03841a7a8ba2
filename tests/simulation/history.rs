//! One history: clients read, increment and delete sessions on several nodes, while a checker
//! compares each result with what had been acknowledged before.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clustered_sessions::{
    Session, SessionId, SessionLayer, SessionStore, StoreError, StoreErrorKind,
};
use http::{HeaderValue, Request, Response, header};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::checker::{Checker, DELETED, Histories, History, NO_NODE};
use super::promise::promise;
use super::recovery::{assert_cleared, assert_recovery};
#[cfg(feature = "redis")]
use super::redis::{ClusterWorld, Info, PairWorld, SentinelWorld};
use super::watching::Watchers;
use super::{Counter, Dice, World, absolute_timeout, as_usual, nodes_with, trouble, with_timeouts};

const NODES: usize = 3;
const CLIENTS: usize = 6;

/// A session, with its cookie.
#[derive(Clone)]
struct Known {
    id: SessionId,
    cookie: HeaderValue,
}

/// One client performs one operation on one session through one node. Some clients disconnect
/// before it completes.
async fn step(
    number: usize,
    layer: &SessionLayer<Counter>,
    session: &Known,
    histories: &Histories,
    dice: &Dice,
) {
    let patience = if dice.roll(10) == 0 { dice.millis(100) } else { Duration::from_secs(3600) };
    let (store, id) = (layer.store(), session.id);
    match dice.roll(100) {
        // A cancelled read is not checked.
        0..45 => {
            let fresh = dice.roll(10) == 0;
            let _ = timeout(patience, read(number, store, id, histories, fresh)).await;
        }
        45..70 => drop(timeout(patience, visit(number, layer, session, histories)).await),
        70..97 => {
            if timeout(patience, increment(number, store, id, histories)).await.is_err() {
                with_history(histories, id, |history| history.unknown += 1);
            }
        }
        97 => store.evict_from_cache(id),
        98 => drop(timeout(patience, touch(number, store, id, histories)).await),
        // `delete` notes at its start that the session may be gone, so cancelling it needs no
        // more.
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
    let floor = histories.floor(id, node, histories.staleness(store, fresh));
    let answer = if fresh { store.find_fresh(id).await } else { store.find(id).await };
    let Ok(found) = answer else { return };
    with_history(histories, id, |history| {
        history.judge(node, found.map(|record| record.data().count), floor);
    });
}

/// Sends a request that reads its session, under the outage policy. Some nodes re-encrypt the
/// session after the request.
async fn visit(
    number: usize,
    layer: &SessionLayer<Counter>,
    session: &Known,
    histories: &Histories,
) {
    let floor = |staleness| histories.floor(session.id, number, staleness);
    let staleness = histories.staleness(layer.store(), false);
    let (usual, in_outage) = (floor(staleness), floor(histories.max_age));
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let session = Session::<Counter>::from_extensions(request.extensions()).await.ok();
        let seen = session.map(|session| {
            (session.id().map(|_| session.data().count), session.outage().is_some())
        });
        Ok::<_, Infallible>(Response::new(seen))
    }));
    let request = Request::builder().header(header::COOKIE, &session.cookie).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert!(!response.headers().contains_key(header::SET_COOKIE), "a read has set the cookie");
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
            promise!(
                Lost,
                history.may_be_deleted,
                "an update found no session, although it was not deleted"
            );
        }
        Err(_) => {}
    });
}

/// Extends a session. The node may find it in its cache, so it may have been deleted meanwhile.
async fn touch(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories) {
    let floor = histories.floor(id, node, histories.staleness(store, false));
    let Ok(exists) = store.touch(id).await else { return };
    with_history(histories, id, |history| {
        history.judge(node, exists.then_some(DELETED - 1), floor);
    });
}

/// Replaces the data of a session by a count that is higher than any before.
async fn put(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories) {
    let mut count = None;
    with_history(histories, id, |history| {
        if !std::mem::replace(&mut history.is_put, true) {
            history.puts += 1;
            count = Some(history.puts * 1_000_000);
        }
    });
    let Some(count) = count else { return };
    let answer = store.put(id, Counter { count, owner: None }).await;
    with_history(histories, id, |history| match answer {
        Ok(()) => {
            history.acknowledge(node, count);
            history.is_put = false;
        }
        // Nothing was written. After an unknown outcome, nothing is put any more.
        Err(error) => history.is_put = error.kind() == StoreErrorKind::OutcomeUnknown,
    });
}

/// Returns `true` if all sessions are deleted in a history: once while faults occur, and once at
/// its end.
fn clears(seed: u64) -> bool {
    seed % 8 == 3
}

/// Deletes all sessions.
pub(crate) async fn clear(
    node: usize,
    store: &SessionStore<Counter>,
    histories: &Histories,
) -> Result<(), StoreError> {
    let existing: Vec<_> = histories.borrow().keys().copied().collect();
    for id in &existing {
        with_history(histories, *id, |history| history.may_be_deleted = true);
    }
    store.clear().await?;
    for id in existing {
        with_history(histories, id, |history| history.acknowledge(node, DELETED));
    }
    Ok(())
}

async fn delete(node: usize, store: &SessionStore<Counter>, id: SessionId, histories: &Histories) {
    with_history(histories, id, |history| history.may_be_deleted = true);
    if store.delete(id).await.is_ok() {
        with_history(histories, id, |history| history.acknowledge(node, DELETED));
    }
}

/// The acknowledged counts of each session, with the time and the node of each.
pub(crate) type Acknowledgements = Vec<Vec<(Duration, usize, u64)>>;

/// Runs one history over a backend in memory that fails.
pub(crate) async fn history(seed: u64) -> Acknowledgements {
    let configure = |number, config| with_timeouts(as_usual(number, config), seed);
    history_in(nodes_with(NODES as u64, seed, configure), seed).await
}

/// Runs one history over simulated Redis servers.
#[cfg(feature = "redis")]
pub(crate) async fn history_over_redis(seed: u64) -> Acknowledgements {
    history_in(Rc::new(PairWorld::new(NODES, seed, Info::Everywhere)), seed).await
}

/// Runs one history over simulated Redis servers that refuse `INFO`, in scripts or
/// altogether.
#[cfg(feature = "redis")]
pub(crate) async fn history_over_restricted_redis(seed: u64) -> Acknowledgements {
    let info = if seed.is_multiple_of(2) { Info::OutsideScripts } else { Info::Nowhere };
    history_in(Rc::new(PairWorld::new(NODES, seed, info)), seed).await
}

/// Runs one history over simulated servers that sentinels watch.
#[cfg(feature = "redis")]
pub(crate) async fn history_over_sentinels(seed: u64) -> Acknowledgements {
    history_in(Rc::new(SentinelWorld::new(NODES, seed)), seed).await
}

/// Runs one history over a simulated cluster.
#[cfg(feature = "redis")]
pub(crate) async fn history_over_a_cluster(seed: u64) -> Acknowledgements {
    history_in(Rc::new(ClusterWorld::new(NODES, seed)), seed).await
}

/// Runs one history: clients work while faults occur, and all nodes must recover afterwards.
async fn history_in(world: Rc<impl World>, seed: u64) -> Acknowledgements {
    let start = Instant::now();
    let (count, steps) = world.size();
    let (dice, layers) = (Dice::new(seed), Rc::new(world.layers()));
    let histories: Histories = Rc::new(Checker::new(&*world));
    let sessions = Rc::new(RefCell::new(Vec::new()));
    create_sessions(&layers[0], &histories, &sessions, count, seed).await;
    let mut watchers = Watchers::none();
    if seed % 3 == 2 {
        for (node, layer) in layers.iter().enumerate() {
            for known in sessions.borrow().iter() {
                watchers.add(node, layer.store().clone(), known.id, histories.clone());
            }
        }
    }
    let mut tasks = vec![tokio::task::spawn_local(trouble(world.clone(), dice.clone(), steps / 5))];
    if seed.is_multiple_of(4) {
        let (world, layers) = (world.clone(), layers.clone());
        let (histories, dice, sessions) = (histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(3000)).await;
            restart_empty(&*world, &histories);
            create_sessions(dice.pick(&layers), &histories, &sessions, count, seed).await;
        }));
    }
    if clears(seed) {
        let (layers, histories, dice, sessions) =
            (layers.clone(), histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(2000)).await;
            let node = dice.roll(NODES as u64) as usize;
            drop(clear(node, layers[node].store(), &histories).await);
            create_sessions(dice.pick(&layers), &histories, &sessions, count, seed).await;
        }));
    }
    if seed % 8 == 5 {
        let (layers, histories, dice, sessions) =
            (layers.clone(), histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..10 {
                sleep(dice.millis(500)).await;
                let node = dice.roll(NODES as u64) as usize;
                let id = dice.pick(&sessions.borrow()).id;
                put(node, layers[node].store(), id, &histories).await;
            }
        }));
    }
    for _ in 0..CLIENTS {
        let (layers, histories, dice, sessions) =
            (layers.clone(), histories.clone(), dice.clone(), sessions.clone());
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..steps {
                let node = dice.roll(NODES as u64) as usize;
                let known = dice.pick(&sessions.borrow()).clone();
                step(node, &layers[node], &known, &histories, &dice).await;
                sleep(dice.millis(60)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_recovery(&*world, &histories).await;
    watchers.check().await;
    if clears(seed) {
        let node = dice.roll(NODES as u64) as usize;
        assert_cleared(&layers, node, &histories).await;
    }
    let histories = histories.borrow();
    let acknowledged = |known: &Known| {
        histories[&known.id]
            .acknowledged
            .iter()
            .map(|(at, node, count)| (*at - start, *node, *count))
            .collect()
    };
    sessions.borrow().iter().map(acknowledged).collect()
}

/// Creates sessions, with retries: the node may be cut off until the faults end.
async fn create_sessions(
    layer: &SessionLayer<Counter>,
    histories: &Histories,
    sessions: &RefCell<Vec<Known>>,
    count: usize,
    seed: u64,
) {
    let mut missing = count;
    for _ in 0..100 {
        if missing == 0 {
            return;
        }
        if let Ok(cookie) = layer.cookie_for(Counter::default()).await {
            let id = id_of(&cookie);
            let mut history = History::default();
            if let Some(timeout) = absolute_timeout(seed) {
                // It may also be idle for too long, while no node can extend it.
                history.may_be_deleted = true;
                history.acknowledged.push((Instant::now() + timeout, NO_NODE, DELETED));
            }
            histories.borrow_mut().insert(id, history);
            sessions.borrow_mut().push(Known { id, cookie });
            missing -= 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Computes the session id of a cookie: the hash of the token, which precedes the signature.
fn id_of(cookie: &HeaderValue) -> SessionId {
    let (_, value) = cookie.to_str().unwrap().split_once('=').unwrap();
    let (token, _) = value.split_once('.').unwrap();
    let digest = Sha256::digest(URL_SAFE_NO_PAD.decode(token).unwrap());
    SessionId::from_bytes(digest[..16].try_into().unwrap())
}

/// Restarts the backend without its data: all sessions are gone, without an announcement.
fn restart_empty(world: &impl World, histories: &Histories) {
    world.restart_empty();
    for history in histories.borrow_mut().values_mut() {
        history.may_be_deleted = true;
        history.acknowledge(NO_NODE, DELETED);
    }
}
