//! The guards that keep the coherence contract, by name, so that a test can take one away and see that the tests notice.
//!
//! In normal builds every guard stands, and asking costs nothing. Under the feature `testing` a test can run something
//! [`without`] one, on its own thread.

/// What stands between a reader and a stale session, or between two writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// What was overtaken by news on its way into the cache is not cached.
    Fence,
    /// The cache is not used without proof of hearing.
    Lease,
    /// A lost subscription ends the epoch at once.
    EpochAtLoss,
    /// A new subscription begins an epoch.
    EpochAtSubscription,
    /// An announcement evicts.
    Eviction,
    /// A node's own announcement is no news to it.
    OwnRevision,
    /// An update replaces only what it was made from.
    Comparison,
    /// A read may not take just any result that is on its way.
    Sharing,
    /// A session that moves leaves a trail.
    Tombstone,
    /// A change is announced before it is written.
    #[cfg(all(feature = "redis", feature = "testing"))]
    Order,
    /// What is served during an outage was proven not too long ago.
    MaxAge,
    /// An owner's index has a session before the session is that owner's.
    IndexFirst,
    /// Who deletes all sessions of an owner looks until there is nothing left, however long a look has taken.
    LastLook,
}

#[cfg(not(feature = "testing"))]
mod switch {
    use super::Guard;

    #[inline(always)]
    pub(crate) const fn enabled(_: Guard) -> bool {
        true
    }
}

#[cfg(feature = "testing")]
mod switch {
    use std::cell::Cell;

    use super::Guard;

    thread_local! {
        static DISABLED: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    pub(crate) fn enabled(guard: Guard) -> bool {
        DISABLED.get() != Some(guard)
    }

    /// Runs something on this thread without one of the guards.
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

#[cfg(feature = "testing")]
pub use self::switch::disabled;
pub(crate) use self::switch::enabled;
