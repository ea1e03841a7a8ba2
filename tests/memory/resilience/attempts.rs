//! Retries: which failed calls are repeated, and how the answer of a repeated call is interpreted.

use std::time::Duration;

use clustered_sessions::StoreErrorKind;
use futures_util::future::join;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::{MILLI, Nodes, kind, visit};
use crate::web::{Call, Data, ada};

#[tokio::test(start_paused = true)]
async fn a_failing_call_is_attempted_three_times_at_most() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.spy.fail_next(2, StoreErrorKind::Unavailable);
    assert!(nodes.store().find_fresh(id).await.unwrap().is_some());
    assert_eq!(nodes.spy.take_calls(), [Call::Load; 3]);

    let begun = Instant::now();
    nodes.spy.fail_next(3, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().find_fresh(id).await), StoreErrorKind::Unavailable);
    assert_eq!(nodes.spy.take_calls(), [Call::Load; 3]);
    let pauses = Duration::from_millis(75)..=Duration::from_millis(152);
    assert!(
        pauses.contains(&begun.elapsed()),
        "the pauses are 50 and 100 ms, minus up to a half: {:?}",
        begun.elapsed()
    );
    assert!(nodes.store().find_fresh(id).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_operation_succeeds_despite_one_failed_call() {
    let nodes = Nodes::start().await;
    let (store, id) = (nodes.store(), nodes.session().await);
    for fault in
        [StoreErrorKind::Unavailable, StoreErrorKind::OutcomeUnknown, StoreErrorKind::Timeout]
    {
        let fail = || nodes.spy.fail_next(1, fault);
        fail();
        store.modify(id, visit).await.unwrap();
        fail();
        store.put(id, ada()).await.unwrap();
        fail();
        assert!(store.touch(id).await.unwrap());
        fail();
        assert_eq!(store.size().await.unwrap(), 1);
        fail();
        store.coordinator().publish_cache_clear().await.unwrap();
        fail();
        let other = store.create(ada()).await.unwrap().id;
        fail();
        assert!(store.delete(other).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_backend_refuses_is_not_retried() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    for fault in [StoreErrorKind::Refused, StoreErrorKind::Corrupt, StoreErrorKind::Closed] {
        nodes.spy.fail_next(1, fault);
        assert_eq!(kind(nodes.store().find_fresh(id).await), fault);
        assert_eq!(nodes.spy.take_calls(), [Call::Load]);
    }
}

#[tokio::test(start_paused = true)]
async fn clearing_is_not_repeated_since_its_count_would_be_wrong() {
    let nodes = Nodes::start().await;
    nodes.session().await;
    nodes.spy.fail_next(1, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().clear().await), StoreErrorKind::Unavailable);
    assert_eq!(nodes.spy.take_calls(), [Call::Clear]);
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_answer_is_lost_is_made_once_and_reported_as_saved() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.first_answer_lost(nodes.store().modify(id, visit), async {}).await.unwrap();
    assert_eq!(nodes.spy.take_calls(), [Call::Update; 2]);
    assert_eq!(nodes.visits(id).await, 1);
    assert_eq!(nodes.store().find(id).await.unwrap().unwrap().data().visits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_after_a_lost_answer_is_reported_as_an_unknown_outcome() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let others =
        async { nodes.healthy.store().modify(id, |data| data.visits += 10).await.unwrap() };
    let answer = nodes.first_answer_lost(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.visits(id).await, 11, "the change was made once");

    // Now the request is lost instead of the answer. The node cannot tell the difference.
    nodes.store().get(id).await.unwrap();
    nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    let others = async {
        sleep(MILLI).await;
        nodes.healthy.store().modify(id, |data| data.visits += 10).await.unwrap();
    };
    let (answer, ()) = join(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.visits(id).await, 21, "the change was not made");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_reapplied_if_a_conflict_follows_a_failure_without_effect() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.spy.fail_next(1, StoreErrorKind::Unavailable);
    let others = async {
        sleep(MILLI).await;
        nodes.healthy.store().modify(id, |data| data.visits += 10).await.unwrap();
    };
    join(nodes.store().modify(id, visit), others).await.0.unwrap();
    assert_eq!(nodes.visits(id).await, 11);
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_after_a_lost_answer_is_reported_as_not_found() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let others = async { assert!(nodes.healthy.store().delete(id).await.unwrap()) };
    let answer = nodes.first_answer_lost(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::NotFound);
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_is_lost_is_reported_as_done() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    assert!(nodes.first_answer_lost(nodes.store().delete(id), async {}).await.unwrap());
    assert_eq!(nodes.spy.take_calls(), [Call::Delete; 2]);

    nodes.session().await;
    // Only the answer of the deletion is lost.
    let store = nodes.store();
    let judge = |_: &_| {
        nodes.faults.lose_answers(1.0);
        true
    };
    let heal = async {
        sleep(MILLI).await;
        nodes.faults.heal();
    };
    let (done, ()) = join(store.bulk_delete(judge), heal).await;
    assert_eq!(done.unwrap().deleted, 1);
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_creation_is_in_doubt_is_created_under_another_token() {
    let nodes = Nodes::start().await;
    let session = nodes.first_answer_lost(nodes.store().create(ada()), async {}).await.unwrap();
    assert_eq!(nodes.spy.take_calls(), [Call::Create; 2]);
    assert_eq!(session.token.session_id(), session.id);
    assert!(nodes.healthy.store().find(session.id).await.unwrap().is_some());
    // The first record exists, too. A repetition under its id would have been answered with
    // `Exists`.
    assert_eq!(nodes.healthy.store().size().await.unwrap(), 2);

    nodes.spy.fail_next(3, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().create(ada()).await), StoreErrorKind::Unavailable);
    assert_eq!(nodes.spy.take_calls(), [Call::Create; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_had_an_effect_is_reported_as_of_unknown_outcome() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    nodes.spy.fail_next(2, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().modify(id, visit).await), StoreErrorKind::OutcomeUnknown);
    nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    nodes.spy.fail_next(2, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().delete(id).await), StoreErrorKind::OutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_creation_in_doubt_stays_in_doubt_even_if_the_next_attempt_is_refused() {
    let nodes = Nodes::with(|config| config.owner(|data: &Data| data.user.clone())).await;
    let fail = async {
        while !nodes.spy.take_calls().contains(&Call::Create) {
            yield_now().await;
        }
        nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
        // This fails the entry in the owner index, which is added before the next attempt.
        nodes.spy.fail_next(1, StoreErrorKind::Refused);
    };
    let (created, ()) = join(nodes.store().create(ada()), fail).await;
    assert_eq!(kind(created), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.spy.take_calls(), [Call::AddToOwner]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_outlasts_a_tombstone_has_an_unknown_outcome() {
    let hour = Duration::from_secs(3600);
    let nodes = Nodes::with(|config| config.attempt_timeout(hour).operation_timeout(hour)).await;
    let id = nodes.session().await;
    nodes.faults.delay_calls_by(Duration::from_secs(70)..Duration::from_secs(70));
    assert_eq!(kind(nodes.store().delete(id).await), StoreErrorKind::OutcomeUnknown);
}
