//! Redis Cluster: keys are spread over several masters.
//!
//! A request goes to the master that has the slot of its key, as far as the node knows. A master
//! that does not have it says where to go instead (`MOVED`, `ASK`). The node then asks the cluster
//! again, and so it does when a request fails: see [`Cluster::refresh`].

mod discovery;
mod election;
mod members;
mod redirect;
mod slot;
mod standing;
mod view;
mod walk;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub(super) use self::discovery::ask_for_view;
use self::discovery::{Answer, ask};
use self::election::Elections;
use self::members::{Member, Members};
use self::redirect::Redirect;
use self::slot::slot_of;
pub(super) use self::standing::{Standing, Verdict};
use self::view::NodeId;
pub(super) use self::view::View;
use super::commands::beat_key;
use super::config::{RedisAddress, RedisCluster, RedisConfig};
use super::dialer::Dialer;
use super::endpoint::{Endpoint, Target};
use super::error::is_wrong_server;
use super::lanes::Lanes;
use super::request::{Hop, Reply, Request};
use crate::clock::ServerTime;
use crate::error::{StoreError, StoreErrorKind};

/// Maximum number of servers that a request is sent to. A slot that moves while a request is under
/// way costs one more.
const MAX_HOPS: u32 = 5;
/// Minimum pause between two attempts to find out what has changed.
const REFRESH_AFTER: Duration = Duration::from_millis(200);
/// Maximum number of servers that are asked at once.
const MAX_ASKED: usize = 8;

/// A cluster, and the connections to its masters.
pub(super) struct Cluster {
    config: RedisConfig,
    dialer: Dialer,
    /// The servers to ask first.
    seeds: Vec<RedisAddress>,
    time: Arc<ServerTime>,
    state: Mutex<State>,
    elections: Mutex<Elections>,
    /// Makes sure that the cluster is asked once at a time.
    discovering: tokio::sync::Mutex<()>,
    /// Number of times that commands could be sent to a server that they could not be sent to
    /// before. No subscription from before receives what it announces.
    additions: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    members: Members,
    /// The current epoch in the view that was taken over last.
    epoch: Option<u64>,
    /// When the cluster was asked last.
    asked_at: Option<Instant>,
    /// The error of the last attempt to ask the cluster, if it has failed.
    failure: Option<StoreError>,
    /// Number of attempts to ask the cluster that have ended.
    attempts: u64,
    /// Where to begin to ask, so that another server gets its turn.
    turn: usize,
    closed: bool,
}

/// A master that a subscription is to receive announcements from.
pub(super) struct Participant {
    pub(super) lanes: Arc<Lanes>,
    pub(super) standing: Standing,
    /// The key that heartbeats write, in a slot of the master's, if it has slots.
    pub(super) key: Option<String>,
}

impl Cluster {
    /// Creates the connections to a cluster. Does no IO.
    pub(super) fn new(
        config: &RedisConfig,
        cluster: &RedisCluster,
        dialer: Dialer,
        time: &Arc<ServerTime>,
    ) -> Self {
        Cluster {
            config: config.clone(),
            dialer,
            seeds: cluster.nodes.clone(),
            time: time.clone(),
            state: Mutex::default(),
            elections: Mutex::new(Elections::new(cluster.node_timeout)),
            discovering: tokio::sync::Mutex::new(()),
            additions: watch::Sender::new(0),
        }
    }

