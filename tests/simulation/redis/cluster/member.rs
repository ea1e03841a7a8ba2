//! What a server of the simulated cluster believes about the cluster, and what it makes of what it
//! hears. Pure.
//!
//! It follows the cluster specification: a server speaks for its own slots only, the higher
//! configuration epoch wins, and whoever claims slots that it has lost is told so.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::super::resp::{array, bulk, integer};

/// Number of blocks of slots. A block moves as a whole.
const BLOCKS: usize = 4;
/// The block that has nearly all slots, and so all sessions: ids are random, but a seed must give
/// the same history each time.
const SESSIONS: usize = 0;
/// Number of slots of each other block.
const SMALL: u16 = 20;
/// Stands for the owner of slots that have none.
const NOBODY: usize = usize::MAX;
const SLOTS: u16 = 16384;
/// The port of the first server.
pub(super) const FIRST_PORT: u16 = 7000;

/// A server of a cluster.
#[derive(Clone)]
pub(in super::super) struct Member {
    myself: usize,
    peers: BTreeMap<usize, Peer>,
    owners: [usize; BLOCKS],
    current_epoch: u64,
    last_vote: u64,
    has_voted: bool,
    /// `true` if the server has lost most masters.
    pub(super) is_cut_off: bool,
    /// Where the sessions are on their way to.
    pub(super) migrating: Option<usize>,
    /// Where the sessions come from.
    pub(super) importing: Option<usize>,
    /// The server that was forgotten last. It comes back only when it joins again.
    forgotten: Option<usize>,
}

#[derive(Clone, Copy)]
struct Peer {
    /// `None` if it is a master.
    replica_of: Option<usize>,
    epoch: u64,
}

/// What a server says about itself.
#[derive(Clone)]
pub(in super::super) struct Claim {
    from: usize,
    peer: Peer,
    blocks: Vec<usize>,
    current_epoch: u64,
    /// The servers that it knows.
    known: Vec<usize>,
}

impl Member {
    /// Creates a server of a cluster of three masters and a replica of the first.
    pub(super) fn new(myself: usize) -> Self {
        let master = |it| (it, Peer { replica_of: None, epoch: it as u64 + 1 });
        let replica = (3, Peer { replica_of: Some(0), epoch: 1 });
        Member {
            myself,
            peers: (0..3).map(master).chain([replica]).collect(),
            owners: [0, 0, 1, 2],
            current_epoch: 3,
            last_vote: 0,
            has_voted: false,
            is_cut_off: false,
            migrating: None,
            importing: None,
            forgotten: None,
        }
    }

    /// Creates a server that knows nobody yet.
    pub(super) fn stranger(myself: usize) -> Self {
        let alone = BTreeMap::from([(myself, Peer { replica_of: None, epoch: 0 })]);
        Member { peers: alone, owners: [NOBODY; BLOCKS], current_epoch: 0, ..Member::new(myself) }
    }

    pub(super) fn is_master(&self) -> bool {
        self.peers[&self.myself].replica_of.is_none()
    }

    pub(super) fn owner_of_sessions(&self) -> usize {
        self.owners[SESSIONS]
    }

    /// Returns what the server says about itself.
    pub(super) fn claim(&self) -> Claim {
        self.claim_of(self.myself)
    }

    fn claim_of(&self, from: usize) -> Claim {
        Claim {
            from,
            peer: self.peers[&from],
            blocks: (0..BLOCKS).filter(|block| self.owners[*block] == from).collect(),
            current_epoch: self.current_epoch,
            known: self.peers.keys().copied().collect(),
        }
    }

    /// Makes the server know another one, which an operator has named.
    pub(super) fn meet(&mut self, other: usize) {
        self.peers.entry(other).or_insert(Peer { replica_of: None, epoch: 0 });
    }

    /// Lets a server that was forgotten come back.
    pub(super) fn forgive(&mut self) {
        self.forgotten = None;
    }

