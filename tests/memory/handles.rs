//! Handles that outlive the response of their request, as those of a socket do.

use std::time::Duration;

use axum::body::Body;
use clustered_sessions::{
    Clock, ClusterConfig, MemoryBackend, Session, SessionError, SessionLayer, StoreErrorKind,
};
use http::StatusCode;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use crate::lifecycle::cold;
use crate::web::{
    Browser, COOKIE, Call, Data, Spy, ada, config, eventually, only_data, only_id, serve, start,
};

/// Returns the session of a request whose response head has been sent.
pub(crate) async fn session_after_the_head(
    sessions: &SessionLayer<Data>,
    browser: &Browser,
) -> Session<Data> {
    let (sender, mut receiver) = mpsc::channel(1);
    let app =
        serve(sessions, async move |session: Session<Data>| sender.send(session).await.unwrap());
    app.oneshot(browser.request()).await.unwrap();
    receiver.recv().await.unwrap()
}

#[tokio::test]
async fn a_stream_can_change_an_existing_session() {
    let (sessions, mut browser) = cold(&Spy::new()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        Body::from_stream(futures_util::stream::once(async move {
            session.update(|data| data.visits += 1);
            session.save().await?;
            let count = |data: &mut Data| {
                data.visits += 1;
                data.visits.to_string()
            };
            session.modify(count).await
        }))
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("2", 0));
    assert_eq!(only_data(&sessions).await.visits, 2);
    assert_eq!(sessions.store().dropped_changes(), 0);
}

#[tokio::test]
async fn a_change_that_needs_a_cookie_is_refused_after_the_head() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let existing = session_after_the_head(&sessions, &browser).await;
    existing.regenerate();
    assert!(matches!(existing.save().await, Err(SessionError::HeadSent)));
    existing.discard();
    existing.modify(|data| data.visits += 1).await.unwrap();
    assert_eq!(only_data(&sessions).await.visits, 1);

    let new_visitor = session_after_the_head(&sessions, &Browser::new()).await;
    assert!(matches!(
        new_visitor.modify(|data| data.visits += 1).await,
        Err(SessionError::HeadSent)
    ));
    assert_eq!(sessions.store().size().await.unwrap(), 1);
}

#[tokio::test]
async fn changes_that_are_dropped_after_the_head_are_counted() {
    let (sessions, browser) = cold(&Spy::new()).await;
    let session = session_after_the_head(&sessions, &browser).await;
    session.update(|data| data.visits += 1);
    assert_eq!(sessions.store().dropped_changes(), 0);
    drop(session);
    assert_eq!(sessions.store().dropped_changes(), 1);
    assert_eq!(only_data(&sessions).await.visits, 0);
}

