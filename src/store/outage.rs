//! What stands in for a session that a request cannot load.

use super::SessionStore;
use crate::clock::millis;
use crate::cluster::{ClusterConfig, StaleIfError};
use crate::config::OutagePolicy;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData};

/// What a request gets in place of a session that could not be loaded. Nothing may be written on top of it.
#[derive(Debug)]
pub(crate) enum Degraded<T> {
    /// What a visitor without a session has.
    Default,
    /// What this node knew last.
    Stale(Record<T>),
}

/// The outage policy, in terms of the cache.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fallback {
    Nothing,
    Default,
    StaleIfError(StaleIfError),
}

impl Fallback {
    pub(super) fn new(policy: OutagePolicy, cluster: &ClusterConfig) -> Self {
        match policy {
            OutagePolicy::Reject => Fallback::Nothing,
            OutagePolicy::Anonymous => Fallback::Default,
            OutagePolicy::ServeCached { max_age } if cluster.listens() => {
                // A lease lasts for max_staleness from the proof that it rests on.
                Fallback::StaleIfError(StaleIfError::AfterLease(millis(
                    max_age.saturating_sub(cluster.max_staleness),
                )))
            }
            OutagePolicy::ServeCached { max_age } => {
                Fallback::StaleIfError(StaleIfError::AfterRead(millis(max_age)))
            }
        }
    }
}

impl<T: SessionData> SessionStore<T> {
    /// What the outage policy has for a request whose load has failed. `None`: the error stands.
    pub(crate) fn degraded(&self, id: &SessionId, error: &StoreError) -> Option<Degraded<T>> {
        if !error.kind().is_outage() {
            return None;
        }
        let degraded = match self.inner.fallback {
            Fallback::Nothing => return None,
            Fallback::Default => Degraded::Default,
            Fallback::StaleIfError(grace) => {
                Degraded::Stale(self.inner.cache.last_known(id, grace)?)
            }
        };
        self.inner.degraded_reads.add_one();
        // Not louder: there is one for each request of an outage, whose beginning and end the listener logs.
        tracing::debug!(session = %id, error = error as &dyn std::error::Error, "a session is read-only: it could not be loaded");
        Some(degraded)
    }

    /// Requests so far whose session could not be loaded, and that were given what the
    /// [outage policy](crate::SessionConfigBuilder::on_outage) has for them. Those that it rejected are not counted.
    pub fn degraded_reads(&self) -> u64 {
        self.inner.degraded_reads.get()
    }
}
