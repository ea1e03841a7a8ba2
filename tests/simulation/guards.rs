//! Each guard of the coherence contract is needed: with it disabled, the simulations find a
//! violation. `coherence.rs` and `regeneration.rs` show that with all guards they find none.

use std::collections::BTreeSet;
use std::time::Duration;

use clustered_sessions::StoreErrorKind;
use clustered_sessions::guards::{Guard, disabled};
use support::failure::failure;
use tokio::time::sleep;

use crate::history::history;
use crate::limits::limits;
use crate::owners::owners;
use crate::promise::{Broken, promise};
use crate::race::{NewId, race};
use crate::request::{Answer, request};
#[cfg(feature = "redis")]
use crate::rollback::rollback;
use crate::thief::{Thief, thief};
#[cfg(feature = "redis")]
use crate::topologies::{
    elected_elsewhere, elected_unheard, one_master_is_silent, replaced_behind_the_back,
};
use crate::{Counter, nodes, nodes_with, run};

/// Number of histories in which a violation is looked for. Without any one of the guards, at least
/// one in a hundred has one.
const HISTORIES: u64 = 1000;
const RACES: u64 = 300;
/// Number of histories of owners, of logins under a limit, of rollbacks, and of thieves.
const OTHERS: u64 = 100;

/// A session gets a new id while a slow node deletes its owner's sessions, and the tombstone
/// expires before that node follows it. The node must report that it has not finished.
async fn slow_revocation() {
    let hour = Duration::from_secs(3600);
    let nodes = nodes_with(2, 1, |_, config| config.attempt_timeout(hour).operation_timeout(hour));
    sleep(Duration::from_secs(1)).await;
    let ada = Counter { count: 0, owner: Some("ada".to_owned()) };
    let cookie = nodes[0].layer.cookie_for(ada).await.unwrap();
    // Half a minute before each call, and half a minute after it.
    nodes[1].faults.delay_calls_by(Duration::from_secs(70)..Duration::from_secs(70));
    let slow = nodes[1].store().clone();
    let end = tokio::task::spawn_local(async move { slow.delete_all_of("ada").await });
    sleep(Duration::from_secs(36)).await;
    let Answer::Saved(new, _) = request(&nodes[0], Some(cookie), None).await else {
        panic!("no new id")
    };
    sleep(Duration::from_secs(70)).await;
    nodes[1].faults.heal();
    match end.await.unwrap() {
        Ok(_) => {
            let found = nodes[0].store().find_fresh(new).await.unwrap();
            promise!(NotRevoked, found.is_none(), "a session was missed");
        }
        Err(error) => assert_eq!(error.kind(), StoreErrorKind::Timeout),
    }
}

/// A node notices the loss of its subscription immediately, before its lease expires.
async fn loss() {
    let nodes = nodes(1, 1);
    sleep(Duration::from_secs(1)).await;
    assert!(nodes[0].store().coordinator().is_listening());
    nodes[0].faults.refuse_subscriptions();
    nodes[0].faults.cut_subscriptions();
    sleep(Duration::from_millis(1)).await;
    let is_listening = nodes[0].store().coordinator().is_listening();
    promise!(LossUnnoticed, !is_listening, "the node does not notice the loss");
}

/// A node's own write does not cause a cache miss, although its announcement arrives before the
/// reply.
async fn own_write() {
    let nodes = nodes(1, 1);
    sleep(Duration::from_secs(1)).await;
    let store = nodes[0].store();
    let id = store.create(Default::default()).await.unwrap().id;
    // Only the reply is late: announcements arrive over the subscription.
    nodes[0].faults.delay_calls_by(Duration::from_millis(20)..Duration::from_millis(21));
    store.modify(id, |data| data.count += 1).await.unwrap();
    let before = store.cache_stats();
    assert_eq!(store.find(id).await.unwrap().unwrap().data().count, 1);
    let hits = store.cache_stats().hits - before.hits;
    promise!(OwnWriteMissed, hits == 1, "a node's own write caused a cache miss");
}

