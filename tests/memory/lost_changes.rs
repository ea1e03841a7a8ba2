//! Changes that one commit takes along and drops, although another one was to make them. That one
//! reports the loss.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clustered_sessions::{MemoryBackend, Session, SessionError, SessionLayer, StoreErrorKind};
use futures_util::{FutureExt as _, poll};
use http::StatusCode;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::handles::session_after_the_head;
use crate::lifecycle::{cold, session_after_cut_off};
use crate::session_faults::error;
use crate::web::{Browser, Data, Spy, ada, config, eventually, node, only_data, serve, start};

fn count(session: &Session<Data>) {
    session.update(|data| data.visits += 1);
}

/// Changes the session by a closure that panics when it is applied again.
fn count_once(session: &Session<Data>) {
    let applied = Arc::new(AtomicBool::new(false));
    session.update(move |data| {
        assert!(!applied.swap(true, Ordering::Relaxed), "on purpose");
        data.visits += 1;
    });
}

/// Begins to change the session, and does not wait for the end. The commit has begun by then.
async fn begin_to_modify(session: &Session<Data>) {
    let mut change = pin!(session.modify(|data| data.visits += 10));
    assert!(poll!(change.as_mut()).is_pending());
    tokio::task::yield_now().await;
}

/// Returns two nodes and the browser of a visitor to the first.
async fn two_nodes() -> (SessionLayer<Data>, SessionLayer<Data>, Browser) {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let browser = Browser::with(&a, ada()).await;
    (a, b, browser)
}

#[tokio::test]
async fn a_response_reports_changes_that_a_commit_nobody_waited_for_has_lost() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        count(&session);
        begin_to_modify(&session).await;
    });
    let page = browser.visit(&app).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(matches!(error(&page), SessionError::Gone));
}

#[tokio::test]
async fn a_response_does_not_repeat_a_failure_that_its_handler_was_told_of() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        count(&session);
        let failed = session.modify(|data| data.visits += 10).await;
        assert!(matches!(failed, Err(SessionError::Gone)));
        session.save().await.unwrap();
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}

#[tokio::test]
async fn each_of_several_commits_under_way_reports_what_one_of_them_has_lost() {
    let (a, b, browser) = two_nodes().await;
    let session = session_after_the_head(&a, &browser).await;
    b.store().delete(session.id().unwrap()).await.unwrap();
    let save = async {
        count(&session);
        session.save().await
    };
    let (modified, saved) = tokio::join!(session.modify(|data| data.visits += 10), save);
    assert!(matches!(modified, Err(SessionError::Gone)));
    assert!(matches!(saved, Err(SessionError::Gone)));
    session.save().await.unwrap();
}

#[tokio::test]
async fn a_task_that_outlives_its_request_is_told_that_its_changes_were_dropped() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let session = session_after_cut_off(&sessions, &browser, count).await;
    assert!(matches!(session.save().await, Err(SessionError::ChangesLost)));
    count(&session);
    session.save().await.unwrap();
    assert_eq!(only_data(&sessions).await.visits, 1);
}

#[tokio::test]
async fn a_clone_is_told_of_changes_that_were_discarded_with_a_failed_response() {
    let spy = Spy::new();
    let (sessions, mut browser) = cold(&spy).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(&sessions, async move |session: Session<Data>| {
        count(&session);
        spy.fail_next(1, StoreErrorKind::Unavailable);
        sender.send(session).await.unwrap();
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let clone = receiver.recv().await.unwrap();
    let lost = clone.save().await.unwrap_err();
    assert_eq!(lost.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    clone.save().await.unwrap();
    assert_eq!(only_data(&sessions).await.visits, 0);
}

#[tokio::test]
async fn a_response_reports_changes_that_were_lost_in_a_panic_of_another_commit() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        count_once(&session);
        b.store().modify(session.id().unwrap(), |data| data.visits += 100).await.unwrap();
        begin_to_modify(&session).await;
    });
    let page = browser.visit(&app).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(matches!(error(&page), SessionError::ChangesLost));
}

