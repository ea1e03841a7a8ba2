//! The store: the order of steps, over a cache, a codec and a backend that know nothing of each other.

mod decode;
mod index;
mod lifecycle;
mod lifetime;
mod outage;
mod owner;
mod reencrypt;
mod regenerate;
mod scan;
mod single_flight;
mod tombstone;
mod touch;
mod write;
mod write_locks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use self::index::Owners;
use self::lifetime::Lifetime;
pub(crate) use self::outage::Degraded;
use self::outage::Fallback;
pub use self::scan::BulkDeletion;
pub(crate) use self::single_flight::Freshness;
use self::single_flight::SingleFlight;
use self::write_locks::WriteLocks;
use crate::clock::Clock;
use crate::cluster::{CacheStats, Coordinator, Lease, LocalCache, Lookup};
use crate::codec::Codec;
use crate::config::SessionConfig;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::observe::{self, Commits, Counter, Metrics, Outcome};
use crate::record::{Record, SessionData};
use crate::resilience::{Circuit, Client};

/// Sessions in a backend, read from a local cache. A cheap clone; all clones are one store.
///
/// Usually got from [`SessionLayer::store`](crate::SessionLayer::store). What does IO is async and returns `Result`.
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
    coordinator: Coordinator<T>,
    codec: Codec,
    single_flight: SingleFlight<T>,
    write_locks: WriteLocks,
    /// `None` if nobody has said whose a session is.
    owners: Option<Owners<T>>,
    tasks: TaskTracker,
    clock: Clock,
    lifetime: Lifetime,
    /// What a visitor without a session has, made once.
    default_data: Arc<T>,
    fallback: Fallback,
    closed: AtomicBool,
    unreadable: Counter,
    reencrypted: Counter,
    reapplied: Counter,
    dropped_changes: Counter,
    degraded_reads: Counter,
    commits: Commits,
}

impl<T: SessionData> SessionStore<T> {
    /// Builds a store and spawns its listener; outside a runtime, the first operation does. No IO, and it cannot fail.
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
            on_outage,
            owner,
            resilience,
            metrics_label,
            ..
        } = config;
        let metrics = Metrics::new(metrics_label.as_deref());
        let backend = Arc::new(Client::new(backend, resilience, clock.clone(), &metrics));
        // A cache that is turned off is one that is never trusted; one that nobody keeps right is always trusted, as asked for.
        let lease = if cluster.cache_enabled && !cluster.enabled {
            Lease::permanent()
        } else {
            Lease::new()
        };
        let ttl = cluster.effective_cache_ttl(timeout);
        let cache =
            Arc::new(LocalCache::new(lease, clock.clone(), ttl, cluster.cache_max_size, &metrics));
        if cluster.cache_enabled && !cluster.enabled {
            tracing::info!(
                node_id = %cluster.node_id,
                ?ttl,
                "clustering is off: sessions changed on other nodes may be answered from memory for up to the time to live"
            );
        }
        let store = SessionStore {
            inner: Arc::new(StoreInner {
                fallback: Fallback::new(on_outage, &cluster),
                coordinator: Coordinator::new(
                    backend.clone(),
                    cache,
                    clock.clone(),
                    cluster,
                    &metrics,
                ),
                backend,
                codec: Codec::new(&codec, &keys),
                single_flight: SingleFlight::new(),
                write_locks: WriteLocks::default(),
                owners: owner.map(|of| Owners::new(of, &keys)),
                tasks: TaskTracker::new(),
                lifetime: Lifetime::new(timeout, absolute_timeout, touch_after),
                clock,
                default_data: Arc::new(T::default()),
                closed: AtomicBool::new(false),
                unreadable: Counter::new(&metrics, observe::UNREADABLE_RECORDS),
                reencrypted: Counter::new(&metrics, observe::REENCRYPTED_RECORDS),
                reapplied: Counter::new(&metrics, observe::REAPPLIED_CHANGES),
                dropped_changes: Counter::new(&metrics, observe::DROPPED_CHANGES),
                degraded_reads: Counter::new(&metrics, observe::DEGRADED_READS),
                commits: Commits::new(&metrics),
            }),
        };
        store.inner.coordinator.ensure_running();
        store
    }

    /// A session, from the cache where the coherence contract allows, or `None`. Does not extend its life.
    ///
    /// # Errors
    ///
    /// The backend's: an error is never "no session". [`Corrupt`](StoreErrorKind::Corrupt) if the record cannot be read.
    pub async fn find(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        self.read(id, Freshness::Cached).await
    }

    /// A session as the backend has it now, or `None`. Does not extend its life.
    ///
    /// # Errors
    ///
    /// Those of [`find`](SessionStore::find).
    pub async fn find_fresh(&self, id: SessionId) -> Result<Option<Record<T>>, StoreError> {
        self.read(id, Freshness::Fresh).await
    }

    /// A session that must be there. Does not extend its life.
    ///
    /// # Errors
    ///
    /// [`NotFound`](StoreErrorKind::NotFound), and those of [`find`](SessionStore::find).
    pub async fn get(&self, id: SessionId) -> Result<Record<T>, StoreError> {
        self.find(id)
            .await?
            .ok_or_else(|| StoreError::from(StoreErrorKind::NotFound).with_session_id(&id))
    }

    pub(crate) async fn read(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<Option<Record<T>>, StoreError> {
        self.check_open()?;
        if freshness == Freshness::Cached {
            match self.inner.coordinator.cache().get(&id) {
                Lookup::Hit(record) => return Ok(Some(record)),
                Lookup::Absent => return Ok(None),
                Lookup::Miss => {}
            }
        }
        self.inner.coordinator.ensure_running();
        let span = tracing::debug_span!("session.load", session = %id);
        self.inner.single_flight.read(self, id, freshness).instrument(span).await
    }

    /// What the local cache has done so far. Brings the metrics of the cache up to date, too.
    pub fn cache_stats(&self) -> CacheStats {
        let cache = self.inner.coordinator.cache();
        cache.flush();
        cache.stats()
    }

    /// Drops a session from this node's memory. It is not deleted, and other nodes keep it.
    pub fn evict_from_cache(&self, id: SessionId) {
        self.inner.coordinator.cache().evict(&id, None);
    }

    /// This node's part in the cluster.
    pub fn coordinator(&self) -> &Coordinator<T> {
        &self.inner.coordinator
    }

    /// The circuit breaker: its state, and the means to close it.
    pub fn circuit(&self) -> &Circuit {
        self.inner.backend.circuit()
    }

    /// How often a record could not be read so far. Each time it was logged by id.
    pub fn unreadable_records(&self) -> u64 {
        self.inner.unreadable.get()
    }

    /// Sessions that this node has written anew so far because they were encrypted under an older secret, or not at all while
    /// encryption was being turned on. When it has stopped growing on all nodes, hardly any are left.
    pub fn resealed_records(&self) -> u64 {
        self.inner.reencrypted.get()
    }

    /// Requests that ended with changes to their session that were never committed.
    pub fn dropped_changes(&self) -> u64 {
        self.inner.dropped_changes.get()
    }
}

/// Without a bound on `T`: a drop calls these.
impl<T> SessionStore<T> {
    pub(crate) fn default_data(&self) -> &Arc<T> {
        &self.inner.default_data
    }

    pub(crate) fn count_dropped_changes(&self) {
        self.inner.dropped_changes.add_one();
    }

    pub(crate) fn count_commit(&self, outcome: Outcome) {
        self.inner.commits.count(outcome);
    }

    /// Tells stores apart, whatever their data type.
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
