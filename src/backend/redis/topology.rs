//! One server, or a cluster of them.

use std::sync::Arc;

use futures_util::future::select_ok;
use redis::{FromRedisValue, Value};
use tokio::sync::watch;

use super::cluster::Cluster;
use super::commands::{get_from_master, idle_key};
use super::config::{RedisConfig, Servers};
use super::endpoint::Target;
use super::error::Effect;
use super::findings::Findings;
use super::keys::{Keys, Position, next_cursor, scan};
use super::lanes::Lanes;
use super::request::{Hop, Request, ServerReply};
use super::sentinel::Sentinels;
use crate::backend::Cursor;
use crate::clock::ServerTime;
use crate::error::{ConfigError, StoreError, StoreErrorKind};

/// The servers of a backend.
pub(super) enum Topology {
    /// One server has all keys. Sentinels may say which.
    Single(Arc<Lanes>),
    Cluster(Arc<Cluster>),
}

impl Topology {
    /// Creates the connections. Does no IO.
    pub(super) fn new(config: &RedisConfig, time: &Arc<ServerTime>) -> Result<Self, ConfigError> {
        let dialer = config.dialer()?;
        let moves = watch::Sender::new(0);
        let target = match &config.servers {
            Servers::Cluster(cluster) => {
                let cluster = Cluster::new(config, cluster, dialer, time);
                return Ok(Topology::Cluster(Arc::new(cluster)));
            }
            Servers::Single(address) => Target::Fixed(address.clone()),
            Servers::Sentinel(service) => {
                let sentinel_dialer = config.sentinel_dialer(service)?;
                let timeout = config.connect_timeout;
                let sentinels = Sentinels::new(service, &sentinel_dialer, timeout, moves.clone());
                Target::Sentinel(Arc::new(sentinels))
            }
        };
        Ok(Topology::Single(Arc::new(Lanes::new(config, &target, &dialer, time, moves))))
    }

    /// Carries a request out on the server that has its key, and returns its reply, which may be an
    /// error.
    pub(super) async fn carry_out(&self, request: &Request<'_>) -> Result<ServerReply, StoreError> {
        match self {
            Topology::Single(lanes) => lanes.carry_out(request, Hop::Owner).await,
            // Boxed, so that a request to a single server is not as large as one that may have to
            // find its way through a cluster.
            Topology::Cluster(cluster) => Box::pin(cluster.carry_out(request)).await,
        }
    }

    /// Carries a request out on the server that has its key, and returns the value.
    pub(super) async fn run<R: FromRedisValue>(
        &self,
        request: &Request<'_>,
    ) -> Result<R, StoreError> {
        self.carry_out(request).await?.interpret()
    }

    /// Returns `true` if a script takes keys of one slot only.
    pub(super) fn has_slots(&self) -> bool {
        matches!(self, Topology::Cluster(_))
    }

    /// Returns a key of each server that has keys. The keys are never written.
    pub(super) async fn idle_keys(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Topology::Single(_) => Ok(vec![idle_key(prefix)]),
            Topology::Cluster(cluster) => {
                let owners = cluster.owners().await?;
                Ok(owners.iter().filter_map(|member| member.idle_key(prefix)).collect())
            }
        }
    }

    /// Succeeds if a writable master answers.
    pub(super) async fn probe(&self, prefix: &str) -> Result<(), StoreError> {
        let keys = self.idle_keys(prefix).await?;
        if keys.is_empty() {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let probes = keys.iter().map(|key| {
            Box::pin(async move {
                let command = get_from_master(key);
                self.run::<Value>(&Request::command(key, &command, Effect::Idempotent)).await
            })
        });
        select_ok(probes).await.map(|_| ())
    }

    /// Returns the keys with a prefix on a page of a walk, or `None` if the cursor is no longer
    /// valid, because the servers have changed.
    pub(super) async fn keys(
        &self,
        prefix: &str,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Keys>, StoreError> {
        let lanes = match self {
            Topology::Single(lanes) => lanes,
            Topology::Cluster(cluster) => return cluster.keys(prefix, cursor).await,
        };
        let commands = lanes.commands();
        let connected = commands.connected().await?;
        let on_this_server = |position: &Position<'_>| position.is_on(connected.server());
        let Some(position) = Position::of(cursor).filter(on_this_server) else {
            return Ok(None);
        };
        let command = scan(prefix, position.cursor);
        let (next, keys) = commands.run_on_master(&connected, &command, Effect::Idempotent).await?;
        let next = next_cursor(connected.server(), next);
        Ok(Some(Keys { keys, next, again: false }))
    }

    /// Returns the findings about each server that is known.
    pub(super) fn findings(&self) -> Vec<Arc<Findings>> {
        match self {
            Topology::Single(lanes) => vec![lanes.findings().clone()],
            Topology::Cluster(cluster) => cluster.findings(),
        }
    }

    /// Asks the server that has a key if it has evicted keys, or would, for its findings.
    pub(super) async fn ask_about_memory(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Topology::Single(lanes) => lanes.ask_about_memory().await,
            Topology::Cluster(cluster) => {
                Box::pin(async { cluster.lanes_of(key).await?.ask_about_memory().await }).await
            }
        }
    }

    pub(super) fn close(&self) {
        match self {
            Topology::Single(lanes) => lanes.close(),
            Topology::Cluster(cluster) => cluster.close(),
        }
    }
}