    /// Sends a request to the server that has its key, and on to where that says. Returns the
    /// reply, which may be an error.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        request: &Request<'_>,
    ) -> Result<Reply, StoreError> {
        let slot = slot_of(request.key);
        let (mut member, mut hop) = (self.owner(slot).await?, Hop::Owner);
        for _ in 0..MAX_HOPS {
            let reply = match member.lanes.carry_out(request, hop).await {
                Ok(reply) => reply,
                Err(error) => {
                    self.refresh();
                    return Err(error);
                }
            };
            let Err(error) = &reply.result else { return Ok(reply) };
            (member, hop) = match Redirect::of(error, &member.address) {
                Some(Redirect::Moved(address)) => (self.moved(slot, &address), Hop::Owner),
                Some(Redirect::Ask(address)) => (self.at(&address), Hop::Asking),
                None => {
                    if is_wrong_server(error) {
                        self.refresh();
                    }
                    return Ok(reply);
                }
            };
        }
        self.refresh();
        Err(unavailable("the servers of the cluster do not agree where a slot is"))
    }

    /// Returns the masters that have slots.
    pub(super) async fn owners(&self) -> Result<Vec<Member>, StoreError> {
        self.discovered().await?;
        let has_slots = |member: &&Member| !member.slots.is_empty();
        Ok(self.lock().members.all().iter().filter(has_slots).cloned().collect())
    }

    /// Returns all servers that commands are sent to, as far as they are known.
    pub(super) fn known(&self) -> Vec<Arc<Lanes>> {
        self.lock().members.all().iter().map(|member| member.lanes.clone()).collect()
    }

    /// Asks the cluster for its masters, and returns them for a new subscription.
    pub(super) async fn participants(
        &self,
        beginning: &str,
    ) -> Result<Vec<Participant>, StoreError> {
        self.discover().await?;
        let members = self.lock().members.all().to_vec();
        let ids = members.iter().filter_map(|member| member.id.clone()).collect();
        let ids: Arc<BTreeSet<_>> = Arc::new(ids);
        let participants = members.into_iter().filter_map(|member| {
            let key = member.own_key(beginning);
            let standing = Standing::new(member.id?, ids.clone(), key.as_deref());
            Some(Participant { lanes: member.lanes, standing, key })
        });
        Ok(participants.collect())
    }

    /// Returns the number of times that commands could be sent to a server that they could not be
    /// sent to before.
    pub(super) fn additions(&self) -> u64 {
        *self.additions.borrow()
    }

    /// Waits until commands can be sent to a server that they could not be sent to when this was
    /// the number of additions.
    pub(super) async fn grows_from(&self, before: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.additions.subscribe().wait_for(|additions| *additions != before).await;
    }

    /// Judges a heartbeat by the view of the master that is about to carry it out.
    pub(super) fn judge(&self, standing: &Standing, view: &View) -> Verdict {
        let mut elections = self.elections.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now().into_std();
        standing.judge(view, elections.may_hide_a_master(view, now))
    }

    pub(super) fn close(&self) {
        let members = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.members)
        };
        for member in members.all() {
            member.lanes.close();
        }
        self.additions.send_modify(|additions| *additions += 1);
    }

    /// Returns the server that has a slot. Asks the cluster if nothing is known about it yet.
    async fn owner(self: &Arc<Self>, slot: u16) -> Result<Member, StoreError> {
        self.discovered().await?;
        let owner = self.lock().members.owner(slot).cloned();
        owner.ok_or_else(|| {
            self.refresh();
            unavailable("no master of the cluster has the slot")
        })
    }

    /// Records that the server at an address has a slot, and returns that server.
    fn moved(self: &Arc<Self>, slot: u16, address: &RedisAddress) -> Member {
        let member = self.at(address);
        self.lock().members.give(slot, address);
        self.refresh();
        member
    }

    /// Returns the server at an address.
    fn at(&self, address: &RedisAddress) -> Member {
        let mut state = self.lock();
        if let Some(member) = state.members.at(address) {
            return member.clone();
        }
        let lanes = self.lanes(address, false);
        let member = Member { id: None, address: address.clone(), slots: Vec::new(), lanes };
        if !state.closed {
            state.members.add(member.clone());
        }
        drop(state);
        // Before any command is sent to it.
        self.additions.send_modify(|additions| *additions += 1);
        member
    }

    /// Asks the cluster in the background, unless that was done a moment ago.
    fn refresh(self: &Arc<Self>) {
        let mut state = self.lock();
        let is_recent = state.asked_at.is_some_and(|at| at.elapsed() < REFRESH_AFTER);
        if is_recent || state.closed {
            return;
        }
        state.asked_at = Some(Instant::now());
        drop(state);
        let cluster = self.clone();
        tokio::spawn(async move {
            // Requests have errors of their own, and the next that fails asks again.
            let _ = cluster.discover().await;
        });
    }

    /// Asks the cluster if nothing is known about it yet.
    async fn discovered(&self) -> Result<(), StoreError> {
        let attempts_before = {
            let state = self.lock();
            if state.closed {
                return Err(StoreErrorKind::Closed.into());
            }
            if !state.members.is_empty() {
                return Ok(());
            }
            state.attempts
        };
        let _one = self.discovering.lock().await;
        {
            let state = self.lock();
            if !state.members.is_empty() {
                return Ok(());
            }
            // If each waiting caller asked in turn, the last would wait too long.
            if let Some(failure) = &state.failure
                && state.attempts != attempts_before
            {
                return Err(failure.clone());
            }
        }
        self.discover_alone().await
    }

    /// Asks the cluster for its masters and their slots.
    async fn discover(&self) -> Result<(), StoreError> {
        let _one = self.discovering.lock().await;
        self.discover_alone().await
    }

    async fn discover_alone(&self) -> Result<(), StoreError> {
        let answer = self.best_answer().await;
        let mut state = self.lock();
        state.attempts += 1;
        state.asked_at = Some(Instant::now());
        if state.closed {
            return Err(StoreErrorKind::Closed.into());
        }
        let answer = answer.and_then(|answer| {
            if state.knows_better_than(&answer.view) {
                return Err(unavailable("only servers that are cut off from the cluster answer"));
            }
            Ok(answer)
        });
        state.failure = answer.as_ref().err().cloned();
        self.apply(&mut state, &answer?);
        Ok(())
    }

    /// Asks several servers at once, the known masters first. The one that has heard of the latest
    /// election knows best; others may be cut off from it.
    async fn best_answer(&self) -> Result<Answer, StoreError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let (known, epoch, turn) = {
            let mut state = self.lock();
            state.turn = state.turn.wrapping_add(1);
            (state.members.all().to_vec(), state.epoch, state.turn)
        };
        let from_turn = |number: usize| turn.checked_rem(number).unwrap_or_default();
        let order = known.iter().cycle().skip(from_turn(known.len())).take(known.len());
        let asking = order.take(MAX_ASKED).map(|member| async {
            let connected = member.lanes.commands().connected().await?;
            ask(connected.link().wire.commands.clone(), &member.address).await
        });
        let answer = best(asking.collect(), epoch, deadline).await;
        if answer.is_ok() {
            return answer;
        }
        let order = self.seeds.iter().cycle().skip(from_turn(self.seeds.len()));
        let asking = order.take(self.seeds.len().min(MAX_ASKED)).map(|address| async move {
            let link = self.endpoint(address).connect().await?;
            ask(link.wire.commands.clone(), address).await
        });
        best(asking.collect(), epoch, deadline + self.config.connect_timeout).await
    }

    /// Takes over what a server has said. Servers that are no masters any more are left.
    fn apply(&self, state: &mut State, answer: &Answer) {
        let view = &answer.view;
        state.epoch = Some(view.current_epoch);
        // All nodes observe the time of the same master.
        let timekeeper = view.ids().first().cloned();
        let mut additions = 0;
        let mut members = Vec::new();
        for master in &view.masters {
            let Some(address) = answer.address_of(master, self.config.names_servers()) else {
                continue;
            };
            let keeps_time = timekeeper.as_ref() == Some(&master.id);
            let known = state.members.at(&address);
            let is_unchanged = |known: &&Member| known.lanes.keeps_time(&self.time) == keeps_time;
            let lanes = known.filter(is_unchanged).map(|known| known.lanes.clone());
            let lanes = lanes.unwrap_or_else(|| {
                additions += 1;
                self.lanes(&address, keeps_time)
            });
            let (id, slots) = (Some(master.id.clone()), master.slots.clone());
            members.push(Member { id, address, slots, lanes });
        }
        state.members.replace(members);
        self.additions.send_modify(|count| *count += additions);
    }

    fn lanes(&self, address: &RedisAddress, keeps_time: bool) -> Arc<Lanes> {
        let time = if keeps_time { self.time.clone() } else { Arc::default() };
        let target = Target::Fixed(address.clone());
        let moves = watch::Sender::new(0);
        Arc::new(Lanes::new(&self.config, &target, &self.dialer, &time, moves))
    }

    fn endpoint(&self, address: &RedisAddress) -> Endpoint {
        let (target, dialer) = (Target::Fixed(address.clone()), self.dialer.clone());
        Endpoint::new(&self.config, target, dialer, Arc::default(), Arc::default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns `true` if a view is of a past of the cluster: an old master that is cut off from the
    /// others does not know that it has been replaced. A cluster that was built anew has lower
    /// epochs, too, but consists of other nodes.
    fn knows_better_than(&self, view: &View) -> bool {
        let is_known = |id: &NodeId| view.master(id).is_some();
        Some(view.current_epoch) < self.epoch
            && self.members.all().iter().filter_map(|member| member.id.as_ref()).any(is_known)
    }
}

impl Member {
    /// Returns a key that the server has and that is never written, for what needs a key and uses
    /// none, or `None` if the server has no slots.
    pub(super) fn idle_key(&self, prefix: &str) -> Option<String> {
        self.own_key(&beat_key(prefix))
    }
}

/// Returns the answer of the server that has heard of the latest epoch. Does not wait for others
/// once one knows a later epoch than this node.
async fn best<F>(
    mut asking: FuturesUnordered<F>,
    known: Option<u64>,
    deadline: Instant,
) -> Result<Answer, StoreError>
where
    F: Future<Output = Result<Answer, StoreError>>,
{
    let mut best: Option<Answer> = None;
    let mut failure = unavailable("no server of the cluster has answered");
    while let Ok(Some(answer)) = timeout_at(deadline, asking.next()).await {
        match answer {
            Ok(answer) => {
                let rank = |answer: &Answer| (answer.view.is_ok, answer.view.current_epoch);
                let is_news = answer.view.is_ok && Some(answer.view.current_epoch) > known;
                if best.as_ref().is_none_or(|best| rank(&answer) > rank(best)) {
                    best = Some(answer);
                }
                if is_news {
                    break;
                }
            }
            Err(error) => failure = error,
        }
    }
    best.ok_or(failure)
}

fn unavailable(cause: &'static str) -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source(cause)
}