/// Returns the message of the violation that a simulation ends with.
fn violation(simulation: impl Future) -> Option<String> {
    failure(|| drop(run(simulation)))
}

/// Asserts that without a guard, one of the simulations breaks this promise.
fn breaks<F: Future>(guard: Guard, broken: Broken, simulations: impl IntoIterator<Item = F>) {
    let mut others = BTreeSet::new();
    let found = disabled(guard, || {
        simulations.into_iter().filter_map(violation).any(|message| {
            let found = broken.is_in(&message);
            others.extend((!found).then_some(message));
            found
        })
    });
    assert!(found, "without {guard:?}, no simulation is {broken:?}, but: {others:#?}");
}

#[test]
fn with_all_guards_every_scenario_holds() {
    assert_eq!(violation(loss()), None);
    assert_eq!(violation(own_write()), None);
    assert_eq!(violation(slow_revocation()), None);
    #[cfg(feature = "redis")]
    {
        assert_eq!(violation(replaced_behind_the_back()), None);
        assert_eq!(violation(elected_unheard()), None);
        assert_eq!(violation(elected_elsewhere()), None);
        assert_eq!(violation(one_master_is_silent()), None);
    }
    for how in [Thief::Regenerates, Thief::Updates] {
        assert_eq!(violation(thief(1, how)), None);
    }
}

macro_rules! needed {
    ($($name:ident: without $guard:ident, $broken:ident in $simulations:expr;)*) => {
        $(
            #[test]
            fn $name() {
                breaks(Guard::$guard, Broken::$broken, $simulations);
            }
        )*
    };
}

needed! {
    the_fence_is_needed: without Fence, Stale in (0..HISTORIES).map(history);
    the_lease_is_needed: without Lease, Stale in (0..HISTORIES).map(history);
    the_epoch_at_a_loss_is_needed: without EpochAtLoss, LossUnnoticed in [loss()];
    the_epoch_at_a_new_subscription_is_needed: without EpochAtSubscription, Stale in
        (0..HISTORIES).map(history);
    eviction_is_needed: without Eviction, Stale in (0..HISTORIES).map(history);
    knowing_ones_own_revision_is_needed: without OwnRevision, OwnWriteMissed in [own_write()];
    the_comparison_is_needed: without Comparison, Lost in (0..HISTORIES).map(history);
    the_sharing_rule_is_needed: without Sharing, Stale in (0..HISTORIES).map(history);
    the_tombstone_is_needed: without Tombstone, Revived in
        (0..RACES).map(|seed| race(seed, NewId::Regeneration));
    the_maximum_age_in_an_outage_is_needed: without MaxAge, Stale in
        (0..HISTORIES).map(history);
    calling_those_who_watch_is_needed: without WakeUp, LateWatch in (0..HISTORIES).map(history);
    looking_again_without_a_lease_is_needed: without Doubt, LateWatch in
        (0..HISTORIES).map(history);
    the_index_before_the_record_is_needed: without IndexFirst, NotRevoked in
        (0..OTHERS).map(owners);
    counting_later_logins_is_needed: without LaterLogins, OverLimit in (0..OTHERS).map(limits);
    the_timeout_of_a_revocation_is_needed: without RevocationTimeout, NotRevoked in
        [slow_revocation()];
    judging_the_record_of_a_conflict_is_needed: without Chase, NotRevoked in
        (0..OTHERS).map(|seed| thief(seed, Thief::Updates));
}

#[cfg(feature = "redis")]
needed! {
    the_history_of_the_data_is_needed: without History, Stale in (0..OTHERS).map(rollback);
    the_word_of_the_sentinels_is_needed: without SentinelsConfirm, Stale in
        [replaced_behind_the_back()];
    a_proof_of_every_master_is_needed: without EveryMaster, Stale in [one_master_is_silent()];
    knowing_all_masters_is_needed: without SameMasters, Stale in [elected_elsewhere()];
    waiting_for_the_winner_of_an_election_is_needed: without Election, Stale in
        [elected_unheard()];
}