#[tokio::test]
async fn a_logout_after_the_head_deletes_the_session() {
    let (sessions, browser) = cold(&Spy::new()).await;
    session_after_the_head(&sessions, &browser).await.destroy();
    eventually(async || sessions.store().size().await.unwrap() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_logout_of_a_session_that_was_regenerated_a_minute_ago_is_gone_and_not_ok() {
    let memory = MemoryBackend::new();
    let sessions = start(config(&memory).clock(Clock::tokio())).await;
    let browser = Browser::with(&sessions, ada()).await;
    let socket = session_after_the_head(&sessions, &browser).await;
    let mut other = browser.clone();
    let page =
        other.visit(&serve(&sessions, async |session: Session<Data>| session.regenerate())).await;
    assert_eq!(page.status, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(61)).await;
    socket.destroy();
    assert!(matches!(socket.save().await, Err(SessionError::Gone)));
    assert_eq!(sessions.store().size().await.unwrap(), 1, "it lives on under its new token");
}

/// Creates a session, opens a handle on it that outlives its request, and regenerates the session
/// twice, each time so long ago that the tombstone has expired. Returns the handle, and the browser
/// that has the session's cookie.
async fn socket_of_a_session_that_has_moved(
    sessions: &SessionLayer<Data>,
) -> (Session<Data>, Browser) {
    let mut browser = Browser::with(sessions, ada()).await;
    let socket = session_after_the_head(sessions, &browser).await;
    let regenerate = serve(sessions, async |session: Session<Data>| session.regenerate());
    for _ in 0..2 {
        assert_eq!(browser.visit(&regenerate).await.status, StatusCode::OK);
        tokio::time::advance(Duration::from_secs(61)).await;
    }
    (socket, browser)
}

#[tokio::test(start_paused = true)]
async fn an_old_handle_whose_logout_has_lost_a_reply_finds_the_session_or_has_an_unknown_outcome() {
    for has_owner in [false, true] {
        for lose in [Spy::lose_next_answer, |spy: &Spy| {
            spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
        }] {
            let spy = Spy::new();
            let owner = move |data: &Data| data.user.clone().filter(|_| has_owner);
            let config = config(&spy).clock(Clock::tokio()).enable_retry(true).owner(owner);
            let sessions = start(config).await;
            let (socket, _) = socket_of_a_session_that_has_moved(&sessions).await;
            socket.destroy();
            lose(&spy);
            if has_owner {
                socket.save().await.unwrap();
            } else {
                assert!(socket.save().await.unwrap_err().is_outcome_unknown());
                let again = socket.save().await;
                assert!(matches!(again, Err(SessionError::Gone)), "this time, it is certain");
            }
            let left = if has_owner { 0 } else { 1 };
            assert_eq!(sessions.store().size().await.unwrap(), left, "owner: {has_owner}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_search_does_not_hide_that_a_logout_may_have_been_carried_out() {
    let spy = Spy::new();
    let config = config(&spy).clock(Clock::tokio()).enable_retry(true);
    let sessions = start(config.owner(|data: &Data| data.user.clone())).await;
    let (socket, _) = socket_of_a_session_that_has_moved(&sessions).await;
    socket.destroy();
    spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    spy.pass_next(1);
    spy.fail_next(1, StoreErrorKind::Refused);
    spy.take_calls();
    assert!(socket.save().await.unwrap_err().is_outcome_unknown());
    assert_eq!(spy.take_calls(), [Call::Delete, Call::Delete, Call::SessionsOfOwner]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_has_lost_a_reply_is_ok_in_a_fresh_request() {
    let spy = Spy::new();
    let sessions = start(config(&spy).clock(Clock::tokio()).enable_retry(true)).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let logout = serve(&sessions, async move |session: Session<Data>| {
        assert_eq!(session.data().user.as_deref(), Some("Ada"));
        session.destroy();
        spy.lose_next_answer();
    });
    let page = browser.visit(&logout).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_of_a_session_that_was_cached_long_ago_and_has_moved_since_reports_it_as_gone() {
    for how in ["once", "twice", "and begins another"] {
        let memory = MemoryBackend::with_clock(Clock::tokio());
        let silent = ClusterConfig::new().enabled(false).local_cache_ttl(Duration::from_secs(300));
        let clock = || config(&memory).clock(Clock::tokio());
        let (silent, elsewhere) = (start(clock().cluster(silent)).await, start(clock()).await);
        let mut browser = Browser::with(&elsewhere, ada()).await;
        let mut late = browser.clone();
        let read = async |session: Session<Data>| session.data().user.clone().unwrap_or_default();
        assert_eq!(late.visit(&serve(&silent, read)).await.body, "Ada");
        let regenerate = async |session: Session<Data>| session.regenerate();
        browser.visit(&serve(&elsewhere, regenerate)).await;
        tokio::time::advance(Duration::from_secs(61)).await;

        let logout = serve(&silent, async move |session: Session<Data>| {
            session.destroy();
            match how {
                "twice" => assert!(matches!(session.save().await, Err(SessionError::Gone))),
                "and begins another" => session.update(|data| data.visits += 1),
                _ => {}
            }
        });
        let page = late.visit(&logout).await;
        let error = page.extensions.get::<SessionError>();
        assert!(matches!(error, Some(SessionError::Gone)), "{how}: {:?}", page.status);
        assert_eq!(elsewhere.store().size().await.unwrap(), 1, "it lives on under its new token");
    }
}

/// With a lease this long, what the node reads from its cache may be as old as a tombstone lives.
#[tokio::test(start_paused = true)]
async fn a_logout_on_a_node_with_a_long_lease_that_has_heard_nothing_finds_the_session() {
    let spy = Spy::new();
    let with = |cluster| config(&spy).clock(Clock::tokio()).cluster(cluster);
    let owned = |cluster| start(with(cluster).owner(|data: &Data| data.user.clone()));
    let deaf = owned(ClusterConfig::new().max_staleness(Duration::from_secs(120))).await;
    let elsewhere = owned(ClusterConfig::new()).await;
    let mut browser = Browser::with(&elsewhere, ada()).await;
    let mut late = browser.clone();
    let read = async |session: Session<Data>| session.data().user.clone().unwrap_or_default();
    assert_eq!(late.visit(&serve(&deaf, read)).await.body, "Ada");
    spy.drop_messages();
    let regenerate = async |session: Session<Data>| session.regenerate();
    browser.visit(&serve(&elsewhere, regenerate)).await;
    tokio::time::advance(Duration::from_secs(58)).await;
    let logout = serve(&deaf, async |session: Session<Data>| {
        assert_eq!(session.data().user.as_deref(), Some("Ada"), "from the cache");
        tokio::time::advance(Duration::from_secs(4)).await;
        session.destroy();
    });
    assert_eq!(late.visit(&logout).await.status, StatusCode::OK);
    assert_eq!(browser.visit(&serve(&elsewhere, read)).await.body, "");
}

#[tokio::test(start_paused = true)]
async fn a_late_logout_by_a_handle_of_a_replaced_session_is_ok() {
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let sessions = start(config(&memory).clock(Clock::tokio())).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let socket = session_after_the_head(&sessions, &browser).await;
    let login = async |session: Session<Data>| session.replace(ada());
    assert_eq!(browser.visit(&serve(&sessions, login)).await.status, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(31)).await;
    socket.destroy();
    socket.save().await.unwrap();
    assert_eq!(sessions.store().size().await.unwrap(), 1, "the login is left alone");
}

#[tokio::test(start_paused = true)]
async fn with_an_owner_an_old_handle_logs_out_the_session_under_its_new_token_and_no_other() {
    let memory = MemoryBackend::new();
    let with_owner = config(&memory).clock(Clock::tokio()).owner(|data: &Data| data.user.clone());
    let sessions = start(with_owner).await;
    let phone = sessions.store().create(ada()).await.unwrap().id;
    let (socket, _) = socket_of_a_session_that_has_moved(&sessions).await;
    socket.destroy();
    socket.save().await.unwrap();
    assert_eq!(only_id(&sessions).await, phone, "the owner's other session lives");

    let (socket, _) = socket_of_a_session_that_has_moved(&sessions).await;
    socket.destroy();
    drop(socket);
    eventually(async || sessions.store().size().await.unwrap() == 1).await;
    assert_eq!(only_id(&sessions).await, phone);
}

#[tokio::test(start_paused = true)]
async fn an_old_handle_of_a_session_that_moved_to_another_owner_reports_it_as_gone() {
    let memory = MemoryBackend::new();
    let with_owner = config(&memory).clock(Clock::tokio()).owner(|data: &Data| data.user.clone());
    let sessions = start(with_owner).await;
    let (socket, mut browser) = socket_of_a_session_that_has_moved(&sessions).await;
    let other_user = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.user = Some("Grace".into()));
        session.regenerate();
    });
    browser.visit(&other_user).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    socket.destroy();
    assert!(matches!(socket.save().await, Err(SessionError::Gone)));
    assert_eq!(only_data(&sessions).await.user.as_deref(), Some("Grace"));
}

#[tokio::test(start_paused = true)]
async fn a_late_logout_with_the_cookie_of_another_session_that_has_ended_is_ok() {
    let memory = MemoryBackend::new();
    let sessions = start(config(&memory).clock(Clock::tokio())).await;
    let ended = Browser::with(&sessions, ada()).await;
    assert!(sessions.store().delete(only_id(&sessions).await).await.unwrap());
    let mut browser = Browser::with(&sessions, ada()).await;
    let [own, left_over] = [&browser, &ended].map(|browser| browser.cookie(COOKIE).unwrap());
    let both = format!("{own}; {COOKIE}={left_over}");
    browser.set_cookie(COOKIE, both);
    let socket = session_after_the_head(&sessions, &browser).await;
    tokio::time::advance(Duration::from_secs(31)).await;
    socket.destroy();
    socket.save().await.unwrap();
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_of_a_session_that_has_just_been_deleted_is_ok() {
    let sessions = start(config(&MemoryBackend::new()).clock(Clock::tokio())).await;
    let browser = Browser::with(&sessions, ada()).await;
    let tab = session_after_the_head(&sessions, &browser).await;
    sessions.store().delete(only_id(&sessions).await).await.unwrap();
    tokio::time::advance(Duration::from_secs(20)).await;
    tab.destroy();
    tab.save().await.unwrap();
}
