//! One history of logins under a limit of sessions per owner: sessions begin, get an owner or
//! another one, are regenerated and end on several nodes while faults occur. A checker counts the
//! sessions whose login was acknowledged.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::backend::{Backend as _, Content, Page, Stored};
use clustered_sessions::{LimitPolicy, SessionId, StoreError, StoreErrorKind};
use http::HeaderValue;
use tokio::time::{sleep, timeout};

use crate::owners::{Answer, OWNERS, request};
use crate::{
    Counter, Dice, MAX_STALENESS, Node, calm, cluster, nodes_with, run_all, trouble, with_timeouts,
};

const NODES: u64 = 3;
const CLIENTS: usize = 6;
const STEPS: usize = 20;
const MAX: usize = 2;

#[test]
fn no_owner_has_more_sessions_than_the_limit_allows() {
    run_all(1000, limits);
}

/// A session of an owner, by the id under which it was first created.
type Session = (SessionId, &'static str);

#[derive(Default)]
struct World {
    /// The sessions whose login was acknowledged.
    acknowledged: RefCell<BTreeSet<Session>>,
    /// The cookies and ids of sessions, whether they still exist or not.
    seen: RefCell<Vec<(HeaderValue, SessionId)>>,
    /// The number of steps that clients have begun, and of those that have ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
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

    fn seen(&self) -> Option<(HeaderValue, SessionId)> {
        let seen = self.world.seen.borrow();
        (!seen.is_empty()).then(|| self.dice.pick(&seen).clone())
    }

    fn owner(&self) -> &'static str {
        self.dice.pick::<&'static str>(&OWNERS)
    }

    async fn step(&self) {
        let seen = self.seen();
        self.world.begun.set(self.world.begun.get() + 1);
        match (self.dice.roll(10), seen) {
            (..4, _) | (_, None) => self.create().await,
            (4..6, Some((cookie, _))) => self.log_in(Some(cookie)).await,
            (6, Some((_, id))) => self.change_owner(id).await,
            (7, Some((cookie, _))) => {
                if let Answer::Saved(id, Some(cookie)) =
                    request(self.node(), Some(cookie), None).await
                {
                    self.world.seen.borrow_mut().push((cookie, id));
                }
            }
            (8, Some((_, id))) => drop(self.node().store().delete(id).await),
            (_, Some(_)) => self.log_in(None).await,
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
                self.acknowledge((new.record.origin(), owner)).await;
                if is_alone && !self.faults && self.policy == LimitPolicy::EndOldest {
                    let after = self.sessions_of(owner).await;
                    assert!(after.contains(&new.record.origin()), "the newest session has ended");
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

    /// Logs in by a request, which regenerates the session of the cookie or creates one.
    async fn log_in(&self, cookie: Option<HeaderValue>) {
        let owner = self.owner();
        let Answer::Saved(id, Some(cookie)) = request(self.node(), cookie, Some(owner)).await
        else {
            return;
        };
        self.world.seen.borrow_mut().push((cookie, id));
        if let Some((origin, _)) = self.stored(id).await {
            self.acknowledge((origin, owner)).await;
        }
    }

    async fn change_owner(&self, id: SessionId) {
        let owner = self.owner();
        let Some((origin, before)) = self.stored(id).await else { return };
        if before == Some(owner) {
            return;
        }
        // From now on, it is unknown who owns it.
        self.world.acknowledged.borrow_mut().retain(|session| session.0 != origin);
        let change = |data: &mut Counter| data.owner = Some(owner.to_owned());
        if self.node().store().modify(id, change).await.is_ok() {
            self.acknowledge((origin, owner)).await;
        }
    }

    /// Notes a login that was acknowledged, and checks the limit.
    async fn acknowledge(&self, session: Session) {
        self.world.acknowledged.borrow_mut().insert(session);
        let (origins, owner) = (self.sessions_of(session.1).await, session.1);
        let acknowledged = self.world.acknowledged.borrow();
        let count = origins.iter().filter(|origin| acknowledged.contains(&(**origin, owner)));
        let count = count.count();
        assert!(count <= MAX, "{owner} has {count} sessions");
    }

    /// Returns an owner's sessions by their origins, as the backend has them, without faults and
    /// index.
    async fn sessions_of(&self, owner: &str) -> BTreeSet<SessionId> {
        let memory = &self.nodes[0].memory;
        let (mut sessions, mut cursor) = (BTreeSet::new(), None);
        loop {
            let Page::Ids { ids, next, .. } = memory.scan(cursor.as_ref()).await.unwrap() else {
                unreachable!("memory is never replaced")
            };
            for id in ids {
                if let Some((origin, Some(its))) = self.stored(id).await
                    && its == owner
                {
                    sessions.insert(origin);
                }
            }
            cursor = next;
            if cursor.is_none() {
                return sessions;
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
    let mut tasks = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice, rounds))];
    for _ in 0..CLIENTS {
        let client = client.clone();
        tasks.push(tokio::task::spawn_local(async move {
            for _ in 0..STEPS {
                client.step().await;
                sleep(client.dice.millis(60)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    calm(&*nodes).await;
    // Closes the circuit.
    while nodes[2].store().sessions_of(OWNERS[0]).await.is_err() {}
    if policy == LimitPolicy::EndOldest {
        // One more login also ends what failed logins have left behind.
        let data = Counter { count: 0, owner: Some(OWNERS[0].to_owned()) };
        let new = nodes[2].store().create(data).await.expect("the faults have ended");
        let left = client.sessions_of(OWNERS[0]).await;
        assert!(left.len() <= MAX && left.contains(&new.record.origin()), "{left:?}");
    }
}
