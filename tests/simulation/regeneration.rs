//! A session that gets a new token while others change it or log it out, on nodes whose backend fails.
//!
//! `SEEDS` sets how many races are run (default 1000), `SEED` runs one.

use crate::race::race;
use crate::run_all;

#[test]
fn no_race_with_a_regeneration_loses_an_update_or_a_logout() {
    run_all(1000, race);
}
