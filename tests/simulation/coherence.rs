//! Checks the coherence contract against histories: several nodes run, under a paused clock, over
//! one backend that delays and fails calls, loses replies, executes cancelled calls late, and cuts
//! subscriptions.
//!
//! `SEEDS` sets the number of histories. Defaults to 2000, some 700,000 operations. `SEED`
//! runs a single one.

use crate::history::history;
#[cfg(feature = "redis")]
use crate::history::{
    history_over_a_cluster, history_over_redis, history_over_restricted_redis,
    history_over_sentinels,
};
use crate::{run, run_all};

#[test]
fn no_history_breaks_the_contract() {
    run_all(2000, history);
}

#[cfg(feature = "redis")]
#[test]
fn no_history_over_simulated_redis_servers_breaks_the_contract() {
    run_all(400, history_over_redis);
}

#[cfg(feature = "redis")]
#[test]
fn no_history_over_servers_that_refuse_info_breaks_the_contract() {
    run_all(400, history_over_restricted_redis);
}

#[cfg(feature = "redis")]
#[test]
fn no_history_over_sentinels_that_lag_breaks_the_contract() {
    run_all(100, history_over_sentinels);
}

#[cfg(feature = "redis")]
#[test]
fn no_history_over_a_cluster_whose_masters_disagree_breaks_the_contract() {
    run_all(60, history_over_a_cluster);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(run(history(7)), run(history(7)));
    #[cfg(feature = "redis")]
    {
        assert_eq!(run(history_over_redis(7)), run(history_over_redis(7)));
        assert_eq!(run(history_over_sentinels(7)), run(history_over_sentinels(7)));
        // Not over a cluster: there, a session's master depends on its id, which is random.
    }
}
