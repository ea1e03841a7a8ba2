//! Tower middleware that gives an HTTP application typed, signed, server-side sessions that are read from memory, kept in Redis,
//! and revoked on every node at once.
//!
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "redis"))] mod app {
//! use axum::{Router, http::StatusCode, routing::{get, post}};
//! use clustered_sessions::{ClusterConfig, RedisConfig, Secret, Session, SessionConfig, SessionError, SessionLayer};
//!
//! #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
//! struct UserSession {
//!     username: Option<String>,
//!     visits: u64,
//! }
//!
//! async fn me(session: Session<UserSession>) -> Result<String, StatusCode> {
//!     session.read(|s| s.username.clone()).ok_or(StatusCode::UNAUTHORIZED)
//! }
//!
//! async fn visit(session: Session<UserSession>) -> Result<String, SessionError> {
//!     let visits = session.modify(|s| { s.visits += 1; s.visits }).await?; // committed, counted exactly once
//!     Ok(visits.to_string())
//! }
//!
//! # #[tokio::main]
//! pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = SessionConfig::<UserSession>::builder(Secret::from_env("SESSION_SECRET")?)
//!         .redis(RedisConfig::from_env("REDIS_URL")?) // left out: in memory, one process
//!         .cluster(ClusterConfig::new().channel("prod:session:invalidate"))
//!         .build()?;
//!     let app = Router::new()
//!         .route("/me", get(me))
//!         .route("/visit", post(visit))
//!         .layer(SessionLayer::new(config));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).await?;
//!     Ok(())
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # How it works
//!
//! The cookie carries a random token and its signature. SHA-256 of the token names the session everywhere else: in Redis, in
//! messages, in logs. A request that extracts its session is answered from this node's memory or by one `GETEX`. A change is one
//! script on the server that compares the revision, announces the change over Pub/Sub and writes it; every node, hearing that,
//! drops its copy.
//!
//! # What it promises
//!
//! > A read that begins at time *t* reflects every write and delete that was acknowledged before *t* − *S*.
//!
//! | state of the node | *S* |
//! |---|---|
//! | it hears the others | the delivery time of an announcement, and never more than `max_staleness` (default 2 s) |
//! | it does not, or is not sure | 0: it reads from the backend |
//! | it is the node that wrote | 0 |
//! | [`Fresh`], [`Session::reload`] | 0 |
//! | it cannot load the session, under [`OutagePolicy::ServeCached`] | its `max_age`, for reading alone |
//!
//! Updates are never lost: a change is compared with what it was made from, and made again on top of what came first, or
//! reported. A session that was deleted never comes back: no write creates what is not there.
//!
//! Limits: Redis replicates asynchronously, so a failover can forget acknowledged writes, an acknowledged logout among them; the
//! promise is relative to the history that survives. A split brain is bounded only by `min-replicas-to-write`. A frozen machine stops
//! its own clock. Redis 7.0 or later, asked directly and not through a proxy that answers in its place.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `axum` | yes | extractors: `Session<T>`, `Option<Session<T>>`, `Fresh<Session<T>>` |
//! | `compression` | yes | compressed records: [`compress_data`](SessionConfigBuilder::compress_data) |
//! | `metrics` | no | figures for Prometheus and others, through the facade `metrics`: see [`guide::observability`] |
//! | `redis` | yes | [`RedisConfig`] and the backend behind it |
//! | `testing` | no | a conformance suite for backends, and a backend that fails |
//!
//! # Layout
//!
//! From the top down: each module imports only from those below it, which `tests/layout.rs` checks.
//!
//! - `middleware` — the tower layer, service and response future
//! - `session` — what a handler sees; `change` is the table of what becomes of a session, `commit` carries it out
//! - `store` — [`SessionStore`]: the order of steps over the parts below; `index` and `owner` are about whose a session is
//! - `config` — one builder for everything, where the parts are put together
//! - `resilience` — what is done about a backend that fails: attempts, deadlines, the circuit breaker
//! - `cluster` — the local cache, its lease and fence, messages, the listener
//! - `codec` — between data and payload: JSON, compressed and encrypted
//! - `cookie` — signing and verifying
//! - [`backend`] — where records live: the trait, memory, Redis
//! - `observe` — all metrics: names, units, and how calls and commits end in their words
//! - `secret` — keys and their rotation
//! - `record`, `error` — what a session is to all parts, and how they fail
//! - `id`, `random`, `clock`, `sync`, `guards` — token and id, and what tests take hold of: randomness, time, locks, and the
//!   guards, each of which they see missed
//!
//! See also [`guide`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod cluster;
mod codec;
mod config;
mod cookie;
mod error;
mod id;
mod middleware;
mod observe;
mod random;
mod record;
mod resilience;
mod secret;
mod session;
mod store;
mod sync;

pub mod backend;
#[cfg(feature = "_guards")]
#[doc(hidden)]
pub mod guards;
#[cfg(not(feature = "_guards"))]
#[allow(unreachable_pub, reason = "`_guards` exports it")]
mod guards;
#[cfg(any(doc, doctest))]
pub mod guide {
    //! Longer texts.

    #[doc = include_str!("../docs/deployment.md")]
    pub mod deployment {}

    #[doc = include_str!("../docs/guarantees.md")]
    pub mod guarantees {}

    #[doc = include_str!("../docs/observability.md")]
    pub mod observability {}

    #[doc = include_str!("../docs/owasp.md")]
    pub mod owasp_checklist {}

    #[doc = include_str!("../docs/testing.md")]
    pub mod testing_applications {}

    #[doc = include_str!("../docs/encryption.md")]
    pub mod encryption {}
}
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(test, not(fuzzing)))]
mod fuzzing;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::backend::MemoryBackend;
#[cfg(feature = "redis")]
pub use crate::backend::RedisConfig;
pub use crate::clock::Clock;
pub use crate::cluster::{CacheStats, ClusterConfig, Coordinator, LocalCache};
pub use crate::codec::Encryption;
pub use crate::config::{OutagePolicy, SessionConfig, SessionConfigBuilder};
pub use crate::cookie::{CookieConfig, SameSite};
pub use crate::error::{ConfigError, StoreError, StoreErrorKind};
pub use crate::id::{InvalidSessionId, SessionId, SessionToken};
pub use crate::middleware::{ResponseFuture, SessionLayer, SessionService};
pub use crate::record::{NewSession, Record, SessionData};
pub use crate::resilience::{Circuit, CircuitBreakerConfig, CircuitState, RetryConfig};
pub use crate::secret::Secret;
pub use crate::session::{Fresh, Session, SessionError};
pub use crate::store::{BulkDeletion, SessionStore};

/// The README's examples are tests, too.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
