//! All scenarios keep the contract under all rules, and each rule is needed in one of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the number of states and the traces are worth seeing")]

use std::time::Instant;

use model::explorer::{Outcome, explore};
use model::rule::{Rule, Rules};
use model::scenario::{self, Scenario};
use model::system::System;
use model::truth::Violation::{self, OwnChangeUnseen, ServedWithoutSubscription, Stale};
use model::world::World;

const ALL_PROMISES: &[Violation] = &[Stale, OwnChangeUnseen, ServedWithoutSubscription];

/// Asserts that the scenario keeps these promises under all rules but some, and returns the states.
#[track_caller]
fn holds(scenario: Scenario, removed: &[Rule], promises: &[Violation]) -> Vec<World> {
    let (name, begun) = (scenario.name, Instant::now());
    match explore(&System::new(scenario, Rules::without(removed), promises)) {
        Outcome::Holds(states) => {
            println!(
                "{name} without {removed:?}: {} states, {:.1?}",
                states.len(),
                begun.elapsed()
            );
            states
        }
        Outcome::Violated(steps, violation) => {
            panic!("{name} without {removed:?}: {violation:?} after {steps:#?}")
        }
    }
}

/// Asserts that the scenario breaks this promise without some of the rules.
#[track_caller]
fn breaks(scenario: Scenario, removed: &[Rule], promise: Violation) {
    let (name, begun) = (scenario.name, Instant::now());
    match explore(&System::new(scenario, Rules::without(removed), &[promise])) {
        Outcome::Holds(states) => {
            panic!("{name} without {removed:?}: not {promise:?} in {} states", states.len())
        }
        Outcome::Violated(steps, _) => {
            let length = steps.len();
            println!(
                "{name} without {removed:?}: {promise:?} after {length} steps, {:.1?}",
                begun.elapsed()
            );
            println!("  {steps:?}");
        }
    }
}

/// Asserts that the contract holds in a scenario, and that the node uses its cache in it: before
/// and after all changes and events, and for each set of masters that it learns.
#[track_caller]
fn check(mut scenario: Scenario) {
    let more = std::env::var("MORE").map_or(0, |more| more.parse().unwrap());
    scenario.start.changes += more;
    scenario.start.events += more;
    let masters = scenario.sites();
    let states = holds(scenario, &[], ALL_PROMISES);
    let is_hit = |world: &&World| world.node.served(Rules::ALL).is_some();
    let hits: Vec<&World> = states.iter().filter(is_hit).collect();
    let left = |world: &World| (world.events, world.changes);
    let all_left = states.iter().map(left).max();
    let least_left = states.iter().map(left).min();
    assert!(hits.iter().any(|world| Some(left(world)) == all_left));
    assert!(hits.iter().any(|world| Some(left(world)) == least_left));
    for site in masters.iter() {
        let is_trusted = |world: &&World| world.node.masters.contain(site);
        assert!(!states.iter().any(|world| is_trusted(&world)) || hits.iter().any(is_trusted));
    }
}

/// Declares a test per scenario, so that they run at the same time.
macro_rules! contract {
    ($($scenario:ident)*) => { $(
        #[test]
        fn $scenario() {
            check(scenario::$scenario());
        }
    )* };
}

contract! {
    one_master data_replaced roles_switched two_masters migration join partition election
}

/// Declares a test per rule.
macro_rules! needed {
    ($($name:ident: $rule:ident in $scenario:ident breaks $promise:ident;)*) => { $(
        #[test]
        fn $name() {
            breaks(scenario::$scenario(), &[Rule::$rule], $promise);
        }
    )* };
}

needed! {
    the_lease_is_needed: Lease in one_master breaks Stale;
    proof_from_the_moment_of_sending_is_needed: SentNotArrived in one_master breaks Stale;
    proof_by_writing_is_needed: ProofByWriting in roles_switched breaks Stale;
    one_queue_is_needed: OneQueue in one_master breaks Stale;
    the_epoch_at_a_loss_is_needed: EpochAtLoss in one_master breaks ServedWithoutSubscription;
    the_comparison_of_epochs_is_needed: SameEpoch in one_master breaks Stale;
    the_lease_when_a_load_begins_is_needed: LeaseAtBeginning in data_replaced breaks Stale;
    loads_from_confirmed_masters_only_are_needed: FromConfirmedMaster in failover breaks Stale;
    the_minimum_over_all_masters_is_needed: Minimum in two_masters breaks Stale;
    one_view_of_the_cluster_is_needed: OneView in failover breaks Stale;
    one_view_with_a_master_that_joins_is_needed: OneView in join breaks Stale;
    masters_without_slots_are_needed: SlotlessMasters in join breaks Stale;
    the_end_of_elections_is_needed: DecidedElections in election breaks Stale;
    the_fence_on_announcements_is_needed: FenceOnAnnouncement in one_master breaks Stale;
    the_fence_on_local_changes_is_needed: FenceOnLocalChange in one_master breaks OwnChangeUnseen;
    eviction_by_a_refused_write_is_needed: RefusedWriteEvicts in one_master breaks OwnChangeUnseen;
    eviction_without_the_lease_is_needed: EvictionWithoutLease in one_master breaks Stale;
    announcing_in_the_step_of_the_change_is_needed: OneStep in one_master breaks Stale;
    the_replication_id_is_needed: ReplicationId in roles_switched breaks Stale;
    the_chain_of_heartbeats_is_needed: HeartbeatChain in data_replaced breaks Stale;
    the_subscriptions_own_connection_is_needed: OwnConnection in two_masters breaks Stale;
    the_server_that_is_meant_is_needed: SameServer in two_masters breaks Stale;
}

/// Asserts that a scenario keeps this promise without one of two rules, whichever it is, and breaks
/// it without both.
#[track_caller]
fn one_of_two(scenario: fn() -> Scenario, rules: [Rule; 2], promise: Violation) {
    for rule in rules {
        holds(scenario(), &[rule], &[promise]);
    }
    breaks(scenario(), &rules, promise);
}

/// A confirmed subscription is preceded by a loss, or by the start of the node, and a load that
/// begins without the lease is not cached.
#[test]
fn the_epoch_at_a_subscription_or_the_lease_when_a_load_begins_is_needed() {
    let rules = [Rule::EpochAtSubscription, Rule::LeaseAtBeginning];
    one_of_two(scenario::two_masters, rules, Stale);
}

/// The lease of before the loss is never extended, so no version is served for too long.
#[test]
fn an_epoch_at_a_loss_or_at_the_next_subscription_is_needed() {
    one_of_two(scenario::two_masters, [Rule::EpochAtLoss, Rule::EpochAtSubscription], Stale);
}

/// A subscription that leads to a replica receives what its master publishes, heartbeats included.
#[test]
fn on_a_replica_the_server_that_is_meant_or_the_own_connection_is_needed() {
    one_of_two(scenario::roles_switched, [Rule::SameServer, Rule::OwnConnection], Stale);
}

/// A replica is not among the masters that are confirmed.
#[test]
fn a_load_that_replicas_refuse_or_a_confirmed_master_is_needed() {
    one_of_two(scenario::roles_switched, [Rule::LoadFromMaster, Rule::FromConfirmedMaster], Stale);
}

/// What is cached without the lease is invisible until the lease is held again in the same epoch,
/// after all announcements.
#[test]
fn the_lease_when_a_load_ends_is_not_needed() {
    for scenario in [scenario::one_master(), scenario::two_masters()] {
        holds(scenario, &[Rule::LeaseAtEnd], ALL_PROMISES);
    }
}
