//! Nodes on real Redis servers, as stores in the test's process or as separate processes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "some tests print measurements")]

#[cfg(feature = "_guards")]
mod clocks;
mod cluster;
#[cfg(feature = "testing")]
mod conformance;
mod connector;
mod credentials;
mod deployment;
#[cfg(feature = "tls")]
mod deployment_cluster;
#[cfg(feature = "tls")]
mod deployment_sentinel;
mod encryption;
mod error_codes;
mod faults_demotion;
mod faults_network;
mod faults_node;
mod faults_server;
#[cfg(feature = "_guards")]
mod guards;
mod nodes;
mod overload;
mod owner_limit;
mod owners;
mod production;
mod quickstart;
mod redis_announcements;
mod redis_cluster;
mod redis_cluster_faults;
mod redis_commands;
mod redis_outage;
mod redis_pileup;
mod redis_roles;
mod redis_walks;
mod refusals;
mod restricted;
mod sentinel;
mod servers;
#[cfg(feature = "tls")]
mod tls;
mod watch;
#[allow(dead_code, reason = "only the test binary `memory` uses all of it")]
#[path = "../web/mod.rs"]
mod web;
mod websocket;
