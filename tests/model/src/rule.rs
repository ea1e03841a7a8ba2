//! The rules of the protocol, each of which can be taken away.

/// A rule of the protocol. The number is that of the rule in `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// 1: the cache is used only while the lease is held.
    Lease,
    /// 1: the lease runs from the moment at which the heartbeat was sent, not from its arrival.
    SentNotArrived,
    /// 1: a server that refuses writes carries out no heartbeat.
    ProofByWriting,
    /// 1: a load is a command that a replica refuses.
    LoadFromMaster,
    /// 2: a heartbeat takes effect after the messages before it.
    OneQueue,
    /// 3: the loss of a subscription, or another view of the cluster, begins an epoch.
    EpochAtLoss,
    /// 3: a confirmed subscription begins an epoch.
    EpochAtSubscription,
    /// 3: a result is cached only in the epoch in which its call began.
    SameEpoch,
    /// 3: a result is cached only if the lease was held when its call began.
    LeaseAtBeginning,
    /// 3: a result is cached only if the lease is held when it arrives.
    LeaseAtEnd,
    /// 3: a result is cached only if it comes from a master that the lease is about.
    FromConfirmedMaster,
    /// 6: the lease is the minimum over all masters.
    Minimum,
    /// 6: no lease while a master has another view of the cluster than the node.
    OneView,
    /// 6: masters without slots belong to the view.
    SlotlessMasters,
    /// 6: a master that has taken part in an election, and does not know a winner, proves nothing.
    DecidedElections,
    /// 7: an announcement voids the calls in flight.
    FenceOnAnnouncement,
    /// 7: a change by this node voids its loads in flight.
    FenceOnLocalChange,
    /// 7: a write whose result may not be cached evicts what is cached.
    RefusedWriteEvicts,
    /// 9: announcements evict without the lease, too.
    EvictionWithoutLease,
    /// 14: a change and its announcement are one step.
    OneStep,
    /// 28: another replication id ends the subscription.
    ReplicationId,
    /// 28: a heartbeat that does not find what the last one left ends the subscription.
    HeartbeatChain,
    /// 32: the heartbeat runs over the connection of the subscription, and counts only there.
    OwnConnection,
    /// 32: the subscription is on the server that it is meant for, as its run id shows.
    SameServer,
}

/// The rules that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u32);

impl Rules {
    /// All rules.
    pub const ALL: Rules = Rules(u32::MAX);

    /// Returns all rules but these.
    pub fn without(removed: &[Rule]) -> Rules {
        Rules(removed.iter().fold(Rules::ALL.0, |rules, rule| rules & !(1 << *rule as u32)))
    }

    /// Returns `true` if this rule is kept.
    pub fn keep(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u32) != 0
    }
}
