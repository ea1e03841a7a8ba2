//! The sessions of one owner: how they are listed, and which of them are deleted.

use std::time::Duration;

use clustered_sessions::{Clock, MemoryBackend, Session, SessionId, SessionLayer};
use tokio::time::sleep;

use crate::web::{Data, config, request, start};

async fn node() -> SessionLayer<Data> {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let owner = |data: &Data| data.user.clone();
    start(config(&memory).clock(clock).owner(owner)).await
}

/// Creates a session a second later than the one before.
async fn create(node: &SessionLayer<Data>, user: &str, visits: u64) -> SessionId {
    sleep(Duration::from_secs(1)).await;
    node.store().create(Data { user: Some(user.to_owned()), visits }).await.unwrap().id
}

async fn ids(node: &SessionLayer<Data>, user: &str) -> Vec<SessionId> {
    node.store().sessions_of(user).await.unwrap().iter().map(|record| record.id()).collect()
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_from_the_newest_to_the_oldest() {
    let node = node().await;
    let mut created = Vec::new();
    for visits in 0..20 {
        created.push(create(&node, "ada", visits).await);
        create(&node, "bob", visits).await;
    }
    created.reverse();
    assert_eq!(ids(&node, "ada").await, created);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_regenerated_is_the_newest() {
    let node = node().await;
    let data = Data { user: Some("ada".to_owned()), visits: 0 };
    let cookie = node.cookie_for(data).await.unwrap();
    let newer = create(&node, "ada", 1).await;
    assert_eq!(ids(&node, "ada").await[0], newer);
    sleep(Duration::from_secs(1)).await;
    request(&node, cookie, Session::regenerate).await;
    let now = ids(&node, "ada").await;
    assert_eq!((now.len(), now[1]), (2, newer));
}

#[tokio::test(start_paused = true)]
async fn those_of_an_owners_sessions_are_deleted_that_a_predicate_selects() {
    let node = node().await;
    let old = create(&node, "ada", 0).await;
    let kept = create(&node, "ada", 1).await;
    let selected = create(&node, "ada", 7).await;
    let other = create(&node, "bob", 7).await;
    let store = node.store();
    let limit = store.find(kept).await.unwrap().unwrap().created_at();
    let done = store.bulk_delete_of("ada", |s| s.data().visits == 7 || s.created_at() < limit);
    assert_eq!(done.await.unwrap().deleted, 2);
    for (id, exists) in [(old, false), (kept, true), (selected, false), (other, true)] {
        assert_eq!(store.find(id).await.unwrap().is_some(), exists);
    }
}
