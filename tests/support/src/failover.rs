//! Measures the effect of a failover on a cluster of three nodes under load: how long requests
//! fail, how long a revoked session is served, what replication has forgotten, and when the cache
//! is used again.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::client::Client;
use crate::node::Node;
use crate::trial::{MARGIN, MAX_STALENESS, Watch, counter, hits, login, me, stats};
use crate::visits::Visits;
use crate::wait::eventually;

/// The longest time that requests may fail after the sentinels have switched.
const ERRORS_AFTER_SWITCH: Duration = Duration::from_secs(1);

/// Three nodes, each visited by its own visitor all the time. Bob only reads. Eve is logged out.
pub struct FailoverTrial {
    /// Declared first, so that they are dropped before the nodes.
    watches: Vec<Watch>,
    visits: Vec<Visits>,
    pub nodes: Vec<Node>,
    /// The number of subscriptions that each node had lost before the fault.
    disconnects: Vec<u64>,
    bob: Client,
    eve: Client,
}

/// What a failover has cost.
pub struct Cost {
    fault: &'static str,
    /// For how long after the fault requests failed, and for how long after the switch.
    failed: Duration,
    failed_after_switch: Duration,
    served: Duration,
    forgotten: usize,
    used_again: Duration,
}

impl FailoverTrial {
    /// Starts three nodes with these environment variables, with one visitor each.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::with_visitors(1, variables).await
    }

    /// Starts three nodes with these environment variables, and this number of visitors of each.
    pub async fn with_visitors(number: usize, variables: &[(&str, &str)]) -> Self {
        let max_staleness = MAX_STALENESS.as_millis().to_string();
        let common = [("MAX_STALENESS_MS", max_staleness.as_str()), ("RETRY", "off")];
        let variables = [&common, variables].concat();
        let nodes: Vec<_> = (0..3).map(|_| Node::start(&variables)).collect();
        let [bob, eve] = [login(&nodes[0], "bob").await, login(&nodes[0], "eve").await];
        for node in &nodes {
            hits(node, &bob).await;
            hits(node, &eve).await;
        }
        let (mut watches, mut visits, mut disconnects) = (Vec::new(), Vec::new(), Vec::new());
        for node in &nodes {
            watches.push(Watch::start(node, &eve).await);
        }
        for node in nodes.iter().cycle().take(nodes.len() * number) {
            visits.push(Visits::start(login(node, "ada").await, [node]));
        }
        for node in &nodes {
            disconnects.push(counter(node, "disconnects").await);
        }
        FailoverTrial { watches, visits, nodes, disconnects, bob, eve }
    }

    /// Waits until each node has left the old master and is in use again, logs Eve out, and returns
    /// what the failover has cost.
    pub async fn end(self, fault: &'static str, began: Instant, switched: Instant) -> Cost {
        for (node, before) in self.nodes.iter().zip(&self.disconnects) {
            let has_moved = async || counter(node, "disconnects").await > *before;
            eventually(has_moved, "the node leaves the old master").await;
        }
        self.settle(fault, began, switched).await
    }

    /// Waits until each node uses its cache, logs Eve out, and returns what the fault has cost.
    pub async fn settle(mut self, fault: &'static str, began: Instant, switched: Instant) -> Cost {
        for node in &self.nodes {
            hits(node, &self.bob).await;
        }
        let used_again = switched.elapsed();
        let logout = async || {
            let answer = self.eve.clone().post(&self.nodes[0].url("/logout")).await;
            answer.status == StatusCode::NO_CONTENT
        };
        eventually(logout, "the logout is acknowledged").await;
        let acknowledged = Instant::now();
        for node in &self.nodes {
            eventually(async || stats(node).await["listening"] == true, "the node listens").await;
            let is_out = async || me(node, &self.eve).await == StatusCode::UNAUTHORIZED;
            eventually(is_out, "the session is revoked").await;
        }
        // Longer than a revoked session may be served.
        tokio::time::sleep(MAX_STALENESS + MARGIN).await;
        let mut served = Duration::ZERO;
        for watch in self.watches.drain(..) {
            served = served.max(watch.served_after(acknowledged).await);
        }
        let (mut forgotten, mut failed_at) = (0, began);
        for mut visits in self.visits.drain(..) {
            visits.stop().await;
            forgotten += visits.forgotten();
            failed_at = failed_at.max(visits.last_failure().unwrap_or(began));
        }
        Cost {
            fault,
            failed: failed_at - began,
            failed_after_switch: failed_at.saturating_duration_since(switched),
            served,
            forgotten,
            used_again,
        }
    }
}

impl Cost {
    /// Prints the figures and checks them. Returns the number of acknowledged changes that
    /// replication has forgotten.
    pub fn check(self) -> usize {
        let Cost { fault, failed, failed_after_switch, served, forgotten, used_again } = self;
        println!(
            "{fault} | {} ms | {} ms | {} ms | {forgotten} | {} ms",
            failed.as_millis(),
            failed_after_switch.as_millis(),
            served.as_millis(),
            used_again.as_millis(),
        );
        assert!(
            served < MAX_STALENESS + MARGIN,
            "{fault}: a revoked session was still served for {served:?}"
        );
        assert!(
            failed_after_switch < ERRORS_AFTER_SWITCH,
            "{fault}: requests failed until {failed_after_switch:?} after the switch"
        );
        forgotten
    }
}
