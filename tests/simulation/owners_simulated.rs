//! Owners under faults: sessions whose deletion `delete_all_of` has acknowledged are gone, and the
//! owner index matches the records.
//!
//! `SEEDS` sets the number of histories, `SEED` runs a single one. The order in which an index is
//! scanned depends on the ids, which are random, so a seed may have to be run several times.

use crate::lifetimes::lifetimes;
use crate::owners::owners;
use crate::run_all;
use crate::thief::{Thief, thief};

#[test]
fn nothing_outlives_a_logout_everywhere_and_nobody_else_is_logged_out() {
    run_all(1000, owners);
}

#[test]
fn a_session_cannot_outrun_a_logout_everywhere_by_regenerating() {
    run_all(8, |seed| thief(seed, Thief::Regenerates));
}

#[test]
fn a_session_cannot_outrun_a_logout_everywhere_by_changing() {
    run_all(8, |seed| thief(seed, Thief::Updates));
}

#[test]
fn the_owner_index_matches_the_records_throughout_their_lifetimes() {
    run_all(1000, lifetimes);
}
