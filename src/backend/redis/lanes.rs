//! The connections for commands: one for nearly all, and one for large records.
//!
//! Replies arrive one after the other, so each waits for those before it. A record of one megabyte
//! takes 80 ms on a link of 100 Mbit/s. A few visitors with large sessions would slow everybody
//! down, so large records have a connection of their own, on which they slow only each other.
//!
//! A node knows the size of a record that it writes. For one that it reads, it goes by the size at
//! its last read or write.

use std::sync::{Arc, OnceLock};

use quick_cache::sync::Cache;
use redis::{Value, cmd};
use tokio::sync::watch;

use super::config::RedisConfig;
use super::connection::{Connected, SharedConnection};
use super::dialer::Dialer;
use super::endpoint::{Endpoint, Target};
use super::error::{Effect, breaks_the_connection, refuses_the_command};
use super::findings::Findings;
use super::request::{Hop, Request, ServerReply, Work};
use crate::clock::ServerTime;
use crate::error::{StoreError, StoreErrorKind};
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

/// The connections for commands to one server.
pub(super) struct Lanes {
    commands: Arc<SharedConnection>,
    /// For large records. It is made at the first of them.
    large_records: Arc<SharedConnection>,
    /// Ids of records that were large when this node last read or wrote them. Made at the first of
    /// them, because most nodes never see one: then each request looks at one word, not at a map.
    known_large: OnceLock<Cache<SessionId, ()>>,
}

/// A connection of one of the lanes.
struct Lane<'a> {
    connection: &'a SharedConnection,
    connected: Connected,
}

impl Lanes {
    /// Creates the connections to a server, which observe its time. Does no IO.
    ///
    /// The first is replaced when `moves` is incremented.
    pub(super) fn new(
        config: &RedisConfig,
        target: &Target,
        dialer: &Dialer,
        time: &Arc<ServerTime>,
        moves: watch::Sender<u64>,
    ) -> Self {
        let findings = Arc::<Findings>::default();
        let connection = |max_loads, moves| {
            let (target, dialer) = (target.clone(), dialer.clone());
            let endpoint = Endpoint::new(config, target, dialer, time.clone(), findings.clone());
            Arc::new(SharedConnection::new(endpoint, config.response_timeout, max_loads, moves))
        };
        Lanes {
            commands: connection(MAX_LOADS, moves),
            // It follows the other one: see `lane_for_large_records`.
            large_records: connection(MAX_LARGE_LOADS, watch::Sender::new(0)),
            known_large: OnceLock::new(),
        }
    }

    /// Returns the connection for all commands but those with large records.
    pub(super) fn commands(&self) -> &Arc<SharedConnection> {
        &self.commands
    }

    /// Returns the findings about the server.
    pub(super) fn findings(&self) -> &Arc<Findings> {
        self.commands.endpoint().findings()
    }

    /// Returns `true` if the connections observe this time.
    pub(super) fn keeps_time(&self, time: &Arc<ServerTime>) -> bool {
        Arc::ptr_eq(self.commands.endpoint().server_time(), time)
    }

    /// Carries a request out, and returns the server's reply, which may be an error. If the
    /// connection breaks, a request that is idempotent is carried out over a new one.
    pub(super) async fn carry_out(
        &self,
        request: &Request<'_>,
        hop: Hop,
    ) -> Result<ServerReply, StoreError> {
        let mut lane = self.lane(request, hop).await?;
        let mut result = lane.connection.carry_out(&lane.connected, request).await?;
        if request.effect == Effect::Idempotent && result.as_ref().is_err_and(breaks_the_connection)
        {
            lane = self.lane(request, hop).await?;
            result = lane.connection.carry_out(&lane.connected, request).await?;
        }
        if let (Work::Load(id, _), Ok(value)) = (&request.work, &result) {
            self.note_size(id, if let Value::BulkString(bytes) = value { bytes.len() } else { 0 });
        }
        Ok(request.replied(result, lane.connected.server().clone()))
    }

    /// Asks the server if it has evicted keys, or would, for its findings. A server that refuses
    /// the question leaves them as they are.
    pub(super) async fn ask_about_memory(&self) -> Result<(), StoreError> {
        let mut question = cmd("INFO");
        question.arg(&["memory", "stats"]);
        let request = Request::command("", &question, Effect::Idempotent);
        let reply = self.carry_out(&request, Hop::Owner).await?;
        if !reply.result.as_ref().is_err_and(refuses_the_command) {
            self.findings().told_about_memory(&reply.interpret::<String>()?);
        }
        Ok(())
    }

    async fn lane(&self, request: &Request<'_>, hop: Hop) -> Result<Lane<'_>, StoreError> {
        let is_large = match (&request.work, request.record) {
            (Work::Load(id, _), _) => {
                self.known_large.get().is_some_and(|known| known.get(*id).is_some())
            }
            (_, Some((id, size))) => {
                self.note_size(id, size);
                size >= LARGE
            }
            _ => false,
        };
        let mut lane = if is_large {
            self.lane_for_large_records().await?
        } else {
            Lane { connection: &self.commands, connected: self.commands.connected().await? }
        };
        if hop == Hop::Asking {
            lane.connected = lane.connected.asking();
        }
        Ok(lane)
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
            self.known_large.get_or_init(|| Cache::new(MAX_KNOWN)).insert(*id, ());
        } else if let Some(known) = self.known_large.get() {
            known.remove(id);
        }
    }

    /// Closes all connections. Calls fail from now on.
    pub(super) fn close(&self) {
        self.commands.close();
        self.large_records.close();
    }
}
