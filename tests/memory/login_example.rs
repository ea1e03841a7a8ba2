//! The example `login` in the process of the test, over a backend that fails.

use std::sync::{Arc, Mutex};

use axum::Router;
use clustered_sessions::backend::Backend;
use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{MemoryBackend, SessionConfig, SessionLayer, StoreError, StoreErrorKind};
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, StatusCode, header};
use support::wait::eventually;
use tokio::sync::Semaphore;

use self::example::UserSession;
use self::example::accounts::Accounts;
use crate::web::{Browser, HasBackend, Page, Spy, secret, send};

#[allow(dead_code, reason = "the test calls the router instead of main")]
#[path = "../../examples/login/main.rs"]
mod example;

const OLD: &str = "correct-horse-battery-staple";
const NEW: &str = "a-password-of-some-length";

/// Fails the next call of one method.
#[derive(Clone, Debug, Default)]
struct Failing(Arc<Mutex<Option<BackendMethod>>>);

impl Failing {
    fn fail_next(&self, method: BackendMethod) {
        *self.0.lock().unwrap() = Some(method);
    }
}

impl Interposer for Failing {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if self.0.lock().unwrap().take_if(|next| *next == method).is_some() {
            return Err(StoreErrorKind::Unavailable.into());
        }
        call.await
    }
}

impl HasBackend for Failing {
    fn backend(&self) -> impl Backend {
        Interposed::with_interposer(MemoryBackend::new(), self.clone())
    }
}

async fn accounts(hashing: &Arc<Semaphore>) -> Accounts {
    let accounts = Accounts::new(hashing.clone()).await.unwrap();
    accounts.register("ada", OLD).await.unwrap();
    accounts
}

/// The example, with an account of ada.
struct Example {
    app: Router,
    sessions: SessionLayer<UserSession>,
    accounts: Accounts,
}

impl Example {
    async fn start(backend: &impl HasBackend) -> Self {
        let config = SessionConfig::builder(secret())
            .owner(|session: &UserSession| session.name.clone())
            .backend(backend.backend())
            .enable_retry(false);
        let sessions = SessionLayer::new(config.build().unwrap());
        let accounts = accounts(&Arc::new(Semaphore::new(1))).await;
        Example { app: example::router(sessions.clone(), accounts.clone()), sessions, accounts }
    }

