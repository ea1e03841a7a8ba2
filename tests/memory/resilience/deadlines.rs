//! Deadlines: no operation takes longer than its timeout, whatever the backend does.

use std::fmt::Debug;
use std::time::Duration;

use clustered_sessions::{RetryConfig, Session, StoreError, StoreErrorKind};
use futures_util::future::join;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::{MILLI, Nodes, SECOND, kind, visit};
use crate::web::{Browser, Call, Data, ada, only_id, serve, settle};

/// The default timeout of an operation.
const OPERATION: Duration = Duration::from_secs(3);
/// The default timeout of an attempt.
const ATTEMPT: Duration = Duration::from_millis(1500);

#[tokio::test(start_paused = true)]
async fn an_attempt_without_an_answer_times_out_and_is_retried() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let held = nodes.spy.hold().await;
    let heal = async {
        sleep(ATTEMPT).await;
        drop(held);
    };
    let begun = Instant::now();
    assert!(join(nodes.store().find_fresh(id), heal).await.0.unwrap().is_some());
    assert!(begun.elapsed() > ATTEMPT && begun.elapsed() < ATTEMPT + Duration::from_millis(60));
    assert_eq!(nodes.spy.take_calls(), [Call::Load; 2]);
}

/// Asserts that an operation fails exactly at its deadline, with the expected kind of error.
async fn assert_ends_at_deadline<R: Debug>(
    expected: StoreErrorKind,
    operation: impl Future<Output = Result<R, StoreError>>,
) {
    // Otherwise the operation could share a load that is about to fail.
    settle().await;
    let begun = Instant::now();
    assert_eq!(kind(operation.await), expected);
    assert_eq!(begun.elapsed(), OPERATION);
}

