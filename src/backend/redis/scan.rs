//! Pages of a scan over all sessions.
//!
//! A page is a plain `SCAN`, since some servers refuse `SCAN` in a script, and keys that a script
//! was not given. What the keys hold is read by a script that is given them, in a second step. A
//! record that is replaced by its tombstone in between is found as a tombstone.

use std::slice;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, cmd};

use super::RedisInner;
use super::connection::Connected;
use super::error::{Effect, is_about_slots};
use super::scripts::Script;
use crate::backend::Cursor;
use crate::error::StoreError;
use crate::id::SessionId;

/// Number of keys that the server examines for one page of a scan.
pub(super) const PAGE: u32 = 256;

/// A scan continues only on the server on which it began: for another one, the cursor has another
/// meaning.
impl Connected {
    /// Returns the server's cursor, or `None` if the scan began on another server.
    pub(super) fn position(&self, cursor: Option<&Cursor>) -> Option<u64> {
        let Some(cursor) = cursor else { return Some(0) };
        let (server, position) = cursor.as_str().split_once(':')?;
        if self.server().is(server) { position.parse().ok() } else { None }
    }

    pub(super) fn cursor(&self, next: u64) -> Option<Cursor> {
        (next != 0).then(|| Cursor::new(format!("{}:{next}", self.server())))
    }
}

impl RedisInner {
    /// Returns the session ids that are the rest of a key on one page, and the server's next
    /// cursor. A value under such a key may be anything, and may have gone.
    pub(super) async fn page(
        &self,
        connected: &Connected,
        position: u64,
    ) -> Result<(Vec<SessionId>, u64), StoreError> {
        let pattern = format!("{}*", self.key_prefix);
        let mut command = cmd("SCAN");
        command.arg(position).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE);
        let commands = self.lanes.commands();
        let (next, keys): (u64, Vec<Bytes>) =
            commands.run_on_master(connected, &command, Effect::Idempotent).await?;
        Ok((keys.iter().filter_map(|key| self.parse_key(key)).collect(), next))
    }

    /// Runs a script with the keys of these sessions, or with each key alone if the server takes no
    /// keys of several slots together. Returns the replies: none without ids, one, or one for each
    /// id.
    ///
    /// `add_arguments` adds what follows the keys.
    pub(super) async fn run_for<R: FromRedisValue>(
        &self,
        ids: &[SessionId],
        connected: &Connected,
        script: &Script,
        effect: Effect,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<Vec<R>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let add_arguments = &add_arguments;
        let run = async |ids: &[SessionId]| {
            let with_keys = |command: &mut Cmd| {
                let keys: Vec<_> = ids.iter().map(|id| self.key(id)).collect();
                command.arg(keys.len()).arg(keys);
                add_arguments(command);
            };
            self.lanes.commands().send_script(connected, script, effect, with_keys).await
        };
        let reply = run(ids).await?;
        if ids.len() > 1 && reply.as_ref().is_err_and(is_about_slots) {
            let each = ids.iter().map(async |id| effect.interpret(run(slice::from_ref(id)).await?));
            return try_join_all(each).await;
        }
        Ok(vec![effect.interpret(reply)?])
    }

    fn parse_key(&self, key: &[u8]) -> Option<SessionId> {
        std::str::from_utf8(key.strip_prefix(self.key_prefix.as_bytes())?).ok()?.parse().ok()
    }
}
