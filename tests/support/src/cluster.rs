//! A Redis Cluster on this machine: masters with replicas, whose roles, slots and links change.

mod bus;
mod migration;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use self::bus::Bus;
use self::view::{View, majority};
use crate::files::Files;
use crate::redis::{RedisServer, free_port};
use crate::sentinel::{PASSWORD, Protection};
use crate::tls::{Authority, certificates};
use crate::wait::eventually;

const SLOTS: usize = 16384;

/// A cluster. Its members are numbered: first the masters, then a first replica of each of them,
/// then a second one.
pub struct RedisCluster {
    members: BTreeMap<usize, Member>,
    /// The ports of the first masters.
    seeds: Vec<u16>,
    /// The links between members, if they can be cut.
    bus: Option<Bus>,
    /// The arguments that all members have in common.
    args: Vec<String>,
    has_tls: bool,
    _files: Files,
}

struct Member {
    server: RedisServer,
    id: String,
    /// The port for clients, which other members use, too.
    port: u16,
    /// The port of the bus that other members know.
    bus_port: u16,
    /// The master and its replicas have this number in common, whichever of them is the master.
    shard: usize,
}

/// What a cluster is like.
pub struct Options<'a> {
    /// What members ask of clients. With TLS, they use it among each other, too, and serve tests'
    /// own commands over another port without it.
    pub protection: Protection<'a>,
    /// A member that has not answered for this time is taken for down, and a master that reaches
    /// only a minority of masters for this time stops serving.
    pub node_timeout: Duration,
    /// Links between members can be cut.
    pub can_cut_bus: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        let node_timeout = Duration::from_secs(1);
        Options { protection: Protection::Nothing, node_timeout, can_cut_bus: false }
    }
}

impl RedisCluster {
    pub async fn start(masters: usize, replicas_of_each: usize) -> Self {
        Self::with(masters, replicas_of_each, Options::default()).await
    }

    /// Starts a cluster whose masters share the slots equally, and waits until it has settled.
    pub async fn with(masters: usize, replicas_of_each: usize, options: Options<'_>) -> Self {
        let files = Files::new();
        let node_timeout = options.node_timeout.as_millis().to_string();
        let mut args = owned(&[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            &node_timeout,
            "--cluster-allow-replica-migration",
            "no",
            "--cluster-announce-ip",
            "127.0.0.1",
        ]);
        let has_tls = matches!(options.protection, Protection::Tls(_));
        args.extend(protect(&options.protection, &files));
        let bus = options.can_cut_bus.then(Bus::start);
        let (members, seeds) = (BTreeMap::new(), Vec::new());
        let mut cluster = RedisCluster { members, seeds, bus, args, has_tls, _files: files };

        for index in 0..masters * (1 + replicas_of_each) {
            let member = cluster.start_member(index, index % masters);
            let () =
                member.server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            if index < masters {
                let first = index * SLOTS / masters;
                let last = (index + 1) * SLOTS / masters - 1;
                let range = [first.to_string(), last.to_string()];
                let () = member.server.command(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
                cluster.seeds.push(member.port);
            }
            cluster.introduce(&member);
            cluster.members.insert(index, member);
        }
        eventually(async || cluster.is_connected().await, "the members know each other").await;
        for (index, replica) in cluster.members.iter().skip(masters) {
            let master = cluster.id(index % masters);
            let () = replica.server.command(&["CLUSTER", "REPLICATE", master]);
        }
        cluster.has_settled().await;
        cluster
    }

    fn start_member(&self, index: usize, shard: usize) -> Member {
        let link = self.bus.as_ref().map(|bus| bus.listen(index));
        let (mut tls_port, mut bus_port) = (0, 0);
        let server = RedisServer::with_new_args(|| {
            (tls_port, bus_port) = (free_port(), free_port());
            let mut args = self.args.clone();
            args.extend(owned(&["--cluster-port", &bus_port.to_string()]));
            if self.has_tls {
                args.extend(owned(&["--tls-port", &tls_port.to_string()]));
            }
            if let Some(link) = &link {
                args.extend(owned(&[
                    "--bind-source-addr",
                    &link.source().to_string(),
                    // The protected mode would refuse replicas with such an address.
                    "--protected-mode",
                    "no",
                    "--replica-announce-ip",
                    "127.0.0.1",
                    "--cluster-announce-bus-port",
                    &link.port().to_string(),
                ]));
            }
            args
        });
        let id = server.command(&["CLUSTER", "MYID"]);
        let port = if self.has_tls { tls_port } else { server.port() };
        if let Some(link) = link {
            let announced = link.port();
            link.lead_to(bus_port);
            bus_port = announced;
        }
        Member { server, id, port, bus_port, shard }
    }

    /// Makes a new member and all others know each other.
    fn introduce(&self, newcomer: &Member) {
        for member in self.members.values() {
            let (port, bus_port) = (member.port.to_string(), member.bus_port.to_string());
            let () = newcomer.server.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
        }
    }

    /// Waits until all members know each other and agree who has which slots, and all replicas
    /// have synchronised with their masters. All members must be up.
    pub async fn has_settled(&self) {
        eventually(async || self.is_settled().await, "the cluster has settled").await;
    }

    /// Returns the part of a URL after the scheme and the credentials, with these parameters. It
    /// names the first masters.
    pub fn address(&self, parameters: &str) -> String {
        let nodes = self.seeds.iter().map(|port| format!("127.0.0.1:{port}"));
        let nodes = nodes.collect::<Vec<_>>().join("&node=");
        (nodes + parameters).replacen('&', "?", 1)
    }

    /// Returns a URL without passwords or TLS.
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", self.address(""))
    }

