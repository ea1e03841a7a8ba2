//! The store: the steps of each operation, over a cache, a codec and a backend that do not know
//! each other.

mod bulk_delete;
mod cached;
mod create;
mod decode;
mod delete;
#[cfg(feature = "_tower-sessions")]
mod import;
mod index;
mod lifecycle;
mod lifetime;
mod limit;
mod outage;
#[cfg(feature = "_tower-sessions")]
mod own_deadline;
mod owner;
mod read;
mod reencrypt;
mod regenerate;
mod revoke;
mod scan;
mod shared;
mod single_flight;
mod tombstone;
mod touch;
mod watch;
mod watching;
mod write;
mod write_locks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::task::TaskTracker;

#[cfg(feature = "_tower-sessions")]
pub(crate) use self::create::Draft;
pub(crate) use self::delete::{Deletion, LastSeen};
#[cfg(feature = "_tower-sessions")]
pub(crate) use self::import::Undo;
use self::index::Owners;
pub(crate) use self::lifetime::Term;
use self::lifetime::{Lifetime, Lifetimes};
pub(crate) use self::outage::Degraded;
use self::outage::Fallback;
pub use self::revoke::BulkDeletion;
pub(crate) use self::single_flight::Freshness;
use self::single_flight::SingleFlight;
pub use self::watch::SessionWatch;
pub(crate) use self::watch::Version;
use self::watching::Watching;
pub(crate) use self::write::unless_declined;
use self::write_locks::WriteLocks;
use crate::backend::BackendInfo;
use crate::clock::Clock;
use crate::cluster::{CacheStats, Coordinator, Lease, LocalCache};
use crate::codec::Codec;
use crate::config::SessionConfig;
use crate::events::Events;
use crate::id::SessionId;
use crate::observe::{self, Commits, Counter, Metrics, Outcome};
use crate::record::SessionData;
use crate::resilience::{Circuit, Client};

/// The sessions of an application, kept in a backend and read from a local cache.
///
/// Cheap to clone; all clones are the same store.
/// [`SessionLayer::store`](crate::SessionLayer::store) returns the store of a layer. Methods that
/// do IO are async; most of them return a `Result`.
///
/// Each operation has one deadline for all of its steps: see
/// [`operation_timeout`](crate::SessionConfigBuilder::operation_timeout). Scans take as long as
/// there are sessions, in steps that each have a deadline. So do deletions of many sessions, which
/// fail if they have not ended after one minute (those of one owner) or ten.
///
/// ```
/// # use clustered_sessions::{Secret, SessionConfig, SessionStore, StoreErrorKind};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: String }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
/// let store = SessionStore::new(config);
/// let session = store.create(UserSession { name: "Ada".into() }).await?;
/// assert_eq!(store.get(session.id).await?.data().name, "Ada");
///
/// store.delete(session.id).await?;
/// assert!(store.find(session.id).await?.is_none());
/// assert_eq!(store.get(session.id).await.unwrap_err().kind(), StoreErrorKind::NotFound);
/// # Ok(()) }
/// ```
pub struct SessionStore<T> {
    inner: Arc<StoreInner<T>>,
}

struct StoreInner<T> {
    backend: Arc<Client>,
    cache: Arc<LocalCache<T>>,
    /// `false` if the configuration disables the cache.
    caches: bool,
    /// Shares `backend` and `cache`.
    coordinator: Coordinator<T>,
    codec: Codec,
    single_flight: SingleFlight<T>,
    write_locks: WriteLocks,
    /// `None` if no owner function is configured.
    owners: Option<Owners<T>>,
    /// Commits and background tasks, which [`shutdown`](SessionStore::shutdown) waits for.
    tasks: TaskTracker,
    clock: Clock,
    lifetimes: Lifetimes,
    watching: Watching,
    fallback: Fallback,
    /// Set by [`shutdown`](SessionStore::shutdown).
    closed: AtomicBool,
    unreadable: Counter,
    reencrypted: Counter,
    reapplied: Counter,
    dropped_changes: Counter,
    degraded_reads: Counter,
    limited_logins: Counter,
    commits: Commits,
    events: Arc<Events>,
}

