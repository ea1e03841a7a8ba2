//! Results for handlers and visitors when the session is gone, unreadable, outdated or unavailable.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use clustered_sessions::backend::{Backend as _, Content, Revision, Stored, Update};
use clustered_sessions::testing::FaultyBackend;
use clustered_sessions::{
    Fresh, MemoryBackend, Session, SessionError, SessionLayer, StoreErrorKind,
};
use futures_util::poll;
use http::{Extensions, StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::{ServiceExt as _, service_fn};

use crate::failing::failing_as;
use crate::web::{
    Browser, COOKIE, Call, Data, Page, Spy, ada, config, eventually, node, only_data, only_id,
    send, serve, start,
};

/// Returns the error that has replaced the response.
pub(crate) fn error(page: &Page) -> &SessionError {
    page.extensions.get().expect("the response carries the error")
}

#[tokio::test]
async fn an_update_of_a_session_that_is_deleted_meanwhile_is_refused_and_recreates_nothing() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    for regenerate in [false, true] {
        let mut browser = Browser::with(&a, ada()).await;
        let elsewhere = b.store().clone();
        let app = serve(&a, async move |session: Session<Data>| {
            session.update(|data| data.visits += 1);
            if regenerate {
                session.regenerate();
            }
            assert!(elsewhere.delete(session.id().unwrap()).await.unwrap());
            "welcome"
        });
        let page = browser.visit(&app).await;
        assert_eq!((page.status, page.body.as_str()), (StatusCode::CONFLICT, ""));
        assert!(!page.headers.contains_key(header::RETRY_AFTER));
        assert!(matches!(error(&page), SessionError::Gone));
        assert_eq!(page.set_cookies().len(), 0);
        assert_eq!(a.store().size().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_modification_of_a_session_that_is_deleted_meanwhile_is_an_error_for_the_handler() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let mut browser = Browser::with(&a, ada()).await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        let error = session.modify(|data| data.visits += 1).await.unwrap_err();
        assert!(matches!(error, SessionError::Gone));
        assert!(session.is_new());
        assert_eq!(*session.data(), Data::default());
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(a.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn an_update_of_unknown_outcome_is_not_repeated_with_the_response() {
    let spy = Spy::new();
    let layer = start(config(&spy).enable_retry(false)).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let app = serve(&layer, async move |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        spy.lose_next_answer();
        match session.save().await.unwrap_err() {
            SessionError::Store(error) => assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown),
            error => panic!("{error}"),
        }
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(only_data(&layer).await.visits, 1, "the update was made once");
}

/// Overwrites the payload of the only session with bytes that cannot be decoded.
pub(crate) async fn corrupt_record(memory: &MemoryBackend, sessions: &SessionLayer<Data>) {
    let id = only_id(sessions).await;
    let stored = memory.load(&id).await.unwrap().unwrap();
    let mut meta = stored.meta;
    meta.revision = Revision::from_bytes([7; 16]);
    let garbage = Stored::new(meta, Content::Payload(b"garbage"[..].into()));
    let minute = Duration::from_secs(60);
    let update = Update::new(&id, stored.meta.revision, &garbage, minute, b"");
    memory.update(update).await.unwrap();
    sessions.store().coordinator().local_cache().clear();
}

#[tokio::test]
async fn an_unreadable_record_is_not_a_session_and_is_kept() {
    let memory = MemoryBackend::new();
    let sessions = node(&memory).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    corrupt_record(&memory, &sessions).await;
    let app = serve(&sessions, async |optional: Option<Session<Data>>, session: Session<Data>| {
        assert!(optional.is_none() && session.is_new());
        assert_eq!(*session.data(), Data::default());
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(sessions.store().unreadable_records(), 1);

    let app =
        serve(&sessions, async |session: Session<Data>| session.update(|data| data.visits += 1));
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::INTERNAL_SERVER_ERROR, 0));
    let corrupt = |kind| kind == StoreErrorKind::Corrupt;
    assert!(matches!(error(&page), SessionError::Store(error) if corrupt(error.kind())));
    assert_eq!(sessions.store().size().await.unwrap(), 1);
}

#[tokio::test]
async fn a_visitor_whose_record_cannot_be_read_can_start_over() {
    let memory = MemoryBackend::new();
    let sessions = node(&memory).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        if let Some(error) = session.unreadable() {
            assert_eq!(error.kind(), StoreErrorKind::Corrupt);
            session.replace(Data::default());
        }
        session.update(|data| data.visits += 1);
        session.data().visits.to_string()
    });
    assert_eq!(browser.visit(&app).await.body, "1", "a session that can be read goes on");
    assert_eq!(browser.visit(&app).await.body, "2");
    corrupt_record(&memory, &sessions).await;
    for visits in ["1", "2"] {
        let page = browser.visit(&app).await;
        assert_eq!((page.status, &*page.body), (StatusCode::OK, visits));
    }
}

#[tokio::test]
async fn a_logout_deletes_a_record_that_cannot_be_read() {
    let memory = MemoryBackend::new();
    let sessions = node(&memory).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    corrupt_record(&memory, &sessions).await;
    browser.visit(&serve(&sessions, async |session: Session<Data>| session.destroy())).await;
    assert_eq!(browser.cookie(COOKIE), None);
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_refused_change_is_no_longer_visible() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let refused_twice = async |session: Session<Data>| {
        for _ in 0..2 {
            session.update(|data| data.visits += 1);
            session.save().await.unwrap_err();
            assert_eq!(*session.data(), Data::default());
        }
    };
    let mut browser = Browser::with(&a, ada()).await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        refused_twice(session).await;
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);

    let mut browser = Browser::with(&a, ada()).await;
    corrupt_record(&memory, &a).await;
    assert_eq!(browser.visit(&serve(&a, refused_twice)).await.status, StatusCode::OK);
}

/// Returns a node whose cache holds 0 visits while the backend has 10. The node has missed the
/// announcement.
async fn node_with_stale_cache() -> (SessionLayer<Data>, Browser) {
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let (stale, elsewhere) = (node(&spy).await, node(&memory).await);
    let browser = Browser::with(&stale, ada()).await;
    spy.drop_messages();
    elsewhere.store().modify(only_id(&elsewhere).await, |data| data.visits += 10).await.unwrap();
    (stale, browser)
}

#[tokio::test]
async fn a_fresh_session_is_read_past_the_cache() {
    let (stale, mut browser) = node_with_stale_cache().await;
    let cached = async |session: Session<Data>| session.data().visits.to_string();
    assert_eq!(
        browser.visit(&serve(&stale, cached)).await.body,
        "0",
        "the announcement was dropped"
    );
    let fresh = async |Fresh(session): Fresh<Session<Data>>| session.data().visits.to_string();
    assert_eq!(browser.visit(&serve(&stale, fresh)).await.body, "10");
}

#[tokio::test]
async fn a_fresh_extraction_reapplies_the_changes_of_an_earlier_one() {
    let (stale, mut browser) = node_with_stale_cache().await;
    let app = serve(&stale, async |request: http::request::Parts| {
        let session = Session::<Data>::from_extensions(&request.extensions).await.unwrap();
        session.update(|data| data.visits += 1);
        assert_eq!(session.data().visits, 1);
        let Fresh(fresh) =
            Fresh::<Session<Data>>::from_extensions(&request.extensions).await.unwrap();
        assert_eq!([fresh.data().visits, session.data().visits], [11; 2]);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(only_data(&stale).await.visits, 11);
}

#[tokio::test]
async fn reloading_tells_a_long_handler_that_its_session_was_revoked() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let mut browser = Browser::with(&a, ada()).await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        session.reload().await.unwrap();
        assert!(session.id().is_none());
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_optional_session_is_none_only_without_a_session() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let handler = async |session: Option<Session<Data>>| format!("{}", session.is_some());
    let app = serve(&sessions, handler);
    assert_eq!(browser.visit(&app).await.body, "true");
    assert_eq!(Browser::new().visit(&app).await.body, "false");

    sessions.store().coordinator().local_cache().clear();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""));
    assert_eq!(page.all(header::RETRY_AFTER), ["1"]);
    assert_eq!(browser.visit(&app).await.body, "true", "the cookie is kept and still valid");

    let bare = axum::Router::new().route("/", axum::routing::get(handler));
    assert_eq!(browser.visit(&bare).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_commit_that_fails_replaces_the_response() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        ([("x-secret", "for the winner")], "you have won")
    });
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""));
    assert!(!page.headers.contains_key("x-secret"));
    assert!(matches!(error(&page), SessionError::Store(_)));
    assert_eq!(only_data(&sessions).await.visits, 0);
}

