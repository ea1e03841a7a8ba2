//! The move to typed sessions, with both layers on one application: see
//! `docs/coming-from-tower-sessions.md`.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use clustered_sessions::{
    ClusterConfig, MemoryBackend, Session, SessionConfig, SessionLayer, TowerSessionsStore,
};
use http::StatusCode;
use tokio::sync::Semaphore;
use tower_sessions_0_15 as tower_sessions;
use tower_sessions_0_15::SessionManagerLayer;

use crate::node::node;
use crate::web::{Browser, secret, settle};

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct UserSession {
    user: Option<String>,
}

// In the guide, word for word:

/// Makes the typed session agree with that of tower-sessions, before and after the handler.
///
/// The state is the store of tower-sessions: `from_fn_with_state(store, follow::<TheirStore>)`.
async fn follow<S: tower_sessions::SessionStore + Clone>(
    State(store): State<S>,
    theirs: tower_sessions::Session,
    ours: Session<UserSession>,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    agree(&theirs, &ours).await?;
    let response = next.run(request).await;
    // With a 5xx, tower-sessions saves nothing, but `flush` and `cycle_id` have ended its session.
    if response.status().is_server_error() {
        ours.discard();
        if theirs.id().is_none() && ours.read(|s| s.user.is_some()) {
            ours.destroy();
        }
        return Ok(response);
    }
    // During a slow request, the visitor may have logged out on another node. `theirs` is a copy
    // of the session as it was before.
    if let Some(id) = theirs.id()
        && store.load(&id).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?.is_none()
    {
        ours.discard();
        return Ok(response);
    }
    agree(&theirs, &ours).await?;
    Ok(response)
}

async fn agree(
    theirs: &tower_sessions::Session,
    ours: &Session<UserSession>,
) -> Result<(), StatusCode> {
    let user = theirs.get("user").await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    match user {
        Some(user) if ours.read(|s| s.user.as_ref() != Some(&user)) => {
            ours.replace(UserSession { user: Some(user) });
        }
        None if ours.read(|s| s.user.is_some()) => ours.destroy(),
        _ => {}
    }
    Ok(())
}

// End of the quotation.

async fn their_login(theirs: tower_sessions::Session) {
    theirs.cycle_id().await.unwrap();
    theirs.insert("user", "ada").await.unwrap();
}

async fn their_logout(theirs: tower_sessions::Session) {
    theirs.flush().await.unwrap();
}

async fn their_failing_login(theirs: tower_sessions::Session) -> StatusCode {
    their_login(theirs).await;
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn their_failing_logout(theirs: tower_sessions::Session) -> StatusCode {
    their_logout(theirs).await;
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn their_user(theirs: tower_sessions::Session) -> String {
    theirs.get("user").await.unwrap().unwrap_or_default()
}

async fn both_login(theirs: tower_sessions::Session, ours: Session<UserSession>) {
    ours.replace(UserSession { user: Some("ada".to_owned()) });
    their_login(theirs).await;
}

async fn both_logout(theirs: tower_sessions::Session, ours: Session<UserSession>) {
    ours.destroy();
    their_logout(theirs).await;
}

async fn our_login(ours: Session<UserSession>) {
    ours.replace(UserSession { user: Some("ada".to_owned()) });
}

async fn our_logout(ours: Session<UserSession>) {
    ours.destroy();
}

async fn our_user(ours: Session<UserSession>) -> String {
    ours.read(|s| s.user.clone()).unwrap_or_default()
}

/// Each permit lets a slow request end.
static SLOW: Semaphore = Semaphore::const_new(0);

async fn slow() {
    SLOW.acquire().await.unwrap().forget();
}

/// Returns nodes from before the move, of each of its stages, and their common stores.
async fn stages() -> [Router; 4] {
    let store = node(&MemoryBackend::new()).await;
    let theirs = SessionManagerLayer::new(store.clone());
    let cluster = ClusterConfig::new();
    let config = SessionConfig::<UserSession>::builder(secret()).cluster(cluster);
    let ours = SessionLayer::new(config.build().unwrap());

    let before = Router::new()
        .route("/", get(their_user))
        .route("/login", get(their_login))
        .route("/logout", get(their_logout))
        .layer(theirs.clone());
    let first = Router::new()
        .route("/", get(our_user))
        .route("/login", get(their_login))
        .route("/logout", get(their_logout))
        .route("/slow", get(slow))
        .route("/failing-login", get(their_failing_login))
        .route("/failing-logout", get(their_failing_logout))
        .layer(from_fn_with_state(store, follow::<TowerSessionsStore>))
        .layer(ours.clone())
        .layer(theirs.clone());
    let second = Router::new()
        .route("/", get(our_user))
        .route("/login", get(both_login))
        .route("/logout", get(both_logout))
        .layer(ours.clone())
        .layer(theirs);
    let third = Router::new()
        .route("/", get(our_user))
        .route("/login", get(our_login))
        .route("/logout", get(our_logout))
        .layer(ours);
    [before, first, second, third]
}

#[tokio::test]
async fn a_visitor_of_nodes_of_all_stages_is_logged_in_on_all_or_on_none() {
    let stages = stages().await;
    // While one stage replaces another, nodes of these two run.
    for pair in stages.windows(2) {
        for login in pair {
            for logout in pair {
                let mut browser = Browser::new();
                browser.visit_path(login, "/login").await;
                let mut order = [&pair[0], &pair[1], &pair[0], &pair[1]];
                for app in order {
                    assert_eq!(browser.visit(app).await.body, "ada");
                }
                browser.visit_path(logout, "/logout").await;
                settle().await;
                order.reverse();
                for app in order {
                    assert_eq!(browser.visit(app).await.body, "");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_login_from_before_the_move_lasts_until_after_it() {
    let stages = stages().await;
    let mut browser = Browser::new();
    browser.visit_path(&stages[0], "/login").await;
    for app in &stages {
        assert_eq!(browser.visit(app).await.body, "ada");
    }
}

#[tokio::test]
async fn a_slow_request_does_not_log_in_again_a_visitor_who_has_logged_out() {
    let [before, first, second, _] = stages().await;
    let mut browser = Browser::new();
    browser.visit_path(&before, "/login").await;
    let mut same = browser.clone();
    let slow = tokio::spawn({
        let first = first.clone();
        async move { same.visit_path(&first, "/slow").await }
    });
    settle().await;
    browser.visit_path(&second, "/logout").await;
    SLOW.add_permits(1);
    let page = slow.await.unwrap();
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    browser.keep_cookies(&page);
    for app in [&first, &second] {
        assert_eq!(browser.visit(app).await.body, "");
    }
}

#[tokio::test]
async fn a_login_that_ends_in_a_server_error_counts_in_neither_session() {
    let [before, first, second, _] = stages().await;
    let mut browser = Browser::new();
    let page = browser.visit_path(&first, "/failing-login").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    for app in [&second, &first, &before] {
        assert_eq!(browser.visit(app).await.body, "");
    }
}

#[tokio::test]
async fn what_ends_their_session_ends_ours_though_the_response_is_a_server_error() {
    let [_, first, second, _] = stages().await;
    for path in ["/failing-login", "/failing-logout"] {
        let mut browser = Browser::new();
        browser.visit_path(&first, "/login").await;
        let mut copy = browser.clone();
        let page = browser.visit_path(&first, path).await;
        assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
        settle().await;
        for browser in [&mut browser, &mut copy] {
            assert_eq!(browser.visit(&second).await.body, "");
        }
    }
}