    /// Makes the server forget another one.
    pub(super) fn forget(&mut self, other: usize) {
        self.forgotten = Some(other);
        self.peers.remove(&other);
        for owner in self.owners.iter_mut().filter(|owner| **owner == other) {
            *owner = NOBODY;
        }
    }

    pub(super) fn knows(&self, other: usize) -> bool {
        self.peers.contains_key(&other)
    }

    /// Hears what another server says about itself. Returns what that one must be told.
    pub(super) fn hear(&mut self, claim: &Claim) -> Vec<Claim> {
        if !self.peers.contains_key(&claim.from) || claim.from == self.myself {
            return Vec::new();
        }
        self.current_epoch = self.current_epoch.max(claim.current_epoch).max(claim.peer.epoch);
        for known in claim.known.iter().filter(|known| self.forgotten != Some(**known)) {
            self.peers.entry(*known).or_insert(Peer { replica_of: None, epoch: 0 });
        }
        let before = self.peers.insert(claim.from, claim.peer);
        if claim.peer.replica_of.is_some() {
            return Vec::new();
        }
        let mut outdated = Vec::new();
        for block in &claim.blocks {
            let owner = self.owners[*block];
            let epoch = self.peers.get(&owner).map_or(0, |owner| owner.epoch);
            if owner == claim.from {
                continue;
            } else if claim.peer.epoch > epoch {
                self.owners[*block] = claim.from;
            } else if claim.peer.epoch < epoch {
                outdated.push(self.claim_of(owner));
            }
        }
        self.avoid_collision(claim);
        // It has lost everything to a replica of its own, which has won an election.
        let was_my_replica = before.is_some_and(|peer| peer.replica_of == Some(self.myself));
        if was_my_replica && !self.owners.contains(&self.myself) {
            self.follow(claim.from);
        }
        outdated
    }

    /// Of two masters with the same configuration epoch, the one with the lower id takes another.
    fn avoid_collision(&mut self, other: &Claim) {
        let mine = self.peers[&self.myself];
        if self.is_master() && mine.epoch == other.peer.epoch && self.myself < other.from {
            self.current_epoch += 1;
            let epoch = self.current_epoch;
            self.peers.insert(self.myself, Peer { epoch, ..mine });
        }
    }

    /// Makes the server a replica.
    fn follow(&mut self, master: usize) {
        let epoch = self.peers[&master].epoch;
        self.peers.insert(self.myself, Peer { replica_of: Some(master), epoch });
        (self.migrating, self.importing) = (None, None);
    }

    /// Begins an election. Returns its epoch.
    pub(super) fn stand(&mut self) -> u64 {
        self.current_epoch += 1;
        self.current_epoch
    }

    /// Votes for a candidate in this epoch. Returns `false` if the server does not.
    pub(super) fn vote(&mut self, epoch: u64) -> bool {
        let votes = self.is_master()
            && self.owners.contains(&self.myself)
            && epoch >= self.current_epoch
            && epoch > self.last_vote;
        self.current_epoch = self.current_epoch.max(epoch);
        if votes {
            (self.last_vote, self.has_voted) = (epoch, true);
        }
        votes
    }

    /// Takes over everything that the server's master had, after an election.
    pub(super) fn win(&mut self, epoch: u64) {
        let Some(master) = self.peers[&self.myself].replica_of else { return };
        self.peers.insert(self.myself, Peer { replica_of: None, epoch });
        for owner in self.owners.iter_mut().filter(|owner| **owner == master) {
            *owner = self.myself;
        }
    }

    /// Makes a server the owner of the sessions, as the operator says. The new owner raises its
    /// configuration epoch above all others.
    pub(super) fn assign_sessions(&mut self, owner: usize) {
        (self.migrating, self.importing) = (None, None);
        self.owners[SESSIONS] = owner;
        if owner == self.myself {
            self.current_epoch += 1;
            let epoch = self.current_epoch;
            self.peers.insert(owner, Peer { replica_of: None, epoch });
        }
    }

