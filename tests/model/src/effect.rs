//! The effect of each transition.

use crate::node::{Change, Heartbeat, Mark, Message};
use crate::possible::{arriving, leaving, overtaking};
use crate::rule::Rule;
use crate::step::{Event, Step};
use crate::system::System;
use crate::world::{Role, Site, Sites, Slot, TERM, Value, World};

impl System {
    /// Takes a step that is possible.
    pub(crate) fn take(&self, world: &mut World, step: Step) {
        let rules = self.rules();
        match step {
            Step::Tick => {
                world.truth.tick();
                world.node.tick();
                for server in &mut world.servers {
                    server.deposed = server.deposed.map(|age| TERM.min(age + 1));
                }
            }
            Step::Write { at, copied } => {
                world.changes -= 1;
                if let Some(value) = world.next_revision() {
                    self.change(world, at, value, copied);
                }
            }
            Step::Delete { at, copied } => {
                world.changes -= 1;
                self.change(world, at, Value::Gone, copied);
            }
            Step::Announce { at, copied } => {
                if let Some(value) = world.server(at).unannounced.take() {
                    announce(world, at, value, copied);
                }
            }
            Step::Load { at } => {
                let value = world.server(at).record.unwrap_or(Value::Gone);
                world.node.load = Some(world.node.call(at, value));
            }
            Step::Fill => world.node.fill(rules),
            Step::OwnWrite { at, copied } => {
                if let Some(value) = world.next_revision() {
                    self.own_change(world, at, value, copied);
                }
            }
            Step::OwnDelete { at, copied } => self.own_change(world, at, Value::Gone, copied),
            Step::Acknowledged => {
                if let Some(change) = world.node.change {
                    world.truth.acknowledge(change.replaces);
                }
                world.node.acknowledged(rules);
            }
            Step::Subscribe { to } => world.node.subscribe(to, to),
            Step::Heartbeat { of, copied } => self.heartbeat(world, of, copied),
            Step::Receive { of } => world.node.receive(of, 0, rules),
            Step::Overtake { of } => {
                if let Some(position) = overtaking(world, of) {
                    world.node.receive(of, position, rules);
                }
            }
            Step::Lose { of } => world.node.lose(of, rules),
            Step::Discover { from } => {
                let masters = world.server(from).masters.unwrap_or(Sites::of(&[from]));
                world.node.adopt(masters, rules);
            }
            Step::Replicate { to } => {
                if let Some(master) = world.master() {
                    let master = *world.server(master);
                    let replica = world.server(to);
                    (replica.record, replica.history) = (master.record, master.history);
                }
            }
            Step::Learn { at } => {
                world.server(at).undecided = false;
                world.server(at).masters = world.server(Site::R).masters;
            }
            Step::Demote { at } => {
                let masters = world.server(Site::R).masters;
                let server = world.server(at);
                (server.role, server.slot, server.deposed) = (Role::Replica, Slot::Elsewhere, None);
                server.masters = masters;
            }
            Step::MoveKey => {
                if let (Some(from), Some(to)) = (leaving(world), arriving(world)) {
                    world.server(to).record = world.server(from).record.take();
                }
            }
            Step::FinishMigration => {
                if let (Some(from), Some(to)) = (leaving(world), arriving(world)) {
                    give_slot(world, from, to);
                }
            }
            Step::Event(event) => {
                world.events -= 1;
                happen(world, event);
            }
        }
    }

    /// Changes the session on a server, and announces that in the same step.
    fn change(&self, world: &mut World, at: Site, value: Value, copied: bool) {
        let server = world.server(at);
        server.record = Some(value);
        match server.deposed {
            Some(age) => world.truth.lose(value, age),
            None => world.truth.change(value),
        }
        if self.keeps(Rule::OneStep) {
            announce(world, at, value, copied);
        } else {
            world.server(at).unannounced = Some(value);
        }
    }

