//! Reads values. Only so many reads are in flight at once.

use redis::{Cmd, RedisResult, Value};
use tokio::time::Instant;

use super::super::commands::get_from_master;
use super::super::error::{Effect, cannot_save};
use super::super::loads::SentLoad;
use super::super::scripts::{Script, is_unknown_script};
use super::{Connected, SharedConnection};
use crate::error::StoreError;
use crate::timeout::timeout_at;

impl SharedConnection {
    /// Reads a value, by a script if the server refuses writes and takes the usual command for one.
    ///
    /// Fails if too many loads are in flight.
    pub(super) async fn send_load(
        &self,
        connected: &Connected,
        key: &str,
        script: &Script,
    ) -> Result<RedisResult<Value>, StoreError> {
        let reply = self.send_limited(connected, get_from_master(key)).await?;
        if !reply.as_ref().is_err_and(cannot_save) {
            return Ok(reply);
        }
        // Boxed, because it is rare: otherwise the future of each load would be as large.
        Box::pin(self.load_by_script(connected, key, script)).await
    }

    async fn load_by_script(
        &self,
        connected: &Connected,
        key: &str,
        script: &Script,
    ) -> Result<RedisResult<Value>, StoreError> {
        let key = |command: &mut Cmd| {
            command.arg(1).arg(key);
        };
        let mut reply = self.send_limited(connected, script.by_digest(0, key)).await?;
        if reply.as_ref().is_err_and(is_unknown_script) {
            reply = self.send_limited(connected, script.by_code(key)).await?;
        }
        Ok(reply)
    }

    /// Sends a command like [`send`](Self::send), unless too many loads are in flight.
    async fn send_limited(
        &self,
        connected: &Connected,
        command: Cmd,
    ) -> Result<RedisResult<Value>, StoreError> {
        let now = Instant::now();
        let load = self.loads.begin(now)?;
        let received_before = connected.link.wire.received.get();
        let mut sent = SentLoad::new(connected.sender().send(command), load);
        match timeout_at(now + self.response_timeout, &mut sent).await {
            Ok(reply) => Ok(self.replied(connected, reply)),
            Err(elapsed) => {
                sent.is_late();
                self.has_not_replied(connected, received_before);
                Err(Effect::Idempotent.unanswered(elapsed, true))
            }
        }
    }
}
