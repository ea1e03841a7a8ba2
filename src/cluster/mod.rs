//! The local cache of a node and what keeps it right.

mod cache;
mod config;
mod coordinator;
mod fence;
mod lease;
mod listener;
mod message;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod stats;

pub use self::cache::LocalCache;
pub(crate) use self::cache::{FillMark, Lookup, PendingFill, StaleIfError};
pub use self::config::ClusterConfig;
pub use self::coordinator::Coordinator;
pub(crate) use self::lease::Lease;
pub(crate) use self::message::Announcement;
#[cfg(any(test, fuzzing))]
pub(crate) use self::message::{Action, interpret};
pub use self::stats::CacheStats;
