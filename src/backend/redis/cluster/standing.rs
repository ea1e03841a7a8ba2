//! What a master's view of the cluster says about its heartbeats. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::slot::slot_of;
use super::view::{MemberId, View};
use crate::guards::{self, Guard};

/// A master of the cluster whose announcements a subscription receives.
pub(in super::super) struct Standing {
    /// The master.
    id: MemberId,
    /// All masters whose announcements are received.
    masters: Arc<BTreeSet<MemberId>>,
    /// The slot of the key that the heartbeats write, or `None` if the master has no slots.
    slot: Option<u16>,
}

/// What a heartbeat proves, by the view of the master that carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// That announcements arrive.
    Proof,
    /// Nothing, but the next one may.
    NoProof(&'static str),
    /// That announcements may be missed.
    End(&'static str),
}

impl Standing {
    /// Creates the standing of a master whose heartbeats write this key, if it has slots.
    pub(super) fn new(id: MemberId, masters: Arc<BTreeSet<MemberId>>, key: Option<&str>) -> Self {
        Standing { id, masters, slot: key.map(slot_of) }
    }

    /// Judges a heartbeat by the view that its server had after the heartbeat was due.
    ///
    /// `may_hide_a_master` is `true` if the view may lack a master, because of an
    /// [election](super::election::Elections).
    pub(super) fn judge(&self, view: &View, may_hide_a_master: bool) -> Verdict {
        if view.myself != self.id {
            return Verdict::End("the address leads to another server of the cluster now");
        }
        if view.ids() != *self.masters && guards::enabled(Guard::SameMasters) {
            return Verdict::End("the cluster has other masters now");
        }
        let slots = view.master(&self.id).map(|master| &*master.slots).unwrap_or_default();
        let has_its_key = match self.slot {
            Some(slot) => slots.iter().any(|range| range.contains(&slot)),
            None => slots.is_empty(),
        };
        if !has_its_key {
            return Verdict::End("a master has other slots now");
        }
        if !view.is_ok {
            return Verdict::NoProof("the cluster is down, as one of its masters sees it");
        }
        if may_hide_a_master && guards::enabled(Guard::Election) {
            return Verdict::NoProof("the winner of an election in the cluster is not known");
        }
        Verdict::Proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "one :1@2 myself,master - 0 0 1 connected 0-9999\n";
    const TWO: &str = "two 10.0.0.2:1@2 master - 0 0 2 connected 10000-16383\n";
    const REPLICA: &str = "three 10.0.0.3:1@2 slave two 0 0 2 connected\n";

    fn view(nodes: &[&str], state: &str) -> View {
        let info = format!("cluster_state:{state}\r\ncluster_current_epoch:2\r\n");
        View::parse(&nodes.concat(), &info).unwrap()
    }

    fn standing(key: Option<&str>) -> Standing {
        let masters = ["one", "two"].map(Arc::from).into();
        Standing::new("one".into(), Arc::new(masters), key)
    }

    #[test]
    fn a_heartbeat_counts_if_the_master_sees_what_the_node_knows() {
        // The slot of `bar` is 5061.
        let standing = standing(Some("bar"));
        let judge = |nodes: &[&str]| standing.judge(&view(nodes, "ok"), false);
        assert_eq!(judge(&[ONE, TWO, REPLICA]), Verdict::Proof);
        assert_eq!(judge(&[ONE, TWO]), Verdict::Proof, "replicas do not matter");
        let ended = |nodes: &[&str]| matches!(judge(nodes), Verdict::End(_));
        assert!(ended(&[ONE]), "a master is missing");
        assert!(ended(&[ONE, TWO, "new :1@2 master - 0 0 0 connected\n"]), "a master is new");
        let other = TWO.replace("two 10.0.0.2", "new 10.0.0.2");
        assert!(ended(&[ONE, &other]), "another master at the same address");
        let moved = [ONE.replace("0-9999", "0-5060"), TWO.replace("10000", "5061")];
        assert!(ended(&[&moved[0], &moved[1]]), "the slot of the key has moved");
        let elsewhere = [ONE.replace("myself,", ""), TWO.replace("master", "myself,master")];
        assert!(ended(&[&elsewhere[0], &elsewhere[1]]), "the address leads to another server");
        let demoted = ONE.replace("master -", "slave two");
        assert!(ended(&[&demoted, TWO]), "it is a replica now");
    }

    #[test]
    fn a_heartbeat_proves_nothing_while_the_cluster_is_down_or_elects() {
        let standing = standing(Some("bar"));
        let down = standing.judge(&view(&[ONE, TWO], "fail"), false);
        assert!(matches!(down, Verdict::NoProof(_)), "{down:?}");
        let electing = standing.judge(&view(&[ONE, TWO], "ok"), true);
        assert!(matches!(electing, Verdict::NoProof(_)), "{electing:?}");
        let ended = standing.judge(&view(&[ONE], "fail"), true);
        assert!(matches!(ended, Verdict::End(_)), "{ended:?}");
    }

    #[test]
    fn a_master_without_slots_counts_until_it_gets_one() {
        let standing = standing(None);
        let without = ONE.replace(" 0-9999", "");
        let all = TWO.replace("10000", "0");
        assert_eq!(standing.judge(&view(&[&without, &all], "ok"), false), Verdict::Proof);
        let with = standing.judge(&view(&[ONE, TWO], "ok"), false);
        assert!(matches!(with, Verdict::End(_)), "{with:?}");
    }
}
