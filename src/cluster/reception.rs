//! The effect of a subscription's events on a node's cache and lease.

use std::sync::Arc;
use std::time::Duration;

use super::cache::LocalCache;
use super::lease::{Epoch, Lease};
use super::message::{Action, interpret};
use crate::clock::{Millis, millis};
use crate::guards::{self, Guard};

/// What one subscription has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Reception {
    /// The epoch that the confirmation of the subscription began.
    epoch: Option<Epoch>,
}

/// An announcement that cannot be read. The cache was cleared.
#[derive(Debug)]
pub(crate) struct UnreadableAnnouncement;

impl Reception {
    /// Begins an epoch: the subscription is confirmed, and what was announced before is unknown.
    pub(crate) fn connected(&mut self, lease: &Lease) {
        self.epoch = Some(if guards::enabled(Guard::EpochAtSubscription) {
            lease.bump()
        } else {
            lease.epoch()
        });
    }

    /// Applies one announcement.
    pub(crate) fn announced<T: Send + Sync + 'static>(
        &self,
        cache: &Arc<LocalCache<T>>,
        message: &[u8],
    ) -> Result<(), UnreadableAnnouncement> {
        match interpret(message) {
            Action::Evict(id, revision) if guards::enabled(Guard::Eviction) => {
                cache.evict(&id, revision);
            }
            Action::Delete(id, reason) if guards::enabled(Guard::Eviction) => {
                cache.watches().note(&id, reason);
                cache.evict(&id, None);
            }
            Action::Evict(..) | Action::Delete(..) => {}
            Action::Clear => cache.clear_soon(),
            Action::Unreadable => {
                cache.clear_soon();
                return Err(UnreadableAnnouncement);
            }
        }
        Ok(())
    }

    /// Extends the lease by a heartbeat that has come back. Returns `false` if the subscription was
    /// not confirmed before, so that it proves nothing.
    pub(crate) fn alive(&self, lease: &Lease, sent_at: Millis, term: Duration) -> bool {
        let Some(epoch) = self.epoch else { return false };
        lease.extend(epoch, sent_at.plus(millis(term)));
        true
    }
}
