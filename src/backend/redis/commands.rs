//! Commands that need no script, and keys that are no session's.

use redis::{Cmd, cmd};

/// Returns a command that reads a key like `GET` but counts as a write, because it could also set
/// the time to live. So a replica refuses it, and a demoted master cannot answer from outdated
/// data.
pub(super) fn get_from_master(key: &str) -> Cmd {
    let mut command = cmd("GETEX");
    command.arg(key);
    command
}

/// Returns a key with the prefix that is never written, for what needs a key and uses none.
pub(super) fn idle_key(prefix: &str) -> String {
    format!("{prefix}beat")
}

/// Returns the beginning of the key of a subscription's heartbeats.
pub(super) fn beat_key(prefix: &str) -> String {
    format!("{prefix}beat:")
}
