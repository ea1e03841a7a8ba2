//! The transitions of the model.

use crate::world::{Site, Sites};

/// A transition.
#[allow(missing_docs, reason = "the variants say what their fields are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A tick passes.
    Tick,

    /// Another node writes. `copied`: the other servers publish the announcement, too, which
    /// reaches them over the cluster bus or by replication.
    Write { at: Site, copied: bool },
    /// Another node deletes.
    Delete { at: Site, copied: bool },
    /// A change is announced after it was made.
    Announce { at: Site, copied: bool },

    /// The node loads the session.
    Load { at: Site },
    /// The result of the load arrives.
    Fill,
    /// The node writes.
    OwnWrite { at: Site, copied: bool },
    /// The node deletes.
    OwnDelete { at: Site, copied: bool },
    /// The acknowledgement of the node's change arrives.
    Acknowledged,

    /// The node subscribes.
    Subscribe { to: Site },
    /// The node sends a heartbeat, and the server carries it out.
    Heartbeat { of: Site, copied: bool },
    /// The node receives the next message of a subscription.
    Receive { of: Site },
    /// The node receives a heartbeat before the messages that were sent before it.
    Overtake { of: Site },
    /// The node notices that a link is cut.
    Lose { of: Site },
    /// The node asks a server for the masters.
    Discover { from: Site },

    /// A replica takes over the data of its master.
    Replicate { to: Site },
    /// A master learns the winner of an election.
    Learn { at: Site },
    /// A master learns that another server has taken its place.
    Demote { at: Site },
    /// The key of the session moves in a migration.
    MoveKey,
    /// A migration ends.
    FinishMigration,

    /// An event of a scenario.
    Event(Event),
}

impl Step {
    /// Returns all steps but events, of these servers.
    pub(crate) fn among(sites: Sites) -> Vec<Step> {
        use Step::*;
        let mut steps = vec![Tick, Fill, Acknowledged, MoveKey, FinishMigration];
        for at in sites.iter() {
            let (to, from, of) = (at, at, at);
            for copied in [false, true] {
                steps.extend([Write { at, copied }, Delete { at, copied }]);
                steps.extend([OwnWrite { at, copied }, OwnDelete { at, copied }]);
                steps.extend([Announce { at, copied }, Heartbeat { of, copied }]);
            }
            steps.extend([Load { at }, Subscribe { to }, Lose { of }, Discover { from }]);
            steps.extend([Receive { of }, Overtake { of }]);
            steps.extend([Replicate { to }, Learn { at }, Demote { at }]);
        }
        steps
    }
}

/// An event that a scenario allows.
#[allow(missing_docs, reason = "the variants say what their fields are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is cut: what the server sends from now on is lost, and the node does not see it.
    Cut(Site),
    /// A subscription leads to another server than it is meant for.
    Land { to: Site, at: Site },
    /// All data of a server is deleted.
    Flush(Site),
    /// The data of a server is replaced by an earlier copy.
    Restore(Site),
    /// Without a cluster: the master and its replica change roles. Connections live on.
    Switch { from: Site, to: Site },
    /// In a cluster: the replica is promoted, and its master does not know it yet. `known`: the
    /// other master learns it at once.
    Failover { known: bool },
    /// A server joins the cluster as a master without slots.
    Join(Site),
    /// The slot begins to migrate.
    Migrate { from: Site, to: Site },
    /// The slot migrates in one step, as since Valkey 9.
    MigrateAtOnce { from: Site, to: Site },
}