    /// Returns the reply to a command about a key, if it is to go elsewhere.
    pub(in super::super) fn redirect(
        &self,
        key: &[u8],
        exists: bool,
        is_asking: bool,
    ) -> Option<String> {
        let slot = slot_of(key);
        let block = (0..BLOCKS).find(|block| slots(*block).contains(&slot))?;
        let to = |how: &str, owner: usize| {
            Some(format!("-{how} {slot} simulated:{}\r\n", FIRST_PORT + owner as u16))
        };
        if self.is_cut_off {
            return Some("-CLUSTERDOWN The cluster is down\r\n".to_owned());
        }
        let imports = block == SESSIONS && self.importing.is_some() && is_asking;
        if imports {
            return None;
        }
        match self.owners[block] {
            NOBODY => Some("-CLUSTERDOWN Hash slot not served\r\n".to_owned()),
            owner if owner != self.myself || !self.is_master() => to("MOVED", owner),
            _ if block == SESSIONS && !exists => self.migrating.and_then(|owner| to("ASK", owner)),
            _ => None,
        }
    }

    /// Returns the reply to `CLUSTER NODES`.
    pub(in super::super) fn nodes(&self) -> String {
        let line = |(number, peer): (&usize, &Peer)| {
            let myself = if *number == self.myself { "myself," } else { "" };
            let (role, master) = match peer.replica_of {
                None => ("master", "-".to_owned()),
                Some(master) => ("slave", id(master)),
            };
            let address = format!("10.0.0.1:{}@1", FIRST_PORT + *number as u16);
            let mut line = format!(
                "{} {address},simulated {myself}{role} {master} 0 0 {} connected",
                id(*number),
                peer.epoch
            );
            for block in (0..BLOCKS).filter(|block| self.owners[*block] == *number) {
                let slots = slots(block);
                line += &format!(" {}-{}", slots.start(), slots.end());
            }
            if *number == self.myself {
                if let Some(target) = self.migrating {
                    line += &format!(" [0->-{}]", id(target));
                }
                if let Some(source) = self.importing {
                    line += &format!(" [0-<-{}]", id(source));
                }
            }
            line + "\n"
        };
        self.peers.iter().map(line).collect()
    }

    /// Returns the reply to `CLUSTER INFO`.
    pub(in super::super) fn info(&self) -> String {
        let state = if self.is_cut_off { "fail" } else { "ok" };
        let votes = if self.has_voted { "cluster_stats_messages_auth-ack_sent:1\r\n" } else { "" };
        format!(
            "cluster_state:{state}\r\ncluster_current_epoch:{}\r\n{votes}\
             cluster_stats_messages_sent:1\r\n",
            self.current_epoch
        )
    }

    /// Returns the entries of the reply to `CLUSTER SLOTS`.
    pub(in super::super) fn slots(&self) -> Vec<Vec<u8>> {
        let entry = |block: usize| {
            let (slots, owner) = (slots(block), self.owners[block]);
            let port = integer(u64::from(FIRST_PORT) + owner as u64);
            let server = array([bulk(b"simulated"), port, bulk(id(owner).as_bytes())]);
            array([integer((*slots.start()).into()), integer((*slots.end()).into()), server])
        };
        (0..BLOCKS).filter(|block| self.owners[*block] != NOBODY).map(entry).collect()
    }
}

/// Returns `true` if a key is in the slots that have the sessions.
pub(super) fn holds_sessions(key: &[u8]) -> bool {
    slots(SESSIONS).contains(&slot_of(key))
}

fn id(number: usize) -> String {
    format!("{:040x}", number + 1)
}

fn slots(block: usize) -> RangeInclusive<u16> {
    let end = |block| SLOTS - (BLOCKS - 1 - block) as u16 * SMALL;
    if block == 0 { 0..=end(0) - 1 } else { end(block - 1)..=end(block) - 1 }
}

/// Returns the slot of a key: CRC-16/XMODEM of its hash tag, if it has one.
fn slot_of(key: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(key);
    let tag = text.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let crc = tag.map_or(key, str::as_bytes).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}
