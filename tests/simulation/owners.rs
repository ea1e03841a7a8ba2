//! One history of owners: their sessions begin, are regenerated, change owners and end on several
//! nodes while faults occur, and sometimes an owner logs out everywhere. A checker compares the
//! result with what had been acknowledged before.
#![allow(clippy::await_holding_refcell_ref, reason = "no other task waits for the cell meanwhile")]

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::backend::{Backend as _, Content, Stored};
use clustered_sessions::{SessionId, SessionStore, StoreErrorKind};
use futures_util::TryStreamExt as _;
use http::HeaderValue;
use tokio::time::{Instant, timeout};

use super::promise::promise;
use super::request::{Answer, request};
use super::{Counter, Dice, MAX_STALENESS, Node, clients_in_trouble, nodes};

const NODES: usize = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 25;
pub(crate) const OWNERS: [&str; 2] = ["ada", "bob"];

/// The checker's knowledge of one session.
struct Visit {
    /// All ids that the session has had, the current one last.
    ids: Vec<SessionId>,
    cookie: HeaderValue,
    /// The last owner that was acknowledged.
    owner: &'static str,
    /// Incremented when a change of the owner begins and when it ends, so odd during a change.
    changes: u64,
    /// `true` if the owner or the id is unknown.
    unsure: bool,
    /// `true` once somebody has tried to end the session.
    may_be_dead: bool,
    /// The time from which on the session must be gone.
    dead: Option<Instant>,
}

impl Visit {
    fn id(&self) -> SessionId {
        self.ids[self.ids.len() - 1]
    }

    /// Returns `true` if the session is known to belong to this owner.
    fn is_known_to_belong_to(&self, owner: &str) -> bool {
        !self.unsure && self.changes.is_multiple_of(2) && self.owner == owner
    }
}

#[derive(Default)]
struct World {
    visits: Vec<Visit>,
    ends: HashMap<&'static str, Ends>,
}

/// Numbers of an owner's logouts everywhere.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Ends {
    begun: u32,
    over: u32,
}

impl World {
    fn ends(&self, owner: &str) -> Ends {
        self.ends.get(owner).copied().unwrap_or_default()
    }

    fn begin_change(&mut self, visit: usize, to: &str) {
        let Ends { begun, over } = self.ends(to);
        let visit = &mut self.visits[visit];
        // Of two concurrent changes, the client cannot tell which one is applied last.
        visit.unsure |= !visit.changes.is_multiple_of(2);
        visit.changes |= 1;
        visit.may_be_dead |= begun > over;
    }

    /// An outcome of `None` is unknown.
    fn end_change(&mut self, visit: usize, outcome: Option<Option<&'static str>>) {
        let visit = &mut self.visits[visit];
        match outcome {
            Some(Some(owner)) => visit.owner = owner,
            Some(None) => {}
            None => visit.unsure = true,
        }
        visit.changes += visit.changes % 2;
    }
}

#[derive(Clone)]
struct Client {
    nodes: Rc<Vec<Node>>,
    /// `true` if calls can fail.
    faults: bool,
    world: Rc<RefCell<World>>,
    dice: Dice,
}

impl Client {
    fn node(&self) -> &Node {
        self.dice.pick(&self.nodes)
    }