impl<T: SessionData> SessionStore<T> {
    /// Creates a store and spawns its listener. Outside a runtime, the first operation spawns it.
    ///
    /// The runtime in which the listener is spawned must go on being driven until it is shut down
    /// or the store is. A current-thread runtime that is kept and not driven any more, for example,
    /// stops the listener without its end being noticed: the cache is not used, and
    /// [`shutdown`](Self::shutdown) does not return.
    ///
    /// Does no IO and cannot fail.
    pub fn new(config: SessionConfig<T>) -> Self {
        let SessionConfig {
            keys,
            backend,
            clock,
            timeout,
            absolute_timeout,
            cluster,
            codec,
            touch_after,
            remember_me,
            on_outage,
            owner,
            owner_limit,
            on_event,
            resilience,
            metrics_label,
            ..
        } = config;
        let metrics = Metrics::new(metrics_label.as_deref());
        let backend = Arc::new(Client::new(backend, resilience, clock.clone(), &metrics));
        // Without a lease, a disabled cache is never used. With clustering off, the cache is always
        // used, as configured, although no announcements keep it up to date.
        let lease = if cluster.cache_enabled && !cluster.enabled {
            Lease::permanent()
        } else {
            Lease::new()
        };
        let ttl = cluster.cache_ttl;
        let cache = Arc::new(LocalCache::new(
            lease,
            clock.clone(),
            ttl,
            cluster.cache_capacity(),
            &metrics,
        ));
        if cluster.cache_enabled && !cluster.enabled {
            tracing::info!(
                node_id = %cluster.node_id,
                ?ttl,
                "clustering is off: sessions changed on other nodes may be served from the cache for up to the TTL"
            );
        }
        let caches = cluster.cache_enabled;
        let store = SessionStore {
            inner: Arc::new(StoreInner {
                watching: Watching::new(&cluster, &metrics),
                fallback: Fallback::new(on_outage, &cluster),
                coordinator: Coordinator::new(
                    backend.clone(),
                    cache.clone(),
                    clock.clone(),
                    cluster,
                    &metrics,
                ),
                backend,
                cache,
                caches,
                codec: Codec::new(&codec, &keys),
                single_flight: SingleFlight::new(),
                write_locks: WriteLocks::default(),
                owners: owner.map(|of| Owners::new(of, owner_limit, &keys)),
                tasks: TaskTracker::new(),
                lifetimes: Lifetimes::new(
                    Lifetime::new(timeout, absolute_timeout, touch_after),
                    remember_me.map(|(timeout, absolute)| {
                        Lifetime::new(timeout, Some(absolute), touch_after)
                    }),
                ),
                clock,
                closed: AtomicBool::new(false),
                unreadable: Counter::new(&metrics, observe::UNREADABLE_RECORDS),
                reencrypted: Counter::new(&metrics, observe::REENCRYPTED_RECORDS),
                reapplied: Counter::new(&metrics, observe::REAPPLIED_CHANGES),
                dropped_changes: Counter::new(&metrics, observe::DROPPED_CHANGES),
                degraded_reads: Counter::new(&metrics, observe::DEGRADED_READS),
                limited_logins: Counter::new(&metrics, observe::LIMITED_LOGINS),
                commits: Commits::new(&metrics),
                events: Arc::new(Events::new(on_event, &metrics)),
            }),
        };
        store.inner.coordinator.ensure_running();
        store
    }

    /// Returns the statistics of the local cache. Also updates its exported metrics.
    pub fn cache_stats(&self) -> CacheStats {
        let cache = &self.inner.cache;
        cache.flush();
        cache.stats()
    }

    /// Removes a session from this node's cache. Does not delete the session, nor evict it on other
    /// nodes.
    pub fn evict_from_cache(&self, id: SessionId) {
        self.inner.cache.evict(&id, None);
    }

    /// Returns the coordinator: this node's listener and announcements.
    pub fn coordinator(&self) -> &Coordinator<T> {
        &self.inner.coordinator
    }

    /// Returns the circuit breaker, to read its state or to close it.
    pub fn circuit(&self) -> &Circuit {
        self.inner.backend.circuit()
    }

    /// Returns what this node has found out about the servers of its backend: their software, the
    /// commands that they refuse, and the proof of their history that remains. Does no IO.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// use clustered_sessions::backend::HistoryProof;
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// let store = SessionStore::new(config);
    /// for server in store.backend_info().servers {
    ///     if server.history == HistoryProof::HeartbeatsAlone {
    ///         println!("{:?} refuses {:?}", server.software, server.refused);
    ///     }
    /// }
    /// # assert!(store.backend_info().servers.is_empty(), "memory has no servers");
    /// # Ok(()) }
    /// ```
    pub fn backend_info(&self) -> BackendInfo {
        self.inner.backend.info()
    }

    /// Returns how often a record could not be read so far. Each time is logged by id.
    pub fn unreadable_records(&self) -> u64 {
        self.inner.unreadable.get()
    }

    /// Returns the number of records that this node has re-encrypted so far, because they were
    /// encrypted under an older secret, or were plain text while encryption was being introduced.
    /// When it stops growing on all nodes, hardly any such records are left.
    #[doc(alias = "resealed_records")]
    pub fn reencrypted_records(&self) -> u64 {
        self.inner.reencrypted.get()
    }

    /// Returns the number of events so far that were dropped, because the function of
    /// [`on_event`](crate::SessionConfigBuilder::on_event) was too slow.
    pub fn dropped_events(&self) -> u64 {
        self.inner.events.dropped()
    }

    /// Returns the number of requests so far that ended with uncommitted changes to their session.
    pub fn dropped_changes(&self) -> u64 {
        self.inner.dropped_changes.get()
    }
}

/// Without a bound on `T`: a drop calls these.
impl<T> SessionStore<T> {
    pub(crate) fn count_dropped_changes(&self) {
        self.inner.dropped_changes.add_one();
    }

    pub(crate) fn count_commit(&self, outcome: Outcome) {
        self.inner.commits.count(outcome);
    }

    pub(crate) fn events(&self) -> Arc<Events> {
        self.inner.events.clone()
    }

    /// Returns `true` if this node has a cache, and evicts from it what is announced to have
    /// changed.
    pub(crate) fn caches_what_is_current(&self) -> bool {
        self.inner.caches && !self.inner.cache.lease().is_permanent()
    }

    /// Returns `true` if the session is known to exist under this id, without asking the backend.
    pub(crate) fn is_known_to_exist(&self, id: &SessionId) -> bool {
        self.caches_what_is_current() && self.inner.cache.peek(id).is_some()
    }

    /// Returns an address that identifies the store, whatever its data type.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }
}

impl<T> Clone for SessionStore<T> {
    fn clone(&self) -> Self {
        SessionStore { inner: self.inner.clone() }
    }
}

impl<T> fmt::Debug for SessionStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore")
            .field("coordinator", &self.inner.coordinator)
            .finish_non_exhaustive()
    }
}
