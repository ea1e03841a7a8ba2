//! Sessions that are regenerated while other requests change them or log them out, on nodes whose
//! backend fails.
//!
//! `SEEDS` sets the number of races. Defaults to 1000. `SEED` runs a single one.

use crate::race::race;
use crate::run_all;

#[test]
fn no_race_with_a_regeneration_loses_an_update_or_a_logout() {
    run_all(1000, race);
}
