//! Calls to the backend whose results may be cached.
//!
//! A call takes a ticket of the fence before it begins. When its result is there, the fence says
//! under the lock for the session if anything has overtaken the call. A call that is dropped gives
//! its ticket back, too: a read then caches nothing, and a write evicts the session, because what
//! the backend holds is unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;

use super::{LocalCache, Validity};
use crate::clock::Millis;
use crate::cluster::lease::Epoch;
use crate::id::SessionId;
use crate::record::{Absence, Record, Revision};

impl<T> LocalCache<T> {
    /// Begins a read of the backend. Must be called before the backend is.
    pub(crate) fn begin_load(self: &Arc<Self>, id: &SessionId) -> PendingFill<T> {
        PendingFill { call: self.begin(id, None) }
    }

    /// Runs `write`, which writes `new` in place of the revision `base`, and caches `new` if the
    /// answer is that it was `saved`. Otherwise, or if this is cancelled, evicts the session: what
    /// the backend holds is unknown.
    ///
    /// The future must do nothing before it is polled.
    ///
    /// No async function: its future would hold `write` twice.
    pub(crate) fn write_through<W: Future>(
        self: &Arc<Self>,
        new: &Record<T>,
        base: Option<Revision>,
        write: W,
        saved: impl FnOnce(&W::Output) -> bool,
    ) -> impl Future<Output = W::Output> {
        let pending = self.begin_write(&new.id(), base);
        write.map(move |answer| {
            if saved(&answer) {
                pending.saved(new);
            }
            answer
        })
    }

    /// Runs `deletion`, after which the session may be gone. Whatever the answer, this node must
    /// not serve the session from its cache.
    ///
    /// The future must do nothing before it is polled.
    ///
    /// No async function: its future would hold `deletion` twice.
    pub(crate) fn evict_through<D: Future>(
        self: &Arc<Self>,
        id: &SessionId,
        deletion: D,
    ) -> impl Future<Output = D::Output> {
        let pending = self.begin_write(id, None);
        deletion.inspect(move |_| drop(pending))
    }

    pub(super) fn begin_write(
        self: &Arc<Self>,
        id: &SessionId,
        base: Option<Revision>,
    ) -> PendingWrite<T> {
        PendingWrite { call: self.begin(id, base) }
    }

    /// Takes a ticket of the fence, and notes the epoch and the time.
    fn begin(self: &Arc<Self>, id: &SessionId, base: Option<Revision>) -> Pending<T> {
        let lease = self.lease.held(|| self.clock.now());
        Pending { cache: self.clone(), id: *id, serial: Some(self.fence.begin(id, base)), lease }
    }

    /// Returns `true` if a read that begins now may take the result of one that began earlier: the
    /// lease has been held in one epoch throughout, and nothing has happened to the session since.
    pub(crate) fn may_share(&self, earlier: &FillMark) -> bool {
        let held = self.lease.held(|| self.clock.now());
        let same_epoch = held.is_some_and(|(epoch, _)| Some(epoch) == earlier.epoch);
        same_epoch && self.fence.is_clear(&earlier.id, earlier.serial)
    }
}

/// A call to the backend whose result may be cached. Finishing and dropping it both give its ticket
/// back to the fence.
struct Pending<T> {
    cache: Arc<LocalCache<T>>,
    id: SessionId,
    /// The ticket of the fence. `None` once it has been given back.
    serial: Option<u64>,
    /// The epoch in which and the moment at which the call began. `None` if the lease was not held:
    /// the result will not be cached.
    lease: Option<(Epoch, Millis)>,
}

impl<T> Pending<T> {
    /// Returns the validity of this call's result, or `None` if it may not be cached: the lease
    /// must be held now, in the same epoch as when the call began.
    ///
    /// Called under the fence's lock: a clear that is not counted here has marked the call's
    /// ticket, or will hide its result.
    fn validity(&self) -> Option<Validity> {
        let (epoch, began) = self.lease?;
        let (present, _) = self.cache.lease.held(|| self.cache.clock.now())?;
        let clears = self.cache.clears.load(Ordering::Acquire);
        (epoch == present).then_some(Validity { epoch, clears, began })
    }
}

/// A read in progress. If it is dropped without a result, nothing is cached.
pub(crate) struct PendingFill<T> {
    call: Pending<T>,
}

/// Identifies a read in progress, so that other reads can find out whether they may share its
/// result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillMark {
    id: SessionId,
    serial: u64,
    /// `None` if the lease was not held when the read began, so that no other read may share it.
    epoch: Option<Epoch>,
}

impl<T> PendingFill<T> {
    /// Returns the mark by which other reads can check this one.
    pub(crate) fn mark(&self) -> FillMark {
        FillMark {
            id: self.call.id,
            // Only finishing and dropping take it, so it is there.
            serial: self.call.serial.unwrap_or(u64::MAX),
            epoch: self.call.lease.map(|(epoch, _)| epoch),
        }
    }

    /// Caches the result of the read, unless a change has overtaken it.
    pub(crate) fn finish(mut self, loaded: Result<&Record<T>, Absence>) {
        let Some(serial) = self.call.serial.take() else { return };
        let Pending { cache, id, .. } = &self.call;
        let validity = |admitted| {
            let validity = self.call.validity().filter(|_| admitted);
            if !admitted && self.call.lease.is_some() {
                cache.counters.refused_fills.add_one();
            }
            validity
        };
        let is_gone = loaded.is_err();
        let removed = match loaded {
            Ok(record) => cache.fence.end(id, serial, Some(record.revision()), |admitted| {
                match validity(admitted) {
                    Some(validity) => cache.insert(record, validity),
                    None => cache.remove_hidden(record),
                }
            }),
            // Ids are never used again, so this is as final as a deletion by this node.
            Err(absence) => cache.fence.end_write(id, serial, None, |admitted| {
                let removed = cache.remove(id, None);
                if let Some(validity) = validity(admitted) {
                    cache.absent.insert(*id, (absence, validity));
                }
                removed
            }),
        };
        drop(removed);
        if is_gone {
            cache.watches.call(id);
        }
    }
}

impl<T> Drop for PendingFill<T> {
    fn drop(&mut self) {
        if let Some(serial) = self.call.serial.take() {
            self.call.cache.fence.end(&self.call.id, serial, None, |_| ());
        }
    }
}

/// A write in progress. If it is dropped without a result, because it failed or its caller went
/// away, the session is evicted: what the backend holds now is unknown.
pub(super) struct PendingWrite<T> {
    call: Pending<T>,
}

impl<T> PendingWrite<T> {
    /// Caches the record that was written, so that the writing node needs no read afterwards. If
    /// another change was announced meanwhile, the session is evicted instead.
    pub(super) fn saved(mut self, record: &Record<T>) {
        let Some(serial) = self.call.serial.take() else { return };
        let Pending { cache, id, .. } = &self.call;
        let removed = cache.fence.end_write(id, serial, Some(record.revision()), |admitted| {
            match self.call.validity().filter(|_| admitted) {
                Some(validity) => cache.insert(record, validity),
                None => cache.remove(id, None),
            }
        });
        cache.watches.call(id);
        drop(removed);
    }
}

impl<T> Drop for PendingWrite<T> {
    fn drop(&mut self) {
        if let Some(serial) = self.call.serial.take() {
            let Pending { cache, id, .. } = &self.call;
            let removed = cache.fence.end_write(id, serial, None, |_| cache.remove(id, None));
            cache.watches.call(id);
            drop(removed);
        }
    }
}