    fn owner(&self) -> &'static str {
        self.dice.pick::<&'static str>(&OWNERS)
    }

    fn visit(&self) -> Option<usize> {
        let count = self.world.borrow().visits.len() as u64;
        (count > 0).then(|| self.dice.roll(count) as usize)
    }

    /// Performs one operation. Some clients disconnect before it completes.
    async fn step(&self) {
        let patience =
            if self.dice.roll(10) == 0 { self.dice.millis(100) } else { Duration::from_secs(3600) };
        let action = self.dice.roll(100);
        let Some(visit) = self.visit().filter(|_| action >= 15) else { return self.log_in().await };
        match action {
            ..25 => self.regenerate(visit).await,
            25..30 => self.change_owner(visit, patience).await,
            30..50 => drop(timeout(patience, self.count(visit)).await),
            50..60 => drop(timeout(patience, self.node().store().touch(self.id(visit))).await),
            60..65 => drop(timeout(patience, self.log_out(visit)).await),
            65..75 => self.log_out_everywhere(self.owner(), patience).await,
            _ => drop(timeout(patience, self.read(visit)).await),
        }
    }

    fn id(&self, visit: usize) -> SessionId {
        self.world.borrow().visits[visit].id()
    }

    async fn log_in(&self) {
        let owner = self.owner();
        let before = self.world.borrow().ends(owner);
        let answer = request(self.node(), None, Some(owner)).await;
        // Without a response, no client has the cookie.
        let Answer::Saved(id, Some(cookie)) = answer else { return };
        let may_be_dead = before.begun > before.over || self.world.borrow().ends(owner) != before;
        let visit = Visit {
            ids: vec![id],
            cookie,
            owner,
            changes: 0,
            unsure: false,
            may_be_dead,
            dead: None,
        };
        self.world.borrow_mut().visits.push(visit);
    }

    /// Regenerates the session, sometimes with another owner.
    async fn regenerate(&self, visit: usize) {
        let owner = (self.dice.roll(3) == 0).then(|| self.owner());
        let cookie = self.world.borrow().visits[visit].cookie.clone();
        if let Some(owner) = owner {
            self.world.borrow_mut().begin_change(visit, owner);
        }
        let (node, old) = (self.node(), self.id(visit));
        let answer = request(node, Some(cookie), owner).await;
        if matches!(answer, Answer::Saved(_, Some(_))) {
            let found = node.store().find(old).await;
            promise!(
                Stale,
                !matches!(found, Ok(Some(_))),
                "a node serves the old id of a session that it has regenerated"
            );
        }
        let mut world = self.world.borrow_mut();
        if owner.is_some() {
            let known = !matches!(answer, Answer::Unknown);
            let to = owner.filter(|_| matches!(answer, Answer::Saved(..)));
            world.end_change(visit, known.then_some(to));
        }
        let visit = &mut world.visits[visit];
        match answer {
            Answer::Saved(id, Some(cookie)) => {
                visit.ids.push(id);
                visit.cookie = cookie;
            }
            Answer::Unknown => visit.unsure = true,
            Answer::Saved(_, None) | Answer::Refused => {}
        }
        let dead = visit.dead.map(|_| visit.ids.clone());
        drop(world);
        if let Some(ids) = dead {
            self.assert_gone(&ids, "its regeneration was acknowledged").await;
        }
    }

    async fn change_owner(&self, visit: usize, patience: Duration) {
        let owner = self.owner();
        self.world.borrow_mut().begin_change(visit, owner);
        let id = self.id(visit);
        let change = |data: &mut Counter| data.owner = Some(owner.to_owned());
        let outcome = match timeout(patience, self.node().store().modify(id, change)).await {
            Ok(Ok(())) => Some(Some(owner)),
            Ok(Err(error)) if error.kind() != StoreErrorKind::OutcomeUnknown => Some(None),
            Ok(Err(_)) | Err(_) => None,
        };
        self.world.borrow_mut().end_change(visit, outcome);
    }

    async fn count(&self, visit: usize) {
        // The result is checked in the histories of `history.rs`.
        let _ = self.node().store().modify(self.id(visit), |data| data.count += 1).await;
    }

    async fn read(&self, visit: usize) {
        let (began, node) = (Instant::now(), self.node());
        let (id, dead) = {
            let world = self.world.borrow();
            (*self.dice.pick(&world.visits[visit].ids), world.visits[visit].dead)
        };
        let strict = !node.store().coordinator().is_listening();
        let Ok(Some(_)) = node.store().find(id).await else { return };
        let due = dead.is_some_and(|dead| strict || dead + MAX_STALENESS < began);
        promise!(
            Stale,
            !due,
            "a session was read at {began:?} that had been gone since {dead:?} (strict: {strict})"
        );
    }

    async fn log_out(&self, visit: usize) {
        self.world.borrow_mut().visits[visit].may_be_dead = true;
        if self.node().store().delete(self.id(visit)).await.is_ok() {
            self.expect_gone(&[visit], "its logout was acknowledged").await;
        }
    }

    async fn log_out_everywhere(&self, owner: &'static str, patience: Duration) {
        let before: Vec<_> = {
            let mut world = self.world.borrow_mut();
            world.ends.entry(owner).or_default().begun += 1;
            for visit in &mut world.visits {
                // Sessions that a change may have given to the owner may be ended, too.
                visit.may_be_dead |=
                    visit.unsure || !visit.changes.is_multiple_of(2) || visit.owner == owner;
            }
            let visits = world.visits.iter().enumerate();
            visits
                .filter(|(_, visit)| visit.is_known_to_belong_to(owner))
                .map(|(at, visit)| (at, visit.changes))
                .collect()
        };
        let answer = timeout(patience, self.node().store().delete_all_of(owner)).await;
        let due: Vec<_> = {
            let mut world = self.world.borrow_mut();
            world.ends.entry(owner).or_default().over += 1;
            let unchanged = |(at, changes): &(usize, u64)| {
                world.visits[*at].changes == *changes && !world.visits[*at].unsure
            };
            before.into_iter().filter(unchanged).map(|(at, _)| at).collect()
        };
        match answer {
            Ok(Ok(done)) => {
                assert_eq!(done.unreadable, 0);
                self.expect_gone(&due, "its owner's logout everywhere was acknowledged").await;
            }
            // However fast the sessions change, only a fault may make the logout fail.
            Ok(Err(error)) => assert!(self.faults, "failed without a fault: {error}"),
            Err(_) => {}
        }
    }

    /// Notes that these sessions must be gone from now on, and checks it.
    async fn expect_gone(&self, visits: &[usize], why: &str) {
        for at in visits {
            let ids = {
                let visit = &mut self.world.borrow_mut().visits[*at];
                visit.dead.get_or_insert_with(Instant::now);
                visit.ids.clone()
            };
            self.assert_gone(&ids, why).await;
        }
    }

    /// Checks in the backend, without faults and caches, that there is no session under these ids,
    /// nor where their tombstones lead.
    async fn assert_gone(&self, ids: &[SessionId], why: &str) {
        for id in ids {
            let mut at = *id;
            while let Some(Stored { content, .. }) = self.nodes[0].memory.load(&at).await.unwrap() {
                let new = match content {
                    Content::MovedTo(new) => Some(new),
                    _ => None,
                };
                promise!(NotRevoked, new.is_some(), "a session still exists after {why}");
                at = new.unwrap();
            }
        }
    }
}