#[tokio::test(start_paused = true)]
async fn no_operation_takes_longer_than_its_timeout() {
    use StoreErrorKind::{OutcomeUnknown, Timeout};
    // The pauses of so many attempts would exceed every deadline.
    let nodes = Nodes::with(|config| config.retry(RetryConfig::new().max_attempts(1000))).await;
    let (store, id) = (nodes.store(), nodes.session().await);
    let _held = nodes.spy.hold().await;
    assert_ends_at_deadline(OutcomeUnknown, store.touch(id)).await;
    assert_ends_at_deadline(Timeout, store.find_fresh(id)).await;
    assert_ends_at_deadline(Timeout, store.size()).await;
    assert_ends_at_deadline(Timeout, store.all_session_ids()).await;
    assert_ends_at_deadline(Timeout, store.coordinator().publish_invalidation(id)).await;
    assert_ends_at_deadline(OutcomeUnknown, store.create(ada())).await;
    assert_ends_at_deadline(OutcomeUnknown, store.delete(id)).await;
    // These read the session first, and the read takes all the time.
    assert_ends_at_deadline(Timeout, store.modify(id, visit)).await;
    assert_ends_at_deadline(Timeout, store.put(id, ada())).await;
    assert_ends_at_deadline(Timeout, store.bulk_delete(|_| true)).await;
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_one_deadline_for_all_its_steps() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    // The session is not cached, so it is read first. Each call takes 1.25 seconds,
    // half of it before the call reaches the backend.
    nodes.store().evict_from_cache(id);
    nodes.faults.delay_calls_by(SECOND * 5 / 4..SECOND * 5 / 4 + MILLI);
    let others = async {
        for _ in 0..30 {
            sleep(SECOND / 10).await;
            nodes.healthy.store().modify(id, |data| data.visits += 10).await.unwrap();
        }
    };
    let begun = Instant::now();
    let update = async {
        let kind = kind(nodes.store().modify(id, visit).await);
        assert_eq!(begun.elapsed(), OPERATION);
        kind
    };
    assert_eq!(
        join(update, others).await.0,
        StoreErrorKind::OutcomeUnknown,
        "an attempt was under way"
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_has_one_deadline_that_no_step_extends_or_restarts() {
    let limit = SECOND * 7 / 5;
    let nodes = Nodes::with(|config| config.attempt_timeout(limit).operation_timeout(limit)).await;
    let mut browser = Browser::with(&nodes.layer, ada()).await;
    // The commit deletes the old session, which takes a second, and then creates a new one. Each
    // step alone would meet the deadline.
    let app = serve(&nodes.layer, async |session: Session<Data>| {
        session.destroy();
        session.update(visit);
    });
    nodes.spy.take_calls();
    nodes.faults.delay_calls_by(SECOND..SECOND + MILLI);
    let begun = Instant::now();
    let page = browser.visit(&app).await;
    assert_eq!((page.status, begun.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, limit));
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 0, "the old session is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_always_conflicts_fails_before_its_deadline() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.faults.delay_calls_by(SECOND / 10..SECOND / 10 + MILLI);
    let others = async {
        loop {
            nodes.healthy.store().modify(id, |data| data.visits += 10).await.unwrap();
            sleep(MILLI * 20).await;
        }
    };
    let begun = Instant::now();
    let answer = tokio::select! {
        answer = nodes.store().modify(id, visit) => answer,
        () = others => unreachable!("the other changes never end"),
    };
    assert!([StoreErrorKind::Timeout, StoreErrorKind::OutcomeUnknown].contains(&kind(answer)));
    assert!(begun.elapsed() <= OPERATION, "{:?}", begun.elapsed());
    assert!(nodes.spy.take_calls().len() > 10, "the change was attempted until the end");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_cannot_acquire_the_write_lock_writes_without_it_before_its_deadline() {
    let short = Duration::from_millis(200);
    let nodes = Nodes::with(|config| config.attempt_timeout(short).operation_timeout(short)).await;
    let id = nodes.session().await;
    let _held = nodes.spy.hold().await;
    let (first, second) =
        join(nodes.store().modify(id, visit), nodes.store().modify(id, visit)).await;
    assert_eq!([kind(first), kind(second)], [StoreErrorKind::OutcomeUnknown; 2]);
    assert_eq!(nodes.spy.take_calls(), [Call::Update; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_the_write_lock_no_longer_than_its_deadline_allows() {
    let limit = Duration::from_millis(200);
    let nodes = Nodes::with(|config| config.attempt_timeout(limit).operation_timeout(limit)).await;
    let mut browser = Browser::with(&nodes.layer, ada()).await;
    let id = only_id(&nodes.layer).await;
    nodes.faults.delay_calls_by(limit * 3 / 4..limit * 3 / 4 + MILLI);
    // The handler has loaded the session already, and acquires the write lock while the other
    // operation still reads.
    let app = serve(&nodes.layer, async move |session: Session<Data>| {
        sleep(limit / 2).await;
        session.modify(visit).await
    });
    let other = async {
        sleep(MILLI).await;
        nodes.store().evict_from_cache(id);
        let begun = Instant::now();
        assert_eq!(kind(nodes.store().modify(id, visit).await), StoreErrorKind::OutcomeUnknown);
        assert_eq!(begun.elapsed(), limit);
    };
    assert_eq!(join(browser.visit(&app), other).await.0.status, StatusCode::OK);
    assert_eq!(nodes.visits(id).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_shared_load_does_not_extend_the_deadline_of_a_reader() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let _held = nodes.spy.hold().await;
    let late = async {
        sleep(SECOND * 2).await;
        // The running load is not fresh enough for this read. The next load begins only
        // after the running one, when part of the time of this read has passed.
        assert_ends_at_deadline(StoreErrorKind::Timeout, nodes.store().find_fresh(id)).await;
    };
    join(assert_ends_at_deadline(StoreErrorKind::Timeout, nodes.store().find_fresh(id)), late)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_regeneration_that_misses_its_deadline_is_undone_under_a_deadline_of_its_own() {
    let limit = SECOND * 7 / 5;
    let nodes = Nodes::with(|config| config.attempt_timeout(limit).operation_timeout(limit)).await;
    let mut browser = Browser::with(&nodes.layer, ada()).await;
    let app = serve(&nodes.layer, async |session: Session<Data>| {
        session.regenerate();
        session.data().user.clone().unwrap_or_default()
    });
    // The new record is created after a second. No time is left to replace the old one.
    nodes.faults.delay_calls_by(SECOND..SECOND + MILLI);
    let begun = Instant::now();
    let page = browser.visit(&app).await;
    assert_eq!((page.status, begun.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, limit));
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 2, "the new record is not removed yet");
    sleep(limit).await;
    nodes.faults.heal();
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 1);
    assert_eq!(browser.visit(&app).await.body, "Ada", "the old token is still valid");
}
