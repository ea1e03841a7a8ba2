//! Metrics of commits, and of sessions that could not be read, changed or kept.

use std::sync::{Arc, Mutex};

use clustered_sessions::{
    Clock, Encryption, LimitPolicy, MemoryBackend, OutagePolicy, Secret, Session,
    SessionConfigBuilder, SessionLayer, StoreErrorKind,
};
use http::StatusCode;
use support::log::Log;
use tokio::time::sleep;

use super::{Figures, SECOND, Scrape, figures, visit};
use crate::failing::failing;
use crate::web::{self, Browser, Call, Data, Spy, ada, config, node, only_id, serve, settle};

async fn count(session: Session<Data>) {
    session.update(visit);
}

async fn read(_: Session<Data>) {}

/// Returns the increases during a future, without those of calls, reads and announcements.
async fn rises(scrape: &Scrape, during: impl Future<Output = ()>) -> Figures {
    let mut rises = scrape.rises(during).await;
    rises.retain(|series, _| {
        !["backend_", "cache_", "announcements_"].iter().any(|part| series.starts_with(part))
    });
    rises
}

fn committed(outcome: &str) -> Figures {
    [(format!("commits_total{{outcome=\"{outcome}\"}}"), 1.0)].into()
}

#[tokio::test(start_paused = true)]
async fn each_commit_is_counted_by_its_outcome() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let layer = scrape.start(config(&spy)).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let counting = serve(&layer, count);
    let request = async |browser: &mut Browser, status| {
        assert_eq!(browser.visit(&counting).await.status, status);
    };
    assert_eq!(rises(&scrape, request(&mut browser, StatusCode::OK)).await, committed("ok"));
    for (kind, outcome) in [
        (StoreErrorKind::Unavailable, "unavailable"),
        (StoreErrorKind::Timeout, "timeout"),
        (StoreErrorKind::OutcomeUnknown, "outcome_unknown"),
        (StoreErrorKind::Refused, "refused"),
        (StoreErrorKind::CircuitOpen, "circuit_open"),
        (StoreErrorKind::Conflict, "conflict"),
        (StoreErrorKind::Closed, "closed"),
    ] {
        layer.store().get(only_id(&layer).await).await.unwrap();
        spy.fail_next(1, kind);
        let failed = request(&mut browser, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(rises(&scrape, failed).await, committed(outcome));
    }
    for (kind, outcome) in
        [(StoreErrorKind::Encode, "encode"), (StoreErrorKind::TooLarge, "too_large")]
    {
        layer.store().get(only_id(&layer).await).await.unwrap();
        spy.fail_next(1, kind);
        let failed = request(&mut browser, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(rises(&scrape, failed).await, committed(outcome));
    }
    layer.store().get(only_id(&layer).await).await.unwrap();
    spy.fail_next(1, StoreErrorKind::Corrupt);
    let unreadable = rises(&scrape, request(&mut browser, StatusCode::INTERNAL_SERVER_ERROR)).await;
    let expected =
        [(r#"commits_total{outcome="corrupt"}"#, 1.0), ("unreadable_records_total", 1.0)];
    assert_eq!(unreadable, figures(expected));
    let reading =
        async { assert_eq!(browser.visit(&serve(&layer, read)).await.status, StatusCode::OK) };
    assert_eq!(
        rises(&scrape, reading).await,
        figures([]),
        "a request without changes makes no commit"
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_to_a_session_deleted_during_the_request_has_the_outcome_gone() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let layer = scrape.start(config(&memory)).await;
    let other = node(&memory).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let raced = serve(&layer, async move |session: Session<Data>| {
        session.update(visit);
        assert!(other.store().delete(session.id().unwrap()).await.unwrap());
    });
    let request = async { assert_eq!(browser.visit(&raced).await.status, StatusCode::CONFLICT) };
    assert_eq!(rises(&scrape, request).await, committed("gone"));
}

/// Returns the session of a request whose response has been sent.
async fn session_after_the_head(layer: &SessionLayer<Data>) -> Session<Data> {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let app =
        serve(layer, async move |session: Session<Data>| *keep.lock().unwrap() = Some(session));
    let mut browser = Browser::with(layer, ada()).await;
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    kept.lock().unwrap().take().unwrap()
}

#[tokio::test(start_paused = true)]
async fn changes_after_the_head_are_refused_or_dropped_and_counted() {
    let scrape = Scrape::new();
    let layer = scrape.start(config(&MemoryBackend::new())).await;
    let session = session_after_the_head(&layer).await;
    session.regenerate();
    let save = async { assert!(session.save().await.is_err()) };
    assert_eq!(rises(&scrape, save).await, committed("head_sent"));

    let session = session_after_the_head(&layer).await;
    session.update(visit);
    let forgotten = async { drop(session) };
    assert_eq!(rises(&scrape, forgotten).await, figures([("dropped_changes_total", 1.0)]));
}

#[tokio::test(start_paused = true)]
async fn a_read_served_by_the_outage_policy_is_degraded_and_its_commit_is_read_only() {
    let scrape = Scrape::new();
    let spy = Spy::new();
    let layer = scrape.start(config(&spy).on_outage(OutagePolicy::Anonymous)).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let cut_off = |layer: &SessionLayer<Data>| {
        layer.store().coordinator().local_cache().clear();
        spy.fail_next(1, StoreErrorKind::Unavailable);
    };
    cut_off(&layer);
    let request =
        async { assert_eq!(browser.visit(&serve(&layer, read)).await.status, StatusCode::OK) };
    assert_eq!(rises(&scrape, request).await, figures([("degraded_reads_total", 1.0)]));
    cut_off(&layer);
    let counting = serve(&layer, count);
    let request = async {
        assert_eq!(browser.visit(&counting).await.status, StatusCode::SERVICE_UNAVAILABLE);
    };
    let mut expected = committed("read_only");
    expected.extend(figures([("degraded_reads_total", 1.0)]));
    assert_eq!(rises(&scrape, request).await, expected);
}

fn encrypted_under(secret: Secret, memory: &MemoryBackend) -> SessionConfigBuilder<Data> {
    clustered_sessions::SessionConfig::builder(secret)
        .backend(memory.clone())
        .encrypt_redis_data(Encryption::Required)
        .enable_retry(false)
}

#[tokio::test(start_paused = true)]
async fn unreadable_and_reencrypted_records_are_counted() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let old = web::start(encrypted_under(web::secret(), &memory)).await;
    let mut browser = Browser::with(&old, ada()).await;
    let id = only_id(&old).await;

    let new = || Secret::new("a secret that has come after the other one").unwrap();
    let foreign = scrape.start(encrypted_under(new(), &memory)).await;
    let unreadable = async { assert!(foreign.store().find(id).await.is_err()) };
    assert_eq!(rises(&scrape, unreadable).await, figures([("unreadable_records_total", 1.0)]));
    assert_eq!(foreign.store().unreadable_records(), 1);

    let rotated =
        scrape.start(encrypted_under(new(), &memory).previous_secret(web::secret())).await;
    let request = async {
        assert_eq!(browser.visit(&serve(&rotated, read)).await.status, StatusCode::OK);
        settle().await;
    };
    let reencrypted = rises(&scrape, request).await;
    assert_eq!(reencrypted["reencrypted_records_total"], 1.0);
    assert_eq!(rotated.store().reencrypted_records(), 1);
}

#[tokio::test(start_paused = true)]
async fn logins_beyond_the_limit_are_counted_under_each_policy() {
    for (policy, outcome) in
        [(LimitPolicy::EndOldest, "ok"), (LimitPolicy::RefuseNew, "limit_reached")]
    {
        let scrape = Scrape::new();
        let owned = config(&MemoryBackend::new()).owner(|data| data.user.clone());
        let layer = scrape.start(owned.max_sessions_of_owner(1, policy)).await;
        let app = serve(&layer, async |session: Session<Data>| session.replace(ada()));
        let log_in = async || drop(Browser::new().visit(&app).await);
        assert_eq!(rises(&scrape, log_in()).await, committed("ok"), "within the limit");
        let mut expected = committed(outcome);
        expected.insert("limited_logins_total".to_owned(), 1.0);
        assert_eq!(rises(&scrape, log_in()).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_because_the_limit_cannot_be_applied_is_not_beyond_the_limit() {
    let scrape = Scrape::new();
    let memory = MemoryBackend::new();
    let limited = || {
        let owned = config(&memory).owner(|data| data.user.clone());
        owned.max_sessions_of_owner(1, LimitPolicy::EndOldest)
    };
    let _ = web::start(limited()).await.store().create(ada()).await.unwrap();
    let broken = scrape.start(limited().backend(failing(&memory, Call::DeleteIf))).await;
    let log_in = async { drop(broken.store().create(ada()).await.unwrap_err()) };
    assert_eq!(rises(&scrape, log_in).await, figures([]));
}

#[tokio::test(start_paused = true)]
async fn commits_that_fail_in_an_outage_are_logged_once_in_ten_seconds() {
    let (log, clock) = (Log::default(), Clock::tokio());
    let memory = MemoryBackend::with_clock(clock.clone());
    let layer = web::start(config(&memory).clock(clock).backend(failing(&memory, Call::Update)));
    let layer = layer.await;
    let guard = log.capture("clustered_sessions=info");
    let counting = serve(&layer, count);
    for seconds in [0, 9, 1, 0] {
        sleep(SECOND * seconds).await;
        let mut browser = Browser::with(&layer, ada()).await;
        assert_eq!(browser.visit(&counting).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    drop(guard);
    let text = log.text();
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains("a session could not be committed")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("suppressed=0") && lines[1].contains("suppressed=1"), "{lines:?}");
}
