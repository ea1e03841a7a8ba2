//! How long an operation may take, whatever the backend does.

use std::fmt::Debug;
use std::time::Duration;

use clustered_sessions::{RetryConfig, Session, StoreError, StoreErrorKind};
use futures_util::future::join;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::{MILLI, Nodes, SECOND, kind, visit};
use crate::web::{Browser, Call, Data, ada, only_id, serve, settle};

/// What an operation may take by default, and what an attempt.
const OPERATION: Duration = Duration::from_secs(3);
const ATTEMPT: Duration = Duration::from_millis(1500);

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_not_answered_is_given_up_and_made_again() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let held = nodes.spy.hold().await;
    let mend = async {
        sleep(ATTEMPT).await;
        drop(held);
    };
    let begun = Instant::now();
    assert!(join(nodes.store().find_fresh(id), mend).await.0.unwrap().is_some());
    assert!(begun.elapsed() > ATTEMPT && begun.elapsed() < ATTEMPT + Duration::from_millis(60));
    assert_eq!(nodes.spy.take_calls(), [Call::Load; 2]);
}

/// Ends when its time is up, with the kind of error that says whether something may have been done.
async fn ends_in_time<R: Debug>(
    expected: StoreErrorKind,
    operation: impl Future<Output = Result<R, StoreError>>,
) {
    // A load that is about to fail must not be there to be shared.
    settle().await;
    let begun = Instant::now();
    assert_eq!(kind(operation.await), expected);
    assert_eq!(begun.elapsed(), OPERATION);
}

#[tokio::test(start_paused = true)]
async fn no_operation_takes_longer_than_it_may() {
    use StoreErrorKind::{OutcomeUnknown, Timeout};
    // Pauses that would take up all the time, if they were made.
    let nodes = Nodes::with(|config| config.retry(RetryConfig::new().max_attempts(1000))).await;
    let (store, id) = (nodes.store(), nodes.session().await);
    let _held = nodes.spy.hold().await;
    ends_in_time(OutcomeUnknown, store.touch(id)).await;
    ends_in_time(Timeout, store.find_fresh(id)).await;
    ends_in_time(Timeout, store.size()).await;
    ends_in_time(Timeout, store.all_session_ids()).await;
    ends_in_time(Timeout, store.coordinator().publish_invalidation(id)).await;
    ends_in_time(OutcomeUnknown, store.create(ada())).await;
    ends_in_time(OutcomeUnknown, store.delete(id)).await;
    // It is read first, and that takes all the time.
    ends_in_time(Timeout, store.modify(id, visit)).await;
    ends_in_time(Timeout, store.put(id, ada())).await;
    ends_in_time(Timeout, store.bulk_delete(|_| true)).await;
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_one_time_for_all_its_steps() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    // Out of the cache, so that it is read first; then each call takes a second, and half of it on the way there.
    nodes.store().evict_from_cache(id);
    nodes.faults.delay_calls_by(SECOND * 5 / 4..SECOND * 5 / 4 + MILLI);
    let others = async {
        for _ in 0..30 {
            sleep(SECOND / 10).await;
            nodes.well.store().modify(id, |data| data.visits += 10).await.unwrap();
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
    // step alone would be in time.
    let app = serve(&nodes.layer, async |session: Session<Data>| {
        session.destroy();
        session.update(visit);
    });
    nodes.spy.take_calls();
    nodes.faults.delay_calls_by(SECOND..SECOND + MILLI);
    let begun = Instant::now();
    let page = browser.visit(&app).await;
    assert_eq!((page.status, begun.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, limit));
    assert_eq!(nodes.well.store().size().await.unwrap(), 0, "the old session is deleted");
}

#[tokio::test(start_paused = true)]
async fn changes_that_always_come_too_late_are_given_up_in_time() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.faults.delay_calls_by(SECOND / 10..SECOND / 10 + MILLI);
    let others = async {
        loop {
            nodes.well.store().modify(id, |data| data.visits += 10).await.unwrap();
            sleep(MILLI * 20).await;
        }
    };
    let begun = Instant::now();
    let answer = tokio::select! {
        answer = nodes.store().modify(id, visit) => answer,
        () = others => unreachable!("they go on for ever"),
    };
    assert!([StoreErrorKind::Timeout, StoreErrorKind::OutcomeUnknown].contains(&kind(answer)));
    assert!(begun.elapsed() <= OPERATION, "{:?}", begun.elapsed());
    assert!(nodes.spy.take_calls().len() > 10, "it has been tried all the time");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_in_vain_for_its_turn_goes_ahead_while_there_is_time() {
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
async fn a_writer_waits_for_its_turn_no_longer_than_it_may() {
    let limit = Duration::from_millis(200);
    let nodes = Nodes::with(|config| config.attempt_timeout(limit).operation_timeout(limit)).await;
    let mut browser = Browser::with(&nodes.layer, ada()).await;
    let id = only_id(&nodes.layer).await;
    nodes.faults.delay_calls_by(limit * 3 / 4..limit * 3 / 4 + MILLI);
    // It has the session already, and takes its turn while the other one still reads.
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
async fn a_reader_waits_no_longer_for_a_load_that_it_shares() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let _held = nodes.spy.hold().await;
    let late = async {
        sleep(SECOND * 2).await;
        // The load that runs is not fresh enough for it, and the next one begins when it has a second left.
        ends_in_time(StoreErrorKind::Timeout, nodes.store().find_fresh(id)).await;
    };
    join(ends_in_time(StoreErrorKind::Timeout, nodes.store().find_fresh(id)), late).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_token_that_comes_too_late_is_taken_back_in_a_time_of_its_own() {
    let limit = SECOND * 7 / 5;
    let nodes = Nodes::with(|config| config.attempt_timeout(limit).operation_timeout(limit)).await;
    let mut browser = Browser::with(&nodes.layer, ada()).await;
    let app = serve(&nodes.layer, async |session: Session<Data>| {
        session.regenerate();
        session.data().user.clone().unwrap_or_default()
    });
    // The new record is there after a second; there is no time for the old one to be replaced.
    nodes.faults.delay_calls_by(SECOND..SECOND + MILLI);
    let begun = Instant::now();
    let page = browser.visit(&app).await;
    assert_eq!((page.status, begun.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, limit));
    assert_eq!(nodes.well.store().size().await.unwrap(), 2, "it is not taken back yet");
    sleep(limit).await;
    nodes.faults.heal();
    assert_eq!(nodes.well.store().size().await.unwrap(), 1);
    assert_eq!(browser.visit(&app).await.body, "Ada", "the old token is still good");
}
