//! Checks the coherence contract against histories: several nodes run, under a paused clock, over
//! one backend that delays and fails calls, loses replies, executes cancelled calls late, and cuts
//! subscriptions.
//!
//! `SEEDS` sets the number of histories. Defaults to 3000, more than a million operations. `SEED`
//! runs a single one.

use crate::history::history;
use crate::{run, run_all};

#[test]
fn no_history_breaks_the_contract() {
    run_all(3000, history);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(run(history(7)), run(history(7)));
}
