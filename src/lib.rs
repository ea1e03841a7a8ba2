//! Tower middleware for typed, signed, server-side sessions that are read from memory, stored in
//! Redis, and revoked on every node at once.
//!
//! - **Typed.** A handler takes a [`Session<UserSession>`](Session) and works with its own struct.
//! - **Fast.** A session in the local cache is read without IO. Reading never writes, except to
//!   extend a session from time to time, and to encrypt it again while secrets are rotated.
//! - **Coherent.** A change or logout on one node evicts the session from the caches of all nodes.
//!   A node that cannot prove that it receives these announcements bypasses its cache.
//! - **Safe.** Concurrent changes are never lost, deleted sessions stay deleted, cookies are
//!   signed, and records can be encrypted. Secrets rotate without logging users out.
//! - **Prepared for failures.** Retries, deadlines, a circuit breaker, and a choice of what a
//!   request gets while Redis is unreachable: see [`OutagePolicy`].
//!
//! It works with axum and with any other framework that accepts a tower layer.
//!
//! # Example
//!
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "redis"))] mod app {
//! use axum::{Router, http::StatusCode, routing::{get, post}};
//! use clustered_sessions::{
//!     ClusterConfig, RedisConfig, Secret, Session, SessionConfig, SessionError, SessionLayer,
//! };
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
//!     // Committed when this returns, and counted exactly once, whatever other requests do.
//!     let visits = session.modify(|s| { s.visits += 1; s.visits }).await?;
//!     Ok(visits.to_string())
//! }
//!
//! # #[tokio::main]
//! pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = SessionConfig::<UserSession>::builder(Secret::from_env("SESSION_SECRET")?)
//!         .redis(RedisConfig::from_env("REDIS_URL")?) // without it: in memory, for one process
//!         .cluster(ClusterConfig::new().local_cache_max_size(50_000))
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
//! [`Session`] describes what a handler can do with a session, [`SessionConfig`] the options and
//! presets, and [`SessionStore`] how to reach sessions outside of a request, for instance to end
//! all sessions of a user.
//!
//! # How it works
//!
//! 1. The cookie carries a random *token* and its signature. The *session id*, a truncated SHA-256
//!    digest of the token, names the session everywhere else: in Redis, in announcements and in
//!    logs. No token can be computed from it.
//! 2. A request that extracts its session is answered from the cache of its node, or by one
//!    `GETEX`.
//! 3. A change is committed by one script that runs inside Redis. It compares the record's
//!    *revision*, announces the change over Pub/Sub, and writes the new record, in one step.
//! 4. Every node has a *listener* that receives the announcement and evicts the session from its
//!    cache.
//! 5. Several times per [`max_staleness`](ClusterConfig::max_staleness), a *heartbeat* travels
//!    through Redis and back through the subscription. It proves that every earlier announcement
//!    has arrived, and so extends the node's *lease* on its cache. A node without a lease reads
//!    every session from Redis.
//!
//! # The coherence promise
//!
//! A read reflects every write and deletion that was acknowledged more than *S* before the read
//! began. *S* depends on the node that reads:
//!
//! | the node | *S* |
//! |---|---|
//! | receives announcements | the delivery time of an announcement, at most `max_staleness` (default 2 s) |
//! | cannot prove that it receives them | 0: it reads from the backend |
//! | made the write itself | 0 |
//! | reads with [`Fresh`] or [`Session::reload`] | 0 |
//! | cannot load the session, under [`OutagePolicy::ServeCached`] | its `max_age`; the session is read-only |
//! | is configured not to listen, by [`enabled(false)`](ClusterConfig::enabled) | [`local_cache_ttl`](ClusterConfig::local_cache_ttl) |
//!
//! Updates are never lost. A change replaces only the revision that it was made from; if another
//! change came first, it is applied again on top of that one, or reported as a conflict. What
//! replaces data as a whole discards other changes, as its name says: [`Session::overwrite`],
//! [`SessionStore::put`], and [`KeyValues::insert`] for its key. A deleted session never comes
//! back, because a write never creates a record that does not exist.
//!
//! # Limits
//!
//! - Redis replicates asynchronously. A failover can lose acknowledged writes, including an
//!   acknowledged logout. The promise holds for the history that survives.
//! - A split brain is bounded only by Redis' `min-replicas-to-write`.
//! - A suspended machine stops its own clock, and with it the expiry of its lease.
//! - Redis 7.0 or later is required: one master, Sentinel or Cluster, connected to directly, not
//!   through a proxy that answers in its place.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | the extractors `Session<T>`, `Option<Session<T>>`, `Fresh<Session<T>>` and `Part<T, P>`, and `IntoResponse` for the errors |
//! | `compression` | yes | compression of records: [`compress_data`](SessionConfigBuilder::compress_data) |
//! | `messagepack` | no | `DataFormat::MessagePack`, for records that are shorter than JSON |
//! | `metrics` | no | metrics for Prometheus and others, through the crate `metrics`: see [`guide::observability`] |
//! | `redis` | yes | [`RedisConfig`] and the Redis backend |
//! | `testing` | no | a conformance suite for custom backends, and a backend that injects faults |
//! | `tls` | yes | Redis over TLS: `RedisTls`, and URLs that begin with `rediss:` |
//! | `tower-sessions-0-14`, `tower-sessions-0-15` | no | `TowerSessionsStore`: a store for these versions of tower-sessions, and for libraries built on them |
//!
//! # Guide
//!
//! The [`guide`] has longer texts, among them the promise in detail with a test for each part
//! ([`guarantees`](guide::guarantees)), the protocol between nodes
//! ([`protocol`](guide::protocol)), retries and outages ([`resilience`](guide::resilience)),
//! "log out everywhere" ([`owners`](guide::owners)), operation in production
//! ([`deployment`](guide::deployment)), the costs of a Redis Cluster ([`scale`](guide::scale)),
//! what each operation costs ([`performance`](guide::performance)), metrics, alerts and logs
//! ([`observability`](guide::observability)), and encryption and the rotation of secrets
//! ([`encryption`](guide::encryption)).
//!
//! # Layout
//!
//! For contributors: the modules from the top down. Each imports only from those below it, which
//! `tests/repository/layout.rs` checks.
//!
//! - `tower_sessions` — the adapter for tower-sessions
//! - `middleware` — the tower layer, its service and its response future
//! - `session` — the handle that an application uses; `change` decides what a response does to the
//!   session, and `commit` carries it out
//! - `store` — [`SessionStore`]: the order of steps over the modules below; `index` and `owner`
//!   handle the sessions of one owner
//! - `config` — the builder, which checks all options and chooses the backend
//! - `cluster` — the local cache, its lease and fence, announcements, the listener
//! - `codec` — encodes data as payloads: JSON, compressed and encrypted
//! - `cookie` — signs and verifies cookies
//! - `events` — passes events on to the application's hook
//! - `resilience` — retries, deadlines and the circuit breaker around a backend that may fail
//! - [`backend`] — stores records and delivers announcements: the trait, memory, Redis
//! - `observe` — the metrics: names, units, and outcomes of calls and commits
//! - `secret` — the secrets, their rotation, and the keys derived from them
//! - `record`, `error` — the types that all modules share: sessions and failures
//! - `id`, `random`, `clock`, `sync`, `timeout`, `task`, `guards` — tokens and ids; randomness,
//!   time, locks and guards, which tests control; timeouts that share a timer; and tasks
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod cluster;
mod codec;
mod config;
mod cookie;
mod error;
mod events;
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
mod task;
mod timeout;
#[cfg(feature = "_tower-sessions")]
mod tower_sessions;

pub mod backend;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(test, not(fuzzing)))]
mod fuzzing;
#[cfg(feature = "_guards")]
#[doc(hidden)]
pub mod guards;
#[cfg(not(feature = "_guards"))]
#[allow(unreachable_pub, reason = "`_guards` exports it")]
mod guards;
pub mod guide;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::backend::MemoryBackend;
#[cfg(feature = "tls")]
pub use crate::backend::RedisTls;
#[cfg(feature = "redis")]
pub use crate::backend::{
    RedisAddress, RedisCluster, RedisConfig, RedisCredentials, RedisSentinels,
};
pub use crate::clock::Clock;
pub use crate::cluster::{CacheStats, ClusterConfig, Coordinator, LocalCache};
#[cfg(feature = "messagepack")]
pub use crate::codec::DataFormat;
pub use crate::codec::Encryption;
pub use crate::config::{LimitPolicy, OutagePolicy, SessionConfig, SessionConfigBuilder};
pub use crate::cookie::{CookieConfig, SameSite};
pub use crate::error::{ConfigError, StoreError, StoreErrorKind};
pub use crate::events::SessionEvent;
pub use crate::id::{InvalidSessionId, SessionId, SessionToken};
pub use crate::middleware::{
    EmptyErrorResponse, ErrorResponse, ResponseFuture, SessionLayer, SessionService,
};
pub use crate::record::{Ended, NewSession, Record, SessionData, Snapshot};
pub use crate::resilience::{Circuit, CircuitBreakerConfig, CircuitState, RetryConfig};
pub use crate::secret::Secret;
pub use crate::session::{Fresh, KeyValues, Part, Session, SessionError, ValueError};
pub use crate::store::{BulkDeletion, SessionStore, SessionWatch};
#[cfg(feature = "_tower-sessions")]
pub use crate::tower_sessions::{MigratingStore, MigrationStage, TowerSessionsStore};

/// Runs the examples of the README as tests.
#[cfg(all(doctest, feature = "axum", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
