//! An application of axum-login, which knows nothing of this crate, on two nodes.

use std::convert::Infallible;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use axum_login::{AuthManagerLayerBuilder, AuthUser, AuthnBackend, UserId, login_required};
use clustered_sessions::{KeyValues, MemoryBackend, SessionConfigBuilder, TowerSessionsStore};
use http::StatusCode;
use tower_sessions_0_14::SessionManagerLayer;

use crate::node::{config, start};
use crate::web::{Browser, settle};

#[derive(Clone, Debug)]
struct User(String);

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.0.clone()
    }

    fn session_auth_hash(&self) -> &[u8] {
        b"the hash of a password"
    }
}

/// Knows every user, by name.
#[derive(Clone, Debug)]
struct Users;

impl AuthnBackend for Users {
    type User = User;
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, name: String) -> Result<Option<User>, Infallible> {
        Ok(Some(User(name)))
    }

    async fn get_user(&self, id: &UserId<Self>) -> Result<Option<User>, Infallible> {
        Ok(Some(User(id.clone())))
    }
}

type AuthSession = axum_login::AuthSession<Users>;

async fn login(mut auth: AuthSession) -> impl IntoResponse {
    let user = auth.authenticate("ada".to_owned()).await.unwrap().unwrap();
    auth.login(&user).await.unwrap();
}

async fn logout(mut auth: AuthSession) -> impl IntoResponse {
    auth.logout().await.unwrap();
}

async fn me(auth: AuthSession) -> String {
    auth.user.unwrap().0
}

fn app(store: &TowerSessionsStore) -> Router {
    let sessions = SessionManagerLayer::new(store.clone());
    Router::new()
        .route("/me", get(me))
        .route_layer(login_required!(Users))
        .route("/login", get(login))
        .route("/logout", get(logout))
        .route("/", get(async |auth: AuthSession| auth.session.insert("seen", 1).await.unwrap()))
        .layer(AuthManagerLayerBuilder::new(Users, sessions).build())
}

/// The user that axum-login has logged in.
fn owner(values: &KeyValues) -> Option<String> {
    let login: serde_json::Value = values.get("axum-login.data").ok()??;
    login["user_id"].as_str().map(str::to_owned)
}

fn with_logins(memory: &MemoryBackend) -> SessionConfigBuilder<KeyValues> {
    config(memory).owner(owner)
}

#[tokio::test]
async fn a_login_counts_on_every_node_until_it_is_ended_on_one() {
    let memory = MemoryBackend::new();
    let nodes = [start(with_logins(&memory)).await, start(with_logins(&memory)).await];
    let [here, there] = nodes.each_ref().map(app);
    let mut browser = Browser::new();
    assert_eq!(browser.visit_path(&here, "/me").await.status, StatusCode::UNAUTHORIZED);

    // A visitor who had a session before.
    browser.visit(&there).await;
    let before = browser.cookie("id").unwrap().to_owned();
    browser.visit_path(&here, "/login").await;
    assert_ne!(browser.cookie("id"), Some(&*before));
    for app in [&here, &there] {
        assert_eq!(browser.visit_path(app, "/me").await.body, "ada");
    }
    let mut stolen = browser.clone();
    browser.visit_path(&there, "/logout").await;
    settle().await;
    for app in [&here, &there] {
        let page = stolen.clone().visit_path(app, "/me").await;
        assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(stolen.visit_path(&here, "/me").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_user_is_logged_out_everywhere() {
    let memory = MemoryBackend::new();
    let nodes = [start(with_logins(&memory)).await, start(with_logins(&memory)).await];
    let [here, there] = nodes.each_ref().map(app);
    let (mut phone, mut laptop) = (Browser::new(), Browser::new());
    phone.visit_path(&here, "/login").await;
    laptop.visit_path(&there, "/login").await;
    assert_eq!(nodes[0].store().delete_all_of("ada").await.unwrap().deleted, 2);
    settle().await;
    for browser in [&mut phone, &mut laptop] {
        for app in [&here, &there] {
            let page = browser.clone().visit_path(app, "/me").await;
            assert_eq!(page.status, StatusCode::UNAUTHORIZED);
        }
    }
}
