//! Redis Cluster: keys are spread over several masters.
//!
//! A request goes to the master that has the slot of its key, as far as the node knows. A master
//! that does not have it says where to go instead (`MOVED`, `ASK`). The node then asks the cluster
//! again, and so it does when a request fails: see [`Cluster::refresh`].

mod discovery;
mod election;
mod members;
mod redirect;
mod refresh;
mod slot;
mod standing;
mod view;
mod walk;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

pub(super) use self::discovery::ask_for_view;
use self::election::Elections;
use self::members::{Member, Members};
use self::redirect::Redirect;
pub(super) use self::slot::slot_of;
pub(super) use self::standing::{Standing, Verdict};
pub(super) use self::view::{MemberId, View};
use super::commands::beat_key;
use super::config::{RedisAddress, RedisCluster, RedisConfig};
use super::dialer::Dialer;
use super::endpoint::{Endpoint, Target};
use super::error::{is_cluster_down, is_wrong_server};
use super::findings::Findings;
use super::lanes::Lanes;
use super::request::{Hop, Request, ServerReply};
use crate::clock::ServerTime;
use crate::error::{StoreError, StoreErrorKind};

/// Maximum number of servers that a request is sent to. A slot that moves while a request is under
/// way costs one more.
const MAX_HOPS: u32 = 5;
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
    /// Since when most of the known masters have answered with an earlier epoch than that.
    behind_since: Option<Instant>,
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
            seeds: cluster.servers.clone(),
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
    ) -> Result<ServerReply, StoreError> {
        let slot = slot_of(request.key);
        let (mut member, mut hop) = (self.owner(slot).await?, Hop::Owner);
        for _ in 0..MAX_HOPS {
            let reply = match member.lanes.carry_out(request, hop).await {
                Ok(reply) => reply,
                Err(error) => {
                    // One that this node has held back says nothing about the server.
                    if error.kind() != StoreErrorKind::Overloaded {
                        self.refresh();
                    }
                    return Err(error);
                }
            };
            let Err(error) = &reply.result else { return Ok(reply) };
            (member, hop) = match Redirect::of(error, &member.address) {
                Some(Redirect::Moved(address)) => (self.moved(slot, &address), Hop::Owner),
                Some(Redirect::Ask(address)) => (self.at(&address), Hop::Asking),
                None => {
                    if is_wrong_server(error) || is_cluster_down(error) {
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
    pub(super) async fn owners(self: &Arc<Self>) -> Result<Vec<Arc<Member>>, StoreError> {
        self.discovered().await?;
        let has_slots = |member: &&Arc<Member>| !member.slots.is_empty();
        Ok(self.lock().members.all().iter().filter(has_slots).cloned().collect())
    }

    /// Returns the connections to the server that has a key.
    pub(super) async fn lanes_of(self: &Arc<Self>, key: &str) -> Result<Arc<Lanes>, StoreError> {
        Ok(self.owner(slot_of(key)).await?.lanes.clone())
    }

    /// Returns the findings about each server that commands are sent to, as far as it is known.
    pub(super) fn findings(&self) -> Vec<Arc<Findings>> {
        self.lock().members.all().iter().map(|member| member.lanes.findings().clone()).collect()
    }

    /// Asks the cluster for its masters, and returns them for a new subscription, with the number
    /// of [additions](Self::grows_from) at that moment.
    pub(super) async fn participants(
        &self,
        beginning: &str,
    ) -> Result<(Vec<Participant>, u64), StoreError> {
        let (members, additions) = self.discover().await?;
        let ids = members.iter().filter_map(|member| member.id.clone()).collect();
        let ids: Arc<BTreeSet<_>> = Arc::new(ids);
        let participants = members.into_iter().filter_map(|member| {
            let key = member.own_key(beginning);
            let standing = Standing::new(member.id.clone()?, ids.clone(), key.as_deref());
            Some(Participant { lanes: member.lanes.clone(), standing, key })
        });
        Ok((participants.collect(), additions))
    }

    /// Waits until commands can be sent to a server that they could not be sent to when this was
    /// the number of additions.
    pub(super) async fn grows_from(&self, before: u64) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.additions.subscribe().wait_for(|additions| *additions != before).await;
    }

    /// Judges a heartbeat by the view of the master that is about to carry it out.
    pub(super) fn judge(&self, standing: &Standing, view: &View) -> Verdict {
        let now = Instant::now().into_std();
        standing.judge(view, self.elections().may_hide_a_master(view, now))
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
    async fn owner(self: &Arc<Self>, slot: u16) -> Result<Arc<Member>, StoreError> {
        self.discovered().await?;
        let owner = self.lock().members.owner(slot).cloned();
        owner.ok_or_else(|| {
            self.refresh();
            unavailable("no master of the cluster has the slot")
        })
    }

    /// Records that the server at an address has a slot, and returns that server.
    fn moved(self: &Arc<Self>, slot: u16, address: &RedisAddress) -> Arc<Member> {
        let member = self.at(address);
        self.lock().members.give(slot, address);
        self.refresh();
        member
    }

    /// Returns the server at an address.
    fn at(&self, address: &RedisAddress) -> Arc<Member> {
        let mut state = self.lock();
        if let Some(member) = state.members.at(address) {
            return member.clone();
        }
        let lanes = self.lanes(address, None, false);
        let address = address.clone();
        let member = Arc::new(Member { id: None, address, slots: Vec::new(), lanes });
        if state.closed {
            member.lanes.close();
        } else {
            state.members.add(member.clone());
        }
        // Before any command is sent to it.
        self.additions.send_modify(|additions| *additions += 1);
        member
    }

    /// Creates the connections to the server at an address, which is used only if it has this id.
    fn lanes(&self, address: &RedisAddress, id: Option<&MemberId>, keeps_time: bool) -> Arc<Lanes> {
        let time = if keeps_time { self.time.clone() } else { Arc::default() };
        let target = match id {
            Some(id) => Target::Member(address.clone(), id.clone()),
            None => Target::Fixed(address.clone()),
        };
        let moves = watch::Sender::new(0);
        Arc::new(Lanes::new(&self.config, &target, &self.dialer, &time, moves))
    }

    fn endpoint(&self, address: &RedisAddress) -> Endpoint {
        let (target, dialer) = (Target::Fixed(address.clone()), self.dialer.clone());
        Endpoint::new(&self.config, target, dialer, Arc::default(), Arc::default())
    }

    fn elections(&self) -> MutexGuard<'_, Elections> {
        self.elections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Returns a key that the server has and that is never written, for what needs a key and uses
    /// none, or `None` if the server has no slots.
    pub(super) fn idle_key(&self, prefix: &str) -> Option<String> {
        self.own_key(&beat_key(prefix))
    }
}

fn unavailable(cause: &'static str) -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source(cause)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::StreamExt as _;
    use futures_util::stream::FuturesUnordered;
    use tokio::time::sleep;

    use super::super::scripted::{about_the_only_master, scripted};
    use super::super::scripts::Scripts;
    use super::discovery::Description;
    use super::*;
    use crate::id::SessionId;

    pub(super) const ONE: &str = "one 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-8191";
    pub(super) const TWO: &str = "two 10.0.0.2:6379@16379 master - 0 0 2 connected 8192-16383";
    pub(super) const THREE: &str = "new 10.0.0.3:6379@16379 master - 0 0 3 connected";

    pub(super) fn cluster() -> Cluster {
        let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
        let config = RedisConfig::cluster(seeds.clone());
        Cluster::new(&config, &seeds, config.dialer().unwrap(), &Arc::default())
    }

    pub(super) fn answer(nodes: &[&str], epoch: u64) -> Description {
        let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
        let view = View::parse(&nodes.join("\n"), &info).unwrap();
        Description { view, endpoints: [].into(), asked: RedisAddress::tcp("10.0.0.1", 6379) }
    }

    fn owner(cluster: &Cluster, slot: u16) -> Option<String> {
        Some(cluster.lock().members.owner(slot)?.address.to_string())
    }

    fn additions(cluster: &Cluster) -> u64 {
        *cluster.additions.borrow()
    }

    fn lanes(cluster: &Cluster, host: &str) -> Option<Arc<Lanes>> {
        let address = RedisAddress::tcp(host, 6379);
        cluster.lock().members.at(&address).map(|member| member.lanes.clone())
    }

    #[tokio::test]
    async fn the_owners_of_slots_are_those_of_the_last_answer() {
        let cluster = cluster();
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 2));
        assert_eq!(owner(&cluster, 8191).as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(owner(&cluster, 8192).as_deref(), Some("10.0.0.2:6379"));
        let (one, before) = (lanes(&cluster, "10.0.0.1").unwrap(), additions(&cluster));
        let [less, more] = [ONE.replace("0-8191", "1-8191"), TWO.replace("8192", "0 8192")];
        cluster.apply(&mut cluster.lock(), &answer(&[&less, &more], 3));
        assert_eq!(owner(&cluster, 0).as_deref(), Some("10.0.0.2:6379"));
        assert!(Arc::ptr_eq(&one, &lanes(&cluster, "10.0.0.1").unwrap()), "it is the same server");
        assert_eq!(additions(&cluster), before, "commands go to the same servers");
        cluster.apply(&mut cluster.lock(), &answer(&[&less], 3));
        assert_eq!(owner(&cluster, 0), None);
        assert!(lanes(&cluster, "10.0.0.2").is_none(), "it is no master any more");
    }

    #[tokio::test]
    async fn a_server_that_commands_may_be_sent_to_is_an_addition() {
        let cluster = Arc::new(cluster());
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 2));
        let before = additions(&cluster);
        cluster.at(&RedisAddress::tcp("10.0.0.2", 6379));
        assert_eq!(additions(&cluster), before, "it is known");
        cluster.moved(0, &RedisAddress::tcp("10.0.0.4", 6379));
        assert_eq!(additions(&cluster), before + 1, "another server has named it");
        assert_eq!(owner(&cluster, 0).as_deref(), Some("10.0.0.4:6379"));
        let member = cluster.at(&RedisAddress::tcp("10.0.0.4", 6379));
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 3));
        cluster.lock().members.give(0, &member.address);
        assert_eq!(owner(&cluster, 0).as_deref(), Some("10.0.0.1:6379"), "none is worse");
        let three = THREE.replace("new", "xyz");
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO, &three], 3));
        assert_eq!(additions(&cluster), before + 2, "a master has joined");
        assert!(lanes(&cluster, "10.0.0.4").is_none(), "it was none of the masters");
        cluster.close();
        assert!(additions(&cluster) > before + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_is_held_back_asks_the_cluster_nothing() {
        let questions = Arc::new(AtomicUsize::new(0));
        let count = questions.clone();
        let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
        let (config, _) = scripted(RedisConfig::cluster(seeds.clone()), move |_, words| {
            let is_question = words[0] == "CLUSTER" && words[1] == "SLOTS";
            count.fetch_add(usize::from(is_question), Ordering::Relaxed);
            about_the_only_master(words, 1)
        });
        let dialer = config.dialer().unwrap();
        let cluster = Arc::new(Cluster::new(&config, &seeds, dialer, &Arc::default()));
        cluster.discovered().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let (id, script) = (SessionId::from_bytes([1; 16]), Scripts::new().load_without_writing);
        let request = Request::load("key", &id, &script);
        let mut loads: FuturesUnordered<_> =
            (0..=512).map(|_| cluster.carry_out(&request)).collect();
        let error = loads.next().await.unwrap().err().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Overloaded);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(questions.load(Ordering::Relaxed), 1, "at the beginning");
    }

    #[tokio::test]
    async fn all_nodes_observe_the_time_of_the_same_master() {
        let cluster = cluster();
        let keeps_time =
            |host| lanes(&cluster, host).is_some_and(|lanes| lanes.keeps_time(&cluster.time));
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 2));
        assert!(keeps_time("10.0.0.1") && !keeps_time("10.0.0.2"));
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO, THREE], 3));
        assert!(!keeps_time("10.0.0.1") && keeps_time("10.0.0.3"), "it has the first id");
    }
}
