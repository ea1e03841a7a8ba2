//! `Session::replace`: the login, which must work whatever the visitor's cookie led to; and the
//! late requests that carry the cookie from before it.

use std::sync::Arc;

use clustered_sessions::{MemoryBackend, Session, SessionError, SessionLayer, StoreErrorKind};
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use tokio::sync::Barrier;

use crate::cookies::with_both;
use crate::handles::session_after_the_head;
use crate::session_faults::corrupt_record;
use crate::web::{Browser, COOKIE, Data, Page, Spy, ada, config, node, only_data, serve, start};

fn grace() -> Data {
    Data { user: Some("Grace".to_owned()), visits: 0 }
}

async fn login(session: Session<Data>) {
    session.replace(ada());
}

async fn read(session: Session<Data>) -> String {
    session.read(|data| data.user.clone().unwrap_or_default())
}

async fn count(session: Session<Data>) {
    session.update(|data| data.visits += 1);
}

/// Logs in, and checks that the browser has a session of Ada's under a new token.
#[track_caller]
fn assert_logged_in(page: &Page, before: &Browser, after: &Browser) {
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_ne!(after.cookie(COOKIE), before.cookie(COOKIE), "the token is new");
}

#[tokio::test]
async fn a_login_works_whatever_the_cookie_led_to() {
    let memory = MemoryBackend::new();
    let sessions = node(&memory).await;
    let (store, app) = (sessions.store(), serve(&sessions, login));
    let stranger = Browser::new();
    let forged = {
        let mut browser = Browser::new();
        browser.set_cookie(COOKIE, "forged");
        browser
    };
    let live = Browser::with(&sessions, grace()).await;
    let dead = Browser::with(&sessions, grace()).await;
    let mut moved = Browser::with(&sessions, grace()).await;
    let old = moved.clone();
    moved.visit(&serve(&sessions, async |session: Session<Data>| session.regenerate())).await;
    let dead_id = session_after_the_head(&sessions, &dead).await.id().unwrap();
    store.delete(dead_id).await.unwrap();
    for (what, mut browser) in
        [("none", stranger), ("forged", forged), ("live", live), ("dead", dead), ("moved", old)]
    {
        let before = browser.clone();
        let page = browser.visit(&app).await;
        assert_logged_in(&page, &before, &browser);
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada", "{what}");
    }
    assert_eq!(store.size().await.unwrap(), 5, "what the cookies led to is deleted");
}

#[tokio::test]
async fn a_login_over_an_unreadable_record_works_and_leaves_the_record_alone() {
    let memory = MemoryBackend::new();
    let sessions = node(&memory).await;
    let mut browser = Browser::with(&sessions, grace()).await;
    corrupt_record(&memory, &sessions).await;
    let before = browser.clone();
    let page = browser.visit(&serve(&sessions, login)).await;
    assert_logged_in(&page, &before, &browser);
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    assert_eq!(sessions.store().size().await.unwrap(), 2);
}

#[tokio::test]
async fn a_login_works_if_the_session_ends_during_the_request() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, grace()).await;
    let before = browser.clone();
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.store().delete(session.id().unwrap()).await.unwrap();
        session.replace(ada());
        assert!(session.is_new(), "the new session has no id yet");
        session.save().await.unwrap();
        assert!(session.id().is_some());
    });
    let page = browser.visit(&app).await;
    assert_logged_in(&page, &before, &browser);
    assert_eq!(only_data(&sessions).await, ada(), "nothing else is kept");
}

#[tokio::test]
async fn a_session_that_a_login_begins_has_an_id_and_streams_once_it_is_committed() {
    let sessions = node(&MemoryBackend::new()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let items = || session.until_ended(stream::iter([1, 2])).count();
        session.replace(ada());
        assert!(session.is_new() && session.id().is_none() && session.record().is_none());
        assert_eq!(items().await, 0);
        session.save().await.unwrap();
        assert!(!session.is_new() && session.id().is_some() && session.record().is_some());
        assert_eq!(items().await, 2);
    });
    let page = Browser::with(&sessions, grace()).await.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn both_of_two_logins_at_once_succeed() {
    let sessions = node(&MemoryBackend::new()).await;
    let browser = Browser::with(&sessions, grace()).await;
    let both_loaded = Arc::new(Barrier::new(2));
    let app = serve(&sessions, async move |session: Session<Data>| {
        both_loaded.wait().await;
        session.replace(ada());
    });
    let (mut one, mut two) = (browser.clone(), browser.clone());
    let (first, second) = tokio::join!(one.visit(&app), two.visit(&app));
    assert_logged_in(&first, &browser, &one);
    assert_logged_in(&second, &browser, &two);
    for mut browser in [one, two] {
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    }
}

