//! Support for the integration tests, compiled once for all of them: Redis servers and nodes as
//! processes, a network that fails on demand, an HTTP client, captured logs, and waiting for a
//! condition. It does not depend on the crate under test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "some tests print measurements")]
#![allow(missing_docs, missing_debug_implementations, reason = "for tests only")]

pub mod client;
pub mod cluster;
pub mod deployment;
pub mod failover;
pub mod failure;
pub mod files;
pub mod log;
pub mod node;
mod process;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod replication;
pub mod sentinel;
pub mod tls;
pub mod trial;
mod visits;
pub mod wait;
