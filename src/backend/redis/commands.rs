//! Commands that need no script, and keys that are no session's.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};

/// Sends a command whose reply says no more than that it was carried out.
pub(super) async fn run(commands: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<()> {
    commands.send_packed_command(command).await.and_then(Value::extract_error).map(drop)
}

/// Sends commands with nothing between them, although others use the connection, too. Returns this
/// number of replies, or the first that is an error.
///
/// The client's own way hides which error it was.
pub(super) async fn run_together(
    commands: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    replies: usize,
) -> RedisResult<Vec<Value>> {
    let replies = commands.send_packed_commands(pipeline, 0, replies).await?;
    replies.into_iter().map(Value::extract_error).collect()
}

/// Returns a command that reads a key like `GET` but counts as a write, because it could also set
/// the time to live. So a replica refuses it, and a demoted master cannot answer from outdated
/// data.
pub(super) fn get_from_master(key: &str) -> Cmd {
    const NAME: &str = "GETEX";
    let mut command = Cmd::with_capacity(2, NAME.len() + key.len());
    command.arg(NAME).arg(key);
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