#[tokio::test]
async fn a_replacement_that_is_discarded_or_fails_changes_nothing() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, grace()).await;
    browser
        .visit(&serve(&sessions, async |session: Session<Data>| {
            session.replace(ada());
            session.discard();
        }))
        .await;
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Grace");
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = browser.visit(&serve(&sessions, login)).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Grace");
}

#[tokio::test]
async fn after_the_head_a_replacement_is_refused() {
    let sessions = node(&MemoryBackend::new()).await;
    let browser = Browser::with(&sessions, grace()).await;
    let socket = session_after_the_head(&sessions, &browser).await;
    socket.replace(ada());
    assert!(matches!(socket.save().await, Err(SessionError::HeadSent)));
    socket.discard();
    assert_eq!(only_data(&sessions).await, grace());
}

/// Returns the browser of a visitor who has just logged in by a change and a regeneration, and one
/// as it was before.
async fn before_and_after_a_login(sessions: &SessionLayer<Data>) -> (Browser, Browser) {
    before_and_after(sessions, async |session: Session<Data>| {
        session.update(|data| *data = ada());
        session.regenerate();
    })
    .await
}

/// As [`before_and_after_a_login`], by a login that replaces the session.
async fn before_and_after_a_replacement(sessions: &SessionLayer<Data>) -> (Browser, Browser) {
    before_and_after(sessions, login).await
}

/// As [`before_and_after_a_replacement`], in a request that logs out first.
async fn before_and_after_a_logout_and_login(sessions: &SessionLayer<Data>) -> (Browser, Browser) {
    before_and_after(sessions, async |session: Session<Data>| {
        session.destroy();
        session.replace(ada());
    })
    .await
}

async fn before_and_after<F: Future<Output = ()> + Send + 'static>(
    sessions: &SessionLayer<Data>,
    login: impl Fn(Session<Data>) -> F + Clone + Send + Sync + 'static,
) -> (Browser, Browser) {
    let before = Browser::with(sessions, grace()).await;
    let mut after = before.clone();
    after.visit(&serve(sessions, login)).await;
    (before, after)
}

#[tokio::test]
async fn a_late_request_with_the_old_cookie_takes_no_login_away() {
    let sessions = node(&MemoryBackend::new()).await;
    let (late, visitor) = before_and_after_a_login(&sessions).await;
    assert_no_login_is_taken_away(&sessions, late, visitor).await;
}

#[tokio::test]
async fn a_late_request_with_the_cookie_of_a_replaced_session_takes_no_login_away() {
    let sessions = node(&MemoryBackend::new()).await;
    let (late, visitor) = before_and_after_a_replacement(&sessions).await;
    assert_no_login_is_taken_away(&sessions, late, visitor).await;
    let sessions = node(&MemoryBackend::new()).await;
    let (late, visitor) = before_and_after_a_logout_and_login(&sessions).await;
    assert_no_login_is_taken_away(&sessions, late, visitor).await;
}

#[tokio::test]
async fn a_late_request_with_one_of_several_old_cookies_takes_no_login_away() {
    let sessions = node(&MemoryBackend::new()).await;
    let (one, two) =
        (Browser::with(&sessions, grace()).await, Browser::with(&sessions, grace()).await);
    let mut visitor = with_both(&one, &two);
    assert_eq!(visitor.visit(&serve(&sessions, login)).await.status, StatusCode::OK);
    for late in [one, two] {
        assert_no_login_is_taken_away(&sessions, late, visitor.clone()).await;
    }
}