#[tokio::test]
async fn a_login_that_fails_sends_no_cookie() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = serve(&sessions, async |session: Session<Data>| session.overwrite(ada()));
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
}

#[tokio::test]
async fn a_login_that_fails_after_it_has_ended_the_session_before_leaves_none() {
    let memory = MemoryBackend::new();
    let elsewhere = node(&memory).await;
    let full = failing_as(&memory, Call::Create, StoreErrorKind::Refused);
    let full = start(config(&memory).backend(full)).await;
    let mut browser = Browser::with(&elsewhere, ada()).await;
    let app = serve(&full, async |session: Session<Data>| {
        session.replace(ada());
        session.save().await.unwrap_err();
        assert_eq!(*session.data(), ada(), "the login is tried again with the response");
        session.discard();
        assert!(session.is_new());
        session.data().user.clone().unwrap_or_default()
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(browser.cookie(COOKIE), None, "its cookie leads nowhere");
    assert_eq!(elsewhere.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn no_later_failure_hides_that_a_logout_may_have_been_carried_out() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.destroy();
        session.update(|data| data.visits += 1);
    });
    spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&app).await;
    let SessionError::Store(error) = error(&page) else { panic!("{:?}", page.status) };
    assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown);
}

#[tokio::test]
async fn a_failed_logout_is_reported_and_retried() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| session.destroy());
    spy.take_calls();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
    let deletions = spy.take_calls().iter().filter(|call| **call == Call::Delete).count();
    assert_eq!(deletions, 2);
}

