//! Requests at the same time, on one node and on several: what they change, end and read.

use std::sync::Arc;

use clustered_sessions::{
    MemoryBackend, SessionToken, StoreError, StoreErrorKind, TowerSessionsStore,
};

use super::tower_sessions::session::{Error, Id};
use super::tower_sessions::{Session, SessionStore, session_store};
use crate::node::{config, node, start};
use crate::web::{Call, Spy, settle};

/// Returns the session of a request, as their middleware creates it.
fn request(node: &TowerSessionsStore, id: Id) -> Session {
    Session::new(Some(id), Arc::new(node.clone()), None)
}

/// Stores a session with these values and returns its id.
async fn stored(node: &TowerSessionsStore, values: &[(&str, u64)]) -> Id {
    let session = Session::new(None, Arc::new(node.clone()), None);
    for (key, value) in values {
        session.insert(key, value).await.unwrap();
    }
    session.save().await.unwrap();
    session.id().unwrap()
}

/// Returns the values under these keys that a new request finds.
async fn read(node: &TowerSessionsStore, id: Id, keys: &[&str]) -> Vec<Option<u64>> {
    settle().await;
    let session = request(node, id);
    let mut values = Vec::new();
    for key in keys {
        values.push(session.get(key).await.unwrap());
    }
    values
}

fn token(id: Id) -> SessionToken {
    SessionToken::from_bytes(id.0.to_le_bytes())
}

#[tokio::test]
async fn parallel_requests_that_change_different_keys_keep_both_changes() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let id = stored(&here, &[("cart", 1), ("draft", 1)]).await;
    let (one, other) = (request(&here, id), request(&there, id));
    one.insert("cart", 2).await.unwrap();
    one.insert("new", 2).await.unwrap();
    other.remove::<u64>("draft").await.unwrap();
    let (first, second) = tokio::join!(one.save(), other.save());
    first.and(second).unwrap();
    for node in [&here, &there] {
        assert_eq!(read(node, id, &["cart", "draft", "new"]).await, [Some(2), None, Some(2)]);
    }
}

#[tokio::test]
async fn a_slow_request_brings_back_no_value_that_another_node_has_removed() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let id = stored(&here, &[("admin", 1)]).await;
    let slow = request(&here, id);
    slow.insert("page", 2).await.unwrap();
    let fast = request(&there, id);
    fast.remove::<u64>("admin").await.unwrap();
    fast.save().await.unwrap();
    slow.save().await.unwrap();
    assert_eq!(read(&there, id, &["admin", "page"]).await, [None, Some(2)]);
}

#[tokio::test]
async fn a_request_that_saves_twice_takes_back_what_it_saved_first() {
    let memory = MemoryBackend::new();
    let node = node(&memory).await;
    for id in [stored(&node, &[]).await, stored(&node, &[("kept", 1)]).await] {
        let session = request(&node, id);
        session.insert("step", 1).await.unwrap();
        session.save().await.unwrap();
        assert_eq!(read(&node, id, &["step"]).await, [Some(1)]);
        session.remove::<u64>("step").await.unwrap();
        session.save().await.unwrap();
        assert_eq!(read(&node, id, &["step"]).await, [None]);
    }
}