async fn assert_no_login_is_taken_away(
    sessions: &SessionLayer<Data>,
    mut late: Browser,
    mut visitor: Browser,
) {
    let page = late.visit(&serve(sessions, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("", 0), "it sees a stranger");
    for app in [
        serve(sessions, count),
        serve(sessions, async |session: Session<Data>| session.regenerate()),
        serve(sessions, async |session: Session<Data>| {
            let refused = session.modify(|data| data.visits += 1).await;
            assert!(matches!(refused, Err(SessionError::Gone)));
            refused
        }),
    ] {
        let page = late.visit(&app).await;
        assert_eq!(page.status, StatusCode::CONFLICT);
        assert_eq!(page.set_cookies().len(), 0);
    }
    assert_eq!(visitor.visit(&serve(sessions, read)).await.body, "Ada");
    assert_eq!(sessions.store().size().await.unwrap(), 1, "no session was created");
}

#[tokio::test]
async fn a_late_logout_with_the_cookie_of_a_replaced_session_leaves_the_login_alone() {
    let sessions = node(&MemoryBackend::new()).await;
    let (mut late, mut visitor) = before_and_after_a_replacement(&sessions).await;
    let page =
        late.visit(&serve(&sessions, async |session: Session<Data>| session.destroy())).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(visitor.visit(&serve(&sessions, read)).await.body, "Ada");
}

#[tokio::test]
async fn a_logout_that_another_tabs_login_overtakes_leaves_the_login_alone() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut slow = Browser::with(&sessions, grace()).await;
    let tab = Arc::new(tokio::sync::Mutex::new(slow.clone()));
    let (login, other) = (serve(&sessions, login), tab.clone());
    let logout = serve(&sessions, async move |session: Session<Data>| {
        other.lock().await.visit(&login).await;
        session.destroy();
    });
    let page = slow.visit(&logout).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(tab.lock().await.visit(&serve(&sessions, read)).await.body, "Ada");
}

/// Logs out and begins another session, which cannot be created at first.
async fn log_out_and_begin(session: Session<Data>, spy: Spy) {
    session.destroy();
    session.update(|data| data.visits = 7);
    // The deletion, and the load of what it has found.
    spy.pass_next(2);
    spy.fail_next(1, StoreErrorKind::Unavailable);
    session.save().await.unwrap_err();
}

#[tokio::test]
async fn a_logout_that_has_lost_a_reply_is_no_late_request_if_its_new_session_fails_at_first() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, grace()).await;
    let app = serve(&sessions, async move |session: Session<Data>| {
        spy.lose_next_answer();
        spy.pass_next(1);
        log_out_and_begin(session, spy.clone()).await;
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(only_data(&sessions).await, Data { user: None, visits: 7 });
}

#[tokio::test]
async fn a_logout_that_has_lost_a_reply_leaves_a_login_elsewhere_alone() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut slow = Browser::with(&sessions, grace()).await;
    let tab = Arc::new(tokio::sync::Mutex::new(slow.clone()));
    let (login, other) = (serve(&sessions, login), tab.clone());
    let logout = serve(&sessions, async move |session: Session<Data>| {
        other.lock().await.visit(&login).await;
        spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
        log_out_and_begin(session, spy.clone()).await;
    });
    let page = slow.visit(&logout).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::CONFLICT, 0));
    assert_eq!(tab.lock().await.visit(&serve(&sessions, read)).await.body, "Ada");
}

#[tokio::test]
async fn a_late_logout_with_the_old_cookie_ends_the_session_and_leaves_the_browsers_cookie() {
    let sessions = node(&MemoryBackend::new()).await;
    let (mut late, mut visitor) = before_and_after_a_login(&sessions).await;
    let page =
        late.visit(&serve(&sessions, async |session: Session<Data>| session.destroy())).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(visitor.visit(&serve(&sessions, read)).await.body, "");

    let (mut late, _) = before_and_after_a_login(&sessions).await;
    let goodbye = serve(&sessions, async |session: Session<Data>| {
        session.destroy();
        session.update(|data| data.user = Some("goodbye".into()));
    });
    let page = late.visit(&goodbye).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::CONFLICT, 0));
    crate::web::eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_old_cookie_is_a_strangers_once_its_tombstone_has_expired() {
    let clock = clustered_sessions::Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let sessions = start(config(&memory).clock(clock)).await;
    let (mut late, _) = before_and_after_a_login(&sessions).await;
    assert_eq!(late.visit(&serve(&sessions, count)).await.set_cookies().len(), 0);
    tokio::time::advance(std::time::Duration::from_secs(62)).await;
    let page = late.visit(&serve(&sessions, count)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
}

#[tokio::test(start_paused = true)]
async fn a_login_works_if_its_session_was_regenerated_long_ago_during_the_request() {
    let clock = clustered_sessions::Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let sessions = start(config(&memory).clock(clock)).await;
    let mut slow = Browser::with(&sessions, grace()).await;
    let other_tab = slow.clone();
    let regenerate = serve(&sessions, async |session: Session<Data>| session.regenerate());
    let app = serve(&sessions, async move |session: Session<Data>| {
        other_tab.clone().visit(&regenerate).await;
        tokio::time::advance(std::time::Duration::from_secs(62)).await;
        session.replace(ada());
    });
    let before = slow.clone();
    let page = slow.visit(&app).await;
    assert_logged_in(&page, &before, &slow);
    assert_eq!(slow.visit(&serve(&sessions, read)).await.body, "Ada");
}
