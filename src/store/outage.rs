//! The fallback for a session that a request cannot load.

use super::SessionStore;
use crate::clock::millis;
use crate::cluster::{ClusterSettings, StaleIfError};
use crate::config::OutagePolicy;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Record, SessionData};

/// The replacement that a request gets for a session that could not be loaded. It is read-only.
#[derive(Debug)]
pub(crate) enum Degraded<T> {
    /// The default data, as for a visitor without a session.
    Default,
    /// The version that this node saw last.
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
    pub(super) fn new(policy: OutagePolicy, cluster: &ClusterSettings) -> Self {
        match policy {
            OutagePolicy::Reject => Fallback::Nothing,
            OutagePolicy::Anonymous => Fallback::Default,
            OutagePolicy::ServeCached { max_age } if cluster.listens() => {
                // A lease lasts for `max_staleness` from the proof that it is based on.
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
    /// Returns what the outage policy provides for a request whose load has failed with `error`, or
    /// `None` if the request must fail with it.
    pub(crate) fn degraded(&self, id: &SessionId, error: &StoreError) -> Option<Degraded<T>> {
        if !error.kind().is_outage() {
            return None;
        }
        match self.inner.fallback {
            Fallback::Nothing => None,
            Fallback::Default => Some(Degraded::Default),
            Fallback::StaleIfError(limit) => {
                Some(Degraded::Stale(self.inner.cache.last_known(id, limit)?))
            }
        }
    }

    /// Counts and logs a request that is served with such a replacement.
    pub(crate) fn report_degraded_read(&self, id: &SessionId, error: &StoreError) {
        self.inner.degraded_reads.add_one();
        // Only debug: every request of an outage logs this. The listener logs the beginning and the
        // end of the outage.
        tracing::debug!(
            session = %id,
            error = error as &dyn std::error::Error,
            "a session is read-only: it could not be loaded"
        );
    }

    /// Returns the number of requests so far whose session could not be loaded and that the
    /// [outage policy](crate::SessionConfigBuilder::on_outage) served anyway. Requests that it
    /// rejected are not counted.
    pub fn degraded_reads(&self) -> u64 {
        self.inner.degraded_reads.get()
    }
}
