//! The tests with tower-sessions 0.14.

use tower_sessions_0_14 as tower_sessions;

#[path = "coherence.rs"]
mod coherence;
#[path = "expiry.rs"]
mod expiry;
#[path = "migration.rs"]
mod migration;
#[path = "routes.rs"]
mod routes;
