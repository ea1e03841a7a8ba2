//! `TowerSessionsStore` under tower-sessions 0.14 and 0.15, and under axum-login: applications that
//! know nothing of this crate but their store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::duplicate_mod, reason = "the same tests run with both versions")]

mod login;
mod node;
#[cfg(feature = "redis")]
mod redis;
mod side_by_side;
mod v14;
mod v15;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../web/mod.rs"]
mod web;
