//! The sections of the table.

mod allocations;
mod by_hand;
mod clear;
mod eviction;
mod flight;
mod latency;
mod lookup;
mod memory;
mod miss;
mod redis;
mod request;
mod watches;
mod write;

pub use self::redis::connect;
use support::redis::RedisServer;
use tokio::runtime::{Builder, Runtime};

use crate::table::Row;

/// A section measures some rows.
type Section = fn(&Context) -> Vec<Row>;

/// The sections in the order of the table.
pub const SECTIONS: &[(&str, Section)] = &[
    ("request", request::rows),
    ("lookup", lookup::rows),
    ("latency", latency::rows),
    ("miss", miss::rows),
    ("write", write::rows),
    ("eviction", eviction::rows),
    ("watches", watches::rows),
    ("memory", memory::rows),
    ("clear", clear::rows),
    ("flight", flight::rows),
    ("allocations", allocations::rows),
];

/// Number of operations in flight, where several are.
const IN_FLIGHT: usize = 64;

/// What all sections share.
pub struct Context {
    pub rounds: usize,
    pub runtime: Runtime,
}

impl Context {
    pub fn new(rounds: usize) -> Self {
        Context { rounds, runtime: runtime() }
    }

    /// Starts a server for one section.
    fn server(&self) -> RedisServer {
        RedisServer::start()
    }
}

/// A runtime with a worker for each core.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}

/// A runtime with one thread of its own, as a second node.
fn one_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime starts")
}