#[tokio::test]
async fn a_request_that_has_created_a_session_saves_what_it_has_changed_since() {
    let node = node(&MemoryBackend::new()).await;
    let session = Session::new(None, Arc::new(node.clone()), None);
    session.insert("step", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    let other = request(&node, id);
    other.insert("other", 2).await.unwrap();
    other.save().await.unwrap();
    session.remove::<u64>("step").await.unwrap();
    session.save().await.unwrap();
    assert_eq!(read(&node, id, &["step", "other"]).await, [None, Some(2)]);
}

#[tokio::test]
async fn a_cleared_session_loses_what_others_have_put_into_it() {
    let node = node(&MemoryBackend::new()).await;
    let id = stored(&node, &[("a", 1)]).await;
    for has_loaded in [true, false] {
        let session = request(&node, id);
        if has_loaded {
            session.load().await.unwrap();
        }
        let other = request(&node, id);
        other.insert("b", 2).await.unwrap();
        other.save().await.unwrap();
        session.clear().await;
        session.insert("c", 3).await.unwrap();
        session.save().await.unwrap();
        assert_eq!(read(&node, id, &["a", "b", "c"]).await, [None, None, Some(3)]);
    }
}

#[tokio::test]
async fn a_change_that_changes_nothing_on_a_stale_version_is_made_to_the_present_one() {
    for has_loaded in [true, false] {
        let memory = MemoryBackend::new();
        let spy = Spy::over(&memory);
        let (here, there) = (node(&spy).await, node(&memory).await);
        let id = stored(&here, &[("a", 1)]).await;
        let slow = request(&here, id);
        if has_loaded {
            slow.load().await.unwrap();
        }
        let fast = request(&here, id);
        fast.remove::<u64>("a").await.unwrap();
        fast.save().await.unwrap();
        settle().await;

        spy.drop_messages();
        let other = request(&there, id);
        other.insert("b", 2).await.unwrap();
        other.save().await.unwrap();
        assert_eq!(read(&here, id, &["b"]).await, [None], "the empty session is cached here");
        slow.clear().await;
        slow.save().await.unwrap();
        assert_eq!(read(&there, id, &["a", "b"]).await, [None, None]);
    }
}

#[tokio::test]
async fn a_session_that_another_node_ends_has_ended_everywhere_and_is_not_saved_again() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let id = stored(&here, &[("user", 1)]).await;
    let slow = request(&here, id);
    slow.insert("page", 2).await.unwrap();
    assert_eq!(read(&there, id, &["user"]).await, [Some(1)]);

    request(&there, id).flush().await.unwrap();
    assert_eq!(read(&here, id, &["user"]).await, [None]);
    slow.save().await.unwrap();
    for node in [&here, &there] {
        assert_eq!(read(node, id, &["user", "page"]).await, [None, None]);
        assert_eq!(node.store().size().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_owner_is_logged_out_everywhere() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let session = Session::new(None, Arc::new(here.clone()), None);
    session.insert("user", "ada").await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    assert!(there.load(&id).await.unwrap().is_some());
    assert_eq!(there.store().sessions_of("ada").await.unwrap().len(), 1);
    assert_eq!(there.store().delete_all_of("ada").await.unwrap().deleted, 1);
    settle().await;
    assert!(here.load(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_cycled_id_keeps_the_values_under_a_new_token() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let id = stored(&here, &[("a", 1)]).await;
    let session = request(&here, id);
    session.cycle_id().await.unwrap();
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    let new = session.id().unwrap();
    assert_ne!(new, id);
    assert_eq!(read(&there, new, &["a", "b"]).await, [Some(1), Some(2)]);
    assert_eq!(read(&there, id, &["a", "b"]).await, [None, None]);
    // The request goes on with the new session.
    session.remove::<u64>("a").await.unwrap();
    session.save().await.unwrap();
    assert_eq!(read(&there, new, &["a", "b"]).await, [None, Some(2)]);
}

#[tokio::test]
async fn a_cycled_id_brings_back_nothing_of_a_session_that_had_ended() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    for other in [&here, &there] {
        let id = stored(&here, &[("user", 1)]).await;
        let session = request(&here, id);
        session.insert("page", 2).await.unwrap();
        request(other, id).flush().await.unwrap();
        session.cycle_id().await.unwrap();
        session.save().await.unwrap();
        let new = session.id().unwrap();
        assert_eq!(read(&here, new, &["user", "page"]).await, [None, Some(2)]);
        here.delete(&new).await.unwrap();
    }
}

#[tokio::test]
async fn a_cycled_id_whose_deletion_fails_brings_back_nothing_of_a_session_that_had_ended() {
    let spy = Spy::new();
    let node = node(&spy).await;
    let id = stored(&node, &[("user", 1)]).await;
    let session = request(&node, id);
    session.insert("page", 2).await.unwrap();
    request(&node, id).flush().await.unwrap();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    assert!(session.cycle_id().await.is_err());
    session.save().await.unwrap();
    let new = session.id().unwrap();
    assert_eq!(read(&node, new, &["user", "page"]).await, [None, Some(2)]);
}

#[tokio::test]
async fn of_several_cycled_ids_of_one_session_at_the_same_time_perhaps_none_keeps_the_values() {
    let node = node(&MemoryBackend::new()).await;
    let id = stored(&node, &[("user", 1)]).await;
    let requests = [request(&node, id), request(&node, id)];
    for session in &requests {
        session.load().await.unwrap();
    }
    for session in &requests {
        session.cycle_id().await.unwrap();
    }
    for session in &requests {
        session.save().await.unwrap();
        assert_eq!(read(&node, session.id().unwrap(), &["user"]).await, [None]);
    }
}

#[tokio::test]
async fn a_request_that_flushes_and_begins_again_gets_a_new_id() {
    let node = node(&MemoryBackend::new()).await;
    let id = stored(&node, &[("a", 1)]).await;
    let session = request(&node, id);
    assert_eq!(session.get::<u64>("a").await.unwrap(), Some(1));
    session.flush().await.unwrap();
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    let new = session.id().unwrap();
    assert_ne!(new, id);
    assert_eq!(read(&node, new, &["a", "b"]).await, [None, Some(2)]);
    assert_eq!(read(&node, id, &["a", "b"]).await, [None, None]);
}

#[tokio::test]
async fn a_session_is_read_from_memory_and_written_only_if_it_changes() {
    let spy = Spy::new();
    let node = node(&spy).await;
    let id = stored(&node, &[("a", 1)]).await;
    spy.take_calls();
    assert_eq!(read(&node, id, &["a"]).await, [Some(1)]);
    let session = request(&node, id);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(spy.take_calls(), []);
    session.insert("a", 2).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(spy.take_calls(), [Call::Update]);
}

#[tokio::test]
async fn the_id_is_the_token_and_the_store_has_its_hash() {
    let node = node(&MemoryBackend::new()).await;
    let id = stored(&node, &[("a", 1)]).await;
    let session = node.store().get(token(id).session_id()).await.unwrap();
    assert_eq!(session.data().keys().collect::<Vec<_>>(), ["a"], "what was loaded is not stored");
    assert_eq!(node.store().all_session_ids().await.unwrap(), [token(id).session_id()]);
}

#[tokio::test]
async fn a_record_gets_a_token_of_this_crate_whatever_id_it_had() {
    let node = node(&MemoryBackend::new()).await;
    let id = stored(&node, &[("a", 1)]).await;
    let mut record = node.load(&id).await.unwrap().unwrap();
    node.create(&mut record).await.unwrap();
    assert_ne!(record.id, id);
    assert_eq!(read(&node, id, &["a"]).await, [Some(1)]);
}

#[tokio::test]
async fn an_error_of_the_backend_is_no_missing_session() {
    let spy = Spy::new();
    let node = start(config(&spy).max_record_size(1024)).await;
    let id = stored(&node, &[("a", 1)]).await;
    node.store().evict_from_cache(token(id).session_id());
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let Err(session_store::Error::Backend(text)) = node.load(&id).await else { panic!() };
    assert!(text.starts_with(&StoreError::from(StoreErrorKind::Unavailable).to_string()), "{text}");

    spy.fail_next(1, StoreErrorKind::Unavailable);
    let deleted = node.delete(&id).await;
    assert!(matches!(deleted, Err(session_store::Error::Backend(_))), "a failed logout says so");

    let session = request(&node, id);
    session.insert("long", "x".repeat(2000)).await.unwrap();
    let saved = session.save().await;
    assert!(matches!(saved, Err(Error::Store(session_store::Error::Encode(_)))), "{saved:?}");
}
