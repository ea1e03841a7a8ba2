//! The normal form of a state: states that differ only in what cannot matter any more are one.
//!
//! A result that cannot be cached any more is forgotten, and so is a version that nobody has.
//! Revisions are compared for equality only, and by the contract for their order, so those that are
//! left get the lowest numbers.

use crate::node::{Call, Change, Mark, Message, Node, Seen};
use crate::rule::Rules;
use crate::world::{Value, World};

/// What may still matter in a scenario, and is not forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The first revision, which may come back although nobody has it.
    pub first_revision: bool,
    /// What a subscription knows of the history of its server.
    pub histories: bool,
}

impl World {
    /// Brings the state into its normal form.
    pub fn normalise(&mut self, rules: Rules, kept: Kept) {
        self.node.forget(rules);
        if !kept.histories {
            for subscription in self.node.subscriptions.iter_mut().flatten() {
                (subscription.mark, subscription.history) = (Mark::None, None);
            }
        }
        let names = Names::of_versions_in(self, kept.first_revision);
        self.rename(&names);
    }

    /// Gives new names to all versions.
    fn rename(&mut self, names: &Names) {
        self.truth.rename(names);
        for server in &mut self.servers {
            for value in server.record.iter_mut().chain(&mut server.unannounced) {
                names.replace(value);
            }
        }
        let node = &mut self.node;
        for subscription in node.subscriptions.iter_mut().flatten() {
            for message in &mut subscription.stream {
                if let Message::Announcement(value) = message {
                    names.replace(value);
                }
            }
        }
        if let Some(value) = &mut node.entry {
            names.replace(value);
        }
        if let Some(change) = &mut node.change {
            names.replace(&mut change.base);
            let replaces = change.replaces;
            let kept = names.iter().filter(|(old, _)| replaces & 1 << old != 0);
            change.replaces = kept.fold(0, |bits, (_, name)| bits | 1 << name.index());
        }
        for call in node.calls() {
            names.replace(&mut call.value);
            if let Seen::Revision(value) = &mut call.seen {
                names.replace(value);
            }
        }
    }
}

impl Node {
    /// Forgets what cannot be cached any more, and proof that extends nothing.
    fn forget(&mut self, rules: Rules) {
        self.load = self.load.filter(|load| load.may_be_admitted(rules));
        if let Some(Change { call, base, .. }) = &mut self.change
            && !call.may_be_admitted(rules)
        {
            *base = Value::Gone;
            *call = Call {
                value: call.value,
                seen: Seen::Changed,
                under_lease: false,
                in_epoch: false,
                by_confirmed: false,
            };
        }
        for subscription in self.subscriptions.iter_mut().flatten() {
            if subscription.proof <= self.lease {
                subscription.proof = 0;
            }
        }
    }
}

/// New names for the versions that a node or a server still has.
#[derive(Debug)]
pub struct Names([Option<Value>; Value::COUNT]);

impl Names {
    /// Returns names for the versions that are still there, in their order.
    fn of_versions_in(world: &World, keep_first: bool) -> Names {
        let mut is_there = [false; Value::COUNT];
        is_there[1] = keep_first;
        for value in world.versions() {
            is_there[value.index()] = true;
        }
        let mut names = [None; Value::COUNT];
        names[Value::Gone.index()] = Some(Value::Gone);
        let left = (1..Value::COUNT).filter(|index| is_there[*index]);
        for (name, index) in (1..).zip(left) {
            names[index] = Some(Value::Revision(name));
        }
        Names(names)
    }

    /// Returns the new name of a version, if it is still there.
    pub fn of(&self, value: Value) -> Option<Value> {
        self.0[value.index()]
    }

    /// Returns the old and the new name of each version that is still there.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Value)> {
        self.0.iter().enumerate().filter_map(|(old, name)| Some((old, (*name)?)))
    }

    /// Replaces the name of a version. One that is not there any more is equal to no other, like
    /// `Gone` in an announcement.
    fn replace(&self, value: &mut Value) {
        *value = self.of(*value).unwrap_or(Value::Gone);
    }
}
