//! The tests with tower-sessions 0.15.

use tower_sessions_0_15 as tower_sessions;

#[path = "coherence.rs"]
mod coherence;
#[path = "expiry.rs"]
mod expiry;
#[path = "migration.rs"]
mod migration;
#[path = "routes.rs"]
mod routes;
