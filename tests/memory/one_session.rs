//! One session for each owner, and "log out everywhere else".

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{
    Clock, MemoryBackend, SessionConfigBuilder, SessionId, SessionLayer, SessionStore, StoreError,
};
use futures_util::future::join_all;

use crate::web::{Browser, Data, ada, config, serve, start};

async fn with_owner(memory: &MemoryBackend) -> SessionLayer<Data> {
    let config = config(memory).clock(Clock::tokio());
    start(config.owner(|data: &Data| data.user.clone())).await
}

/// Creates a session of Ada's and ends the older ones, as a login does.
async fn login(sessions: &SessionLayer<Data>) -> SessionId {
    let id = sessions.store().create(ada()).await.unwrap().id;
    let _ = sessions.store().delete_all_but_newest_of("Ada").await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn of_several_logins_at_once_exactly_one_survives() {
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let nodes = [with_owner(&memory).await, with_owner(&memory).await];
    let other = Data { user: Some("Grace".into()), visits: 0 };
    let grace = nodes[0].store().create(other).await.unwrap().id;
    for round in 0..20 {
        // An earlier login must not have the same age.
        tokio::time::advance(Duration::from_millis(1)).await;
        let logins = join_all((0..4).map(|number| login(&nodes[number % 2]))).await;
        let left = nodes[0].store().sessions_of("Ada").await.unwrap();
        assert_eq!(left.len(), 1, "round {round}: {logins:?}");
        assert!(logins.contains(&left[0].id()), "an older login survived");
    }
    assert!(nodes[0].store().find(grace).await.unwrap().is_some());
}

/// Creates a session before the second look at the owner's index.
#[derive(Clone)]
struct LateLogin {
    store: SessionStore<Data>,
    looks: Arc<AtomicU32>,
}

impl Interposer for LateLogin {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::SessionsOfOwner
            && self.looks.fetch_add(1, Ordering::SeqCst) == 1
        {
            tokio::time::advance(Duration::from_millis(1)).await;
            let _ = self.store.create(ada()).await?;
        }
        call.await
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_comes_meanwhile_is_not_ended() {
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let owned = |config: SessionConfigBuilder<Data>| {
        config.clock(Clock::tokio()).owner(|data: &Data| data.user.clone())
    };
    let other = start(owned(config(&memory))).await;
    let late = LateLogin { store: other.store().clone(), looks: Arc::default() };
    let backend = Interposed::with_interposer(memory.clone(), late);
    let sessions = start(owned(config(&memory)).backend(backend)).await;
    for _ in 0..2 {
        let _ = other.store().create(ada()).await.unwrap();
    }
    assert_eq!(sessions.store().delete_all_but_newest_of("Ada").await.unwrap().deleted, 1);
    assert_eq!(sessions.store().size().await.unwrap(), 2, "the newest of before, and the late one");
}

#[tokio::test(start_paused = true)]
async fn the_newest_session_is_kept_whatever_its_id() {
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let owned = config(&memory).clock(Clock::tokio()).owner(|data: &Data| data.user.clone());
    let sessions = start(owned).await;
    let store = sessions.store();
    assert_eq!(store.delete_all_but_newest_of("Ada").await.unwrap().deleted, 0);
    for _ in 0..10 {
        let old = store.create(ada()).await.unwrap().id;
        tokio::time::advance(Duration::from_millis(1)).await;
        let new = store.create(ada()).await.unwrap().id;
        let before = store.sessions_of("Ada").await.unwrap().len() as u64;
        let deletion = store.delete_all_but_newest_of("Ada").await.unwrap();
        assert_eq!(deletion.deleted, before - 1);
        assert!(store.find(old).await.unwrap().is_none());
        assert!(store.find(new).await.unwrap().is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_session_that_is_kept_may_be_regenerated_before_the_others_are_deleted() {
    let sessions = with_owner(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let keep = sessions.store().all_session_ids().await.unwrap()[0];
    let _other = Browser::with(&sessions, ada()).await;
    let regenerate = async |session: clustered_sessions::Session<Data>| session.regenerate();
    browser.visit(&serve(&sessions, regenerate)).await;
    let deletion = sessions.store().delete_all_of_except("Ada", keep).await.unwrap();
    assert_eq!(deletion.deleted, 1);
    let left = sessions.store().sessions_of("Ada").await.unwrap();
    assert_eq!((left.len(), left[0].origin()), (1, keep));
}
