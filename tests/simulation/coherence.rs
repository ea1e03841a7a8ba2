//! The coherence contract, checked against histories: several nodes over one backend that delays, fails, loses answers, carries out
//! late what was given up and cuts subscriptions, under a paused clock.
//!
//! `SEEDS` sets how many histories are tried (default 3000, more than a million operations), `SEED` tries one.

use crate::history::history;
use crate::{run, run_all};

#[test]
fn no_history_breaks_the_contract() {
    run_all(3000, history);
}

#[test]
fn a_history_can_be_told_again() {
    assert_eq!(run(history(7)), run(history(7)));
}