    async fn post(&self, browser: &mut Browser, path: &str, form: String) -> Page {
        let mut request = browser.request().map(|_| form.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        let page = send(&self.app, request).await;
        browser.keep_cookies(&page);
        page
    }

    async fn login(&self, browser: &mut Browser, password: &str) -> StatusCode {
        self.post(browser, "/login", format!("name=ada&password={password}")).await.status
    }

    async fn change_password(&self, browser: &mut Browser) -> Page {
        self.post(browser, "/password", format!("old={OLD}&new={NEW}")).await
    }

    async fn is_logged_in(&self, browser: &mut Browser) -> bool {
        browser.visit(&self.app).await.body.contains("Hello ada")
    }

    async fn sessions(&self) -> usize {
        self.sessions.store().all_session_ids().await.unwrap().len()
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_committed_is_not_made() {
    let failing = Failing::default();
    let example = Example::start(&failing).await;
    let mut ada = Browser::new();
    failing.fail_next(BackendMethod::Create);
    assert_eq!(example.login(&mut ada, OLD).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(example.sessions().await, 0);
    assert!(!example.is_logged_in(&mut ada).await);
}

#[tokio::test]
async fn a_new_password_logs_out_other_sessions_that_cannot_be_deleted() {
    let failing = Failing::default();
    let example = Example::start(&failing).await;
    let (mut here, mut elsewhere) = (Browser::new(), Browser::new());
    assert_eq!(example.login(&mut here, OLD).await, StatusCode::SEE_OTHER);
    assert_eq!(example.login(&mut elsewhere, OLD).await, StatusCode::SEE_OTHER);
    assert!(example.is_logged_in(&mut elsewhere).await);

    failing.fail_next(BackendMethod::SessionsOfOwner);
    assert_eq!(example.change_password(&mut here).await.status, StatusCode::OK);
    assert_eq!(example.sessions().await, 2, "the other one could not be deleted");
    assert!(example.is_logged_in(&mut here).await);
    assert!(!example.is_logged_in(&mut elsewhere).await);
}

#[tokio::test]
async fn a_password_is_changed_although_no_session_with_the_new_one_can_be_made() {
    let failing = Failing::default();
    let example = Example::start(&failing).await;
    let (mut here, mut elsewhere) = (Browser::new(), Browser::new());
    example.login(&mut here, OLD).await;
    example.login(&mut elsewhere, OLD).await;

    failing.fail_next(BackendMethod::Create);
    let page = example.change_password(&mut here).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(page.body.contains("Your password is changed. Log in with the new one."));
    assert_eq!(example.sessions().await, 1, "the response does not make what has failed");
    assert!(!example.is_logged_in(&mut here).await && !example.is_logged_in(&mut elsewhere).await);
    assert_eq!(example.login(&mut here, OLD).await, StatusCode::UNAUTHORIZED);
    assert_eq!(example.login(&mut here, NEW).await, StatusCode::SEE_OTHER);
    assert!(example.is_logged_in(&mut here).await);
}

#[tokio::test]
async fn a_login_whose_password_is_changed_before_it_is_committed_does_not_count() {
    let spy = Spy::new();
    let example = Example::start(&spy).await;
    let mut ada = Browser::new();
    let commits = spy.hold().await;
    let changed_meanwhile = async {
        eventually(async || spy.take_calls().contains(&BackendMethod::AddToOwner), "a commit")
            .await;
        let changed = example.accounts.replace_password("ada", 1, NEW.to_owned()).await;
        assert!(changed.unwrap().is_some());
        drop(commits);
    };
    let (status, ()) = tokio::join!(example.login(&mut ada, OLD), changed_meanwhile);
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(example.sessions().await, 1);
    assert!(!example.is_logged_in(&mut ada).await);
    assert_eq!(example.login(&mut ada, NEW).await, StatusCode::SEE_OTHER);
    assert!(example.is_logged_in(&mut ada).await);
}

#[tokio::test]
async fn an_account_that_is_registered_again_keeps_no_session() {
    let accounts = accounts(&Arc::new(Semaphore::new(1))).await;
    let before = accounts.version("ada");
    accounts.register("ada", OLD).await.unwrap();
    assert!(accounts.version("ada") > before);
}

#[tokio::test]
async fn an_unknown_name_waits_for_a_hash_like_any_other_and_no_more_are_computed_than_allowed() {
    let hashing = Arc::new(Semaphore::new(1));
    let accounts = accounts(&hashing).await;
    let hash = hashing.clone().acquire_owned().await.unwrap();
    for name in ["ada", "eve"] {
        let verify = accounts.verify(name, "wrong".to_owned());
        assert!(verify.now_or_never().is_none(), "{name} waits");
    }
    drop(hash);
    for name in ["ada", "eve"] {
        assert_eq!(accounts.verify(name, "wrong".to_owned()).await.unwrap(), None);
    }
}

#[test]
fn a_hash_counts_until_it_is_computed_although_its_request_is_cancelled() {
    // One thread computes hashes, and is kept busy.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let hashing = Arc::new(Semaphore::new(1));
        let accounts = accounts(&hashing).await;
        let (release, busy) = std::sync::mpsc::channel::<()>();
        let blocker = tokio::task::spawn_blocking(move || busy.recv());
        let cancelled = accounts.verify("eve", "wrong".to_owned()).now_or_never();
        assert!(cancelled.is_none());
        assert_eq!(hashing.available_permits(), 0);
        release.send(()).unwrap();
        blocker.await.unwrap().unwrap();
        eventually(async || hashing.available_permits() == 1, "the hash is computed").await;
    });
}
