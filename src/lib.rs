//! Tower middleware that gives an HTTP application typed, signed, server-side sessions that are read from memory, kept in Redis,
//! and revoked on every node at once.

mod clock;
mod cluster;
mod codec;
mod config;
mod cookie;
mod id;
mod middleware;
mod secret;
mod session;
mod store;

pub mod backend;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::backend::MemoryBackend;
pub use crate::clock::Clock;
pub use crate::cluster::{CacheStats, Coordinator, LocalCache};
pub use crate::codec::SessionData;
#[cfg(feature = "redis")]
pub use crate::config::RedisConfig;
pub use crate::config::{ClusterConfig, ConfigError, CookieConfig, SameSite, SessionConfig, SessionConfigBuilder};
pub use crate::id::{InvalidSessionId, SessionId, SessionToken};
pub use crate::middleware::{ResponseFuture, SessionLayer, SessionService};
pub use crate::secret::Secret;
pub use crate::session::{Fresh, Session, SessionError};
pub use crate::store::{BulkDeletion, NewSession, Record, SessionStore, StoreError, StoreErrorKind};