    pub fn server(&self, index: usize) -> &RedisServer {
        &self.members[&index].server
    }

    pub fn server_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.members.get_mut(&index).expect("the index of a member").server
    }

    /// Returns the servers of all members, with their indexes.
    pub fn servers(&self) -> impl Iterator<Item = (usize, &RedisServer)> {
        self.members.iter().map(|(index, member)| (*index, &member.server))
    }

    /// Returns the id by which the members know one of them.
    pub fn id(&self, index: usize) -> &str {
        &self.members[&index].id
    }

    /// Returns the port for clients.
    pub fn port(&self, index: usize) -> u16 {
        self.members[&index].port
    }

    /// Returns the slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        let answer = |server: &RedisServer| server.try_command(&["CLUSTER", "KEYSLOT", key]).ok();
        self.servers().find_map(|(_, server)| answer(server)).expect("a member answers")
    }

    /// Returns the index of the master that has a slot, as soon as most masters agree on it.
    pub async fn owner(&self, slot: u16) -> usize {
        let agreed = async || {
            let views = self.views_of_masters().await;
            let owner = |view: &View| self.index(view.owner(slot)?);
            majority(&views.values().map(owner).collect::<Vec<_>>())
        };
        eventually(agreed, "most masters agree who has the slot").await
    }

    fn index(&self, id: &str) -> Option<usize> {
        self.members.keys().copied().find(|index| self.id(*index) == id)
    }

    /// Adds a master without slots, and returns its index.
    pub async fn add_master(&mut self) -> usize {
        let index = self.members.last_key_value().map_or(0, |(last, _)| last + 1);
        let member = self.start_member(index, index);
        self.introduce(&member);
        self.members.insert(index, member);
        self.has_settled().await;
        index
    }

    /// Removes a master without slots and replicas from the cluster, and kills it.
    pub async fn remove_master(&mut self, index: usize) {
        let removed = self.members.remove(&index).expect("the index of a member");
        for (_, server) in self.servers() {
            // Fails if the member has heard of it from another one.
            let _ = server.try_command::<()>(&["CLUSTER", "FORGET", &removed.id]);
        }
        drop(removed);
        self.has_settled().await;
    }

    /// Orders a replica to become the master, for which the old one pauses writes.
    pub fn fail_over(&self, replica: usize) {
        let () = self.server(replica).command(&["CLUSTER", "FAILOVER"]);
    }

    /// Waits until most of the other masters know that a replica has taken the place of a master.
    /// Returns the new master.
    pub async fn has_failed_over(&self, from: usize) -> usize {
        let shard = self.members[&from].shard;
        let successors = || {
            let others = self.members.iter().filter(|(index, _)| **index != from);
            others.filter(|(_, member)| member.shard == shard)
        };
        let switched = async || {
            let mut views = self.views_of_masters().await;
            views.remove(&from);
            let named = |view: &View| {
                let has_slots = |id| view.nodes.get(id).is_some_and(|node| !node.slots.is_empty());
                successors().find(|(_, member)| has_slots(&member.id)).map(|(index, _)| *index)
            };
            majority(&views.values().map(named).collect::<Vec<_>>())
        };
        eventually(switched, "a replica takes the place of the master").await
    }

    /// Closes the links between two members, and new ones. Replication and clients are unaffected.
    pub fn cut_bus(&self, one: usize, other: usize) {
        self.bus().cut(one, other);
    }

    /// Ends [`cut_bus`](Self::cut_bus).
    pub fn heal_bus(&self, one: usize, other: usize) {
        self.bus().heal(one, other);
    }

    /// Cuts the links of a member to all others.
    pub fn isolate(&self, index: usize) {
        self.members.keys().for_each(|other| self.cut_bus(index, *other));
    }

    /// Ends [`isolate`](Self::isolate).
    pub fn rejoin(&self, index: usize) {
        self.members.keys().for_each(|other| self.heal_bus(index, *other));
    }

    fn bus(&self) -> &Bus {
        self.bus.as_ref().expect("the options of the cluster ask for it")
    }
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// Returns the arguments of servers that ask this of their clients.
fn protect(protection: &Protection<'_>, files: &Files) -> Vec<String> {
    match protection {
        Protection::Nothing => Vec::new(),
        Protection::Passwords => {
            owned(&["--user", "app", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"])
        }
        Protection::Tls(authority) => encrypt(authority, files),
    }
}

fn encrypt(authority: &Authority, files: &Files) -> Vec<String> {
    let own = ["--tls-cluster", "yes", "--tls-replication", "yes", "--tls-auth-clients", "no"];
    [owned(&own), certificates(files, authority, &authority.issue("127.0.0.1"))].concat()
}
