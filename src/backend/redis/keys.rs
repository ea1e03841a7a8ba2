//! Pages of a walk over keys, or over the members of one.
//!
//! A walk continues only on the server on which it began: for another one, its cursor has another
//! meaning.

use bytes::Bytes;
use redis::{Cmd, cmd};

use super::endpoint::ServerId;
use crate::backend::Cursor;

/// Number of keys, or of members, that a server examines for one page.
pub(super) const PAGE: u32 = 256;

/// A page of keys.
pub(super) struct Keys {
    pub(super) keys: Vec<Bytes>,
    pub(super) next: Option<Cursor>,
    /// `true` if the walk starts again with this page, because keys may have moved to a server that
    /// it had left already.
    pub(super) again: bool,
}

/// Returns a command that reads the page of keys with a prefix at a server's cursor. The prefix has
/// no special characters.
pub(super) fn scan(prefix: &str, position: u64) -> Cmd {
    let mut command = cmd("SCAN");
    command.arg(position).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(PAGE);
    command
}

/// The position of a walk on one server.
#[derive(Default)]
pub(super) struct Position<'a> {
    /// The text of the server's identity, or `None` at the beginning.
    server: Option<&'a str>,
    /// The server's own cursor.
    pub(super) cursor: u64,
}

impl<'a> Position<'a> {
    /// Returns the position that a cursor stands for, or `None` if it is none of ours.
    pub(super) fn of(cursor: Option<&'a Cursor>) -> Option<Self> {
        let Some(cursor) = cursor else { return Some(Position::default()) };
        let (server, position) = cursor.as_str().split_once(':')?;
        Some(Position { server: Some(server), cursor: position.parse().ok()? })
    }

    /// Returns `true` if the walk may continue on this server.
    pub(super) fn is_on(&self, server: &ServerId) -> bool {
        self.server.is_none_or(|text| server.is(text))
    }
}

/// Returns the cursor of the next page on a server, or `None` at the end.
pub(super) fn next_cursor(server: &ServerId, position: u64) -> Option<Cursor> {
    (position != 0).then(|| Cursor::new(format!("{server}:{position}")))
}