#[tokio::test]
async fn a_response_whose_logout_has_failed_carries_no_cookie_of_the_session_that_should_have_ended()
 {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = serve(&sessions, {
        let spy = spy.clone();
        async move |session: Session<Data>| {
            session.replace(ada());
            session.save().await.unwrap();
            session.destroy();
            spy.fail_next(1, StoreErrorKind::Unavailable);
        }
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
}

/// As one does who polls it in a loop with other work, and waits for that work.
#[tokio::test(start_paused = true)]
async fn a_load_that_is_not_polled_holds_a_commit_up_for_no_longer_than_an_operation_may_take() {
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let sessions = start(config(&MemoryBackend::new()).backend(backend)).await;
    let browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async move |session: Session<Data>| {
        faults.delay_calls_by(Duration::from_millis(10)..Duration::from_millis(20));
        let mut held = pin!(session.reload());
        assert!(poll!(&mut held).is_pending());
        session.update(|data| data.visits += 1);
        let begun = Instant::now();
        let failed = session.save().await.unwrap_err();
        assert_eq!(failed.store_error().unwrap().kind(), StoreErrorKind::Timeout);
        assert_eq!(begun.elapsed(), Duration::from_secs(3), "the default of `operation_timeout`");
        held.await.unwrap_err();
    });
    assert_eq!(send(&app, browser.request()).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_logout_whose_commit_did_not_begin_is_carried_out_when_the_request_is_cut_off() {
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let sessions = start(config(&MemoryBackend::new()).backend(backend)).await;
    let browser = Browser::with(&sessions, ada()).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(&sessions, async move |session: Session<Data>| {
        faults.delay_calls_by(Duration::from_millis(10)..Duration::from_millis(20));
        let mut held = pin!(session.reload());
        assert!(poll!(&mut held).is_pending());
        session.destroy();
        let failed = session.save().await.unwrap_err();
        assert_eq!(failed.store_error().unwrap().kind(), StoreErrorKind::Timeout);
        sender.send(session.clone()).await.unwrap();
        pending::<()>().await;
    });
    let mut response = Box::pin(app.oneshot(browser.request()));
    let clone = tokio::select! {
        _ = &mut response => None,
        clone = receiver.recv() => clone,
    };
    assert!(clone.is_some());
    drop(response);
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test]
async fn no_cookie_is_sent_of_a_login_that_was_revoked_before_the_response() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let app = serve(&a, async move |session: Session<Data>| {
        session.replace(ada());
        session.save().await.unwrap();
        b.store().delete(session.id().unwrap()).await.unwrap();
        session.reload().await.unwrap();
        assert!(session.id().is_none());
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn a_fresh_extraction_that_another_overtakes_learns_that_the_session_has_ended() {
    let memory = MemoryBackend::new();
    let spy = Spy::over(&memory);
    let (a, b) = (node(&spy).await, node(&memory).await);
    let mut browser = Browser::with(&a, ada()).await;
    browser.visit(&serve(&a, async |_: Session<Data>| ())).await;
    let store = b.clone();
    let app = serve(&a, async move |request: http::request::Parts| {
        let held = spy.hold().await;
        let mut fresh = pin!(Fresh::<Session<Data>>::from_extensions(&request.extensions));
        assert!(poll!(fresh.as_mut()).is_pending());
        let session = Session::<Data>::from_extensions(&request.extensions).await.unwrap();
        store.store().delete(session.id().unwrap()).await.unwrap();
        session.update(|data| data.visits += 1);
        drop(held);
        fresh.await.unwrap();
    });
    let page = browser.visit(&app).await;
    assert!(matches!(error(&page), SessionError::Gone));
    assert_eq!(b.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_can_be_taken_from_the_extensions_of_any_request() {
    let sessions = node(&MemoryBackend::new()).await;
    let browser = Browser::with(&sessions, ada()).await;
    let service = service_fn(async |request: http::Request<axum::body::Body>| {
        let session = Session::<Data>::from_extensions(request.extensions()).await?;
        Ok::<_, SessionError>(http::Response::new(session.data().user.clone().unwrap_or_default()))
    });
    let app = tower::Layer::layer(&sessions, service);
    assert_eq!(send(&app, browser.request()).await.body, "Ada");

    let missing = Session::<Data>::from_extensions(&Extensions::new()).await.unwrap_err();
    assert!(matches!(missing, SessionError::MissingLayer { .. }));
}

#[tokio::test]
async fn a_failed_modification_leaves_earlier_updates_to_be_committed_with_the_response() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.modify(|data| data.visits += 10).await.unwrap_err();
        assert_eq!(session.data().visits, 1);
    });
    spy.fail_next(1, StoreErrorKind::Unavailable);
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(only_data(&sessions).await.visits, 1);
}

#[tokio::test]
async fn a_change_of_unknown_outcome_is_not_repeated() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let error = session.modify(|data| data.visits += 1).await.unwrap_err();
        let unknown = |kind| kind == StoreErrorKind::OutcomeUnknown;
        assert!(matches!(error, SessionError::Store(error) if unknown(error.kind())));
    });
    spy.take_calls();
    spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(spy.take_calls(), [Call::Update]);
}