/// Returns an owner's sessions according to the owner index.
pub(crate) async fn indexed(store: &SessionStore<Counter>, owner: &str) -> BTreeSet<SessionId> {
    store.sessions_of(owner).await.unwrap().iter().map(|record| record.id()).collect()
}

/// Returns an owner's sessions according to the records.
pub(crate) async fn recorded(store: &SessionStore<Counter>, owner: &str) -> BTreeSet<SessionId> {
    let all: Vec<_> = store.each_session().try_collect().await.unwrap();
    let its = all.iter().filter(|record| record.data().owner.as_deref() == Some(owner));
    its.map(|record| record.id()).collect()
}

/// Runs one history, and checks the sessions that are left once the faults have ended.
pub(crate) async fn owners(seed: u64) {
    let (dice, nodes) = (Dice::new(seed), nodes(NODES as u64, seed));
    // In every fourth history, calls are delayed but none fails.
    let rounds = if seed.is_multiple_of(4) { 0 } else { 10 };
    let (world, faults) = (Rc::default(), rounds > 0);
    let client = Client { nodes: nodes.clone(), faults, world, dice: dice.clone() };
    for node in nodes.iter() {
        node.faults.delay_by(Duration::ZERO..Duration::from_millis(50));
    }
    let stepping = client.clone();
    let step = move || {
        let client = stepping.clone();
        async move { client.step().await }
    };
    clients_in_trouble(&nodes, &dice, rounds, (CLIENTS, STEPS), step).await;
    for owner in OWNERS {
        let recorded = recorded(nodes[0].store(), owner).await;
        for node in nodes.iter() {
            assert_eq!(
                indexed(node.store(), owner).await,
                recorded,
                "the index of {owner} does not match the records"
            );
        }
    }
    let world = client.world.take();
    for visit in &world.visits {
        if visit.dead.is_some() {
            client.assert_gone(&visit.ids, "the faults have ended").await;
        } else if !visit.may_be_dead && !visit.unsure {
            let found = nodes[0].store().find(visit.id()).await.unwrap();
            let owner = found.as_ref().and_then(|record| record.data().owner.as_deref());
            promise!(
                Lost,
                owner == Some(visit.owner),
                "a session that was not ended is gone, or has another owner"
            );
        }
    }
    for owner in OWNERS {
        let _ = nodes[2].store().delete_all_of(owner).await.expect("the faults have ended");
        let left = recorded(nodes[0].store(), owner).await;
        promise!(NotRevoked, left.is_empty(), "{owner} has a session left");
    }
}
