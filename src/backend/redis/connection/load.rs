//! Reads values. Only so many reads are in flight at once.

use bytes::Bytes;
use redis::{Cmd, RedisResult, Value};

use super::super::commands::get_from_master;
use super::super::error::{Effect, breaks_the_connection, cannot_save};
use super::super::scripts::{Script, is_unknown_script};
use super::{Connected, SharedConnection};
use crate::error::StoreError;

/// A value to be read.
pub(in super::super) struct Load<'a> {
    pub(in super::super) key: &'a str,
    /// The script for a server that refuses writes.
    pub(in super::super) without_writing: &'a Script,
}

impl SharedConnection {
    /// Reads a value in one round trip, unless too many other loads are in flight.
    ///
    /// If the connection breaks, the value is read over a new one.
    pub(in super::super) async fn load(
        &self,
        load: &Load<'_>,
    ) -> Result<Option<Bytes>, StoreError> {
        let connected = self.connected().await?;
        let mut reply = self.send_load(&connected, load).await?;
        if reply.as_ref().is_err_and(breaks_the_connection) {
            let connected = self.connected().await?;
            reply = self.send_load(&connected, load).await?;
        }
        Effect::Idempotent.interpret(reply)
    }

    /// Reads a value over this connection, unless too many other loads are in flight.
    pub(in super::super) async fn load_on(
        &self,
        connected: &Connected,
        load: &Load<'_>,
    ) -> Result<Option<Bytes>, StoreError> {
        Effect::Idempotent.interpret(self.send_load(connected, load).await?)
    }

    /// Reads a value, by a script if the server refuses writes and takes the usual command for one.
    async fn send_load(
        &self,
        connected: &Connected,
        load: &Load<'_>,
    ) -> Result<RedisResult<Value>, StoreError> {
        let mut reply = self.send_limited(connected, get_from_master(load.key)).await?;
        if reply.as_ref().is_err_and(cannot_save) {
            let key = |command: &mut Cmd| {
                command.arg(1).arg(load.key);
            };
            let script = load.without_writing;
            reply = self.send_limited(connected, script.by_digest(key)).await?;
            if reply.as_ref().is_err_and(is_unknown_script) {
                reply = self.send_limited(connected, script.by_code(key)).await?;
            }
        }
        Ok(reply)
    }

    /// Sends a command like [`send`](Self::send), unless too many loads are in flight.
    async fn send_limited(
        &self,
        connected: &Connected,
        command: Cmd,
    ) -> Result<RedisResult<Value>, StoreError> {
        let load = self.loads.begin()?;
        let received_before = connected.link.wire.received.get();
        let mut commands = connected.link.wire.commands.clone();
        let mut reply = Box::pin(async move { commands.send_packed_command(&command).await });
        match tokio::time::timeout(self.response_timeout, &mut reply).await {
            Ok(reply) => {
                load.ended_with(&reply);
                Ok(self.replied(connected, reply))
            }
            Err(elapsed) => {
                load.is_late();
                // The load is in flight until its reply arrives or the connection ends.
                tokio::spawn(async move {
                    let _ = reply.await;
                    drop(load);
                });
                self.has_not_replied(connected, received_before);
                Err(Effect::Idempotent.unanswered(elapsed, true))
            }
        }
    }
}
