//! Owners under faults: what `delete_all_of` has acknowledged is gone, and the index says what the records say.
//!
//! `SEEDS` sets how many histories are tried, `SEED` tries one. The order in which an index is gone through follows from the ids, which
//! are random, so that one seed may have to be tried several times.

use crate::lifetimes::lifetimes;
use crate::owners::{Thief, owners, thief};
use crate::run_all;

#[test]
fn nothing_outlives_a_logout_everywhere_and_nobody_else_is_logged_out() {
    run_all(1000, owners);
}

#[test]
fn a_session_cannot_outrun_a_logout_everywhere_by_moving() {
    run_all(8, |seed| thief(seed, Thief::Regenerates));
}

#[test]
fn a_session_cannot_outrun_a_logout_everywhere_by_changing() {
    run_all(8, |seed| thief(seed, Thief::Updates));
}

#[test]
fn the_index_says_what_the_records_say_for_as_long_as_they_live() {
    run_all(1000, lifetimes);
}
