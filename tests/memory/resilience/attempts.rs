//! What is made again after a failure, and what its answer is taken for.

use std::time::Duration;

use clustered_sessions::StoreErrorKind;
use futures_util::future::join;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::{MILLI, Nodes, kind, visit};
use crate::web::{Call, Data, ada};

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_made_again_up_to_three_times() {
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
        "50 and 100 ms, or less by up to a half: {:?}",
        begun.elapsed()
    );
    assert!(nodes.store().find_fresh(id).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_operation_outlives_a_call_that_fails() {
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
async fn what_the_backend_refuses_is_not_asked_for_again() {
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
async fn a_conflict_after_a_lost_answer_is_not_taken_for_a_change_that_was_not_made() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let others = async { nodes.well.store().modify(id, |data| data.visits += 10).await.unwrap() };
    let answer = nodes.first_answer_lost(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.visits(id).await, 11, "it was made, and not again");

    // The request is lost and not the answer, which looks the same from here.
    nodes.store().get(id).await.unwrap();
    nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
    let others = async {
        sleep(MILLI).await;
        nodes.well.store().modify(id, |data| data.visits += 10).await.unwrap();
    };
    let (answer, ()) = join(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.visits(id).await, 21, "it was not made");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_after_a_failure_that_did_nothing_is_made_again_on_top() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    nodes.spy.fail_next(1, StoreErrorKind::Unavailable);
    let others = async {
        sleep(MILLI).await;
        nodes.well.store().modify(id, |data| data.visits += 10).await.unwrap();
    };
    join(nodes.store().modify(id, visit), others).await.0.unwrap();
    assert_eq!(nodes.visits(id).await, 11);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_after_a_lost_answer_is_gone() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let others = async { assert!(nodes.well.store().delete(id).await.unwrap()) };
    let answer = nodes.first_answer_lost(nodes.store().modify(id, visit), others).await;
    assert_eq!(kind(answer), StoreErrorKind::NotFound);
    assert_eq!(nodes.well.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_is_lost_has_deleted() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    assert!(nodes.first_answer_lost(nodes.store().delete(id), async {}).await.unwrap());
    assert_eq!(nodes.spy.take_calls(), [Call::Delete; 2]);

    nodes.session().await;
    // All that comes before the deletion is answered.
    let store = nodes.store();
    let judge = |_: &_| {
        nodes.faults.lose_answers(1.0);
        true
    };
    let mend = async {
        sleep(MILLI).await;
        nodes.faults.heal();
    };
    let (done, ()) = join(store.bulk_delete(judge), mend).await;
    assert_eq!(done.unwrap().deleted, 1);
    assert_eq!(nodes.well.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_creation_is_in_doubt_is_created_under_another_token() {
    let nodes = Nodes::start().await;
    let session = nodes.first_answer_lost(nodes.store().create(ada()), async {}).await.unwrap();
    assert_eq!(nodes.spy.take_calls(), [Call::Create; 2]);
    assert_eq!(session.token.session_id(), session.id);
    assert!(nodes.well.store().find(session.id).await.unwrap().is_some());
    // The first one is there, too: had it been repeated under one id, it would have been `Exists`, and a third would be.
    assert_eq!(nodes.well.store().size().await.unwrap(), 2);

    nodes.spy.fail_next(3, StoreErrorKind::Unavailable);
    assert_eq!(kind(nodes.store().create(ada()).await), StoreErrorKind::Unavailable);
    assert_eq!(nodes.spy.take_calls(), [Call::Create; 3]);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_never_reported_as_not_done() {
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
async fn a_creation_in_doubt_stays_in_doubt_though_the_next_attempt_comes_to_nothing() {
    let nodes = Nodes::with(|config| config.owner(|data: &Data| data.user.clone())).await;
    let fail = async {
        while !nodes.spy.take_calls().contains(&Call::Create) {
            yield_now().await;
        }
        nodes.spy.fail_next(1, StoreErrorKind::OutcomeUnknown);
        // Its entry in the index, which comes before the next attempt.
        nodes.spy.fail_next(1, StoreErrorKind::Refused);
    };
    let (created, ()) = join(nodes.store().create(ada()), fail).await;
    assert_eq!(kind(created), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.spy.take_calls(), [Call::AddToOwner]);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_took_longer_than_a_trail_is_kept_is_in_doubt() {
    let hour = Duration::from_secs(3600);
    let nodes = Nodes::with(|config| config.attempt_timeout(hour).operation_timeout(hour)).await;
    let id = nodes.session().await;
    nodes.faults.delay_calls_by(Duration::from_secs(70)..Duration::from_secs(70));
    assert_eq!(kind(nodes.store().delete(id).await), StoreErrorKind::OutcomeUnknown);
}
