//! The local cache of a node, and the announcements that keep it coherent with the backend.
//!
//! `cache` holds the sessions. Three mechanisms decide what it may hold and return: the `lease`
//! proves that the node still receives announcements, an epoch of that lease hides what was cached
//! before a gap, and the `fence` keeps out values that a change has overtaken. The `listener`
//! receives `message`s and evicts; the `coordinator` runs it and sends the node's own
//! announcements.

mod cache;
mod config;
mod coordinator;
mod fence;
mod lease;
mod listener;
mod message;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
mod reception;
mod settings;
mod stats;
mod watches;

pub use self::cache::LocalCache;
pub(crate) use self::cache::{FillMark, Lookup, PendingFill, StaleIfError};
pub use self::config::ClusterConfig;
pub(crate) use self::config::MIB;
pub use self::coordinator::Coordinator;
pub(crate) use self::lease::Lease;
pub(crate) use self::message::Announcement;
#[cfg(any(test, fuzzing))]
pub(crate) use self::message::{Action, MAX_LEN, interpret};
pub(crate) use self::settings::ClusterSettings;
pub use self::stats::CacheStats;
pub(crate) use self::watches::Registration;
