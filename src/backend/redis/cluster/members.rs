//! The servers of a cluster that commands are sent to, and which of them has which slot.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::super::config::RedisAddress;
use super::super::lanes::Lanes;
use super::slot::{SLOTS, key_in};
use super::view::MemberId;

/// A server, and the connections to it.
pub(in super::super) struct Member {
    /// `None` if all that is known is that another server has sent a request on to it.
    pub(super) id: Option<MemberId>,
    pub(super) address: RedisAddress,
    pub(super) slots: Vec<RangeInclusive<u16>>,
    pub(super) lanes: Arc<Lanes>,
}

/// All servers that commands are sent to.
#[derive(Default)]
pub(super) struct Members {
    all: Vec<Arc<Member>>,
    /// The position of the server that has each slot. Empty if nothing is known yet.
    owners: Vec<Option<usize>>,
}

impl Member {
    /// Returns a key that begins like this and that the server has, or `None` if it has no slots.
    pub(super) fn own_key(&self, beginning: &str) -> Option<String> {
        key_in(beginning, &self.slots)
    }
}

impl Members {
    /// Replaces all servers.
    pub(super) fn replace(&mut self, all: Vec<Arc<Member>>) {
        self.owners = vec![None; SLOTS.into()];
        for (position, member) in all.iter().enumerate() {
            for slot in member.slots.iter().cloned().flatten() {
                self.owners[usize::from(slot)] = Some(position);
            }
        }
        self.all = all;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the ids of the servers, as far as they are known.
    pub(super) fn ids(&self) -> impl Iterator<Item = &MemberId> {
        self.all.iter().filter_map(|member| member.id.as_ref())
    }

    pub(super) fn all(&self) -> &[Arc<Member>] {
        &self.all
    }

    /// Returns the server that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Member>> {
        self.all.get((*self.owners.get(usize::from(slot))?)?)
    }

    /// Returns the server at an address, if it is one of them.
    pub(super) fn at(&self, address: &RedisAddress) -> Option<&Arc<Member>> {
        self.all.iter().find(|member| member.address == *address)
    }

    /// Adds a server of which only the address is known.
    pub(super) fn add(&mut self, member: Arc<Member>) {
        self.all.push(member);
    }

    /// Records that the server at an address has a slot. Does nothing if it is none of the servers
    /// any more: the owner that is known is better than none.
    pub(super) fn give(&mut self, slot: u16, address: &RedisAddress) {
        let Some(position) = self.all.iter().position(|member| member.address == *address) else {
            return;
        };
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = Some(position);
        }
    }
}
