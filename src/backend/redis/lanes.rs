//! The connections for commands: one for nearly all, and one for large records.
//!
//! Replies arrive one after the other, so each waits for those before it. A record of one megabyte
//! takes 80 ms on a link of 100 Mbit/s. A few visitors with large sessions would slow everybody
//! down, so large records have a connection of their own, on which they slow only each other.
//!
//! A node knows the size of a record that it writes. For one that it reads, it goes by the size at
//! its last read or write.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use super::config::{RedisConfig, Servers};
use super::connection::{Connected, Load, SharedConnection};
use super::endpoint::{Endpoint, Target};
use super::findings::Findings;
use super::sentinel::Sentinels;
use crate::clock::ServerTime;
use crate::error::{ConfigError, StoreError, StoreErrorKind};
use crate::id::SessionId;

/// Size in bytes from which a record is large.
const LARGE: usize = 64 * 1024;
/// Number of ids of large records to remember.
const MAX_KNOWN: usize = 4096;
/// Maximum number of loads in flight. With a round trip of 1 ms, that admits 512,000 loads per
/// second.
const MAX_LOADS: u32 = 512;
/// Maximum number of loads of large records in flight.
const MAX_LARGE_LOADS: u32 = 16;

/// The connections for commands.
pub(super) struct Lanes {
    commands: SharedConnection,
    /// For large records. It is made at the first of them.
    large_records: SharedConnection,
    /// Ids of records that were large when this node last read or wrote them.
    known_large: Cache<SessionId, ()>,
}

/// A connection of one of the lanes.
pub(super) struct Lane<'a> {
    pub(super) connection: &'a SharedConnection,
    pub(super) connected: Connected,
}

impl Lanes {
    /// Creates the connections. Does no IO.
    pub(super) fn new(config: &RedisConfig, time: &Arc<ServerTime>) -> Result<Self, ConfigError> {
        let moves = watch::Sender::new(0);
        let target = target(config, moves.clone())?;
        let dialer = config.dialer()?;
        let findings = Arc::<Findings>::default();
        let connection = |max_loads, moves| {
            let (target, dialer) = (target.clone(), dialer.clone());
            let endpoint = Endpoint::new(config, target, dialer, time.clone(), findings.clone());
            SharedConnection::new(endpoint, config.response_timeout, max_loads, moves)
        };
        Ok(Lanes {
            commands: connection(MAX_LOADS, moves),
            // It follows the other one: see `lane_for_large_records`.
            large_records: connection(MAX_LARGE_LOADS, watch::Sender::new(0)),
            known_large: Cache::new(MAX_KNOWN),
        })
    }

    /// Returns the connection for all commands but those with large records.
    pub(super) fn commands(&self) -> &SharedConnection {
        &self.commands
    }

    /// Reads the record of a session.
    pub(super) async fn load(
        &self,
        id: &SessionId,
        load: &Load<'_>,
    ) -> Result<Option<Bytes>, StoreError> {
        let value = if self.known_large.get(id).is_some() {
            let Lane { connection, connected } = self.lane_for_large_records().await?;
            connection.load_on(&connected, load).await?
        } else {
            self.commands.load(load).await?
        };
        self.note_size(id, value.as_ref().map_or(0, Bytes::len));
        Ok(value)
    }

    /// Returns the connection for a write of a record of this size.
    pub(super) async fn lane_for(
        &self,
        id: &SessionId,
        size: usize,
    ) -> Result<Lane<'_>, StoreError> {
        self.note_size(id, size);
        if size >= LARGE {
            return self.lane_for_large_records().await;
        }
        Ok(Lane { connection: &self.commands, connected: self.commands.connected().await? })
    }

    /// Returns a connection to the server that gets all other commands, too. The subscription is
    /// proven for that server alone.
    async fn lane_for_large_records(&self) -> Result<Lane<'_>, StoreError> {
        let commands = self.commands.connected().await?;
        if !commands.server().is_reported() {
            return Ok(Lane { connection: &self.commands, connected: commands });
        }
        let connected = self.large_records.connected().await?;
        if connected.server() != commands.server() {
            self.large_records.discard(&connected);
            return Err(StoreError::from(StoreErrorKind::Unavailable)
                .with_source("the connection for large records leads to another server"));
        }
        Ok(Lane { connection: &self.large_records, connected })
    }

    fn note_size(&self, id: &SessionId, size: usize) {
        if size >= LARGE {
            self.known_large.insert(*id, ());
        } else if !self.known_large.is_empty() {
            self.known_large.remove(id);
        }
    }

    /// Closes all connections. Calls fail from now on.
    pub(super) fn close(&self) {
        self.commands.close();
        self.large_records.close();
    }
}

/// Returns where the server is. Sentinels increment `moves` when they name another one.
fn target(config: &RedisConfig, moves: watch::Sender<u64>) -> Result<Target, ConfigError> {
    match &config.servers {
        Servers::Single(address) => Ok(Target::Fixed(address.clone())),
        Servers::Sentinel(service) => {
            let dialer = config.sentinel_dialer(service)?;
            let sentinels = Sentinels::new(service, &dialer, config.connect_timeout, moves);
            Ok(Target::Sentinel(Arc::new(sentinels)))
        }
    }
}
