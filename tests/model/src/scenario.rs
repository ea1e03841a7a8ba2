//! The scenarios: in each, other events may happen to servers and links.

use crate::node::Node;
use crate::normal::Kept;
use crate::step::Event;
use crate::truth::Truth;
use crate::world::{Role, SITES, Server, Site, Sites, Slot, Value, World};

/// A start, and the events that may happen.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The name, as a test prints it.
    pub name: &'static str,
    /// The first state.
    pub start: World,
    /// The events, each as often as [`World::events`] allows.
    pub events: &'static [Event],
}

use Site::{M, N, R};

impl Scenario {
    /// Returns the servers that are there, or may join.
    pub fn sites(&self) -> Sites {
        let is_there = |site: &Site| {
            self.start.servers[*site as usize].role != Role::Away
                || self.events.contains(&Event::Join(*site))
        };
        Sites::of(&SITES.into_iter().filter(is_there).collect::<Vec<_>>())
    }

    /// Returns what may still matter in this state.
    pub(crate) fn kept_in(&self, world: &World) -> Kept {
        let may = |happen: fn(&Event) -> bool| self.events.iter().any(happen);
        let may_restore = may(|event| matches!(event, Event::Restore(_)));
        Kept {
            first_revision: world.events > 0 && may_restore,
            histories: may_restore || may(|event| matches!(event, Event::Switch { .. })),
        }
    }
}

/// One master, and a link that is cut.
pub fn one_master() -> Scenario {
    let servers = [alone(Role::Master), away(), away()];
    scenario("one master", servers, (2, 1, 1), &[Event::Cut(M)])
}

/// One master whose data is deleted, or replaced by an earlier copy.
pub fn data_replaced() -> Scenario {
    let servers = [alone(Role::Master), away(), away()];
    scenario("data replaced", servers, (1, 1, 2), &[Event::Flush(M), Event::Restore(M)])
}

/// A master and its replica, which change roles while connections live on.
pub fn roles_switched() -> Scenario {
    let servers = [alone(Role::Master), away(), alone(Role::Replica)];
    let events = &[
        Event::Switch { from: M, to: R },
        Event::Switch { from: R, to: M },
        Event::Land { to: M, at: R },
    ];
    scenario("roles switched", servers, (1, 0, 2), events)
}

/// Two masters of a cluster. Links are cut, and what the masters publish may not reach each other.
pub fn two_masters() -> Scenario {
    let events = &[Event::Cut(M), Event::Cut(N), Event::Land { to: M, at: N }];
    scenario(
        "two masters",
        [master(Slot::Owned), master(Slot::Elsewhere), away()],
        (1, 0, 1),
        events,
    )
}

/// The slot of the session migrates between two masters.
pub fn migration() -> Scenario {
    let events = &[
        Event::Migrate { from: M, to: N },
        Event::Migrate { from: N, to: M },
        Event::MigrateAtOnce { from: M, to: N },
        Event::MigrateAtOnce { from: N, to: M },
    ];
    scenario("migration", [master(Slot::Owned), master(Slot::Elsewhere), away()], (1, 0, 2), events)
}

/// A second master joins the cluster, and the slot of the session migrates to it.
pub fn join() -> Scenario {
    let mut first = master(Slot::Owned);
    first.masters = Some(Sites::of(&[M]));
    let events = &[
        Event::Join(N),
        Event::Migrate { from: M, to: N },
        Event::MigrateAtOnce { from: M, to: N },
    ];
    scenario("join", [first, away(), away()], (1, 0, 2), events)
}

/// The replica of a master is promoted. The other master knows it at once, the old one does not.
pub fn failover() -> Scenario {
    let servers = [master(Slot::Owned), master(Slot::Elsewhere), replica()];
    scenario("failover", servers, (1, 0, 1), &[Event::Failover { known: true }])
}

/// A failover while the node's link to one of the masters is cut: the node is on the side of a
/// minority that has not noticed yet, or on the other.
pub fn partition() -> Scenario {
    let servers = [master(Slot::Owned), master(Slot::Elsewhere), replica()];
    let events = &[Event::Failover { known: true }, Event::Cut(M), Event::Cut(N)];
    scenario("partition", servers, (1, 0, 2), events)
}

/// A failover, but the other master has only voted, and does not know the result at first.
pub fn election() -> Scenario {
    let servers = [master(Slot::Owned), master(Slot::Elsewhere), replica()];
    scenario("election", servers, (1, 0, 1), &[Event::Failover { known: false }])
}

fn scenario(
    name: &'static str,
    servers: [Server; 3],
    (changes, own_changes, events): (u8, u8, u8),
    allowed: &'static [Event],
) -> Scenario {
    let masters = servers[0].masters.unwrap_or(Sites::of(&[M]));
    let start = World {
        servers,
        node: Node::new(masters),
        truth: Truth::new(Value::Revision(1)),
        changes,
        own_changes,
        events,
    };
    Scenario { name, start, events: allowed }
}

/// A server without a cluster.
fn alone(role: Role) -> Server {
    Server {
        role,
        slot: if role == Role::Master { Slot::Owned } else { Slot::Elsewhere },
        record: Some(Value::Revision(1)),
        masters: None,
        slotless: false,
        undecided: false,
        deposed: None,
        history: 0,
        unannounced: None,
    }
}

/// A server that is not there yet.
fn away() -> Server {
    Server { role: Role::Away, slot: Slot::Elsewhere, record: None, ..alone(Role::Replica) }
}

/// A master of a cluster that consists of `M` and `N`.
fn master(slot: Slot) -> Server {
    Server {
        slot,
        record: (slot == Slot::Owned).then_some(Value::Revision(1)),
        masters: Some(Sites::of(&[M, N])),
        ..alone(Role::Master)
    }
}

/// The replica of `M` in that cluster.
fn replica() -> Server {
    Server { role: Role::Replica, slot: Slot::Elsewhere, ..master(Slot::Owned) }
}
