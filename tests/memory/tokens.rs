//! Sessions whose token the application chooses, and tokens that go other ways than the cookie.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clustered_sessions::backend::Backend;
use clustered_sessions::testing::{Interposed, Interposer};
use clustered_sessions::{
    LimitPolicy, MemoryBackend, Session, SessionLayer, SessionToken, StoreError, StoreErrorKind,
};
use http::{Request, header};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::failing::{failing, hanging};
use crate::web::{Browser, Call, Data, Spy, ada, config, node, send, serve, settle, start};

const SECOND: Duration = Duration::from_secs(1);

fn token(number: u8) -> SessionToken {
    SessionToken::from_bytes([number; 16])
}

#[tokio::test]
async fn a_session_is_created_under_a_token_and_found_by_its_cookie() {
    let sessions = node(&MemoryBackend::new()).await;
    let session = sessions.store().create_with_token(token(7), ada()).await.unwrap();
    assert_eq!(session.id, token(7).session_id());
    assert_eq!(session.token.expose_bytes(), &[7; 16]);
    let cookie = sessions.set_cookie(&session);
    let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
    let app = serve(&sessions, async |session: Session<Data>| session.data().user.clone().unwrap());
    let request = Request::get("/").header(header::COOKIE, cookie).body(Default::default());
    assert_eq!(send(&app, request.unwrap()).await.body, "Ada");
}

#[tokio::test]
async fn a_token_is_used_once() {
    let sessions = node(&MemoryBackend::new()).await;
    let store = sessions.store();
    let id = store.create_with_token(token(7), ada()).await.unwrap().id;
    let again = store.create_with_token(token(7), Data::default()).await.unwrap_err();
    assert_eq!((again.kind(), again.session_id()), (StoreErrorKind::AlreadyExists, Some(id)));
    assert_eq!(*store.get(id).await.unwrap().data(), ada());

    // Nor is it free at once after a regeneration.
    let cookie = sessions.set_cookie(&store.create_with_token(token(8), ada()).await.unwrap());
    let mut browser = Browser::new();
    let (name, value) =
        cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
    browser.set_cookie(name, value);
    browser.visit(&serve(&sessions, async |session: Session<Data>| session.regenerate())).await;
    let moved = store.create_with_token(token(8), ada()).await.unwrap_err();
    assert_eq!(moved.kind(), StoreErrorKind::AlreadyExists);
}

#[tokio::test]
async fn nodes_that_have_looked_for_a_token_see_the_session_once_it_is_created() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let id = token(7).session_id();
    assert!(there.store().find(id).await.unwrap().is_none());
    let _ = here.store().create_with_token(token(7), ada()).await.unwrap();
    settle().await;
    assert!(there.store().find(id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_session_under_a_token_that_cannot_be_announced_is_not_created() {
    let memory = MemoryBackend::new();
    let sessions = start(config(&memory).backend(failing(&memory, Call::Publish))).await;
    let error = sessions.store().create_with_token(token(7), ada()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_creation_under_a_token_is_not_repeated() {
    let spy = Spy::new();
    let sessions: SessionLayer<Data> = start(config(&spy).enable_retry(true)).await;
    spy.take_calls();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let error = sessions.store().create_with_token(token(7), ada()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(spy.take_calls(), [Call::Create]);
}

#[tokio::test]
async fn a_session_under_a_token_counts_against_the_limit_of_its_owner() {
    let owned = config(&MemoryBackend::new()).owner(|data: &Data| data.user.clone());
    let sessions = start(owned.max_sessions_of_owner(1, LimitPolicy::RefuseNew)).await;
    let store = sessions.store();
    let _ = store.create_with_token(token(7), ada()).await.unwrap();
    let refused = store.create_with_token(token(8), ada()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::LimitReached);
    assert_eq!(store.all_session_ids().await.unwrap(), [token(7).session_id()]);
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_creation_under_a_token_that_is_not_undone_is_unknown() {
    async fn refused_at(memory: &MemoryBackend, backend: impl Backend) {
        let owned = config(memory).owner(|data: &Data| data.user.clone()).backend(backend);
        let sessions = start(owned.max_sessions_of_owner(1, LimitPolicy::RefuseNew)).await;
        let store = sessions.store();
        let _ = store.create_with_token(token(7), ada()).await.unwrap();
        let error = store.create_with_token(token(8), ada()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown);
        let cause = error.source().unwrap().downcast_ref::<StoreError>().unwrap();
        assert_eq!(cause.kind(), StoreErrorKind::LimitReached);
        assert!(store.find_fresh(token(8).session_id()).await.unwrap().is_some());
    }
    let memory = MemoryBackend::new();
    refused_at(&memory, failing(&memory, Call::Delete)).await;
    let memory = MemoryBackend::new();
    refused_at(&memory, hanging(&memory, Call::Delete)).await;
}

/// Fails announcements after a second, and takes a second for deletions.
struct Slow;

impl Interposer for Slow {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if matches!(method, Call::Publish | Call::Delete) {
            sleep(SECOND).await;
        }
        if method == Call::Publish {
            return Err(StoreErrorKind::Unavailable.into());
        }
        call.await
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_under_a_token_that_is_undone_after_its_deadline_has_an_unknown_outcome() {
    let memory = MemoryBackend::new();
    let backend = Interposed::with_interposer(memory.clone(), Slow);
    let limit = SECOND * 3 / 2;
    let config = config(&memory).backend(backend).attempt_timeout(limit).operation_timeout(limit);
    let sessions = start(config).await;
    let store = sessions.store();
    let error = store.create_with_token(token(7), ada()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown);
    assert_eq!(store.size().await.unwrap(), 1, "the session is not removed yet");
    sleep(SECOND * 2).await;
    assert_eq!(store.size().await.unwrap(), 0);
}

/// Fails the first announcement, and holds removals from an owner's index up until it is told.
#[derive(Default)]
struct LateRemovals {
    has_failed: AtomicBool,
    release: Arc<Notify>,
}

impl Interposer for LateRemovals {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        match method {
            Call::Publish if !self.has_failed.swap(true, Ordering::Relaxed) => {
                return Err(StoreErrorKind::Unavailable.into());
            }
            Call::RemoveFromOwner => self.release.notified().await,
            _ => {}
        }
        call.await
    }
}

#[tokio::test]
async fn the_undoing_of_a_creation_under_a_token_does_not_hide_a_later_one_from_its_owner() {
    let memory = MemoryBackend::new();
    let removals = LateRemovals::default();
    let release = removals.release.clone();
    let owned = config(&memory).owner(|data: &Data| data.user.clone());
    let backend = Interposed::with_interposer(memory.clone(), removals);
    let sessions = start(owned.backend(backend)).await;
    let store = sessions.store();
    let error = store.create_with_token(token(7), ada()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let _ = store.create_with_token(token(7), ada()).await.unwrap();
    release.notify_one();
    settle().await;
    assert_eq!(store.delete_all_of("Ada").await.unwrap().deleted, 1);
}
