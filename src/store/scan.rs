//! Scans over all sessions or over those of one owner, a page at a time, in bounded memory.

use std::collections::{HashSet, VecDeque};

use futures_core::Stream;
use futures_util::future::join_all;
use futures_util::stream;

use super::SessionStore;
use super::tombstone::FollowedTombstones;
use crate::backend::{Cursor, OwnerTag, Page};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Record, SessionData};

/// Maximum number of times that a scan starts, including the first. It starts again when the
/// backend's server has changed.
const MAX_STARTS: u32 = 8;

impl<T: SessionData> SessionStore<T> {
    /// Returns a stream of all sessions, as the backend has them, in no particular order.
    ///
    /// A session that keeps its id during the whole scan is returned at least once, and may be
    /// returned twice. A record that cannot be read is an `Err` of kind
    /// [`Corrupt`](StoreErrorKind::Corrupt) with its id, after which the stream continues. Any
    /// other error ends the stream.
    ///
    /// One page of sessions is in memory at a time. The cache is neither read nor filled, and no
    /// session is extended.
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
        let store = self.clone();
        let scans = [Scan::new(self.clone())].into();
        records(Ok(scans), Tombstones::Skip, move |record| !store.has_expired(record))
    }

    /// Returns the ids of all sessions, each once. Takes some 50 bytes of memory per session.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error.
    pub async fn all_session_ids(&self) -> Result<Vec<SessionId>, StoreError> {
        let mut scan = Scan::new(self.clone());
        let mut ids = HashSet::new();
        while let Some(page) = scan.next_page().await? {
            ids.extend(page.ids);
        }
        Ok(ids.into_iter().collect())
    }

    /// Returns the number of sessions, counted by a scan over the backend. It is exact if no
    /// session is created or deleted meanwhile.
    ///
    /// # Errors
    ///
    /// Fails with the backend's error.
    pub async fn size(&self) -> Result<u64, StoreError> {
        let mut scan = Scan::new(self.clone());
        let mut size = 0;
        let mut rounds = scan.rounds;
        while let Some(page) = scan.next_page().await? {
            if scan.rounds != rounds {
                (size, rounds) = (0, scan.rounds);
            }
            size += page.ids.len() as u64;
        }
        Ok(size)
    }
}

/// Returns a stream of the records that `selects` returns `true` for, from one scan after the
/// other, or of one error.
pub(super) fn records<T: SessionData>(
    scans: Result<VecDeque<Scan<T>>, StoreError>,
    tombstones: Tombstones,
    selects: impl Fn(&Record<T>) -> bool + Send,
) -> impl Stream<Item = Result<Record<T>, StoreError>> + Send {
    let start = match scans {
        Ok(scans) => (scans, VecDeque::new()),
        Err(error) => (VecDeque::new(), [Err(error)].into()),
    };
    stream::unfold((start, selects), move |((mut scans, mut ready), selects)| async move {
        loop {
            if let Some(result) = ready.pop_front() {
                return Some((result, ((scans, ready), selects)));
            }
            let Some(page) = scans.front_mut()?.next_sessions(tombstones).await else {
                scans.pop_front();
                continue;
            };
            ready = page.into();
            ready.retain(|result| !result.as_ref().is_ok_and(|record| !selects(record)));
            let end = ready.iter().position(|result| result.as_ref().is_err_and(aborts_scan));
            if let Some(end) = end {
                ready.truncate(end + 1);
                scans.clear();
            }
        }
    })
}

/// Returns `true` if the error ends a scan. An unreadable record does not: it concerns that record
/// alone.
pub(super) fn aborts_scan(error: &StoreError) -> bool {
    error.kind() != StoreErrorKind::Corrupt
}

/// Returns the error of a page. `Corrupt` is that of one record, which does not end a scan.
fn page_error(error: StoreError) -> StoreError {
    if aborts_scan(&error) {
        return error;
    }
    StoreError::from(StoreErrorKind::Refused).with_source(error)
}

/// A scan over all ids, or over those in the index of one owner.
///
/// A scan takes as long as there are sessions, so it is no single operation: each call of the
/// backend for a page, and the loads of one page together, have their own deadline.
pub(super) struct Scan<T> {
    store: SessionStore<T>,
    owner: Option<OwnerTag>,
    position: Position,
    /// Number of times that the scan has started, including the first.
    starts: u32,
    /// Number of times that the scan has started again.
    rounds: u32,
    followed: FollowedTombstones,
    /// `true` if it is a step of an operation that was accepted, which a shutdown does not end.
    is_step: bool,
}

enum Position {
    Start,
    At(Cursor),
    End,
}

/// One page of a scan.
pub(super) struct ScanPage {
    pub(super) ids: Vec<SessionId>,
    /// The ids that the page's tombstones point to.
    pub(super) moved: Vec<SessionId>,
}

/// Treatment of the tombstones in a scan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tombstones {
    Skip,
    Follow,
}

impl<T: SessionData> Scan<T> {
    pub(super) fn new(store: SessionStore<T>) -> Self {
        Scan {
            store,
            owner: None,
            position: Position::Start,
            starts: 1,
            rounds: 0,
            followed: FollowedTombstones::default(),
            is_step: false,
        }
    }

    pub(super) fn of_owner(store: SessionStore<T>, owner: OwnerTag) -> Self {
        Scan { owner: Some(owner), ..Scan::new(store) }
    }

    /// Returns the scan as a step of an operation that was accepted, and that runs to its end even
    /// during a shutdown.
    pub(super) fn into_step(self) -> Self {
        Scan { is_step: true, ..self }
    }

    pub(super) async fn next_page(&mut self) -> Result<Option<ScanPage>, StoreError> {
        if !self.is_step {
            self.store.begin()?;
        }
        while self.starts <= MAX_STARTS {
            let cursor = match &self.position {
                Position::Start => None,
                Position::At(cursor) => Some(cursor),
                Position::End => return Ok(None),
            };
            let backend = &self.store.inner.backend;
            let page = match &self.owner {
                Some(owner) => backend.sessions_of_owner(owner, cursor).await,
                None => backend.scan(cursor).await,
            };
            match page.map_err(page_error)? {
                Page::Ids { ids, moved, next, again } => {
                    self.position = next.map_or(Position::End, Position::At);
                    self.rounds += u32::from(again);
                    return Ok(Some(ScanPage { ids, moved }));
                }
                Page::Restart => {
                    self.position = Position::Start;
                    self.starts += 1;
                    self.rounds += 1;
                }
            }
        }
        Err(StoreError::from(StoreErrorKind::Unavailable)
            .with_source("the server changed too often during the scan"))
    }

    /// Returns the sessions of the next page, loaded from the backend, or `None` at the end.
    /// Sessions deleted meanwhile are left out.
    pub(super) async fn next_sessions(
        &mut self,
        tombstones: Tombstones,
    ) -> Option<Vec<Result<Record<T>, StoreError>>> {
        let mut page = match self.next_page().await {
            Ok(page) => page?,
            Err(error) => return Some(vec![Err(error)]),
        };
        if tombstones == Tombstones::Follow {
            page.ids.append(&mut page.moved);
        }
        let load = |id| self.store.load_following_tombstones(id, &self.followed);
        let loads = page.ids.into_iter().map(load);
        let loaded = self.store.operation(join_all(loads)).await;
        Some(loaded.into_iter().filter_map(Result::transpose).collect())
    }
}