    /// Changes the session on a server, as a call of the node.
    fn own_change(&self, world: &mut World, at: Site, value: Value, copied: bool) {
        world.own_changes -= 1;
        let server = *world.server(at);
        let survives = server.deposed.is_none();
        world.node.change = Some(Change {
            call: world.node.call(at, value),
            base: server.record.unwrap_or(Value::Gone),
            replaces: if survives { world.truth.versions_before(value) } else { 0 },
        });
        self.change(world, at, value, copied);
    }

    /// Carries out a heartbeat that is sent now.
    fn heartbeat(&self, world: &mut World, of: Site, copied: bool) {
        let is_own = self.keeps(Rule::OwnConnection);
        let Some(subscription) = &mut world.node.subscriptions[of as usize] else { return };
        let at = if is_own { subscription.at } else { of };
        let server = world.servers[at as usize];
        if server.role != Role::Master && self.keeps(Rule::ProofByWriting) {
            return world.node.lose(of, self.rules());
        }
        let masters = server.masters.map(|masters| {
            let slotless = masters.iter().filter(|site| world.servers[*site as usize].slotless);
            let is_blind = !self.keeps(Rule::SlotlessMasters);
            slotless.filter(|_| is_blind).fold(masters, Sites::without)
        });
        let heartbeat = Message::Heartbeat(Heartbeat {
            of,
            left: TERM,
            masters,
            undecided: server.undecided,
            history: server.history,
            mark_found: subscription.mark != Mark::Lost,
        });
        subscription.mark = Mark::Kept;
        if is_own {
            subscription.stream.push(heartbeat);
        } else {
            publish(world, at, heartbeat, copied);
        }
    }
}

fn announce(world: &mut World, at: Site, value: Value, copied: bool) {
    publish(world, at, Message::Announcement(value), copied);
}

/// Publishes a message on a server, and also on all others if it is copied.
fn publish(world: &mut World, at: Site, message: Message, copied: bool) {
    for subscription in world.node.subscriptions.iter_mut().flatten() {
        if subscription.is_alive && (subscription.at == at || copied) {
            subscription.stream.push(message);
        }
    }
}

/// Lets an event of the scenario happen.
fn happen(world: &mut World, event: Event) {
    match event {
        Event::Cut(site) => {
            if let Some(subscription) = &mut world.node.subscriptions[site as usize] {
                subscription.is_alive = false;
            }
        }
        Event::Land { to, at } => world.node.subscribe(to, at),
        Event::Flush(at) => world.replace_data(at, Value::Gone),
        Event::Restore(at) => world.replace_data(at, Value::Revision(1)),
        Event::Switch { from, to } => {
            world.server(from).role = Role::Replica;
            world.server(from).slot = Slot::Elsewhere;
            world.promote(to);
        }
        Event::Failover { known } => {
            world.server(Site::M).deposed = Some(0);
            world.promote(Site::R);
            world.server(Site::R).masters = Some(Sites::of(&[Site::R, Site::N]));
            // Its vote has elected the replica.
            world.server(Site::N).undecided = true;
            if known {
                world.server(Site::N).undecided = false;
                world.server(Site::N).masters = world.server(Site::R).masters;
            }
        }
        Event::Join(site) => {
            let masters = Some(Sites::of(&[Site::M, site]));
            world.server(Site::M).masters = masters;
            let server = world.server(site);
            (server.role, server.slotless, server.masters) = (Role::Master, true, masters);
        }
        Event::Migrate { from, to } => {
            world.server(from).slot = Slot::Leaving;
            world.server(to).slot = Slot::Arriving;
        }
        Event::MigrateAtOnce { from, to } => {
            world.server(to).record = world.server(from).record.take();
            give_slot(world, from, to);
        }
    }
}

/// Ends a migration.
fn give_slot(world: &mut World, from: Site, to: Site) {
    world.server(from).slot = Slot::Elsewhere;
    let server = world.server(to);
    (server.slot, server.slotless) = (Slot::Owned, false);
}
