//! Tests of nodes in the process of the test, nearly all over `MemoryBackend` and under a paused
//! clock. The few modules that need a Redis server or the process of an example say so in their
//! name or docs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod absolute_timeout;
mod allocations;
#[cfg(all(feature = "messagepack", feature = "testing", feature = "tls"))]
mod auto_traits;
mod busy_watch;
mod compose;
#[cfg(feature = "testing")]
mod conformance;
mod cookies;
mod data;
mod events;
mod failing;
mod form;
mod handles;
mod hyper_example;
mod key_values;
mod lifecycle;
mod login;
#[cfg(feature = "testing")]
mod login_example;
mod lost_changes;
#[cfg(feature = "testing")]
mod nonconforming;
#[cfg(all(feature = "metrics", feature = "testing"))]
mod observability;
#[cfg(feature = "testing")]
mod one_session;
mod outage_policies;
#[cfg(feature = "testing")]
mod owner_limit;
mod owners;
mod parts;
mod realms;
#[cfg(feature = "testing")]
mod remember;
mod replace;
mod reseal;
mod resilience;
#[cfg(feature = "testing")]
mod revocation;
#[cfg(feature = "testing")]
mod scan_restarts;
mod session;
mod session_faults;
#[cfg(feature = "testing")]
mod shared_loads;
mod sse_example;
mod timeouts;
#[cfg(feature = "testing")]
mod tokens;
#[cfg(feature = "testing")]
mod tombstones;
#[cfg(feature = "testing")]
mod watch;
#[cfg_attr(
    not(feature = "testing"),
    allow(dead_code, unused_imports, reason = "tests with faults use the rest")
)]
#[path = "../web/mod.rs"]
mod web;
