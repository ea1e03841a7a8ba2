//! The limits of a revocation: conflicts in a row, slow scans and the deadline.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clustered_sessions::backend::{Event, Subscription};
use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{
    Clock, MemoryBackend, Session, SessionId, SessionLayer, SessionStore, StoreError,
    StoreErrorKind,
};
use http::HeaderValue;
use tokio::time::{Instant, advance};

use crate::web::{Data, ada, config, request, start};

/// Time for which a tombstone lives. A scan that takes longer is repeated.
const TOMBSTONE_TTL: Duration = Duration::from_secs(60);
const BULK_DELETE_TIMEOUT: Duration = Duration::from_secs(600);

/// Changes the backend through another node before each deletion, and after each `clear`.
#[derive(Clone)]
struct Rival {
    sessions: SessionLayer<Data>,
    /// The cookie of the session that there is from the start.
    cookie: HeaderValue,
    act: Action,
    counts: Arc<Counts>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Updates every session before each conditional deletion.
    Update,
    /// Does so, and regenerates the session before the first unconditional deletion.
    UpdateAndMove,
    /// Creates a session and takes longer than a tombstone lives, this many times.
    CreateSlowly(u32),
}

#[derive(Default)]
struct Counts {
    conditional: AtomicU32,
    unconditional: AtomicU32,
    clears: AtomicU32,
}

/// Answers the first conditional deletion as Redis does if another version is there that it cannot
/// parse.
#[derive(Default)]
struct Unparsable(AtomicU32);

impl Interposer for Unparsable {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::DeleteIf && self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(StoreErrorKind::Corrupt.into());
        }
        call.await
    }
}

#[tokio::test]
async fn a_logout_everywhere_goes_on_after_a_version_that_it_cannot_read() {
    let memory = MemoryBackend::new();
    let backend = Interposed::with_interposer(memory.clone(), Unparsable::default());
    let owned = config(&memory).backend(backend).owner(|data: &Data| data.user.clone());
    let sessions = start(owned).await;
    for _ in 0..3 {
        let _ = sessions.store().create(ada()).await.unwrap();
    }
    assert_eq!(sessions.store().delete_all_of("Ada").await.unwrap().deleted, 3);
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

impl Interposer for Rival {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        match method {
            BackendMethod::DeleteIf => {
                let earlier = self.counts.conditional.fetch_add(1, Ordering::SeqCst);
                self.interfere(earlier).await?;
            }
            BackendMethod::Delete => {
                let earlier = self.counts.unconditional.fetch_add(1, Ordering::SeqCst);
                if self.act == Action::UpdateAndMove && earlier == 0 {
                    request(&self.sessions, self.cookie.clone(), Session::regenerate).await;
                }
            }
            BackendMethod::Clear => {
                let cleared = call.await;
                let earlier = self.counts.clears.fetch_add(1, Ordering::SeqCst);
                self.interfere(earlier).await?;
                return cleared;
            }
            _ => {}
        }
        call.await
    }
}

impl Rival {
    async fn interfere(&self, earlier: u32) -> Result<(), StoreError> {
        match self.act {
            Action::Update | Action::UpdateAndMove => {
                for id in self.sessions.store().all_session_ids().await? {
                    self.sessions.store().modify(id, |data| data.visits += 1).await?;
                }
            }
            Action::CreateSlowly(times) if earlier < times => {
                let _ = self.sessions.store().create(ada()).await?;
                // The call ends at once by the clock of its own timeout, which is polled after it.
                advance(TOMBSTONE_TTL + Duration::from_secs(1)).await;
            }
            Action::CreateSlowly(_) => {}
        }
        Ok(())
    }
}

/// Returns a store over a backend with a rival, and the rival's counts. There is one session.
async fn store_with_rival(act: Action) -> (SessionStore<Data>, Arc<Counts>) {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let config = || config(&memory).clock(clock.clone()).owner(|user: &Data| user.user.clone());
    let rival = start(config()).await;
    let cookie = rival.cookie_for(ada()).await.unwrap();
    let counts = Arc::<Counts>::default();
    let interposer = Rival { sessions: rival, cookie, act, counts: counts.clone() };
    let backend = Interposed::with_interposer(memory.clone(), interposer);
    let sessions = start(config().backend(backend)).await;
    (sessions.store().clone(), counts)
}

