//! Applications over HTTP: what the documentation of tower-sessions says of its cookie and its
//! sessions.

use axum::Router;
use axum::routing::get;
use clustered_sessions::{MemoryBackend, StoreErrorKind, TowerSessionsStore};
use http::StatusCode;

use super::tower_sessions::{Expiry, Session, SessionManagerLayer};
use crate::node::node;
use crate::web::{Browser, Spy};

fn app(store: &TowerSessionsStore, expiry: Option<Expiry>) -> Router {
    let mut layer = SessionManagerLayer::new(store.clone());
    if let Some(expiry) = expiry {
        layer = layer.with_expiry(expiry);
    }
    Router::new()
        .route("/", get(async |_: Session| "nothing"))
        .route("/insert", get(async |session: Session| session.insert("foo", 42).await.unwrap()))
        .route(
            "/get",
            get(async |session: Session| {
                format!("{:?}", session.get_value("foo").await.unwrap().map(|it| it.to_string()))
            }),
        )
        .route(
            "/remove",
            get(async |session: Session| drop(session.remove_value("foo").await.unwrap())),
        )
        .route("/cycle", get(async |session: Session| session.cycle_id().await.unwrap()))
        .route("/flush", get(async |session: Session| session.flush().await.unwrap()))
        .layer(layer)
}

async fn new_app() -> Router {
    app(&node(&MemoryBackend::new()).await, Some(Expiry::OnInactivity(time::Duration::HOUR)))
}

#[tokio::test]
async fn a_visitor_without_values_gets_no_cookie() {
    assert!(Browser::new().visit(&new_app().await).await.set_cookies().is_empty());
}

#[tokio::test]
async fn a_new_session_has_a_cookie_with_the_attributes_of_the_layer() {
    let store = node(&MemoryBackend::new()).await;
    let hour = app(&store, Some(Expiry::OnInactivity(time::Duration::HOUR)));
    let cookies = Browser::new().visit_path(&hour, "/insert").await.set_cookies();
    let [cookie] = cookies.as_slice() else { panic!("{cookies:?}") };
    assert!(cookie.starts_with("id=") && cookie.ends_with("Path=/; Max-Age=3600"), "{cookie}");
    let session = app(&store, None);
    let cookies = Browser::new().visit_path(&session, "/insert").await.set_cookies();
    assert!(!cookies[0].contains("Max-Age"), "{cookies:?}");
}

#[tokio::test]
async fn an_unknown_id_is_replaced_and_a_malformed_one_removed() {
    let app = new_app().await;
    let mut browser = Browser::new();
    browser.set_cookie("id", "AAAAAAAAAAAAAAAAAAAAAA");
    browser.visit_path(&app, "/insert").await;
    assert_ne!(browser.cookie("id"), Some("AAAAAAAAAAAAAAAAAAAAAA"));
    assert_eq!(browser.visit_path(&app, "/get").await.body, r#"Some("42")"#);
    browser.set_cookie("id", "malformed");
    browser.visit(&app).await;
    assert_eq!(browser.cookie("id"), None);
}

#[tokio::test]
async fn a_value_is_stored_and_removed() {
    let app = new_app().await;
    let mut browser = Browser::new();
    assert_eq!(browser.visit_path(&app, "/get").await.body, "None");
    browser.visit_path(&app, "/insert").await;
    assert_eq!(browser.visit_path(&app, "/get").await.body, r#"Some("42")"#);
    browser.visit_path(&app, "/remove").await;
    assert_eq!(browser.visit_path(&app, "/get").await.body, "None");
    assert!(browser.cookie("id").is_some(), "a session without values is still one");
}

#[tokio::test]
async fn a_cycled_id_is_a_new_one_with_the_same_values() {
    let app = new_app().await;
    let mut browser = Browser::new();
    browser.visit_path(&app, "/insert").await;
    let mut former = browser.clone();
    browser.visit_path(&app, "/cycle").await;
    assert_ne!(browser.cookie("id"), former.cookie("id"));
    assert_eq!(browser.visit_path(&app, "/get").await.body, r#"Some("42")"#);
    assert_eq!(former.visit_path(&app, "/get").await.body, "None");
}

#[tokio::test]
async fn a_flushed_session_loses_its_cookie_and_its_values() {
    let app = new_app().await;
    let mut browser = Browser::new();
    browser.visit_path(&app, "/insert").await;
    let mut copy = browser.clone();
    browser.visit_path(&app, "/flush").await;
    assert_eq!(browser.cookie("id"), None);
    assert_eq!(copy.visit_path(&app, "/get").await.body, "None");
}

#[tokio::test]
async fn a_save_that_fails_is_an_empty_500() {
    let spy = Spy::new();
    let app = app(&node(&spy).await, None);
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let mut browser = Browser::new();
    let page = browser.visit_path(&app, "/insert").await;
    assert_eq!((page.status, &*page.body), (StatusCode::INTERNAL_SERVER_ERROR, ""));
    assert_eq!(browser.cookie("id"), None);
}
