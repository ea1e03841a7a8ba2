//! The verified tag of a cookie is remembered with its cached session, and nothing else is accepted
//! in its place. A request that only reads such a session stays passive.

use http::{HeaderValue, header};

use super::*;
use crate::cluster::ClusterConfig;
use crate::config::SessionConfig;
use crate::secret::Secret;
use crate::session::head::Head;

/// A layer and the cookie of a session.
async fn layer() -> (Arc<LayerState<u32>>, String) {
    let config = SessionConfig::<u32>::development(Secret::insecure_dev("requests"))
        .cluster(ClusterConfig::new().enabled(false))
        .build()
        .unwrap();
    let layer = Arc::new(LayerState::new(config));
    let token = layer.store.create(7).await.unwrap().token;
    let cookie = layer.signer.pair(&token).to_str().unwrap().to_owned();
    (layer, cookie)
}

fn request(layer: &Arc<LayerState<u32>>, cookie: &str) -> RequestSession<u32> {
    let cookie = HeaderValue::from_str(cookie).unwrap();
    RequestSession::new(layer.clone(), &[(header::COOKIE, cookie)].into_iter().collect())
}

/// Replaces the first character of the tag.
fn forged(cookie: &str) -> String {
    let (token, tag) = cookie.split_once('.').unwrap();
    format!("{token}.{}{}", if tag.starts_with('A') { 'B' } else { 'A' }, &tag[1..])
}

#[tokio::test]
async fn a_cookie_is_verified_once_while_its_session_is_cached() {
    let (layer, cookie) = layer().await;
    let first = request(&layer, &cookie);
    assert!(!first.load_cached(), "the cookie has not been verified yet");
    first.load().await.unwrap();
    let second = request(&layer, &cookie);
    assert!(second.load_cached());
    assert_eq!((*second.data(), second.id()), (7, first.id()));
    let id = first.id().unwrap();
    layer.store.evict_from_cache(id);
    assert!(!request(&layer, &cookie).load_cached(), "the session is not cached any more");
}

#[tokio::test]
async fn another_tag_for_a_remembered_token_is_refused() {
    let (layer, cookie) = layer().await;
    request(&layer, &cookie).load().await.unwrap();
    let stranger = request(&layer, &forged(&cookie));
    assert!(!stranger.load_cached());
    stranger.load().await.unwrap();
    assert_eq!((*stranger.data(), stranger.id()), (0, None));
    // What was remembered is still that of the visitor.
    assert!(request(&layer, &cookie).load_cached());
}

#[tokio::test]
async fn a_forged_cookie_is_not_remembered() {
    let (layer, cookie) = layer().await;
    let forged = forged(&cookie);
    for _ in 0..2 {
        let stranger = request(&layer, &forged);
        stranger.load().await.unwrap();
        assert_eq!(stranger.id(), None);
    }
    assert!(!request(&layer, &cookie).load_cached());
}

#[tokio::test]
async fn of_several_cookies_none_is_taken_without_being_verified() {
    let (layer, cookie) = layer().await;
    request(&layer, &cookie).load().await.unwrap();
    let both = request(&layer, &format!("{cookie}; {cookie}"));
    assert!(!both.load_cached());
    both.load().await.unwrap();
    assert_eq!(*both.data(), 7);
}

#[tokio::test]
async fn an_extraction_that_comes_second_changes_nothing() {
    let (layer, cookie) = layer().await;
    let session = request(&layer, &cookie);
    session.load().await.unwrap();
    layer.store.modify(session.id().unwrap(), |data| *data = 8).await.unwrap();
    session.provide(Loaded::NoSession, layer.store.now());
    assert_eq!(*session.data(), 7);
}

/// A request that has found its session in the cache, and its layer.
async fn passive_request() -> (Arc<LayerState<u32>>, RequestSession<u32>) {
    let (layer, cookie) = layer().await;
    request(&layer, &cookie).load().await.unwrap();
    let passive = request(&layer, &cookie);
    assert!(passive.load_cached());
    (layer, passive)
}

fn is_active(request: &RequestSession<u32>) -> bool {
    request.active.get().is_some()
}

#[tokio::test]
async fn reading_a_cached_session_leaves_the_request_passive() {
    let (layer, request) = passive_request().await;
    let hits = layer.store.cache_stats().hits;
    request.load().await.unwrap();
    assert_eq!(layer.store.cache_stats().hits, hits, "it is looked up once");
    assert_eq!((*request.data(), request.read(|data| *data)), (7, 7));
    assert_eq!(request.id(), request.record().map(|record| record.id()));
    assert!(request.version().is_some());
    assert!(request.outage().is_none() && request.unreadable().is_none());
    assert!(!is_active(&request));
    let mut request = Arc::new(request);
    let head = request.send_head_unless_busy().unwrap();
    assert!(head.extracted && head.cookie.is_none());
    assert!(!is_active(&request));
}

#[tokio::test]
async fn an_active_request_goes_on_with_what_it_has_read() {
    let (layer, request) = passive_request().await;
    let (id, before) = (request.id().unwrap(), request.version().unwrap());
    layer.store.modify(id, |data| *data = 10).await.unwrap();
    request.apply(&(Arc::new(|data: &mut u32| *data += 1) as Change<u32>));
    assert!(is_active(&request));
    assert_eq!((*request.data(), request.read(|data| *data)), (8, 8));
    let after = request.version().unwrap();
    assert_eq!((after.id, after.origin), (before.id, before.origin));
    assert_eq!((after.revision, after.seen_at), (before.revision, before.seen_at));
    let seen_at = request.lock().live_record().map(|(_, at)| at);
    assert_eq!(seen_at, request.cached.get().map(|cached| cached.seen.at));
    request.lock().discard();
}

#[tokio::test]
async fn a_session_is_found_in_the_cache_after_the_request_has_become_active() {
    let (layer, cookie) = layer().await;
    request(&layer, &cookie).load().await.unwrap();
    let late = request(&layer, &cookie);
    drop(late.lock());
    assert!(is_active(&late) && late.load_cached());
    assert_eq!((*late.data(), late.read(|data| *data)), (7, 7));
    assert!(late.id().is_some() && late.version().is_some() && late.load_cached());
}

#[tokio::test]
async fn what_another_extraction_has_loaded_goes_before_what_is_found_in_the_cache() {
    let (_layer, mut other) = passive_request().await;
    let (layer, cookie) = layer().await;
    let verified = request(&layer, &cookie);
    verified.provide(Loaded::NoSession, layer.store.now());
    // Looked up before that, and stored after it.
    let found = other.cached.take().unwrap();
    assert!(verified.cached.set(found).is_ok());
    assert_eq!((*verified.data(), verified.read(|data| *data), verified.id()), (0, 0, None));
}

#[tokio::test]
async fn a_handle_that_outlives_the_response_learns_that_the_head_was_sent() {
    let (_layer, request) = passive_request().await;
    let mut request = Arc::new(request);
    let handle = request.clone();
    assert!(request.send_head_unless_busy().unwrap().extracted);
    handle.lock().request_commit();
    assert_eq!(handle.take_batch(false).head, Head::Sent);
}
