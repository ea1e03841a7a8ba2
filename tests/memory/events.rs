//! Events for the application's hook: which there are, and what happens if the hook is slow.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::testing::{FaultyBackend, Interposed, Interposer};
use clustered_sessions::{
    Clock, Ended, LimitPolicy, MemoryBackend, Session, SessionConfigBuilder, SessionEvent,
    SessionId, SessionLayer, SessionStore, StoreError, StoreErrorKind,
};
use futures_util::future::join;
use http::{HeaderValue, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep, timeout};

use crate::handles::session_after_the_head;
use crate::lifecycle::runtime;
use crate::web::{Browser, Call, Data, Spy, ada, config, only_id, request, serve, settle, start};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<SessionEvent>>>);

impl Log {
    async fn take(&self) -> Vec<SessionEvent> {
        settle().await;
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Takes what was logged, as `Debug` shows it.
    async fn texts(&self) -> Vec<String> {
        self.take().await.iter().map(|event| format!("{event:?}")).collect()
    }
}

fn owned(config: SessionConfigBuilder<Data>) -> SessionConfigBuilder<Data> {
    config.owner(|data: &Data| data.user.clone())
}

fn logged(config: SessionConfigBuilder<Data>, log: &Log) -> SessionConfigBuilder<Data> {
    hooked(config, log, async |log, event| log.0.lock().unwrap().push(event))
}

/// Sets a hook that has a log.
fn hooked<H>(
    config: SessionConfigBuilder<Data>,
    log: &Log,
    hook: impl Fn(Log, SessionEvent) -> H + Send + Sync + 'static,
) -> SessionConfigBuilder<Data>
where
    H: Future<Output = ()> + Send + 'static,
{
    let log = log.clone();
    config.on_event(move |event| hook(log.clone(), event))
}

async fn node(log: &Log) -> SessionLayer<Data> {
    start(logged(owned(config(&MemoryBackend::new())), log)).await
}

fn created(id: SessionId) -> String {
    format!("Created {{ id: {id:?}, owner: Some(\"Ada\") }}")
}

fn given(id: SessionId) -> String {
    format!("NewOwner {{ id: {id:?}, owner: \"Ada\" }}")
}

fn ended(id: SessionId, reason: Ended) -> String {
    format!("Ended {{ id: {id:?}, owner: Some(\"Ada\"), reason: {reason:?} }}")
}

#[tokio::test]
async fn a_login_a_new_token_and_a_logout_are_reported_once_each() {
    let log = Log::default();
    let node = node(&log).await;
    let cookie = node.cookie_for(ada()).await.unwrap();
    let id = only_id(&node).await;
    assert_eq!(log.texts().await, [created(id)]);

    request(&node, cookie.clone(), |session| session.update(|data| data.visits += 1)).await;
    assert_eq!(log.take().await, [], "a change is no event");

    request(&node, cookie.clone(), Session::regenerate).await;
    let new = only_id(&node).await;
    let expected = format!("Regenerated {{ old: {id:?}, new: {new:?}, owner: Some(\"Ada\") }}");
    assert_eq!(log.texts().await, [expected]);

    // The old cookie still leads to the session.
    request(&node, cookie, Session::destroy).await;
    assert_eq!(log.texts().await, [ended(new, Ended::LoggedOut)]);
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_has_lost_a_reply_reports_the_end_of_the_session_that_it_has_found() {
    let (log, spy) = (Log::default(), Spy::new());
    let config = config(&spy).clock(Clock::tokio()).enable_retry(true);
    let node = start(logged(owned(config), &log)).await;
    let mut browser = Browser::with(&node, ada()).await;
    let socket = session_after_the_head(&node, &browser).await;
    browser.visit(&serve(&node, async |session: Session<Data>| session.regenerate())).await;
    let new = only_id(&node).await;
    advance(Duration::from_secs(61)).await;
    log.take().await;
    socket.destroy();
    spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    socket.save().await.unwrap();
    assert_eq!(log.texts().await, [ended(new, Ended::LoggedOut)]);

    let cookie = node.cookie_for(ada()).await.unwrap();
    let id = only_id(&node).await;
    log.take().await;
    spy.lose_next_answer();
    request(&node, cookie, Session::destroy).await;
    assert_eq!(log.texts().await, [ended(id, Ended::LoggedOut)]);
}

#[tokio::test]
async fn a_logout_that_begins_another_session_and_has_lost_a_reply_is_an_end_and_a_beginning() {
    let (log, spy) = (Log::default(), Spy::new());
    let node = start(logged(owned(config(&spy)), &log)).await;
    let mut browser = Browser::with(&node, ada()).await;
    let old = only_id(&node).await;
    log.take().await;
    spy.take_calls();
    let shared = spy.clone();
    let app = serve(&node, async move |session: Session<Data>| {
        session.destroy();
        session.update(|data| *data = ada());
        shared.lose_next_answer();
        session.save().await
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    let new = only_id(&node).await;
    assert_eq!(log.texts().await, [ended(old, Ended::LoggedOut), created(new)]);
    assert!(spy.take_calls().contains(&Call::RemoveFromOwner));
}

#[tokio::test]
async fn a_login_that_replaces_a_session_is_an_end_and_a_beginning() {
    let log = Log::default();
    let node = node(&log).await;
    let cookie = node.cookie_for(ada()).await.unwrap();
    let old = only_id(&node).await;
    log.take().await;
    request(&node, cookie, |session| session.replace(ada())).await;
    let new = only_id(&node).await;
    assert_eq!(log.texts().await, [ended(old, Ended::Replaced), created(new)]);
}

/// Once, while a login lists the sessions of its owner, logs the same owner in on the same node.
#[derive(Clone, Default)]
struct LaterLogin(Arc<Mutex<Option<SessionStore<Data>>>>);

impl Interposer for LaterLogin {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        let store =
            if method == Call::SessionsOfOwner { self.0.lock().unwrap().take() } else { None };
        if let Some(store) = store {
            sleep(Duration::from_secs(1)).await;
            let _ = store.create(ada()).await.unwrap();
        }
        call.await
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_never_reported_before_its_beginning() {
    let clock = Clock::tokio();
    let (log, later) = (Log::default(), LaterLogin::default());
    let backend =
        Interposed::with_interposer(MemoryBackend::with_clock(clock.clone()), later.clone());
    let limited = owned(config(&MemoryBackend::new()).backend(backend))
        .clock(clock)
        .max_sessions_of_owner(1, LimitPolicy::EndOldest);
    let node = start(logged(limited, &log)).await;

    *later.0.lock().unwrap() = Some(node.store().clone());
    let first = node.store().create(ada()).await.unwrap().id;
    let second = only_id(&node).await;
    let expected = [created(second), created(first), ended(first, Ended::LimitReached)];
    assert_eq!(log.texts().await, expected);
    node.store().delete(second).await.unwrap();

    // The same, if the first login keeps the visitor's session.
    let cookie = node.cookie_for(Data::default()).await.unwrap();
    let old = only_id(&node).await;
    log.take().await;
    *later.0.lock().unwrap() = Some(node.store().clone());
    request(&node, cookie, |session| session.update(|data| *data = ada())).await;
    let events = log.take().await;
    let [SessionEvent::Created { .. }, SessionEvent::Regenerated { new, .. }, rest @ ..] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    let rest: Vec<_> = rest.iter().map(|event| format!("{event:?}")).collect();
    assert_eq!(rest, [given(*new), ended(*new, Ended::LimitReached)], "{old:?}");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_refused_begins_no_session() {
    let log = Log::default();
    let limited =
        owned(config(&MemoryBackend::new())).max_sessions_of_owner(1, LimitPolicy::RefuseNew);
    let node = start(logged(limited, &log)).await;
    let id = node.store().create(ada()).await.unwrap().id;
    node.store().create(ada()).await.unwrap_err();
    assert_eq!(log.texts().await, [created(id), "LimitReached { owner: \"Ada\" }".to_owned()]);
}

#[tokio::test]
async fn a_login_that_keeps_the_session_is_reported_as_that_of_a_new_owner() {
    let log = Log::default();
    let node = node(&log).await;
    let id = node.store().create(Data::default()).await.unwrap().id;
    log.take().await;
    node.store().modify(id, |data| data.visits += 1).await.unwrap();
    node.store().modify(id, |data| *data = ada()).await.unwrap();
    node.store().modify(id, |data| data.visits += 1).await.unwrap();
    node.store().modify(id, |data| data.user = None).await.unwrap();
    assert_eq!(log.texts().await, [given(id)]);
    assert!(node.store().delete(id).await.unwrap());

    // A change by a request also gives the session a new token.
    let cookie = node.cookie_for(Data::default()).await.unwrap();
    let old = only_id(&node).await;
    log.take().await;
    request(&node, cookie, |session| session.update(|data| *data = ada())).await;
    let new = only_id(&node).await;
    let expected = format!("Regenerated {{ old: {old:?}, new: {new:?}, owner: Some(\"Ada\") }}");
    assert_eq!(log.texts().await, [expected, given(new)]);
}

#[tokio::test]
async fn each_deletion_by_the_application_is_reported_with_its_reason() {
    let log = Log::default();
    let node = node(&log).await;
    let store = node.store();
    let create = async || {
        let id = store.create(ada()).await.unwrap().id;
        log.take().await;
        id
    };
    let id = create().await;
    assert!(store.delete(id).await.unwrap());
    assert_eq!(log.texts().await, [ended(id, Ended::Revoked)]);
    let uncached = create().await;
    store.evict_from_cache(uncached);
    assert!(store.delete(uncached).await.unwrap());
    let expected = ended(uncached, Ended::Revoked).replace("Some(\"Ada\")", "None");
    assert_eq!(log.texts().await, [expected], "the owner is not known");
    assert!(!store.delete(id).await.unwrap());
    assert_eq!(log.take().await, [], "there was nothing to delete");

    let id = create().await;
    assert_eq!(store.delete_all_of("Ada").await.unwrap().deleted, 1);
    assert_eq!(log.texts().await, [ended(id, Ended::OwnerRevoked)]);

    let id = create().await;
    assert_eq!(store.bulk_delete(|_| true).await.unwrap().deleted, 1);
    assert_eq!(log.texts().await, [ended(id, Ended::Revoked)]);

    create().await;
    assert_eq!(store.clear().await.unwrap(), 1);
    assert_eq!(log.texts().await, ["Cleared { sessions: 1 }"]);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_reported_once_by_each_node_that_notices_it() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let [here, there, other] = [(); 3].map(|()| Log::default());
    let mut nodes = Vec::new();
    for log in [&here, &there, &other] {
        let config = config(&memory).clock(clock.clone()).timeout(Duration::from_secs(60));
        nodes.push(start(logged(owned(config), log)).await);
    }
    let store = nodes[0].store();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(store.create(ada()).await.unwrap().id);
    }
    let [id, deleted, _nobody_asks_for_it] = ids[..] else { panic!() };
    assert_eq!(here.texts().await.len(), 3);
    // Two nodes have them in their caches.
    for &id in &ids {
        nodes[1].store().get(id).await.unwrap();
    }
    let watch = tokio::spawn(nodes[1].store().watch(id).ended());
    nodes[2].store().delete(deleted).await.unwrap();
    assert_eq!(other.texts().await.len(), 1);

    settle().await;
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(watch.await.unwrap(), Ended::Expired);
    for _ in 0..2 {
        for node in &nodes {
            assert!(node.store().find(id).await.unwrap().is_none());
            assert!(node.store().find(deleted).await.unwrap().is_none());
        }
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    for log in [&here, &there] {
        assert_eq!(log.texts().await, [ended(id, Ended::Expired)]);
    }
    assert_eq!(other.texts().await, [""; 0], "it has not known the session");
}

#[tokio::test]
async fn what_has_failed_is_no_event() {
    let log = Log::default();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::new(), 1);
    let config = owned(config(&MemoryBackend::new()).backend(backend)).enable_retry(false);
    let node = start(logged(config, &log)).await;
    let id = node.store().create(ada()).await.unwrap().id;
    log.take().await;
    faults.fail_calls(1.0);
    node.store().create(ada()).await.unwrap_err();
    node.store().delete(id).await.unwrap_err();
    node.store().clear().await.unwrap_err();
    assert_eq!(log.take().await, []);
}

#[tokio::test(start_paused = true)]
async fn refused_cookies_are_reported_once_in_ten_seconds() {
    let log = Log::default();
    let node = node(&log).await;
    let forged = HeaderValue::from_static("__Host-session=AAAAAAAAAAAAAAAAAAAAAA.AAAA");
    for _ in 0..5 {
        request(&node, forged.clone(), |_| ()).await;
    }
    assert_eq!(log.texts().await, ["CookieRefused { suppressed: 0 }"]);
}

#[tokio::test]
async fn a_hook_that_is_slow_delays_nobody_and_what_does_not_fit_is_dropped_and_counted() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let config = config(&MemoryBackend::new()).on_event({
        let (log, gate) = (log.clone(), gate.clone());
        move |event| {
            let (log, gate) = (log.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                log.0.lock().unwrap().push(event);
            }
        }
    });
    let node = start(config).await;
    let store = node.store();
    for _ in 0..1030 {
        let _ = store.create(ada()).await.unwrap();
        settle().await;
    }
    assert_eq!(store.dropped_events(), 5, "one is being handled and 1024 wait");
    gate.add_permits(10_000);
    store.shutdown().await;
    assert_eq!(log.take().await.len(), 1025, "a shutdown waits for those that wait");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_as_soon_as_all_events_are_handled() {
    let log = Log::default();
    let node = node(&log).await;
    let _ = node.store().create(ada()).await.unwrap();
    let begun = tokio::time::Instant::now();
    node.store().shutdown().await;
    assert_eq!((begun.elapsed(), log.take().await.len()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_does_not_hold_up_a_shutdown_for_ever() {
    let config = config(&MemoryBackend::new()).on_event(|_| std::future::pending());
    let node = start(config).await;
    let _ = node.store().create(ada()).await.unwrap();
    let begun = tokio::time::Instant::now();
    node.store().shutdown().await;
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn each_shutdown_waits_for_the_events() {
    const SECOND: Duration = Duration::from_secs(1);
    let log = Log::default();
    let config = hooked(config(&MemoryBackend::new()), &log, async |log, event| {
        sleep(SECOND * 3).await;
        log.0.lock().unwrap().push(event);
    });
    let node = start(config).await;
    let _ = node.store().create(ada()).await.unwrap();
    let begun = Instant::now();
    assert!(timeout(SECOND, node.store().shutdown()).await.is_err());
    let shutdown = async || {
        node.store().shutdown().await;
        (begun.elapsed(), log.0.lock().unwrap().len())
    };
    assert_eq!(join(shutdown(), shutdown()).await, ((SECOND * 3, 1), (SECOND * 3, 1)));
    assert_eq!(shutdown().await, (SECOND * 3, 1));
}

#[test]
fn the_hook_is_called_after_its_runtime_has_gone() {
    let log = Log::default();
    let node = runtime().block_on(async {
        let node = node(&log).await;
        let _ = node.store().create(ada()).await.unwrap();
        assert_eq!(log.take().await.len(), 1);
        node
    });
    runtime().block_on(async {
        let id = node.store().create(ada()).await.unwrap().id;
        assert_eq!(log.texts().await, [created(id)]);
    });
    assert_eq!(node.store().dropped_events(), 0);
}

#[tokio::test]
async fn a_hook_that_panics_is_called_for_the_next_event() {
    let log = Log::default();
    let config = hooked(config(&MemoryBackend::new()), &log, async |log, event| {
        let is_first = log.0.lock().unwrap().is_empty();
        log.0.lock().unwrap().push(event);
        assert!(!is_first, "the first event");
    });
    let node = start(config).await;
    for _ in 0..2 {
        let _ = node.store().create(ada()).await.unwrap();
    }
    assert_eq!(log.take().await.len(), 2);
}
