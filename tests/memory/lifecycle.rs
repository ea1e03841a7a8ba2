//! Requests that are cancelled or fail, responses that continue after their head, and the shutdown
//! of stores and runtimes.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{
    LimitPolicy, MemoryBackend, Session, SessionConfig, SessionConfigBuilder, SessionError,
    SessionLayer, SessionStore, StoreErrorKind,
};
use futures_util::poll;
use http::{Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize, Serializer};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use crate::handles::session_after_the_head;
use crate::web::{
    Browser, Call, Data, Spy, ada, config, eventually, node, only_data, only_id, secret, serve,
    settle, start,
};

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_is_not_taken_for_one_that_announces_nothing() {
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let hour = Duration::from_secs(3600);
    faults.delay_calls_by(hour..hour * 2);
    let store = SessionStore::new(config(&MemoryBackend::new()).backend(backend).build().unwrap());
    for wait in [Duration::from_millis(10), Duration::from_secs(10)] {
        let error = store.wait_until_ready(wait).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(error.kind(), StoreErrorKind::Timeout);
        assert!(!source.contains("announcements"), "{source}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_fails_says_why() {
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let store = SessionStore::new(config(&MemoryBackend::new()).backend(backend).build().unwrap());
    store.ping().await.unwrap();
    faults.fail_calls(1.0);
    assert_eq!(store.ping().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    faults.heal();
    let hour = Duration::from_secs(3600);
    faults.delay_calls_by(hour..hour * 2);
    assert_eq!(store.ping().await.unwrap_err().kind(), StoreErrorKind::Timeout);
    faults.heal();
    store.shutdown().await;
    assert_eq!(store.ping().await.unwrap_err().kind(), StoreErrorKind::Closed);
    assert!(!store.healthy().await);
}

/// Polls a request `polls` times and then drops it. Returns `true` if it was still pending.
async fn cut_off(app: &Router, request: Request<Body>, polls: usize) -> bool {
    let mut response = pin!(app.clone().oneshot(request));
    for _ in 0..polls {
        if poll!(response.as_mut()).is_ready() {
            return false;
        }
        yield_now().await;
    }
    // No yield follows the last poll, so a task that it spawns has not run yet when the request is
    // dropped.
    poll!(response.as_mut()).is_pending()
}

/// Starts a node over a spy, with an empty cache, and creates a browser with the only session.
pub(crate) async fn cold(spy: &Spy) -> (SessionLayer<Data>, Browser) {
    let sessions = node(spy).await;
    let browser = Browser::with(&sessions, ada()).await;
    sessions.store().coordinator().local_cache().clear();
    (sessions, browser)
}

#[tokio::test]
async fn a_logout_is_carried_out_wherever_the_request_is_cut_off() {
    for polls in 0.. {
        let (sessions, browser) = cold(&Spy::new()).await;
        let asked = Arc::new(AtomicBool::new(false));
        let app = serve(&sessions, {
            let asked = asked.clone();
            async move |session: Session<Data>| {
                session.destroy();
                asked.store(true, Ordering::SeqCst);
                yield_now().await;
                yield_now().await;
            }
        });
        let cut = cut_off(&app, browser.request(), polls).await;
        settle().await;
        let left = sessions.store().size().await.unwrap();
        assert_eq!(left == 0, asked.load(Ordering::SeqCst), "cut off after {polls} polls");
        if !cut {
            assert!(polls > 5, "the request was polled several times before it ended");
            break;
        }
    }
}

#[tokio::test]
async fn an_update_is_committed_whole_or_not_at_all_wherever_the_request_is_cut_off() {
    for polls in 0.. {
        let (sessions, browser) = cold(&Spy::new()).await;
        let answered = Arc::new(AtomicBool::new(false));
        let app = serve(&sessions, {
            let answered = answered.clone();
            async move |session: Session<Data>| {
                session.update(|data| data.visits += 1);
                yield_now().await;
                answered.store(true, Ordering::SeqCst);
            }
        });
        let cut = cut_off(&app, browser.request(), polls).await;
        settle().await;
        let expected = u64::from(answered.load(Ordering::SeqCst));
        assert_eq!(only_data(&sessions).await.visits, expected, "cut off after {polls} polls");
        if !cut {
            break;
        }
    }
}

#[tokio::test]
async fn a_login_that_is_cut_off_never_changes_the_old_session() {
    for polls in 0.. {
        let (sessions, browser) = cold(&Spy::new()).await;
        let old = only_id(&sessions).await;
        let app = serve(&sessions, async |session: Session<Data>| {
            session.regenerate();
            session.modify(|data| data.user = Some("root".to_owned())).await.unwrap();
        });
        let cut = cut_off(&app, browser.request(), polls).await;
        settle().await;
        let left = sessions.store().find_fresh(old).await.unwrap();
        assert!(left.is_none_or(|old| *old.data() == ada()), "cut off after {polls} polls");
        if !cut {
            break;
        }
    }
}

/// Returns the session of a request that was cut off after `act` was applied to the session.
pub(crate) async fn session_after_cut_off(
    sessions: &SessionLayer<Data>,
    browser: &Browser,
    act: impl Fn(&Session<Data>) + Clone + Send + Sync + 'static,
) -> Session<Data> {
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(sessions, async move |session: Session<Data>| {
        act(&session);
        sender.send(session).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut response = Box::pin(app.oneshot(browser.request()));
    let session = tokio::select! {
        _ = &mut response => None,
        session = receiver.recv() => session,
    };
    session.unwrap()
}

#[tokio::test]
async fn changes_of_a_request_that_was_cut_off_are_not_committed_later() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let session = session_after_cut_off(&sessions, &browser, |session| {
        session.update(|data| data.visits += 10);
    })
    .await;
    assert_eq!(session.modify(|data| std::mem::replace(&mut data.visits, 1)).await.unwrap(), 0);
    assert_eq!(only_data(&sessions).await.visits, 1);
}

#[tokio::test]
async fn a_task_that_outlives_a_request_that_was_cut_off_sees_its_logout() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let session = session_after_cut_off(&sessions, &browser, Session::destroy).await;
    assert!(session.id().is_none());
    assert_eq!(*session.data(), Data::default());
    assert!(matches!(session.modify(|data| data.visits += 1).await, Err(SessionError::Gone)));
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test]
async fn a_logout_is_carried_out_even_if_the_handler_panics() {
    let (sessions, mut browser) = cold(&Spy::new()).await;
    let handler = async |session: Session<Data>| {
        session.destroy();
        if session.is_new() {
            panic!("on purpose");
        }
    };
    let app = serve(&sessions, handler).layer(CatchPanicLayer::new());
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test]
async fn a_logout_is_carried_out_even_if_a_later_change_panics() {
    let (sessions, mut browser) = cold(&Spy::new()).await;
    let handler = async |session: Session<Data>| {
        session.destroy();
        session.modify(|data| assert!(data.user.is_some(), "on purpose")).await
    };
    let app = serve(&sessions, handler).layer(CatchPanicLayer::new());
    assert_eq!(browser.visit(&app).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

/// Data that cannot be serialized once it is broken.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Fragile {
    #[serde(serialize_with = "serialize_unless_broken")]
    broken: bool,
    count: u64,
}

fn serialize_unless_broken<S: Serializer>(broken: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    assert!(!broken, "on purpose");
    serializer.serialize_bool(*broken)
}

#[tokio::test]
async fn a_logout_is_carried_out_even_if_the_data_of_the_next_session_panics() {
    let config = SessionConfig::<Fragile>::builder(secret());
    let sessions = SessionLayer::new(config.build().unwrap());
    let cookie = sessions.cookie_for(Fragile::default()).await.unwrap();
    let handler = async |session: Session<Fragile>| {
        session.destroy();
        session.update(|data| data.broken = true);
    };
    let next = async |session: Session<Fragile>| session.update(|data| data.count += 1);
    let app = Router::new().route("/", get(handler)).route("/next", get(next));
    let app = app.layer(sessions.clone()).layer(CatchPanicLayer::new());
    let request =
        |path| Request::get(path).header(header::COOKIE, cookie.clone()).body(Body::empty());
    let response = app.clone().oneshot(request("/").unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
    let response = app.oneshot(request("/next").unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_logout_is_carried_out_even_if_the_inner_service_fails() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let app = sessions.layer(service_fn(async |request: Request<Body>| {
        let session = Session::<Data>::from_extensions(request.extensions()).await.unwrap();
        session.update(|data| data.visits += 1);
        session.destroy();
        Err::<Response<Body>, _>("broken")
    }));
    assert_eq!(app.oneshot(browser.request()).await.unwrap_err(), "broken");
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test]
async fn shutdown_waits_for_a_commit_under_way_and_then_the_store_is_closed() {
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let (sessions, mut browser) = cold(&spy).await;
    let app =
        serve(&sessions, async |session: Session<Data>| session.update(|data| data.visits += 1));
    browser.visit(&app).await;
    spy.take_calls();

    let held = spy.hold().await;
    let mut response = pin!(app.clone().oneshot(browser.request()));
    assert!(poll!(response.as_mut()).is_pending());
    settle().await;
    assert_eq!(spy.take_calls(), [Call::Update]);
    let mut shutdown = pin!(sessions.store().shutdown());
    assert!(poll!(shutdown.as_mut()).is_pending());
    settle().await;
    assert!(poll!(shutdown.as_mut()).is_pending());
    drop(held);
    shutdown.await;
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);

    assert_eq!(sessions.store().size().await.unwrap_err().kind(), StoreErrorKind::Closed);
    assert_eq!(browser.visit(&app).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!sessions.store().coordinator().is_running());
    assert_eq!(only_data(&node(&memory).await).await.visits, 2);
}

#[tokio::test(start_paused = true)]
async fn no_task_keeps_running_after_the_layer_is_dropped() {
    let before = Handle::current().metrics().num_alive_tasks();
    {
        let (sessions, mut browser) = cold(&Spy::new()).await;
        browser
            .visit(&serve(&sessions, async |session: Session<Data>| {
                session.update(|data| data.visits += 1);
            }))
            .await;
        assert!(Handle::current().metrics().num_alive_tasks() > before, "the listener was running");
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    eventually(async || Handle::current().metrics().num_alive_tasks() == before).await;
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_layer_made_outside_a_runtime_listens_from_the_first_operation_on() {
    let sessions = SessionLayer::new(config(&MemoryBackend::new()).build().unwrap());
    let coordinator = sessions.store().coordinator();
    assert!(!coordinator.is_running());
    runtime().block_on(async {
        let _ = sessions.store().create(ada()).await.unwrap();
        assert!(coordinator.is_running());
        eventually(async || coordinator.is_listening()).await;
    });
}

#[test]
fn a_listener_whose_runtime_has_gone_is_started_again_by_the_next_operation() {
    let memory = MemoryBackend::new();
    let visits = async |session: Session<Data>| session.data().visits.to_string();
    let (sessions, mut browser) = runtime().block_on(async {
        let sessions = node(&memory).await;
        let mut browser = Browser::with(&sessions, ada()).await;
        assert_eq!(browser.visit(&serve(&sessions, visits)).await.body, "0");
        assert_eq!(sessions.store().cache_stats().hits, 1, "the session is cached");
        (sessions, browser)
    });
    let coordinator = sessions.store().coordinator();
    assert!(!coordinator.is_running() && !coordinator.is_listening());
    runtime().block_on(async {
        let elsewhere = node(&memory).await;
        let id = only_id(&elsewhere).await;
        elsewhere.store().modify(id, |data| data.visits += 1).await.unwrap();
        let app = serve(&sessions, visits);
        assert_eq!(browser.visit(&app).await.body, "1", "no cached session outlives the listener");

        eventually(async || coordinator.is_listening()).await;
        assert_eq!(browser.visit(&app).await.body, "1");
        elsewhere.store().modify(id, |data| data.visits += 1).await.unwrap();
        eventually(async || browser.clone().visit(&app).await.body == "2").await;
        assert!(coordinator.is_running());
    });
}

#[test]
fn a_load_whose_runtime_has_gone_blocks_no_reader() {
    let sessions = SessionLayer::new(config(&Spy::new()).build().unwrap());
    let browser = runtime().block_on(async {
        let (warm, browser) = (sessions.clone(), Browser::with(&sessions, ada()).await);
        let app = serve(&warm, async |session: Session<Data>| session.data().visits.to_string());
        let mut response = pin!(app.oneshot(browser.request()));
        assert!(poll!(response.as_mut()).is_pending(), "the load has not ended");
        browser
    });
    runtime().block_on(async {
        let mut browser = browser;
        let app =
            serve(&sessions, async |session: Session<Data>| session.data().visits.to_string());
        let page = tokio::time::timeout(Duration::from_secs(20), browser.visit(&app)).await;
        assert_eq!(page.expect("the request does not wait for the abandoned load").body, "0");
    });
}

#[tokio::test]
async fn a_response_is_ready_only_when_its_commit_is() {
    let spy = Spy::new();
    let (sessions, mut browser) = cold(&spy).await;
    let app =
        serve(&sessions, async |session: Session<Data>| session.update(|data| data.visits += 1));
    browser.visit(&app).await;
    let held = spy.hold().await;
    let mut response = pin!(app.oneshot(browser.request()));
    for _ in 0..100 {
        assert!(poll!(response.as_mut()).is_pending());
        yield_now().await;
    }
    drop(held);
    response.await.unwrap();
    assert_eq!(only_data(&sessions).await.visits, 2);
}

#[tokio::test]
async fn a_logout_requested_before_the_shutdown_is_carried_out() {
    let memory = MemoryBackend::new();
    let (sessions, browser) = cold(&Spy::over(&memory)).await;
    let session = session_after_the_head(&sessions, &browser).await;
    session.destroy();
    drop(session);
    sessions.store().shutdown().await;
    assert_eq!(node(&memory).await.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_logout_whose_commit_began_before_the_shutdown_is_carried_out() {
    let memory = MemoryBackend::new();
    let (sessions, browser) = cold(&Spy::over(&memory)).await;
    let session = session_after_the_head(&sessions, &browser).await;
    session.destroy();
    let (committed, ()) = tokio::join!(session.save(), sessions.store().shutdown());
    committed.unwrap();
    assert_eq!(node(&memory).await.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_login_whose_commit_began_before_the_shutdown_finds_its_place() {
    let memory = MemoryBackend::new();
    let limited = config(&Spy::over(&memory))
        .owner(|data: &Data| data.user.clone())
        .max_sessions_of_owner(1, LimitPolicy::EndOldest);
    let sessions = start(limited).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(&sessions, async move |session: Session<Data>| {
        session.replace(ada());
        sender.send(()).await.unwrap();
    });
    let mut browser = Browser::with(&sessions, ada()).await;
    let shutdown = async {
        receiver.recv().await.unwrap();
        // The response's commit has been requested by then.
        yield_now().await;
        sessions.store().shutdown().await;
    };
    let (page, ()) = tokio::join!(browser.visit(&app), shutdown);
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    let other = node(&memory).await;
    assert_eq!(other.store().size().await.unwrap(), 1);
    let read = async |session: Session<Data>| session.data().user.clone().unwrap_or_default();
    assert_eq!(browser.visit(&serve(&other, read)).await.body, "Ada");
}

#[tokio::test]
async fn a_response_waits_for_a_change_that_its_handler_did_not_wait_for() {
    let (sessions, _) = cold(&Spy::new()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let mut change = pin!(session.modify(|data| data.visits += 1));
        assert!(poll!(change.as_mut()).is_pending());
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
}

#[test]
fn sessions_in_memory_are_warned_of_once_for_each_configuration_except_in_development() {
    use support::log::Log;

    let warnings = |config: SessionConfigBuilder<Data>| {
        let log = Log::default();
        let _guard = log.capture("clustered_sessions=warn");
        let config = config.build().unwrap();
        drop((SessionLayer::new(config.clone()), SessionLayer::new(config)));
        log.text().matches("sessions are stored in the memory of this process").count()
    };
    assert_eq!(warnings(SessionConfig::builder(secret())), 1);
    assert_eq!(warnings(SessionConfig::production(secret()).in_memory()), 1);
    assert_eq!(warnings(SessionConfig::development(secret())), 0);
}
