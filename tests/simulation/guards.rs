//! Each guard of the coherence contract is needed: with it disabled, the simulations find a
//! violation. `coherence.rs` and `regeneration.rs` show that with all guards they find none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use clustered_sessions::StoreErrorKind;
use clustered_sessions::guards::{Guard, disabled};
use tokio::time::sleep;

use crate::history::history;
use crate::limits::limits;
use crate::owners::{self, Answer};
use crate::race::{NewId, race};
#[cfg(feature = "redis")]
use crate::rollback::rollback;
#[cfg(feature = "redis")]
use crate::topologies::{
    elected_elsewhere, elected_unheard, one_master_is_silent, replaced_behind_the_back,
};
use crate::{Counter, nodes, nodes_with, run};

/// Runs up to several hundred thousand operations and panics at the first violation. Without any
/// one of the guards, at least one history in a hundred has a violation.
fn histories() {
    for seed in 0..1000 {
        run(history(seed));
    }
}

fn races() {
    for seed in 0..300 {
        run(race(seed, NewId::Regeneration));
    }
}

fn owner_histories() {
    for seed in 0..100 {
        run(owners::owners(seed));
    }
}

#[cfg(feature = "redis")]
fn rollbacks() {
    for seed in 0..100 {
        run(rollback(seed));
    }
}

fn limit_histories() {
    for seed in 0..100 {
        run(limits(seed));
    }
}

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
    let Answer::Saved(new, _) = owners::request(&nodes[0], Some(cookie), None).await else {
        panic!("no new id")
    };
    sleep(Duration::from_secs(70)).await;
    nodes[1].faults.heal();
    match end.await.unwrap() {
        Ok(_) => assert!(
            nodes[0].store().find_fresh(new).await.unwrap().is_none(),
            "a session was missed"
        ),
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
    assert!(!nodes[0].store().coordinator().is_listening(), "the node does not notice the loss");
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
    assert_eq!(store.cache_stats().hits, before.hits + 1, "a node's own write caused a cache miss");
}

/// Returns `true` if the scenario ends without a violation.
fn holds(scenario: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(scenario)).is_ok()
}

#[test]
fn with_all_guards_every_scenario_holds() {
    assert!(holds(|| run(loss())));
    assert!(holds(|| run(own_write())));
    assert!(holds(|| run(slow_revocation())));
    #[cfg(feature = "redis")]
    {
        assert!(holds(|| run(replaced_behind_the_back())));
        assert!(holds(|| run(elected_unheard())));
        assert!(holds(|| run(elected_elsewhere())));
        assert!(holds(|| run(one_master_is_silent())));
    }
    for thief in [owners::Thief::Regenerates, owners::Thief::Updates] {
        assert!(holds(|| run(owners::thief(1, thief))));
    }
}

macro_rules! needed {
    ($($(#[$attribute:meta])* $name:ident: $guard:ident in $scenario:expr;)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                let holds_without = disabled(Guard::$guard, || holds(|| $scenario));
                assert!(!holds_without, "no violation is found without {:?}", Guard::$guard);
            }
        )*
    };
}

needed! {
    the_fence_is_needed: Fence in histories();
    the_lease_is_needed: Lease in histories();
    the_epoch_at_a_loss_is_needed: EpochAtLoss in run(loss());
    the_epoch_at_a_new_subscription_is_needed: EpochAtSubscription in histories();
    eviction_is_needed: Eviction in histories();
    knowing_ones_own_revision_is_needed: OwnRevision in run(own_write());
    the_comparison_is_needed: Comparison in histories();
    the_sharing_rule_is_needed: Sharing in histories();
    the_tombstone_is_needed: Tombstone in races();
    the_maximum_age_in_an_outage_is_needed: MaxAge in histories();
    calling_those_who_watch_is_needed: WakeUp in histories();
    looking_again_without_a_lease_is_needed: Doubt in histories();
    the_index_before_the_record_is_needed: IndexFirst in owner_histories();
    counting_later_logins_is_needed: LaterLogins in limit_histories();
    the_timeout_of_a_revocation_is_needed: RevocationTimeout in run(slow_revocation());
    judging_the_record_of_a_conflict_is_needed: Chase in
        run(owners::thief(1, owners::Thief::Updates));
}

#[cfg(feature = "redis")]
needed! {
    the_history_of_the_data_is_needed: History in rollbacks();
    the_word_of_the_sentinels_is_needed: SentinelsConfirm in run(replaced_behind_the_back());
    a_proof_of_every_master_is_needed: EveryMaster in run(one_master_is_silent());
    knowing_all_masters_is_needed: SameMasters in run(elected_elsewhere());
    waiting_for_the_winner_of_an_election_is_needed: Election in run(elected_unheard());
}
