//! The node whose cache is checked: its subscriptions, its lease, its fence and its cache.
//!
//! The epoch has no number. Nothing of an earlier epoch is ever visible again, so the end of an
//! epoch forgets the entry, and leaves a mark on the calls in flight.

use crate::rule::{Rule, Rules};
use crate::truth::{Truth, Violation};
use crate::world::{SITES, Site, Sites, TERM, Value};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The masters of the cluster, as far as the node knows. The lease needs proof from each.
    pub masters: Sites,
    /// A subscription for each of them, unless it is lost, in the order of [`SITES`].
    pub subscriptions: [Option<Subscription>; SITES.len()],
    /// Ticks until the lease expires.
    pub lease: u8,
    /// The version that is cached in the present epoch.
    pub entry: Option<Value>,
    /// A load in flight. It has been carried out, and its result is on its way.
    pub load: Option<Call>,
    /// A change in flight, likewise.
    pub change: Option<Change>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The server to which its connection leads.
    pub at: Site,
    /// The link delivers what the server sends from now on. The node does not see this.
    pub is_alive: bool,
    /// What the server has sent and the node has not received yet, oldest first.
    pub stream: Vec<Message>,
    /// What the last heartbeat has left on the server.
    pub mark: Mark,
    /// The replication id in the first heartbeat that came back.
    pub history: Option<u8>,
    /// Ticks until a term has passed since the last heartbeat that came back was sent.
    pub proof: u8,
}

/// A message on a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// The subscription is confirmed.
    Confirmed,
    /// The session was changed to this version.
    Announcement(Value),
    /// A heartbeat was carried out.
    Heartbeat(Heartbeat),
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The master that it is to prove.
    pub of: Site,
    /// Ticks until a term has passed since it was sent.
    pub left: u8,
    /// The masters that the server knows, if it is part of a cluster.
    pub masters: Option<Sites>,
    /// The server has voted in an election, and does not know the winner.
    pub undecided: bool,
    /// The server's replication id.
    pub history: u8,
    /// The server has what the previous heartbeat left.
    pub mark_found: bool,
}

/// The state of the key that the heartbeats of a subscription write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// No heartbeat was carried out yet.
    None,
    /// The server has what the last heartbeat left.
    Kept,
    /// The server does not have it any more.
    Lost,
}

/// A call to a server whose result may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// What the server has returned, or what was written.
    pub value: Value,
    /// What was announced since the call began.
    pub seen: Seen,
    /// The lease was held when it began.
    pub under_lease: bool,
    /// It began in the present epoch.
    pub in_epoch: bool,
    /// It was carried out by a master that the lease is about.
    pub by_confirmed: bool,
}

/// A change by this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The call that makes it.
    pub call: Call,
    /// The version that it replaces.
    pub base: Value,
    /// The versions that this node must not serve once the change is acknowledged.
    pub replaces: u8,
}

/// The changes announced since a call began, as in `src/cluster/fence.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// None.
    Nothing,
    /// One revision.
    Revision(Value),
    /// Anything else.
    Changed,
}

impl Call {
    /// Returns `true` if the result may be cached, should the lease be held when it arrives.
    pub(crate) fn may_be_admitted(&self, rules: Rules) -> bool {
        self.seen.admits(self.value)
            && (self.under_lease || !rules.keep(Rule::LeaseAtBeginning))
            && (self.in_epoch || !rules.keep(Rule::SameEpoch))
            && (self.by_confirmed || !rules.keep(Rule::FromConfirmedMaster))
    }
}

impl Seen {
    fn mark(&mut self, value: Value) {
        *self = match (*self, value) {
            (Seen::Nothing, Value::Revision(_)) => Seen::Revision(value),
            (Seen::Revision(before), _) if before == value => Seen::Revision(value),
            _ => Seen::Changed,
        };
    }

    fn admits(self, value: Value) -> bool {
        match self {
            Seen::Nothing => true,
            Seen::Revision(seen) => seen == value,
            Seen::Changed => false,
        }
    }
}

impl Node {
    /// Returns a node that knows these masters and has not subscribed yet.
    pub fn new(masters: Sites) -> Node {
        Node {
            masters,
            subscriptions: [const { None }; SITES.len()],
            lease: 0,
            entry: None,
            load: None,
            change: None,
        }
    }

    /// Returns the subscription for a master, if there is one.
    pub fn subscription(&self, of: Site) -> Option<&Subscription> {
        self.subscriptions[of as usize].as_ref()
    }

    /// Returns `true` if the lease is held.
    pub fn holds_lease(&self) -> bool {
        self.lease > 0
    }

    /// Returns the version that the node serves from its cache.
    pub fn served(&self, rules: Rules) -> Option<Value> {
        self.entry.filter(|_| self.holds_lease() || !rules.keep(Rule::Lease))
    }

    /// Returns the promises that are broken in this state.
    pub fn violations(&self, truth: &Truth, rules: Rules) -> impl Iterator<Item = Violation> {
        let served = self.served(rules);
        let is_subscribed = self.masters.iter().all(|site| self.subscription(site).is_some());
        let is_unheard = served.is_some() && !is_subscribed;
        let outdated = served.map(|served| truth.violations(served));
        let unheard = is_unheard.then_some(Violation::ServedWithoutSubscription);
        outdated.into_iter().flatten().chain(unheard)
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.lease = self.lease.saturating_sub(1);
        for subscription in self.subscriptions.iter_mut().flatten() {
            subscription.proof = subscription.proof.saturating_sub(1);
            for message in &mut subscription.stream {
                if let Message::Heartbeat(heartbeat) = message {
                    heartbeat.left = heartbeat.left.saturating_sub(1);
                }
            }
        }
    }

