//! The state of the model: servers, one node, and what the node may read.
//!
//! All is plain data about one session. There is no absolute time: durations are counted in ticks
//! and saturate at [`TERM`], so that the number of states is finite although time has no end.

use crate::node::{Mark, Node};
use crate::truth::Truth;

/// The term of a lease in ticks, and the bound of staleness.
pub const TERM: u8 = 2;

/// A version of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// There is no session.
    Gone,
    /// A record with this revision.
    Revision(u8),
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// A master, which has the session's slot at first.
    M,
    /// Another master.
    N,
    /// A replica of `M` at first.
    R,
}

/// All servers.
pub const SITES: [Site; 3] = [Site::M, Site::N, Site::R];

/// A set of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sites(u8);

/// All that can change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The servers, in the order of [`SITES`].
    pub servers: [Server; SITES.len()],
    /// The node whose cache is checked.
    pub node: Node,
    /// The versions that the node may serve.
    pub truth: Truth,
    /// Number of changes that other nodes may still make.
    pub changes: u8,
    /// Number of changes that the node itself may still make.
    pub own_changes: u8,
    /// Number of events that may still happen to servers and links.
    pub events: u8,
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its present role, as it sees it itself.
    pub role: Role,
    /// Its relation to the slot of the session.
    pub slot: Slot,
    /// The session as this server has it. `None` if it does not have the key: see [`Slot`].
    pub record: Option<Value>,
    /// The masters that it knows. `None` on a server that is not part of a cluster.
    pub masters: Option<Sites>,
    /// It is a master that has no slots at all.
    pub slotless: bool,
    /// It has voted in an election, and does not know the winner yet.
    pub undecided: bool,
    /// Ticks since another server was promoted in its place, if it does not know that yet. It still
    /// accepts changes, which are lost.
    pub deposed: Option<u8>,
    /// Its replication id.
    pub history: u8,
    /// A change that was made and is still to be announced, if these are two steps.
    pub unannounced: Option<Value>,
}

/// The role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not a member of the cluster.
    Away,
    /// It accepts writes.
    Master,
    /// It refuses writes.
    Replica,
}

/// The relation of a server to the slot of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// It redirects commands to another server (`MOVED`).
    Elsewhere,
    /// It carries commands out.
    Owned,
    /// The slot is migrating away: it carries commands out if it has the key, and otherwise sends
    /// them to the server where the slot arrives (`ASK`).
    Leaving,
    /// The slot is arriving: it carries out what is sent by `ASK`.
    Arriving,
}

impl Value {
    /// Number of versions: `Gone`, and the revisions from 1 on.
    pub const COUNT: usize = 5;

    /// Returns a number below [`COUNT`](Self::COUNT) that identifies the version.
    pub fn index(self) -> usize {
        match self {
            Value::Gone => 0,
            Value::Revision(number) => usize::from(number),
        }
    }
}

impl Sites {
    /// Returns the set of these servers.
    pub const fn of(sites: &[Site]) -> Sites {
        let (mut set, mut at) = (0, 0);
        while at < sites.len() {
            set |= 1 << sites[at] as u8;
            at += 1;
        }
        Sites(set)
    }

    /// Returns `true` if the server belongs to the set.
    pub fn contain(self, site: Site) -> bool {
        self.0 & (1 << site as u8) != 0
    }

    /// Returns the set without a server.
    pub fn without(self, site: Site) -> Sites {
        Sites(self.0 & !(1 << site as u8))
    }

    /// Returns the servers of the set.
    pub fn iter(self) -> impl Iterator<Item = Site> {
        SITES.into_iter().filter(move |site| self.contain(*site))
    }
}

impl World {
    /// Returns a server.
    pub fn server(&mut self, site: Site) -> &mut Server {
        &mut self.servers[site as usize]
    }

    /// Returns `true` if the server carries out a command about the session.
    pub fn serves(&self, site: Site) -> bool {
        let server = &self.servers[site as usize];
        server.role == Role::Master
            && match server.slot {
                Slot::Elsewhere => false,
                Slot::Owned => true,
                Slot::Leaving | Slot::Arriving => server.record.is_some(),
            }
    }

    /// Returns the versions that the node or a server has.
    pub fn versions(&self) -> impl Iterator<Item = Value> {
        let node = &self.node;
        let calls = node.load.iter().chain(node.change.iter().map(|change| &change.call));
        let by_node = node.entry.into_iter().chain(calls.map(|call| call.value));
        let by_node = by_node.chain(node.change.iter().map(|change| change.base));
        by_node.chain(self.servers.iter().filter_map(|server| server.record))
    }

    /// Returns the server that has the slot in the history that survives.
    pub fn master(&self) -> Option<Site> {
        let is_master = |site: &Site| {
            let server = &self.servers[*site as usize];
            self.serves(*site) && server.deposed.is_none()
        };
        SITES.into_iter().find(is_master)
    }

    /// Returns a revision that is not in use.
    pub fn next_revision(&self) -> Option<Value> {
        let last = self.versions().map(Value::index).max();
        let next = last.unwrap_or(0).max(1) + 1;
        (next < Value::COUNT).then_some(Value::Revision(next as u8))
    }

    /// Makes a replica the master of what it has, under a new replication id.
    pub fn promote(&mut self, site: Site) {
        let history = self.servers.iter().map(|server| server.history).max();
        let server = self.server(site);
        (server.role, server.slot) = (Role::Master, Slot::Owned);
        server.history = history.unwrap_or(0) + 1;
        let survives = server.record.unwrap_or(Value::Gone);
        self.rewind(survives);
    }

    /// Replaces the data of a server, heartbeats included, without an announcement.
    pub fn replace_data(&mut self, site: Site, value: Value) {
        self.server(site).record = Some(value);
        for subscription in self.node.subscriptions.iter_mut().flatten() {
            if subscription.at == site && subscription.mark == Mark::Kept {
                subscription.mark = Mark::Lost;
            }
        }
        self.rewind(value);
    }

    /// Makes this version the present one. If that is another one than before, a change of the node
    /// that is not acknowledged yet is lost.
    fn rewind(&mut self, value: Value) {
        if self.truth.rewind(value)
            && let Some(change) = &mut self.node.change
        {
            change.replaces = 0;
        }
    }
}
