//! Pages of a scan over all sessions.
//!
//! A page is a plain `SCAN`, since some servers refuse `SCAN` in a script, and keys that a script
//! was not given. What the keys hold is read by a script that is given them, in a second step. A
//! record that is replaced by its tombstone in between is found as a tombstone.

use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue};

use super::RedisInner;
use super::error::{Effect, is_about_slots};
use super::request::{Arguments, Request};
use super::scripts::Script;
use crate::backend::Cursor;
use crate::error::StoreError;
use crate::id::SessionId;

/// The session ids on a page.
pub(super) struct IdPage {
    pub(super) ids: Vec<SessionId>,
    pub(super) next: Option<Cursor>,
    /// `true` if the scan begins anew with this page.
    pub(super) again: bool,
}

impl RedisInner {
    /// Returns the session ids that are the rest of a key on one page. A value under such a key may
    /// be anything, and may have gone. Returns `None` if the cursor is no longer valid.
    pub(super) async fn page(&self, cursor: Option<&Cursor>) -> Result<Option<IdPage>, StoreError> {
        let Some(page) = self.topology.keys(&self.key_prefix, cursor).await? else {
            return Ok(None);
        };
        let ids = page.keys.iter().filter_map(|key| self.parse_key(key)).collect();
        Ok(Some(IdPage { ids, next: page.next, again: page.again }))
    }

    /// Runs a script with the keys of these sessions, or with each key alone if the server takes no
    /// keys of several slots together. Returns the replies: none without ids, one, or one for each
    /// id.
    ///
    /// `arguments` adds what follows the keys.
    pub(super) async fn run_for<R: FromRedisValue>(
        &self,
        ids: &[SessionId],
        script: &Script,
        effect: Effect,
        arguments: &Arguments<'_>,
    ) -> Result<Vec<R>, StoreError> {
        let keys: Vec<_> = ids.iter().map(|id| self.key(id)).collect();
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        if !self.topology.has_slots() {
            let with_keys = |command: &mut Cmd| {
                command.arg(keys.len()).arg(&keys);
                arguments(command);
            };
            let request = Request::script(first, script, &with_keys, effect);
            let reply = self.topology.carry_out(&request).await?;
            if keys.len() == 1 || !reply.result.as_ref().is_err_and(is_about_slots) {
                return Ok(vec![reply.interpret()?]);
            }
        }
        try_join_all(keys.iter().map(async |key| {
            let with_key = |command: &mut Cmd| {
                command.arg(1).arg(key);
                arguments(command);
            };
            self.topology.run(&Request::script(key, script, &with_key, effect)).await
        }))
        .await
    }

    fn parse_key(&self, key: &[u8]) -> Option<SessionId> {
        std::str::from_utf8(key.strip_prefix(self.key_prefix.as_bytes())?).ok()?.parse().ok()
    }
}