#[tokio::test]
async fn a_login_by_a_change_of_a_cancelled_request_is_not_made_under_the_old_token() {
    let spy = Spy::new();
    let sessions = start(config(&spy).owner(|data: &Data| data.user.clone())).await;
    let planted = Browser::with(&sessions, Data::default()).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(&sessions, async move |session: Session<Data>| {
        let held = spy.hold().await;
        begin_to_modify(&session).await;
        session.update(|data| data.user = Some("Ada".to_owned()));
        sender.send(held).await.unwrap();
    });
    let mut response = Box::pin(app.oneshot(planted.request()));
    while receiver.is_empty() {
        assert!(poll!(response.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(poll!(response.as_mut()).is_pending(), "the commit waits for the other");
    drop(response);
    drop(receiver.recv().await);
    eventually(async || sessions.store().dropped_changes() == 1).await;
    assert_eq!(only_data(&sessions).await, Data { user: None, visits: 10 });
}

#[tokio::test]
async fn what_a_panic_of_a_commit_has_lost_is_no_longer_visible() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        count_once(&session);
        b.store().modify(session.id().unwrap(), |data| data.visits += 100).await.unwrap();
        begin_to_modify(&session).await;
        assert!(matches!(session.save().await, Err(SessionError::ChangesLost)));
        assert_ne!(session.data().visits, 1);
        count(&session);
        session.save().await.unwrap();
        session.data().visits.to_string()
    });
    assert_eq!(browser.visit(&app).await.body, "101");
}

#[tokio::test]
async fn a_change_that_panics_when_it_is_applied_again_overwrites_nothing() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        count_once(&session);
        b.store().modify(session.id().unwrap(), |data| data.visits += 100).await.unwrap();
        let reloaded = AssertUnwindSafe(session.reload()).catch_unwind().await;
        assert!(reloaded.is_err());
        assert_eq!(session.data().visits, 100);
    });
    let page = browser.visit(&app).await;
    assert!(matches!(error(&page), SessionError::ChangesLost));
    assert_eq!(only_data(&a).await.visits, 100);
}

#[tokio::test]
async fn a_regeneration_whose_change_panics_when_it_is_applied_again_leaves_no_session_behind() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        count_once(&session);
        session.regenerate();
        b.store().modify(session.id().unwrap(), |data| data.visits += 100).await.unwrap();
        let saved = AssertUnwindSafe(session.save()).catch_unwind().await;
        assert!(saved.is_err());
    });
    assert!(matches!(error(&browser.visit(&app).await), SessionError::ChangesLost));
    assert_eq!(a.store().size().await.unwrap(), 1);
}

#[tokio::test]
async fn a_loss_is_reported_although_the_handler_was_told_of_another_failure_since() {
    let (a, b, mut browser) = two_nodes().await;
    let app = serve(&a, async move |session: Session<Data>| {
        b.store().delete(session.id().unwrap()).await.unwrap();
        count(&session);
        begin_to_modify(&session).await;
        let failed = session.modify(|data| data.visits += 10).await;
        assert!(matches!(failed, Err(SessionError::Gone)), "it has no session to change");
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_task_is_told_of_a_change_whose_failed_commit_outlives_its_request() {
    let spy = Spy::new();
    let (sessions, browser) = cold(&spy).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let app = serve(&sessions, async move |session: Session<Data>| {
        count(&session);
        sender.send(session).await.unwrap();
        pending::<()>().await;
    });
    let mut response = Box::pin(app.oneshot(browser.request()));
    let session = tokio::select! {
        _ = &mut response => None,
        session = receiver.recv() => session,
    };
    let session = session.unwrap();
    let held = spy.hold().await;
    let mut saved = pin!(session.save());
    assert!(poll!(saved.as_mut()).is_pending());
    tokio::task::yield_now().await;
    drop(response);
    spy.fail_next(1, StoreErrorKind::Unavailable);
    drop(held);
    let failed = saved.await.unwrap_err();
    assert_eq!(failed.store_error().unwrap().kind(), StoreErrorKind::Unavailable);
    assert!(matches!(session.save().await, Err(SessionError::ChangesLost)));
    session.modify(|data| data.visits += 10).await.unwrap();
    assert_eq!(only_data(&sessions).await.visits, 10);
}

#[tokio::test]
async fn a_login_that_was_discarded_is_not_made_when_its_commit_has_failed() {
    let spy = Spy::new();
    let (sessions, mut browser) = cold(&spy).await;
    let app = serve(&sessions, async move |session: Session<Data>| {
        let held = spy.hold().await;
        session.replace(Data { user: Some("Grace".to_owned()), visits: 0 });
        {
            let mut saved = pin!(session.save());
            assert!(poll!(saved.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        session.discard();
        spy.fail_next(1, StoreErrorKind::Unavailable);
        drop(held);
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(only_data(&sessions).await, ada());
}
