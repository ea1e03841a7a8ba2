//! Applications that answer the same request below different layers.

mod floor;
mod noop;
mod peers;

use std::convert::Infallible;
use std::future::poll_fn;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use clustered_sessions::{Session, SessionConfig, SessionLayer};
use tokio::runtime::Runtime;
use tower::Service;

pub use self::peers::{
    store_over_redis, tower_sessions_in_memory, tower_sessions_over_ours, tower_sessions_over_redis,
};
use crate::data::UserSession;

/// Number of visitors, who take turns.
pub const VISITORS: u64 = 1000;
/// The route whose handler waits once, so that other requests are in flight meanwhile.
const WAITING: &str = "/waiting";
const AT_ONCE: &str = "/";

/// An application and the cookies of its visitors.
pub struct App {
    router: Router,
    cookies: Vec<HeaderValue>,
    next: AtomicUsize,
}

type Pending = Pin<Box<dyn Future<Output = Result<Response, Infallible>>>>;

impl App {
    fn new(router: Router, cookies: Vec<HeaderValue>) -> Self {
        // As `axum::serve` does. Without it, axum would build the stack of layers for each request.
        let router = router.with_state(());
        App { router, cookies, next: AtomicUsize::new(0) }
    }

    /// Sends requests, each after the response to the one before.
    pub fn one_at_a_time(&self, requests: usize) {
        let mut router = self.router.clone();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..requests {
            let mut pending = Box::pin(router.call(self.request(AT_ONCE)));
            let Poll::Ready(Ok(response)) = pending.as_mut().poll(&mut context) else {
                panic!("a cached session was waited for")
            };
            check(&response);
        }
    }

    /// Sends requests in batches. All requests of a batch are in their handlers before the first is
    /// answered.
    pub fn in_flight(&self, requests: usize, batch: usize) {
        let mut router = self.router.clone();
        let mut context = Context::from_waker(Waker::noop());
        let mut pending: Vec<Pending> = Vec::with_capacity(batch);
        for _ in 0..requests / batch {
            for _ in 0..batch {
                let mut response: Pending = Box::pin(router.call(self.request(WAITING)));
                assert!(response.as_mut().poll(&mut context).is_pending());
                pending.push(response);
            }
            for mut response in pending.drain(..) {
                let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) else {
                    panic!("the handler waits only once")
                };
                check(&response);
            }
        }
    }

    fn request(&self, route: &str) -> Request<Body> {
        let visitor = self.next.fetch_add(1, Ordering::Relaxed) % self.cookies.len();
        let request = Request::get(route).header(header::COOKIE, self.cookies[visitor].clone());
        request.body(Body::empty()).expect("the request is valid")
    }
}

fn check(response: &Response) {
    assert_eq!(black_box(response).status(), StatusCode::OK);
    assert!(response.headers().get(header::SET_COOKIE).is_none(), "nothing has changed");
}

/// Waits once.
async fn wait() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

/// Cookies that nobody reads, as long as ours.
fn unread() -> Vec<HeaderValue> {
    let token = |visitor| format!("id={visitor:022}.{visitor:043}");
    (0..VISITORS).map(|it| token(it).parse().expect("a cookie is a header value")).collect()
}

/// Routes whose handlers extract nothing.
fn nothing_extracted() -> Router {
    Router::new().route(AT_ONCE, get(async || StatusCode::OK)).route(
        WAITING,
        get(async || {
            wait().await;
            StatusCode::OK
        }),
    )
}

/// No layer at all.
pub fn bare() -> App {
    App::new(nothing_extracted(), unread())
}

/// A layer that does nothing, for what axum takes for any layer.
pub fn noop() -> App {
    App::new(nothing_extracted().layer(noop::NoopLayer), unread())
}

/// The least that a layer must do for a cached session.
pub fn floor() -> App {
    let layer = floor::FloorLayer::new(VISITORS as usize);
    let cookies = (0..VISITORS).map(|it| layer.log_in(UserSession::number(it))).collect();
    async fn at_once(Extension(session): Extension<floor::Cached>) -> StatusCode {
        black_box(session.data.user_id);
        StatusCode::OK
    }
    async fn waiting(session: Extension<floor::Cached>) -> StatusCode {
        wait().await;
        at_once(session).await
    }
    let router = Router::new().route(AT_ONCE, get(at_once)).route(WAITING, get(waiting));
    App::new(router.layer(layer), cookies)
}

/// Two applications below one layer of this crate: one whose handlers read the session, and one
/// whose handlers extract nothing.
pub fn ours(runtime: &Runtime, config: SessionConfig<UserSession>) -> (App, App) {
    let (layer, cookies) = runtime.block_on(async {
        let layer = SessionLayer::new(config);
        let ready = layer.store().wait_until_ready(std::time::Duration::from_secs(10)).await;
        ready.expect("the node listens");
        let mut cookies = Vec::new();
        for visitor in 0..VISITORS {
            let cookie = layer.cookie_for(UserSession::number(visitor)).await;
            cookies.push(cookie.expect("the session is created"));
        }
        (layer, cookies)
    });
    async fn at_once(session: Session<UserSession>) -> StatusCode {
        session.read(|session| black_box(session.user_id));
        StatusCode::OK
    }
    async fn waiting(session: Session<UserSession>) -> StatusCode {
        wait().await;
        at_once(session).await
    }
    let router = Router::new().route(AT_ONCE, get(at_once)).route(WAITING, get(waiting));
    (
        App::new(router.layer(layer.clone()), cookies.clone()),
        App::new(nothing_extracted().layer(layer), cookies),
    )
}
