//! Pages of a scan over all sessions.
//!
//! A page is a plain `SCAN`, since some servers refuse `SCAN` in a script, and keys that a script
//! was not given. What the keys hold is read by a script that is given them, in a second step. A
//! record that is replaced by its tombstone in between is found as a tombstone.

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue};

use super::RedisInner;
use super::error::{Effect, is_about_slots};
use super::request::{Arguments, Request};
use super::script_reply::{ScriptReply, parse_id};
use super::scripts::Script;
use crate::backend::{Cursor, Page};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;

/// Maximum number of times that `clear` starts, including the first.
const MAX_STARTS: u32 = 8;

/// The session ids on a page.
struct IdPage {
    ids: Vec<SessionId>,
    next: Option<Cursor>,
    /// `true` if the scan starts again with this page.
    again: bool,
}

impl RedisInner {
    /// Deletes all records. Returns the number of sessions among them, and `true` if the
    /// announcement was made. It is made in each step that deletes.
    ///
    /// What a tombstone names is deleted with it: a session that is regenerated meanwhile may have
    /// moved to where the scan has been already.
    pub(super) async fn clear(&self, announcement: &[u8]) -> Result<(u64, bool), StoreError> {
        let arguments = |command: &mut Cmd| {
            command.arg(&self.channel).arg(announcement);
        };
        let (mut cursor, mut starts, mut deleted, mut announced) = (None, 1, 0, false);
        loop {
            let Some(page) = self.page(cursor.as_ref()).await? else {
                if starts == MAX_STARTS {
                    return Err(StoreError::from(StoreErrorKind::Unavailable)
                        .with_source("the servers changed too often during the scan"));
                }
                (cursor, starts) = (None, starts + 1);
                continue;
            };
            let mut ids = page.ids;
            while !ids.is_empty() {
                let script = &self.scripts.clear;
                let replies: Vec<(u64, Vec<Bytes>)> =
                    self.run_for(&ids, script, Effect::Mutating, &arguments).await?;
                announced = true;
                ids.clear();
                for (sessions, moved) in replies {
                    deleted += sessions;
                    ids.extend(moved.iter().filter_map(|id| parse_id(id)));
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok((deleted, announced));
            }
        }
    }

    /// Returns one page of the ids of all records.
    pub(super) async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        let Some(page) = self.page(cursor).await? else { return Ok(Page::Restart) };
        let kinds: Vec<Vec<ScriptReply>> =
            self.run_for(&page.ids, &self.scripts.kinds, Effect::Idempotent, &|_| ()).await?;
        let (mut ids, mut moved) = (Vec::new(), Vec::new());
        for (id, kind) in page.ids.into_iter().zip(kinds.into_iter().flatten()) {
            match kind {
                ScriptReply::Yes => ids.push(id),
                ScriptReply::No => {}
                ScriptReply::Found(target) => moved.extend(parse_id(&target)),
            }
        }
        Ok(Page::Ids { ids, moved, next: page.next, again: page.again })
    }

    /// Returns the session ids that are the rest of a key on one page. A value under such a key may
    /// be anything, and may have gone. Returns `None` if the cursor is no longer valid.
    async fn page(&self, cursor: Option<&Cursor>) -> Result<Option<IdPage>, StoreError> {
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
    async fn run_for<R: FromRedisValue>(
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
