//! Sessions that are regenerated, or replaced by a login, while other requests change them or log
//! them out, on nodes whose backend fails.
//!
//! `SEEDS` sets the number of races. Defaults to 1000. `SEED` runs a single one.

use crate::race::{NewId, race};
use crate::run_all;

#[test]
fn no_race_with_a_regeneration_loses_an_update_or_a_logout() {
    run_all(1000, |seed| race(seed, NewId::Regeneration));
}

#[test]
fn no_race_with_a_login_leaves_the_session_before_or_loses_the_new_one() {
    run_all(1000, |seed| race(seed, NewId::Login));
}
