//! The verified tag of a cookie is remembered with its cached session, and nothing else is accepted
//! in its place.

use http::{HeaderValue, header};

use super::*;
use crate::cluster::ClusterConfig;
use crate::config::SessionConfig;
use crate::secret::Secret;

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
