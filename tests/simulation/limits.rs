//! One history of logins under a limit of sessions per owner: sessions begin, get an owner or
//! another one, are regenerated and end on several nodes while faults occur. A checker counts the
//! sessions whose login was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::backend::{Backend as _, Content, Page, Stored};
use clustered_sessions::{LimitPolicy, Session, SessionId, StoreError, StoreErrorKind};
use http::{HeaderValue, Request, Response, header};
use tokio::time::{sleep, timeout};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::owners::OWNERS;
use crate::promise::promise;
use crate::request::{Answer, cookie_pair, request};
use crate::{
    Counter, Dice, MAX_STALENESS, Node, clients_in_trouble, cluster, nodes_with, run_all,
    with_timeouts,
};

const NODES: u64 = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 20;
const MAX: usize = 2;
/// Number of sessions that clients know of.
const SEEN: usize = 6;

#[test]
fn no_owner_has_more_sessions_than_the_limit_allows() {
    run_all(1000, limits);
}

/// A session of an owner, by the id under which it was first created.
type Owned = (SessionId, &'static str);

#[derive(Default)]
struct World {
    /// The sessions whose login was acknowledged.
    acknowledged: RefCell<BTreeSet<Owned>>,
    /// The last sessions, whether they still exist or not.
    seen: RefCell<VecDeque<Visit>>,
    /// The ids of all records whose token a client was given. A write whose reply was lost may
    /// leave another one, which is nobody's.
    given: RefCell<BTreeSet<SessionId>>,
    changes: RefCell<HashMap<SessionId, Changes>>,
    /// The number of steps that clients have begun, and of those that have ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
}

/// What clients know of a session.
#[derive(Clone)]
struct Visit {
    origin: SessionId,
    id: SessionId,
    /// `None` if no response had one.
    cookie: Option<HeaderValue>,
}

/// The changes of a session's owner. Of two at the same time, it is unknown which comes last.
#[derive(Clone, Copy, Default)]
struct Changes {
    begun: u64,
    ended: u64,
    /// Regenerations that are under way. One that finds the session gone deletes its new record,
    /// which nobody has the token of.
    regenerations: u64,
    /// `true` once a change or a regeneration has failed, which may yet be carried out.
    failed: bool,
}

#[derive(Clone)]
struct Client {
    nodes: Rc<Vec<Node>>,
    policy: LimitPolicy,
    /// `true` if calls can fail.
    faults: bool,
    world: Rc<World>,
    dice: Dice,
}

impl Client {
    fn node(&self) -> &Node {
        self.dice.pick(&self.nodes)
    }

    fn seen(&self) -> Option<Visit> {
        let seen = self.world.seen.borrow();
        (!seen.is_empty()).then(|| seen[self.dice.roll(seen.len() as u64) as usize].clone())
    }

    fn see(&self, visit: Visit) {
        self.world.given.borrow_mut().insert(visit.id);
        let mut seen = self.world.seen.borrow_mut();
        seen.push_back(visit);
        if seen.len() > SEEN {
            seen.pop_front();
        }
    }

    fn owner(&self) -> &'static str {
        self.dice.pick::<&'static str>(&OWNERS)
    }

    async fn step(&self) {
        let seen = self.seen();
        self.world.begun.set(self.world.begun.get() + 1);
        match (self.dice.roll(10), seen) {
            (..3, _) | (_, None) => self.create().await,
            (3..5, Some(visit)) => self.change(&visit, self.log_in(Some(&visit))).await,
            (5..8, Some(visit)) => self.change(&visit, self.change_owner(&visit)).await,
            (8, Some(visit @ Visit { cookie: Some(_), .. })) => self.regenerate(visit).await,
            (8, Some(visit)) => drop(self.node().store().delete(visit.id).await),
            (_, Some(_)) => {
                if let Some(login) = self.log_in(None).await {
                    self.acknowledge(login).await;
                }
            }
        }
        self.world.ended.set(self.world.ended.get() + 1);
    }

    /// Returns the number of steps that have begun, if the present one is the only one under way.
    fn only_step(&self) -> Option<u64> {
        let begun = self.world.begun.get();
        (begun == self.world.ended.get() + 1).then_some(begun)
    }

    /// Creates a session of an owner. Some callers stop waiting for it.
    async fn create(&self) {
        let (owner, only_step) = (self.owner(), self.only_step());
        let before = self.sessions_of(owner).await;
        let leaves = self.faults && self.dice.roll(10) == 0;
        let patience = if leaves { self.dice.millis(100) } else { Duration::from_secs(3600) };
        let data = Counter { count: 0, owner: Some(owner.to_owned()) };
        let Ok(created) = timeout(patience, self.node().store().create(data)).await else { return };
        let is_alone = only_step.is_some() && self.only_step() == only_step;
        match created {
            Ok(new) => {
                let origin = new.record.origin();
                self.see(Visit { origin, id: new.id, cookie: None });
                self.acknowledge((origin, owner)).await;
                if is_alone && !self.faults && self.policy == LimitPolicy::EndOldest {
                    let after = self.sessions_of(owner).await;
                    promise!(Lost, after.contains(&origin), "the newest session has ended");
                    assert_eq!(after.len(), MAX.min(before.len() + 1), "wrong ones were ended");
                }
            }
            Err(error) if !self.faults => self.expect_refusal(&error, is_alone, before.len()),
            Err(_) => {}
        }
    }

    fn expect_refusal(&self, error: &StoreError, is_alone: bool, before: usize) {
        assert_eq!(error.kind(), StoreErrorKind::LimitReached);
        assert_eq!(self.policy, LimitPolicy::RefuseNew);
        assert!(!is_alone || before >= MAX, "refused, although there was a place");
    }

    /// Updates what is known of the changes of a session, and returns it.
    fn note(&self, origin: SessionId, update: impl FnOnce(&mut Changes)) -> Changes {
        let mut changes = self.world.changes.borrow_mut();
        let changes = changes.entry(origin).or_default();
        update(changes);
        if changes.failed {
            self.forget(origin);
        }
        *changes
    }

    fn forget(&self, origin: SessionId) {
        self.world.acknowledged.borrow_mut().retain(|session| session.0 != origin);
    }

    /// Makes a change to the owner of a session, and notes the login if it was one. While it runs,
    /// it is unknown who the owner is.
    async fn change(&self, visit: &Visit, change: impl Future<Output = Option<Owned>>) {
        let number = self.note(visit.origin, |changes| changes.begun += 1).begun;
        self.forget(visit.origin);
        let login = change.await;
        let Changes { begun, ended, failed, .. } = self.note(visit.origin, |changes| {
            changes.ended += 1;
            changes.failed |= login.is_none();
        });
        let is_known = begun == number && ended == number && !failed;
        if let Some(login) = login.filter(|login| login.0 != visit.origin || is_known) {
            self.acknowledge(login).await;
        }
    }

    async fn regenerate(&self, visit: Visit) {
        self.note(visit.origin, |changes| changes.regenerations += 1);
        let answer = request(self.node(), visit.cookie.clone(), None).await;
        self.note(visit.origin, |changes| {
            changes.regenerations -= 1;
            changes.failed |= !matches!(answer, Answer::Saved(..));
        });
        if let Answer::Saved(id, cookie) = answer {
            self.see(Visit { id, cookie, ..visit });
        }
    }

    /// Logs in by a request, which regenerates the visitor's session or creates one.
    async fn log_in(&self, visit: Option<&Visit>) -> Option<Owned> {
        let owner = self.owner();
        let service = self.node().layer.layer(service_fn(async |request: Request<()>| {
            let session = Session::<Counter>::from_extensions(request.extensions()).await;
            let Ok(session) = session else { return Ok(Response::new(None)) };
            session.regenerate();
            let change = move |data: &mut Counter| data.owner.replace(owner.to_owned());
            let before = session.modify(change).await;
            let found = session.record().map(|record| (record.id(), record.origin()));
            Ok::<_, Infallible>(Response::new(before.ok().zip(found)))
        }));
        let mut request = Request::new(());
        if let Some(cookie) = visit.and_then(|visit| visit.cookie.clone()) {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let response = service.oneshot(request).await.unwrap();
        let cookie = response.headers().get(header::SET_COOKIE).map(cookie_pair);
        let (before, (id, origin)) = response.into_body()?;
        self.see(Visit { origin, id, cookie });
        is_login(before.as_deref(), owner).then_some((origin, owner))
    }

    async fn change_owner(&self, visit: &Visit) -> Option<Owned> {
        let owner = self.owner();
        let change = |data: &mut Counter| data.owner.replace(owner.to_owned());
        let before = self.node().store().modify(visit.id, change).await.ok()?;
        is_login(before.as_deref(), owner).then_some((visit.origin, owner))
    }

    /// Notes a login that was acknowledged, and checks the limit.
    async fn acknowledge(&self, session: Owned) {
        self.world.acknowledged.borrow_mut().insert(session);
        let (records, owner) = (self.records_of(session.1).await, session.1);
        let acknowledged = self.world.acknowledged.borrow();
        let changes = self.world.changes.borrow();
        let given = self.world.given.borrow();
        let counts = |&(id, origin): &(SessionId, SessionId)| {
            let regenerations = changes.get(&origin).map_or(0, |it| it.regenerations);
            given.contains(&id) && acknowledged.contains(&(origin, owner)) && regenerations == 0
        };
        let counted = records.into_iter().filter(counts).map(|(_, origin)| origin);
        let count = counted.collect::<BTreeSet<_>>().len();
        promise!(OverLimit, count <= MAX, "{owner} has {count} sessions");
    }

    /// Returns an owner's sessions by their origins.
    async fn sessions_of(&self, owner: &str) -> BTreeSet<SessionId> {
        self.records_of(owner).await.into_iter().map(|(_, origin)| origin).collect()
    }

    /// Returns the ids and origins of an owner's records, as the backend has them, without faults
    /// and index.
    async fn records_of(&self, owner: &str) -> Vec<(SessionId, SessionId)> {
        let memory = &self.nodes[0].memory;
        let (mut records, mut cursor) = (Vec::new(), None);
        loop {
            let Page::Ids { ids, next, .. } = memory.scan(cursor.as_ref()).await.unwrap() else {
                unreachable!("memory is never replaced")
            };
            for id in ids {
                if let Some((origin, Some(its))) = self.stored(id).await
                    && its == owner
                {
                    records.push((id, origin));
                }
            }
            cursor = next;
            if cursor.is_none() {
                return records;
            }
        }
    }

    /// Returns the origin and the owner of a session, as the backend has it.
    async fn stored(&self, id: SessionId) -> Option<(SessionId, Option<&'static str>)> {
        let Stored { meta, content, .. } = self.nodes[0].memory.load(&id).await.unwrap()?;
        let Content::Payload(payload) = content else { return None };
        let data: Counter = serde_json::from_slice(&payload[2..]).unwrap();
        let owner = data.owner.and_then(|its| OWNERS.into_iter().find(|owner| **owner == its));
        Some((meta.origin, owner))
    }
}

/// Returns `true` if a change of the owner was a login. Whoever finds that the session has the
/// owner already may have found a login that is yet to be judged.
fn is_login(before: Option<&str>, owner: &str) -> bool {
    before != Some(owner)
}

/// Runs one history.
pub(crate) async fn limits(seed: u64) {
    let policy =
        if seed.is_multiple_of(2) { LimitPolicy::EndOldest } else { LimitPolicy::RefuseNew };
    let nodes = nodes_with(NODES, seed, |number, config| {
        with_timeouts(config, seed)
            .cluster(cluster(number, MAX_STALENESS))
            .max_sessions_of_owner(MAX, policy)
    });
    // In a third of the histories, calls are delayed but none fails.
    let rounds = if seed.is_multiple_of(3) { 0 } else { 10 };
    let dice = Dice::new(seed);
    let (world, faults) = (Rc::default(), rounds > 0);
    let client = Client { nodes: nodes.clone(), policy, faults, world, dice: dice.clone() };
    for node in nodes.iter() {
        node.faults.delay_by(Duration::ZERO..Duration::from_millis(20));
    }
    let stepping = client.clone();
    let step = move || {
        let client = stepping.clone();
        async move { client.step().await }
    };
    clients_in_trouble(&nodes, &dice, rounds, (CLIENTS, STEPS), step).await;
    // Closes the circuit.
    while nodes[2].store().sessions_of(OWNERS[0]).await.is_err() {
        sleep(Duration::from_secs(1)).await;
    }
    if policy == LimitPolicy::EndOldest {
        // One more login also ends what failed logins have left behind.
        let data = Counter { count: 0, owner: Some(OWNERS[0].to_owned()) };
        let new = nodes[2].store().create(data).await.expect("the faults have ended");
        let left = client.sessions_of(OWNERS[0]).await;
        promise!(OverLimit, left.len() <= MAX, "{left:?}");
        promise!(Lost, left.contains(&new.record.origin()), "the newest session has ended");
    }
}
