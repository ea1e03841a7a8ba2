//! Walks over all sessions, or over those of an owner, a page at a time, in bounded memory.

use std::collections::{HashSet, VecDeque};

use futures_core::Stream;
use futures_util::future::join_all;
use futures_util::stream;

use super::SessionStore;
use crate::backend::{Cursor, Deleted, OwnerTag, Page};
use crate::cluster::{Announcement, LocalCache};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Record, SessionData};

/// How often a walk begins anew because the server has changed, before it gives up.
const MAX_RESTARTS: u32 = 8;
/// How many passes a bulk deletion makes, before it gives up on sessions that change faster than it can judge them.
pub(super) const MAX_PASSES: u32 = 16;

/// What a [`bulk_delete`](SessionStore::bulk_delete) or a [`delete_all_of`](SessionStore::delete_all_of) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "sessions that could not be read were not judged, and may have to be"]
pub struct BulkDeletion {
    /// Sessions deleted.
    pub deleted: u64,
    /// Records that could not be read, so that nobody knows whether they should have been deleted. They are still there, and
    /// logged by id.
    pub unreadable: u64,
}

impl<T: SessionData> SessionStore<T> {
    /// All sessions, as the backend has them, in no order.
    ///
    /// A session that keeps its id during the whole walk is met at least once; one may be met twice. A record that cannot be
    /// read is an `Err` of kind [`Corrupt`](StoreErrorKind::Corrupt) with its id, and the walk goes on; any other error ends it.
    ///
    /// One page of sessions is in memory at a time. The cache is neither asked nor filled, and no session is extended.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// use futures_util::TryStreamExt;
    ///
    /// let store = SessionStore::new(config);
    /// let _ = store.create(UserSession { name: "Ada".into() }).await?;
    /// let mut sessions = std::pin::pin!(store.each_session());
    /// while let Some(session) = sessions.try_next().await? {
    ///     println!("{} is logged in until {:?}", session.data().name, session.expires_at());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn each_session(
        &self,
    ) -> impl Stream<Item = Result<Record<T>, StoreError>> + Send + use<T> {
        let begin = (Some(Scan::new(self.clone())), VecDeque::new());
        stream::unfold(begin, |(mut scan, mut ready)| async move {
            loop {
                if let Some(result) = ready.pop_front() {
                    return Some((result, (scan, ready)));
                }
                let under_way = scan.as_mut()?;
                let mut page = under_way.next_sessions(Tombstones::Skip).await?;
                page.retain(|result| {
                    !result.as_ref().is_ok_and(|record| under_way.store.has_expired(record))
                });
                if let Some(end) =
                    page.iter().position(|result| result.as_ref().is_err_and(ends_the_scan))
                {
                    page.truncate(end + 1);
                    scan = None;
                }
                ready = VecDeque::from(page);
            }
        })
    }

    /// The ids of all sessions, each once. Takes some 50 bytes of memory each.
    ///
    /// # Errors
    ///
    /// The backend's.
    pub async fn all_session_ids(&self) -> Result<Vec<SessionId>, StoreError> {
        let mut scan = Scan::new(self.clone());
        let mut ids = HashSet::new();
        while let Some(page) = scan.next_page().await? {
            ids.extend(page.ids);
        }
        Ok(ids.into_iter().collect())
    }

    /// How many sessions there are, counted in a walk over the backend: exact while none is created or deleted meanwhile.
    ///
    /// # Errors
    ///
    /// The backend's.
    pub async fn size(&self) -> Result<u64, StoreError> {
        let mut scan = Scan::new(self.clone());
        let mut size = 0;
        let mut passes = scan.passes;
        while let Some(page) = scan.next_page().await? {
            if scan.passes != passes {
                (size, passes) = (0, scan.passes);
            }
            size += page.ids.len() as u64;
        }
        Ok(size)
    }

    /// Deletes the sessions for which `predicate` says so, on every node.
    ///
    /// It judges what the backend says and deletes exactly what it has judged: a session that changes in between is judged again.
    /// It goes over all sessions until a pass finds nothing more to delete, so that sessions are not missed that were created or
    /// moved while it ran; but for one that moves during a pass that takes longer than a minute, which is how long a trail is kept.
    ///
    /// # Errors
    ///
    /// The backend's; what was deleted by then stays deleted. [`Conflict`](StoreErrorKind::Conflict) if after 16 passes there
    /// are still new sessions to delete.
    pub async fn bulk_delete(
        &self,
        predicate: impl Fn(&Record<T>) -> bool + Send,
    ) -> Result<BulkDeletion, StoreError> {
        let mut total = BulkDeletion::default();
        for _ in 0..MAX_PASSES {
            let mut scan = Scan::new(self.clone());
            let mut matched = false;
            total.unreadable = 0;
            // Where a walk meets a session no more that has moved, it meets its tombstone; unless a walk takes longer than a
            // tombstone is kept.
            while let Some(page) = scan.next_sessions(Tombstones::Follow).await {
                for result in page {
                    match result {
                        Ok(record) if predicate(&record) => {
                            matched = true;
                            total.deleted += u64::from(self.delete_judged(&record).await?);
                        }
                        Ok(_) => {}
                        Err(error) if ends_the_scan(&error) => return Err(error),
                        Err(_) => total.unreadable += 1,
                    }
                }
            }
            if !matched {
                return Ok(total);
            }
        }
        Err(StoreErrorKind::Conflict { attempts: MAX_PASSES }.into())
    }

    /// Deletes all sessions on every node: how many there were.
    ///
    /// # Risk
    ///
    /// Everybody is logged out. Sessions that are created while it runs may stay. The index of owners is left to expire.
    ///
    /// # Errors
    ///
    /// The backend's; what was deleted by then stays deleted.
    pub async fn clear(&self) -> Result<u64, StoreError> {
        self.begin()?;
        // However this ends, what is in memory is no longer to be trusted.
        let _clear = ClearOnDrop(self.inner.coordinator.local_cache());
        let announcement = self.inner.coordinator.encode(Announcement::CacheClear);
        self.inner.backend.clear(&announcement).await
    }

    /// Deletes a session if it still is what was judged.
    pub(super) async fn delete_judged(&self, record: &Record<T>) -> Result<bool, StoreError> {
        let id = record.id();
        let announcement = self.inner.coordinator.encode(Announcement::SessionDeleted(id));
        let call = self.inner.coordinator.cache().begin_write(&id, None);
        let answer = self.inner.backend.delete_if(&id, record.revision(), &announcement).await;
        drop(call);
        let deleted = answer? == Deleted::Deleted;
        if deleted {
            self.unindex(record).await;
        }
        Ok(deleted)
    }
}

