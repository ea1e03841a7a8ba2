//! The states in which each transition is possible.

use crate::node::Message;
use crate::rule::Rule;
use crate::step::{Event, Step};
use crate::system::System;
use crate::world::{Role, SITES, Site, Slot, Value, World};

impl System {
    /// Returns `true` if the step is possible in this state.
    pub(crate) fn is_possible(&self, world: &World, step: Step) -> bool {
        let node = &world.node;
        let server = |site: Site| &world.servers[site as usize];
        let is_read = |site: Site, copied: bool| {
            let alive = || node.subscriptions.iter().flatten().filter(|it| it.is_alive);
            !copied || alive().any(|subscription| subscription.at != site)
        };
        let has_session = |site: Site| {
            world.serves(site) && matches!(server(site).record, Some(Value::Revision(_)))
        };
        let can_write = |site: Site| has_session(site) && world.next_revision().is_some();
        match step {
            Step::Tick => true,
            Step::Write { at, copied } => world.changes > 0 && can_write(at) && is_read(at, copied),
            Step::Delete { at, copied } => {
                world.changes > 0 && has_session(at) && is_read(at, copied)
            }
            Step::Announce { at, copied } => {
                server(at).unannounced.is_some() && is_read(at, copied)
            }
            Step::Load { at } => {
                let is_refused =
                    server(at).role != Role::Replica || self.keeps(Rule::LoadFromMaster);
                node.load.is_none() && (world.serves(at) || !is_refused)
            }
            Step::Fill => node.load.is_some(),
            Step::OwnWrite { at, copied } => {
                let may_change = world.own_changes > 0 && node.change.is_none();
                may_change && can_write(at) && is_read(at, copied)
            }
            Step::OwnDelete { at, copied } => {
                let may_change = world.own_changes > 0 && node.change.is_none();
                may_change && has_session(at) && is_read(at, copied)
            }
            Step::Acknowledged => node.change.is_some(),
            Step::Subscribe { to } => node.masters.contain(to) && node.subscription(to).is_none(),
            Step::Heartbeat { of, copied } => self.may_send_heartbeat(world, of, copied),
            Step::Receive { of } => {
                node.subscription(of).is_some_and(|subscription| !subscription.stream.is_empty())
            }
            Step::Overtake { of } => !self.keeps(Rule::OneQueue) && overtaking(world, of).is_some(),
            Step::Lose { of } => {
                node.subscription(of).is_some_and(|subscription| !subscription.is_alive)
            }
            Step::Discover { from } => match server(from).masters {
                Some(masters) => masters != node.masters && self.keeps(Rule::OneView),
                None => {
                    let is_free = node.subscriptions.iter().all(Option::is_none);
                    is_free && world.serves(from) && !node.masters.contain(from)
                }
            },
            Step::Replicate { to } => {
                let copy =
                    world.master().map(|master| (server(master).record, server(master).history));
                let own = (server(to).record, server(to).history);
                server(to).role == Role::Replica && copy.is_some_and(|copy| copy != own)
            }
            Step::Learn { at } => server(at).undecided,
            Step::Demote { at } => server(at).deposed.is_some(),
            Step::MoveKey => leaving(world).is_some_and(|from| server(from).record.is_some()),
            Step::FinishMigration => {
                leaving(world).is_some_and(|from| server(from).record.is_none())
            }
            Step::Event(event) => world.events > 0 && self.may_happen(world, event),
        }
    }

    fn may_send_heartbeat(&self, world: &World, of: Site, copied: bool) -> bool {
        let node = &world.node;
        let Some(subscription) = node.subscription(of) else { return false };
        // One at a time: an earlier one would only prove less.
        let is_pending = node.subscriptions.iter().flatten().any(|subscription| {
            subscription
                .stream
                .iter()
                .any(|message| matches!(message, Message::Heartbeat(it) if it.of == of))
        });
        if self.keeps(Rule::OwnConnection) {
            !is_pending && subscription.is_alive && !copied
        } else {
            !is_pending
        }
    }

    fn may_happen(&self, world: &World, event: Event) -> bool {
        let server = |site: Site| &world.servers[site as usize];
        let may_migrate = |from: Site, to: Site| {
            let knows = server(from).masters.is_some_and(|masters| masters.contain(to));
            knows && server(from).slot == Slot::Owned && server(to).slot == Slot::Elsewhere
        };
        let subscription = |site: Site| world.node.subscription(site);
        match event {
            Event::Cut(site) => subscription(site).is_some_and(|it| it.is_alive),
            Event::Land { to, at } => {
                let is_wanted = world.node.masters.contain(to) && subscription(to).is_none();
                is_wanted && server(at).role != Role::Away && !self.keeps(Rule::SameServer)
            }
            Event::Flush(at) => world.serves(at) && server(at).record != Some(Value::Gone),
            Event::Restore(at) => world.serves(at) && server(at).record != Some(Value::Revision(1)),
            Event::Switch { from, to } => {
                server(from).role == Role::Master && server(to).role == Role::Replica
            }
            Event::Failover { .. } => server(Site::R).role == Role::Replica,
            Event::Join(site) => server(site).role == Role::Away,
            Event::Migrate { from, to } | Event::MigrateAtOnce { from, to } => {
                may_migrate(from, to)
            }
        }
    }
}

/// Returns the server from which the slot is migrating.
pub(crate) fn leaving(world: &World) -> Option<Site> {
    SITES.into_iter().find(|site| world.servers[*site as usize].slot == Slot::Leaving)
}

/// Returns the server to which the slot is migrating.
pub(crate) fn arriving(world: &World) -> Option<Site> {
    SITES.into_iter().find(|site| world.servers[*site as usize].slot == Slot::Arriving)
}

/// Returns the position of a heartbeat in a stream that could overtake other messages.
pub(crate) fn overtaking(world: &World, of: Site) -> Option<usize> {
    let stream = &world.node.subscription(of)?.stream;
    let position = stream.iter().position(|message| matches!(message, Message::Heartbeat(_)))?;
    (position > 0).then_some(position)
}
