//! The backend of a store: the setters, and what follows from them.

use std::sync::Arc;
use std::time::Duration;

use super::SessionConfigBuilder;
use crate::backend::{Backend, DynBackend, MemoryBackend};
#[cfg(feature = "redis")]
use crate::backend::{RedisBackend, RedisConfig};
#[cfg(feature = "redis")]
use crate::clock::ServerTime;
use crate::cluster::ClusterSettings;
use crate::error::ConfigError;

impl<T> SessionConfigBuilder<T> {
    /// Stores sessions in Redis. Without a backend, sessions are stored in the memory of this
    /// process and are lost when it ends; the presets for production refuse that, unless
    /// [`in_memory`](Self::in_memory) asks for it.
    #[cfg(feature = "redis")]
    pub fn redis(mut self, redis: RedisConfig) -> Self {
        self.redis = Some(redis);
        self
    }

    /// Stores sessions in the memory of this process, also under a preset for production. That is
    /// what a builder without a backend does anyway, except under these presets, which refuse it.
    ///
    /// # Risk
    ///
    /// All sessions are lost when the process ends, and other processes do not know them. The node
    /// logs a warning.
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// Stores sessions in a custom backend, or in a [`MemoryBackend`] that several layers share.
    ///
    /// # Risk
    ///
    /// Only [`redis`](Self::redis) prepares the store for Redis. For a
    /// [`RedisBackend`](crate::backend::RedisBackend) that is passed here, or a backend that wraps
    /// one, see the risk there.
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Some(Arc::new(backend));
        self
    }

    /// Returns how long the backend itself may take for one attempt, if it has timeouts of its own.
    pub(super) fn attempt_at_backend(&self) -> Option<Duration> {
        #[cfg(feature = "redis")]
        if let Some(redis) = &self.redis {
            return Some(redis.connect_timeout.saturating_add(redis.response_timeout));
        }
        None
    }

    /// Returns the configured backend, or one in memory. The clock takes the time from Redis.
    #[cfg_attr(
        not(feature = "redis"),
        expect(unused_variables, reason = "only Redis has a channel")
    )]
    pub(super) fn choose_backend(
        &mut self,
        cluster: &ClusterSettings,
    ) -> Result<Arc<dyn DynBackend>, ConfigError> {
        #[cfg(feature = "redis")]
        if let Some(redis) = &self.redis {
            if self.backend.is_some() || self.in_memory {
                return Err(ConfigError::TwoBackends);
            }
            let (max_staleness, response_timeout) = (cluster.max_staleness, redis.response_timeout);
            if cluster.listens() && max_staleness < response_timeout {
                return Err(ConfigError::MaxStalenessBelowTimeout {
                    max_staleness,
                    response_timeout,
                });
            }
            let time = Arc::new(ServerTime::default());
            self.clock.follow(time.clone());
            let backend = RedisBackend::with_server_time(redis, &cluster.channel, &time)?;
            return Ok(Arc::new(backend));
        }
        match &self.backend {
            Some(_) if self.in_memory => Err(ConfigError::TwoBackends),
            Some(backend) => Ok(backend.clone()),
            None if self.needs_backend && !self.in_memory => Err(ConfigError::NoBackend),
            None => {
                if !self.is_for_development {
                    tracing::warn!(
                        "sessions are stored in the memory of this process: they are lost when it ends, and other nodes do not have them"
                    );
                }
                Ok(Arc::new(MemoryBackend::with_clock(self.clock.clone())))
            }
        }
    }
}