    /// Subscribes, over a connection that leads to this server.
    pub fn subscribe(&mut self, of: Site, at: Site) {
        self.subscriptions[of as usize] = Some(Subscription {
            at,
            is_alive: true,
            stream: vec![Message::Confirmed],
            mark: Mark::None,
            history: None,
            proof: 0,
        });
    }

    /// Gives a subscription up.
    pub fn lose(&mut self, of: Site, rules: Rules) {
        self.subscriptions[of as usize] = None;
        if rules.keep(Rule::EpochAtLoss) {
            self.begin_epoch();
        }
    }

    /// Replaces the masters of which the node knows. The lease needs new proof from each.
    pub fn adopt(&mut self, masters: Sites, rules: Rules) {
        self.masters = masters;
        for site in SITES {
            let subscription = &mut self.subscriptions[site as usize];
            if !masters.contain(site) {
                *subscription = None;
            } else if let Some(subscription) = subscription {
                subscription.proof = 0;
            }
        }
        if rules.keep(Rule::EpochAtLoss) {
            self.begin_epoch();
        }
    }

    fn begin_epoch(&mut self) {
        self.lease = 0;
        self.entry = None;
        for call in self.calls() {
            call.in_epoch = false;
        }
    }

    /// Returns the calls in flight.
    pub fn calls(&mut self) -> impl Iterator<Item = &mut Call> {
        self.load.iter_mut().chain(self.change.as_mut().map(|change| &mut change.call))
    }

    /// Takes a message from a subscription: the first, or the one at a later position, which
    /// overtakes those before it.
    pub fn receive(&mut self, of: Site, position: usize, rules: Rules) {
        let Some(subscription) = &mut self.subscriptions[of as usize] else { return };
        match subscription.stream.remove(position) {
            Message::Confirmed if rules.keep(Rule::EpochAtSubscription) => self.begin_epoch(),
            Message::Confirmed => {}
            Message::Announcement(value) => self.announced(value, rules),
            Message::Heartbeat(heartbeat) => self.prove(heartbeat, rules),
        }
    }

    /// Evicts the session, unless the announced version is cached, and marks the calls in flight.
    fn announced(&mut self, value: Value, rules: Rules) {
        if !self.holds_lease() && !rules.keep(Rule::EvictionWithoutLease) {
            return;
        }
        if rules.keep(Rule::FenceOnAnnouncement) {
            if let Some(load) = &mut self.load {
                load.seen.mark(value);
            }
            if let Some(change) = &mut self.change
                && change.base != value
            {
                change.call.seen.mark(value);
            }
        }
        if value == Value::Gone || self.entry != Some(value) {
            self.entry = None;
        }
    }

    /// Extends the lease by a heartbeat, unless it shows that the subscription must end.
    fn prove(&mut self, heartbeat: Heartbeat, rules: Rules) {
        let Heartbeat { of, history, masters, .. } = heartbeat;
        let Some(subscription) = &mut self.subscriptions[of as usize] else { return };
        let known = *subscription.history.get_or_insert(history);
        if (rules.keep(Rule::ReplicationId) && history != known)
            || (rules.keep(Rule::HeartbeatChain) && !heartbeat.mark_found)
        {
            return self.lose(of, rules);
        }
        if rules.keep(Rule::OneView)
            && let Some(masters) = masters
            && masters != self.masters
        {
            return self.adopt(masters, rules);
        }
        if rules.keep(Rule::DecidedElections) && heartbeat.undecided {
            return;
        }
        subscription.proof = if rules.keep(Rule::SentNotArrived) { heartbeat.left } else { TERM };
        let proofs =
            self.masters.iter().map(|site| self.subscription(site).map_or(0, |it| it.proof));
        let term = if rules.keep(Rule::Minimum) { proofs.min() } else { proofs.max() };
        self.lease = self.lease.max(term.unwrap_or(0));
    }

    /// Begins a call that this server carries out at once.
    pub fn call(&self, at: Site, value: Value) -> Call {
        Call {
            value,
            seen: Seen::Nothing,
            under_lease: self.holds_lease(),
            in_epoch: true,
            by_confirmed: self.masters.contain(at),
        }
    }

    /// Returns `true` if the result of a call may be cached.
    fn admits(&self, call: &Call, rules: Rules) -> bool {
        call.may_be_admitted(rules) && (self.holds_lease() || !rules.keep(Rule::LeaseAtEnd))
    }

    /// Takes the result of the load.
    pub fn fill(&mut self, rules: Rules) {
        let Some(load) = self.load.take() else { return };
        if load.value == Value::Gone {
            // As final as a deletion by this node.
            self.entry = None;
            if let Some(change) = &mut self.change {
                change.call.seen.mark(Value::Gone);
            }
        }
        if self.admits(&load, rules) {
            self.entry = Some(load.value);
        }
    }

    /// Takes the acknowledgement of the change.
    pub fn acknowledged(&mut self, rules: Rules) {
        let Some(Change { call, .. }) = self.change.take() else { return };
        if rules.keep(Rule::FenceOnLocalChange)
            && let Some(load) = &mut self.load
        {
            load.seen.mark(call.value);
        }
        if call.value != Value::Gone && self.admits(&call, rules) {
            self.entry = Some(call.value);
        } else if call.value == Value::Gone || rules.keep(Rule::RefusedWriteEvicts) {
            self.entry = None;
        }
    }
}
