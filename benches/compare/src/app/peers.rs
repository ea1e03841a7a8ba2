//! The same application over tower-sessions: a signed cookie, and a cache in front of its store, or
//! our adapter as the store.
//!
//! Its cache is not told about changes on other nodes, so it promises less than ours.

use std::hint::black_box;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, StatusCode};
use axum::routing::get;
use clustered_sessions::{KeyValues, SessionConfig, TowerSessionsStore};
use tokio::runtime::Runtime;
use tower_sessions::cookie::{Cookie, CookieJar, Key};
use tower_sessions::{
    CachingSessionStore, MemoryStore, Session, SessionManagerLayer, SessionStore,
};
use tower_sessions_moka_store::MokaStore;
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{ClientLike as _, Config, Pool};

use super::{AT_ONCE, App, VISITORS, WAITING, wait};
use crate::data::UserSession;
use crate::nodes;

const COOKIE: &str = "id";
const DATA: &str = "user";
/// As many connections as in the store's own example.
const CONNECTIONS: usize = 6;

/// Over Redis, with sessions cached in moka.
pub fn tower_sessions_over_redis(runtime: &Runtime, url: &str) -> App {
    tower_sessions(runtime, cached(store_over_redis(runtime, url)))
}

/// Over our store, which caches by itself.
pub fn tower_sessions_over_ours(runtime: &Runtime, config: SessionConfig<KeyValues>) -> App {
    let _guard = runtime.enter();
    tower_sessions(runtime, TowerSessionsStore::new(nodes::start(runtime, config)))
}

/// Its store, which asks Redis each time.
pub fn store_over_redis(runtime: &Runtime, url: &str) -> RedisStore<Pool> {
    runtime.block_on(async {
        let config = Config::from_url(url).expect("the server's URL is valid");
        let pool = Pool::new(config, None, None, None, CONNECTIONS).expect("the pool is valid");
        // Its tasks go on without the handle.
        drop(pool.connect());
        pool.wait_for_connect().await.expect("the pool connects");
        RedisStore::new(pool)
    })
}

/// The same over memory, where nothing runs in the background.
pub fn tower_sessions_in_memory(runtime: &Runtime) -> App {
    tower_sessions(runtime, cached(MemoryStore::default()))
}

fn cached<S: SessionStore>(store: S) -> CachingSessionStore<MokaStore, S> {
    CachingSessionStore::new(MokaStore::new(Some(VISITORS * 2)), store)
}

fn tower_sessions<S: SessionStore + Clone>(runtime: &Runtime, store: S) -> App {
    let key = Key::from(&[7; 64]);
    let cookies = (0..VISITORS).map(|visitor| log_in(runtime, &store, &key, visitor)).collect();
    let router = Router::new().route(AT_ONCE, get(at_once)).route(WAITING, get(waiting));
    let layer = SessionManagerLayer::new(store).with_name(COOKIE).with_signed(key);
    App::new(router.layer(layer), cookies)
}

async fn at_once(session: Session) -> StatusCode {
    match session.get::<UserSession>(DATA).await {
        Ok(Some(user)) => {
            black_box(user.user_id);
            StatusCode::OK
        }
        _ => StatusCode::UNAUTHORIZED,
    }
}

async fn waiting(session: Session) -> StatusCode {
    let status = at_once(session).await;
    wait().await;
    status
}

/// Makes a session, which is cached then, and returns its cookie.
fn log_in<S: SessionStore + Clone>(
    runtime: &Runtime,
    store: &S,
    key: &Key,
    visitor: u64,
) -> HeaderValue {
    let session = Session::new(None, Arc::new(store.clone()), None);
    runtime.block_on(async {
        session.insert(DATA, UserSession::number(visitor)).await.expect("the data is JSON");
        session.save().await.expect("the session is saved");
    });
    let id = session.id().expect("a saved session has an id").to_string();
    let mut jar = CookieJar::new();
    jar.signed_mut(key).add(Cookie::new(COOKIE, id));
    let cookie = jar.get(COOKIE).expect("it was added").to_string();
    cookie.parse().expect("a cookie is a header value")
}
