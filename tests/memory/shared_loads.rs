//! Readers that share a load: one that is not polled, is cancelled or panics takes nothing from the
//! others.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clustered_sessions::{
    Secret, SessionConfig, SessionId, SessionLayer, SessionStore, StoreErrorKind,
};
use futures_util::poll;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::timeout;

use crate::lifecycle::cold;
use crate::web::{Call, Data, Spy, only_id, settle};

const SECOND: Duration = Duration::from_secs(1);

/// A node that has a session, but not in its cache.
async fn session(spy: &Spy) -> (SessionLayer<Data>, SessionId) {
    let (sessions, _) = cold(spy).await;
    let id = only_id(&sessions).await;
    sessions.store().evict_from_cache(id);
    spy.take_calls();
    (sessions, id)
}

#[tokio::test]
async fn a_reader_that_is_not_polled_holds_up_no_other() {
    let spy = Spy::new();
    let (sessions, id) = session(&spy).await;
    let store = sessions.store();
    let mut stalled = pin!(store.find(id));
    assert!(poll!(stalled.as_mut()).is_pending());
    let fresh = timeout(SECOND, store.find_fresh(id)).await;
    assert!(fresh.expect("a fresh read needs the load to end").unwrap().is_some());

    store.evict_from_cache(id);
    let mut stalled = pin!(store.find(id));
    assert!(poll!(stalled.as_mut()).is_pending());
    let shared = timeout(SECOND, store.find(id)).await;
    assert!(shared.expect("a read shares the load").unwrap().is_some());
}

#[tokio::test]
async fn a_reader_that_is_cancelled_leaves_its_load_to_the_others() {
    let spy = Spy::new();
    let (sessions, id) = session(&spy).await;
    let store = sessions.store();
    let held = spy.hold().await;
    let mut other = pin!(store.find(id));
    {
        let mut cancelled = pin!(store.find(id));
        assert!(poll!(cancelled.as_mut()).is_pending());
        assert!(poll!(other.as_mut()).is_pending());
    }
    drop(held);
    assert!(timeout(SECOND, other).await.expect("the load goes on").unwrap().is_some());
    assert_eq!(spy.take_calls(), [Call::Load]);
}

#[tokio::test]
async fn a_load_ends_although_its_only_reader_is_cancelled() {
    let spy = Spy::new();
    let (sessions, id) = session(&spy).await;
    {
        let mut cancelled = pin!(sessions.store().find(id));
        assert!(poll!(cancelled.as_mut()).is_pending());
    }
    settle().await;
    assert_eq!(spy.take_calls(), [Call::Load]);
    assert!(sessions.store().find(id).await.unwrap().is_some());
    assert_eq!(spy.take_calls(), [], "the load has filled the cache");
}

static PANICS: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Default, Serialize)]
struct Fragile;

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        assert!(!PANICS.load(Ordering::SeqCst), "on purpose");
        <()>::deserialize(deserializer).map(|()| Fragile)
    }
}

#[tokio::test]
async fn a_panic_while_data_is_read_is_an_error_of_the_read() {
    let config = SessionConfig::<Fragile>::development(Secret::insecure_dev("fragile"));
    let store = SessionStore::new(config.build().unwrap());
    let id = store.create(Fragile).await.unwrap().id;
    PANICS.store(true, Ordering::SeqCst);
    let (one, other) = tokio::join!(store.find_fresh(id), store.find_fresh(id));
    for read in [one, other] {
        assert_eq!(read.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    let cached = store.find(id).await;
    assert_eq!(cached.unwrap_err().kind(), StoreErrorKind::Corrupt, "it is not what is cached");
    PANICS.store(false, Ordering::SeqCst);
    assert!(store.find_fresh(id).await.unwrap().is_some(), "nothing is left behind");
}
