//! Retries, deadlines and the circuit breaker around a backend that may fail.
//!
//! Each attempt at a call is bounded in time. Failed attempts are retried within the deadline of
//! the operation that they belong to. A backend that keeps failing is left alone for a while.
//!
//! | call | retried | reason |
//! |---|---|---|
//! | `load`, `scan`, `sessions_of_owner` | yes | they change nothing |
//! | `update` | yes, with the same bytes and revision | a retry that finds its own revision reports success |
//! | `delete`, `delete_if` | yes | a deleted session does not come back |
//! | `touch` | yes | it only moves the deadline forward |
//! | `add_to_owner`, `remove_from_owner` | yes | they are idempotent |
//! | `publish` | yes | a duplicate announcement costs at most a cache miss |
//! | `create` | not here | an attempt that is carried out late could bring back a session deleted since; the store retries under a new id |
//! | `clear` | no | it returns the number of sessions, and a retry would count only the rest |
//! | `ping` | no | it reports whether the backend answers now |
//! | `subscribe` | not here | the listener retries it for as long as the store lives |
//!
//! The circuit breaker is consulted before each attempt. It never refuses `ping` and `subscribe`:
//! when one of them succeeds, an open circuit becomes half-open.

mod answer;
mod breaker;
mod circuit;
mod client;
mod config;
mod deadline;
mod failures;
mod recent;
mod retry;

pub use self::breaker::CircuitState;
pub use self::circuit::Circuit;
pub(crate) use self::client::Client;
pub use self::config::{CircuitBreakerConfig, RetryConfig};
pub(crate) use self::config::{ResilienceOptions, ResiliencePolicy};
pub(crate) use self::deadline::{Deadline, end_of_step};
pub(crate) use self::retry::Removal;
