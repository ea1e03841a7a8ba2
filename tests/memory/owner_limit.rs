//! The limit on the sessions of one owner: which sessions end, which logins are refused, and how
//! visitors and handlers see that. `tests/simulation/limits.rs` has logins at the same time.

use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::backend::Backend;
use clustered_sessions::testing::{FaultyBackend, Interposed, Interposer};
use clustered_sessions::{
    Clock, Ended, LimitPolicy, MemoryBackend, Session, SessionConfigBuilder, SessionError,
    SessionEvent, SessionId, SessionLayer, StoreError, StoreErrorKind,
};
use http::StatusCode;
use support::log::Log;
use tokio::sync::Notify;
use tokio::time::sleep;
use tower::ServiceExt as _;

use crate::cookies::with_both;
use crate::failing::{failing, hanging};
use crate::web::{
    Browser, COOKIE, Call, Data, HasBackend, config, only_id, send, serve, settle, start,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn limited(
    backend: &impl HasBackend,
    clock: &Clock,
    max: usize,
    policy: LimitPolicy,
) -> SessionConfigBuilder<Data> {
    config(backend)
        .clock(clock.clone())
        .timeout(HOUR)
        .owner(|data: &Data| data.user.clone())
        .max_sessions_of_owner(max, policy)
}

async fn node(max: usize, policy: LimitPolicy) -> SessionLayer<Data> {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    start(limited(&memory, &clock, max, policy)).await
}

fn of(user: &str) -> Data {
    Data { user: Some(user.to_owned()), visits: 0 }
}

/// Creates a session a second later than the one before.
async fn create(node: &SessionLayer<Data>, user: &str) -> SessionId {
    sleep(SECOND).await;
    node.store().create(of(user)).await.unwrap().id
}

async fn refusal(node: &SessionLayer<Data>, user: &str) -> StoreErrorKind {
    sleep(SECOND).await;
    node.store().create(of(user)).await.unwrap_err().kind()
}

/// Returns the ids of the user's sessions, the newest first.
async fn ids(node: &SessionLayer<Data>, user: &str) -> Vec<SessionId> {
    node.store().sessions_of(user).await.unwrap().iter().map(|record| record.id()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_login_beyond_the_limit_ends_the_oldest_session_on_every_node() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = events.clone();
    let config = limited(&memory, &clock, 2, LimitPolicy::EndOldest).on_event(move |event| {
        log.lock().unwrap().push(format!("{event:?}"));
        async {}
    });
    let here = start(config).await;
    let there = start(limited(&memory, &clock, 2, LimitPolicy::EndOldest)).await;
    let [first, second] = [create(&there, "ada").await, create(&there, "ada").await];
    let of_bob = create(&there, "bob").await;
    let watch = there.store().watch(first);

    let third = create(&here, "ada").await;
    assert_eq!(ids(&here, "ada").await, [third, second]);
    assert_eq!(ids(&here, "bob").await, [of_bob], "others are not concerned");
    assert_eq!(watch.ended().await, Ended::LimitReached);
    assert!(there.store().find(first).await.unwrap().is_none());
    settle().await;
    let expected = [
        format!("Ended {{ id: {first:?}, owner: Some(\"ada\"), reason: LimitReached }}"),
        format!("Created {{ id: {third:?}, owner: Some(\"ada\") }}"),
    ];
    assert_eq!(*events.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_its_place_when_it_is_regenerated() {
    let node = node(2, LimitPolicy::EndOldest).await;
    let mut browser = Browser::with(&node, of("ada")).await;
    let second = create(&node, "ada").await;
    sleep(SECOND).await;
    let app = serve(&node, async |session: Session<Data>| session.regenerate());
    browser.visit(&app).await;
    let [newest, regenerated] = ids(&node, "ada").await[..] else { panic!("two sessions") };
    assert_eq!(newest, second, "the order is that of the logins");
    let third = create(&node, "ada").await;
    assert_eq!(ids(&node, "ada").await, [third, second]);
    assert!(node.store().find(regenerated).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_lowered_lets_those_who_are_logged_in_regenerate() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let before = start(limited(&memory, &clock, 3, LimitPolicy::RefuseNew)).await;
    let mut browser = Browser::with(&before, of("ada")).await;
    for _ in 0..2 {
        create(&before, "ada").await;
    }
    let now = start(limited(&memory, &clock, 1, LimitPolicy::RefuseNew)).await;
    let app = serve(&now, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.regenerate();
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(ids(&now, "ada").await.len(), 3);
    assert_eq!(refusal(&now, "ada").await, StoreErrorKind::LimitReached);
}

#[tokio::test(start_paused = true)]
async fn a_login_beyond_the_limit_is_refused_until_a_place_is_free() {
    let node = node(2, LimitPolicy::RefuseNew).await;
    let first = create(&node, "ada").await;
    let second = create(&node, "ada").await;
    assert_eq!(refusal(&node, "ada").await, StoreErrorKind::LimitReached);
    assert_eq!(ids(&node, "ada").await, [second, first], "nothing is left of it");
    create(&node, "bob").await;

    node.store().delete(first).await.unwrap();
    create(&node, "ada").await;
    assert_eq!(refusal(&node, "ada").await, StoreErrorKind::LimitReached);
    sleep(HOUR).await;
    // The entries of expired sessions stay in the index for some time.
    create(&node, "ada").await;
    create(&node, "ada").await;
    assert_eq!(refusal(&node, "ada").await, StoreErrorKind::LimitReached);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_explain_a_refused_login_and_the_visitor_keeps_the_session_before() {
    let node = node(1, LimitPolicy::RefuseNew).await;
    create(&node, "ada").await;
    let mut browser = Browser::with(&node, Data { user: None, visits: 7 }).await;
    let app = serve(&node, async |session: Session<Data>| {
        session.replace(of("ada"));
        match session.save().await {
            Err(SessionError::LimitReached) => {
                format!("too many; visits: {}", session.data().visits)
            }
            saved => panic!("{saved:?}"),
        }
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, "too many; visits: 7"));
    assert_eq!(page.set_cookies().len(), 0);

    // A handler that does not ask gets an error response.
    let app = serve(&node, async |session: Session<Data>| session.replace(of("ada")));
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::CONFLICT, ""));
    assert!(matches!(page.extensions.get(), Some(SessionError::LimitReached)));

    let app = serve(&node, async |session: Session<Data>| session.data().visits.to_string());
    assert_eq!(browser.visit(&app).await.body, "7");
    assert_eq!(ids(&node, "ada").await.len(), 1);
}

/// Logs in elsewhere before a session is replaced.
struct RivalLogin(SessionLayer<Data>);

impl Interposer for RivalLogin {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == Call::Update {
            let _ = self.0.store().create(of("ada")).await;
        }
        call.await
    }
}

/// Starts a node on which each login to the last place is overtaken, and the rival's node.
async fn node_and_rival() -> (SessionLayer<Data>, SessionLayer<Data>) {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let limited = || limited(&memory, &clock, 1, LimitPolicy::RefuseNew);
    let rival = start(limited()).await;
    let backend = Interposed::with_interposer(memory.clone(), RivalLogin(rival.clone()));
    (start(limited().backend(backend)).await, rival)
}

#[tokio::test(start_paused = true)]
async fn a_login_that_loses_the_last_place_to_another_one_ends_the_visitors_session() {
    let (node, rival) = node_and_rival().await;
    let mut browser = Browser::with(&node, Data { user: None, visits: 7 }).await;
    let app = serve(&node, async |session: Session<Data>| {
        session.replace(of("ada"));
        let saved = session.save().await;
        assert!(matches!(saved, Err(SessionError::LimitReached)), "{saved:?}");
        format!("too many; visits: {}", session.data().visits)
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, "too many; visits: 0"));
    assert_eq!(browser.cookie(COOKIE), None, "its cookie leads nowhere");
    assert_eq!(ids(&rival, "ada").await.len(), 1);

    // A handler that goes on gets a new session.
    let mut browser = Browser::with(&node, Data { user: None, visits: 7 }).await;
    let ada = ids(&rival, "ada").await[0];
    assert!(rival.store().delete(ada).await.unwrap());
    let app = serve(&node, async |session: Session<Data>| {
        session.replace(of("ada"));
        assert!(session.save().await.is_err());
        session.update(|data| data.visits += 1);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    let app = serve(&node, async |session: Session<Data>| session.data().visits.to_string());
    assert_eq!(browser.visit(&app).await.body, "1");
}

#[tokio::test(start_paused = true)]
async fn a_second_login_on_the_same_device_takes_the_place_of_the_first() {
    for policy in [LimitPolicy::RefuseNew, LimitPolicy::EndOldest] {
        let node = node(1, policy).await;
        let mut browser = Browser::with(&node, of("ada")).await;
        let before = only_id(&node).await;
        let app = serve(&node, async |session: Session<Data>| session.replace(of("ada")));
        assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
        assert_ne!(only_id(&node).await, before);
    }
}

/// The visitor appears as a stranger until then.
#[tokio::test(start_paused = true)]
async fn a_login_with_the_cookies_of_several_sessions_needs_no_place_besides_theirs() {
    let node = node(2, LimitPolicy::RefuseNew).await;
    let (one, two) = (Browser::with(&node, of("ada")).await, Browser::with(&node, of("ada")).await);
    let login = serve(&node, async |session: Session<Data>| session.replace(of("ada")));
    let page = with_both(&one, &two).visit(&login).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(ids(&node, "ada").await.len(), 1);
}

/// As by a click too many. Both requests have found the same session without an owner.
#[tokio::test(start_paused = true)]
async fn of_two_logins_in_one_session_the_one_that_fails_ends_neither_the_other_nor_a_third() {
    let node = node(2, LimitPolicy::EndOldest).await;
    let elsewhere = create(&node, "ada").await;
    let browser = Browser::with(&node, Data::default()).await;
    let (found, begin) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (found_by_slow, begin_slow) = (found.clone(), begin.clone());
    let slow = serve(&node, async move |session: Session<Data>| {
        found_by_slow.notify_one();
        begin_slow.notified().await;
        session.update(|data| data.user = Some("ada".to_owned()));
    });
    let quick = serve(&node, async |session: Session<Data>| {
        session.update(|data| data.user = Some("ada".to_owned()));
    });
    let second = tokio::spawn(slow.oneshot(browser.request()));
    found.notified().await;
    sleep(SECOND).await;
    assert_eq!(send(&quick, browser.request()).await.status, StatusCode::OK);
    let first = ids(&node, "ada").await[0];
    sleep(SECOND).await;
    begin.notify_one();
    assert_eq!(second.await.unwrap().unwrap().status(), StatusCode::CONFLICT);
    assert_eq!(ids(&node, "ada").await, [first, elsewhere]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_carried_out_even_if_the_login_after_it_is_refused() {
    let node = node(1, LimitPolicy::RefuseNew).await;
    let other = create(&node, "ada").await;
    let mut browser = Browser::with(&node, of("bob")).await;
    let app = serve(&node, async |session: Session<Data>| {
        session.destroy();
        session.replace(of("ada"));
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::CONFLICT);
    settle().await;
    assert_eq!(only_id(&node).await, other);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_given_an_owner_and_loses_the_last_place_ends_for_that_reason() {
    let (node, rival) = node_and_rival().await;
    let session = node.store().create(Data { user: None, visits: 7 }).await.unwrap();
    let watch = rival.store().watch(session.id);
    let login = |data: &mut Data| data.user = Some("ada".to_owned());
    let refused = node.store().modify(session.id, login).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::LimitReached);
    assert_eq!(watch.ended().await, Ended::LimitReached);
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_login_that_loses_the_last_place_and_is_not_ended_is_unknown() {
    async fn lose_the_last_place(memory: MemoryBackend, clock: &Clock, backend: impl Backend) {
        let limited = || limited(&memory, clock, 1, LimitPolicy::RefuseNew);
        let rival = start(limited()).await;
        let backend = Interposed::with_interposer(backend, RivalLogin(rival.clone()));
        let node = start(limited().backend(backend)).await;
        let id = node.store().create(Data { user: None, visits: 7 }).await.unwrap().id;
        let log = Log::default();
        let guard = log.capture("clustered_sessions=warn");
        let login = |data: &mut Data| data.user = Some("ada".to_owned());
        let error = node.store().modify(id, login).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown);
        let cause = error.source().unwrap().downcast_ref::<StoreError>().unwrap();
        assert_eq!(cause.kind(), StoreErrorKind::LimitReached);
        let left = rival.store().get(id).await.unwrap();
        assert_eq!(left.data().user.as_deref(), Some("ada"), "it is in force");
        node.store().shutdown().await;
        drop(guard);
        let text = log.text();
        assert!(text.contains("a session that must not stay is left behind"), "{text}");
    }
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    lose_the_last_place(memory.clone(), &clock, failing(&memory, Call::Delete)).await;
    let memory = MemoryBackend::with_clock(clock.clone());
    lose_the_last_place(memory.clone(), &clock, hanging(&memory, Call::Delete)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_because_the_limit_cannot_be_applied_does_not_end_for_the_limit() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let limited = || limited(&memory, &clock, 1, LimitPolicy::EndOldest);
    let elsewhere = start(limited()).await;
    let backend = failing(&memory, Call::SessionsOfOwner);
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = events.clone();
    let logged = limited().backend(backend).on_event(move |event| {
        log.lock().unwrap().push(format!("{event:?}"));
        async {}
    });
    let node = start(logged).await;
    let session = elsewhere.store().create(Data { user: None, visits: 7 }).await.unwrap();
    let watch = elsewhere.store().watch(session.id);
    let login = |data: &mut Data| data.user = Some("ada".to_owned());
    let failed = node.store().modify(session.id, login).await.unwrap_err();
    assert_eq!(failed.kind(), StoreErrorKind::OutcomeUnknown);
    assert_eq!(watch.ended().await, Ended::Deleted);
    settle().await;
    let id = session.id;
    let given = format!("NewOwner {{ id: {id:?}, owner: \"ada\" }}");
    let ended = format!("Ended {{ id: {id:?}, owner: Some(\"ada\"), reason: Deleted }}");
    assert_eq!(*events.lock().unwrap(), [given, ended]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_given_an_owner_counts_from_then_on() {
    let log_in = |regenerate: bool| {
        async move |session: Session<Data>| {
            session.update(|data| data.user = Some("ada".to_owned()));
            if regenerate {
                session.regenerate();
            }
        }
    };
    // Older than that of the owner, but its login is the latest.
    for regenerate in [false, true] {
        let ending = node(1, LimitPolicy::EndOldest).await;
        let mut browser = Browser::with(&ending, Data { user: None, visits: 1 }).await;
        let anonymous = only_id(&ending).await;
        create(&ending, "ada").await;
        sleep(SECOND).await;
        let page = browser.visit(&serve(&ending, log_in(regenerate))).await;
        assert_eq!(page.status, StatusCode::OK);
        let left = ending.store().find(only_id(&ending).await).await.unwrap().unwrap();
        assert_eq!((left.origin(), left.data().visits), (anonymous, 1));
    }

    let refusing = node(1, LimitPolicy::RefuseNew).await;
    let mut browser = Browser::with(&refusing, Data { user: None, visits: 1 }).await;
    create(&refusing, "ada").await;
    assert_eq!(browser.visit(&serve(&refusing, log_in(false))).await.status, StatusCode::CONFLICT);
    let app = serve(&refusing, async |session: Session<Data>| format!("{:?}", *session.data()));
    assert_eq!(
        browser.visit(&app).await.body,
        "Data { user: None, visits: 1 }",
        "the session is as it was before"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_an_event() {
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = events.clone();
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let config = limited(&memory, &clock, 1, LimitPolicy::RefuseNew).on_event(move |event| {
        if let SessionEvent::LimitReached { owner, .. } = event {
            log.lock().unwrap().push(owner);
        }
        async {}
    });
    let node = start(config).await;
    create(&node, "ada").await;
    assert_eq!(refusal(&node, "ada").await, StoreErrorKind::LimitReached);
    settle().await;
    assert_eq!(*events.lock().unwrap(), ["ada"]);
}

#[tokio::test(start_paused = true)]
async fn a_login_fails_and_is_undone_if_the_limit_cannot_be_applied() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let limited = || limited(&memory, &clock, 1, LimitPolicy::EndOldest);
    let healthy = start(limited()).await;
    let first = create(&healthy, "ada").await;
    // The list of the sessions, a look at one of them, and its deletion.
    for method in [Call::SessionsOfOwner, Call::Load, Call::DeleteIf] {
        let backend = failing(&memory, method);
        let broken = start(limited().backend(backend)).await;
        assert_eq!(refusal(&broken, "ada").await, StoreErrorKind::Unavailable);
        assert_eq!(healthy.store().all_session_ids().await.unwrap(), [first], "{method:?}");
    }
    let backend = failing(&memory, Call::SessionsOfOwner);
    let broken = start(limited().backend(backend)).await;
    let anonymous = broken.store().create(Data::default()).await.unwrap().id;
    let log_in = |data: &mut Data| data.user = Some("ada".to_owned());
    let error = broken.store().modify(anonymous, log_in).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::OutcomeUnknown, "the session was changed, and ended");
    assert_eq!(healthy.store().all_session_ids().await.unwrap(), [first]);
}

/// Loses the answer to the second creation.
#[derive(Default)]
struct LostAnswer(AtomicU32);

impl Interposer for LostAnswer {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        let answer = call.await;
        if method == Call::Create && self.0.fetch_add(1, Ordering::Relaxed) == 1 {
            return Err(StoreErrorKind::OutcomeUnknown.into());
        }
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_takes_no_place_from_another_session() {
    for policy in [LimitPolicy::EndOldest, LimitPolicy::RefuseNew] {
        let clock = Clock::tokio();
        let memory = MemoryBackend::with_clock(clock.clone());
        let backend = Interposed::with_interposer(memory.clone(), LostAnswer::default());
        let limited = limited(&memory, &clock, 2, policy).backend(backend);
        let node = start(limited.enable_retry(true)).await;
        let first = create(&node, "ada").await;
        let second = create(&node, "ada").await;
        assert_eq!(ids(&node, "ada").await, [second, first], "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_takes_longer_than_a_tombstone_lives_fails() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let (backend, faults) = FaultyBackend::new(memory.clone(), 1);
    let config = limited(&memory, &clock, 1, LimitPolicy::EndOldest).backend(backend);
    let node = start(config.attempt_timeout(HOUR).operation_timeout(HOUR)).await;
    for (delay, expected) in [(10, Ok(())), (40, Err(StoreErrorKind::Timeout))] {
        faults.delay_calls_by(SECOND * delay..SECOND * delay);
        let created = node.store().create(of("ada")).await;
        assert_eq!(created.map(drop).map_err(|error| error.kind()), expected, "{delay} s");
    }
}