#[tokio::test]
async fn after_eight_conflicts_in_a_row_the_next_version_is_deleted_without_being_judged() {
    let (store, counts) = store_with_rival(Action::Update).await;
    let deletion = store.delete_all_of("Ada").await.unwrap();
    assert_eq!((deletion.deleted, deletion.unreadable), (1, 0));
    assert_eq!(counts.conditional.load(Ordering::SeqCst), 8);
    assert_eq!(counts.unconditional.load(Ordering::SeqCst), 1);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_that_moves_after_eight_conflicts_is_deleted_under_its_new_id() {
    let (store, counts) = store_with_rival(Action::UpdateAndMove).await;
    let deletion = store.delete_all_of("Ada").await.unwrap();
    assert_eq!((deletion.deleted, deletion.unreadable), (1, 0));
    assert_eq!(counts.conditional.load(Ordering::SeqCst), 8);
    assert_eq!(counts.unconditional.load(Ordering::SeqCst), 2);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_takes_longer_than_a_tombstone_lives_is_repeated() {
    let (store, _) = store_with_rival(Action::CreateSlowly(1)).await;
    let deletion = store.bulk_delete(|_| true).await.unwrap();
    assert_eq!((deletion.deleted, deletion.unreadable), (2, 0));
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_takes_longer_than_a_tombstone_lives_is_repeated() {
    let (store, counts) = store_with_rival(Action::CreateSlowly(1)).await;
    assert_eq!(store.clear().await.unwrap(), 2);
    assert_eq!(counts.clears.load(Ordering::SeqCst), 2);
    assert_eq!(store.size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_never_catches_up_ends_with_a_timeout_after_ten_minutes() {
    let (store, counts) = store_with_rival(Action::CreateSlowly(u32::MAX)).await;
    let error = store.clear().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert_eq!(counts.clears.load(Ordering::SeqCst), 10);
}

#[tokio::test(start_paused = true)]
async fn a_bulk_deletion_that_never_catches_up_ends_with_a_timeout_after_ten_minutes() {
    let (store, _) = store_with_rival(Action::CreateSlowly(u32::MAX)).await;
    let began = Instant::now();
    let error = store.bulk_delete(|_| true).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    let took = began.elapsed();
    assert!(
        took >= BULK_DELETE_TIMEOUT && took < BULK_DELETE_TIMEOUT + 2 * TOMBSTONE_TTL,
        "{took:?}"
    );
}

/// Reads the session on the same node just before each conditional deletion, and drops all
/// announcements.
#[derive(Clone, Default)]
struct ReadInBetween(Arc<OnceLock<(SessionStore<Data>, SessionId)>>);

impl Interposer for ReadInBetween {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::DeleteIf {
            let (store, id) = self.0.get().unwrap();
            assert!(store.find(*id).await?.is_some());
        }
        call.await
    }

    fn subscribed(&self, mut subscription: Subscription) -> Subscription {
        let (mut sender, forwarded) = Subscription::channel();
        tokio::spawn(async move {
            while let Some(event) = subscription.next().await {
                if !matches!(event, Event::Message(_)) && !sender.send(event) {
                    break;
                }
            }
        });
        forwarded
    }
}

#[tokio::test]
async fn a_read_in_the_middle_of_a_revocation_does_not_bring_the_session_back_into_the_cache() {
    for by_owner in [true, false] {
        let (memory, read) = (MemoryBackend::new(), ReadInBetween::default());
        let backend = Interposed::with_interposer(memory.clone(), read.clone());
        let config = config(&memory).backend(backend).owner(|user: &Data| user.user.clone());
        let store = start(config).await.store().clone();
        let id = store.create(ada()).await.unwrap().id;
        read.0.set((store.clone(), id)).unwrap_or_else(|_| panic!("it is set once"));
        let deletion = if by_owner {
            store.delete_all_of("Ada").await.unwrap()
        } else {
            store.bulk_delete(|_| true).await.unwrap()
        };
        assert_eq!(deletion.deleted, 1);
        assert!(store.coordinator().is_listening());
        assert!(store.find(id).await.unwrap().is_none(), "by owner: {by_owner}");
    }
}
