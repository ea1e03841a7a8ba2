//! Names for the checks that the coherence contract depends on, so that a test can disable one
//! and show that the test suite detects the violation.
//!
//! Normally every guard is enabled, and `enabled` is a constant. Under the private feature
//! `_guards`, `disabled` runs a closure with one guard disabled on the current thread.

/// A check that protects readers from stale sessions, or writers from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A value that an announcement has overtaken on its way into the cache is not cached.
    Fence,
    /// The cache is used only while the node holds its lease.
    Lease,
    /// Losing the subscription ends the epoch immediately.
    EpochAtLoss,
    /// A new subscription begins a new epoch.
    EpochAtSubscription,
    /// An announcement evicts the session from the cache.
    Eviction,
    /// A node's own announcement does not evict the value that the node itself has written.
    OwnRevision,
    /// An update replaces only the revision that it was computed from.
    Comparison,
    /// A read joins a load in progress only if that load began late enough to be fresh for it.
    Sharing,
    /// A regenerated session leaves a tombstone under its old id.
    Tombstone,
    /// A change is announced before it is written.
    #[cfg(all(feature = "redis", feature = "_guards"))]
    Order,
    /// A session served during an outage was proven current at most `max_age` ago.
    MaxAge,
    /// A change calls those who watch the session.
    WakeUp,
    /// Those who watch a session look at it again and again while the node has no lease.
    Doubt,
    /// A session is entered in an owner's index before the record names that owner.
    IndexFirst,
    /// A login under a limit also counts the sessions of later logins, which may have been written
    /// before it.
    LaterLogins,
    /// A deletion by owner or by predicate judges the record that a conflict returns.
    Chase,
    /// A deletion by owner takes no longer than a tombstone lives.
    RevocationTimeout,
    /// Each heartbeat finds the replication id, and the value, that the last one has left.
    #[cfg(feature = "redis")]
    History,
    /// A master that no sentinel has confirmed for some time is not listened to.
    #[cfg(feature = "redis")]
    SentinelsConfirm,
    /// The subscription is as good as that of the master whose last heartbeat is the oldest.
    #[cfg(feature = "redis")]
    EveryMaster,
    /// A heartbeat of a master of a cluster counts if that master knows no other masters than the
    /// node.
    #[cfg(feature = "redis")]
    SameMasters,
    /// No heartbeat counts while a master may have voted for a server that it does not know yet.
    #[cfg(feature = "redis")]
    Election,
}

#[cfg(not(feature = "_guards"))]
mod switch {
    use super::Guard;

    #[inline(always)]
    pub(crate) const fn enabled(_: Guard) -> bool {
        true
    }
}

#[cfg(feature = "_guards")]
mod switch {
    use std::cell::Cell;

    use super::Guard;

    thread_local! {
        static DISABLED: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    pub(crate) fn enabled(guard: Guard) -> bool {
        DISABLED.get() != Some(guard)
    }

    /// Calls `run` with one guard disabled on the current thread.
    pub fn disabled<R>(guard: Guard, run: impl FnOnce() -> R) -> R {
        struct Restore(Option<Guard>);
        impl Drop for Restore {
            fn drop(&mut self) {
                DISABLED.set(self.0);
            }
        }
        let _restore = Restore(DISABLED.replace(Some(guard)));
        run()
    }
}

#[cfg(feature = "_guards")]
pub use self::switch::disabled;
pub(crate) use self::switch::enabled;

/// The names that disable a check exist under the feature `_guards` alone: in particular, not
/// under `testing`, which applications enable. `.ci/run` runs this with and without it.
#[cfg(doctest)]
#[cfg_attr(not(feature = "_guards"), doc = "```compile_fail")]
#[cfg_attr(feature = "_guards", doc = "```")]
/// use clustered_sessions::guards::{Guard, disabled};
/// use clustered_sessions::MemoryBackend;
///
/// disabled(Guard::Lease, || MemoryBackend::new().restart_empty());
/// ```
struct OnlyForThisCratesOwnTests;