/// A record that cannot be read is one record's trouble; anything else is the backend's.
pub(super) fn ends_the_scan(error: &StoreError) -> bool {
    error.kind() != StoreErrorKind::Corrupt
}

/// One walk over all ids, or over those in the index of an owner.
pub(super) struct Scan<T> {
    store: SessionStore<T>,
    owner: Option<OwnerTag>,
    position: Position,
    /// How often the walk has begun.
    passes: u32,
}

enum Position {
    Start,
    At(Cursor),
    End,
}

/// What is met in one step of a scan.
struct ScanPage {
    ids: Vec<SessionId>,
    /// Where the tombstones met lead to.
    moved: Vec<SessionId>,
}

/// What a walk does about tombstones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tombstones {
    Skip,
    Follow,
}

impl<T: SessionData> Scan<T> {
    fn new(store: SessionStore<T>) -> Self {
        Scan { store, owner: None, position: Position::Start, passes: 1 }
    }

    pub(super) fn of(store: SessionStore<T>, owner: OwnerTag) -> Self {
        Scan { owner: Some(owner), ..Scan::new(store) }
    }

    async fn next_page(&mut self) -> Result<Option<ScanPage>, StoreError> {
        self.store.begin()?;
        while self.passes <= MAX_RESTARTS {
            let cursor = match &self.position {
                Position::Start => None,
                Position::At(cursor) => Some(cursor),
                Position::End => return Ok(None),
            };
            let backend = &self.store.inner.backend;
            let page = match &self.owner {
                Some(owner) => backend.sessions_of_owner(owner, cursor).await?,
                None => backend.scan(cursor).await?,
            };
            match page {
                Page::Ids { ids, moved, next } => {
                    self.position = next.map_or(Position::End, Position::At);
                    return Ok(Some(ScanPage { ids, moved }));
                }
                Page::Restart => {
                    self.position = Position::Start;
                    self.passes += 1;
                }
            }
        }
        Err(StoreError::from(StoreErrorKind::Unavailable)
            .with_source("the server changed too often during the walk"))
    }

    /// The sessions of the next page, read past the cache. Those that have gone meanwhile are left out.
    pub(super) async fn next_sessions(
        &mut self,
        tombstones: Tombstones,
    ) -> Option<Vec<Result<Record<T>, StoreError>>> {
        let mut met = match self.next_page().await {
            Ok(met) => met?,
            Err(error) => return Some(vec![Err(error)]),
        };
        if tombstones == Tombstones::Follow {
            met.ids.append(&mut met.moved);
        }
        let loads = met.ids.into_iter().map(|id| self.store.load_wherever_it_moved(id));
        let loaded = self.store.in_time(join_all(loads)).await;
        Some(loaded.into_iter().filter_map(Result::transpose).collect())
    }
}

struct ClearOnDrop<'a, T>(&'a LocalCache<T>);

impl<T> Drop for ClearOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.clear();
    }
}
