//! The connection to one sentinel.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Pipeline, PushInfo, PushKind, pipe};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::config::RedisAddress;
use super::super::dialer::{Dialer, Mode, Wire, before};
use super::super::error::unreachable;
use super::report::Report;
use crate::error::{StoreError, StoreErrorKind};

/// The channels on which a sentinel announces a failover: that a replica has been promoted, which
/// only the sentinel that does it tells, and that all clients should follow.
const CHANNELS: [&str; 2] = ["+promoted-slave", "+switch-master"];

/// Asks one sentinel, over a connection that stays open.
pub(super) struct SentinelClient {
    service: String,
    address: RedisAddress,
    dialer: Dialer,
    announced: Arc<Notify>,
    /// Makes sure that one question is asked at a time, over one connection.
    turn: tokio::sync::Mutex<()>,
    /// The connection, while nobody asks over it.
    idle: Mutex<Option<Wire>>,
}

impl SentinelClient {
    pub(super) fn new(
        service: String,
        address: RedisAddress,
        dialer: Dialer,
        announced: Arc<Notify>,
    ) -> Self {
        let (turn, idle) = (tokio::sync::Mutex::default(), Mutex::default());
        SentinelClient { service, address, dialer, announced, turn, idle }
    }

    /// Asks for the master of the service. A connection on which the sentinel does not answer
    /// before the deadline is not used again.
    pub(super) async fn ask(&self, deadline: Instant) -> Result<Report, StoreError> {
        before(deadline, self.ask_by(deadline)).await
    }

    async fn ask_by(&self, deadline: Instant) -> Result<Report, StoreError> {
        let _turn = self.turn.lock().await;
        let idle = self.idle().take().filter(|wire| !wire.is_closed());
        let mut wire = match idle {
            Some(wire) => wire,
            None => self.connect(deadline).await?,
        };
        let (fields, address): (HashMap<String, String>, Option<(String, String)>) =
            self.questions().query_async(&mut wire.commands).await.map_err(unreachable)?;
        *self.idle() = Some(wire);
        Report::parse(&fields, address.as_ref()).ok_or_else(|| {
            StoreError::from(StoreErrorKind::Refused).with_source("the sentinel names no master")
        })
    }

    /// Returns the commands to which [`Report::parse`] reads the replies. The epoch is asked for
    /// first, so that it is never later than the address.
    fn questions(&self) -> Pipeline {
        let mut pipeline = pipe();
        pipeline.cmd("SENTINEL").arg("MASTER").arg(&self.service);
        pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        pipeline
    }

    /// Connects and listens for failovers. A sentinel that refuses to be listened to is only asked.
    async fn connect(&self, deadline: Instant) -> Result<Wire, StoreError> {
        let announced = self.announced.clone();
        let mode = Mode::with_messages(move |push: PushInfo| {
            // Of this service or another one: the sentinels are asked anyway.
            if push.kind == PushKind::Message {
                announced.notify_one();
            }
            Ok::<(), Infallible>(())
        });
        let wire = self.dialer.dial(&self.address, mode, deadline).await?;
        let _ = wire.commands.clone().subscribe(&CHANNELS).await;
        Ok(wire)
    }

    pub(super) fn close(&self) {
        *self.idle() = None;
    }

    fn idle(&self) -> MutexGuard<'_, Option<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
