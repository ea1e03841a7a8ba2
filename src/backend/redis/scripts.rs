//! Lua scripts for operations that must be atomic on the server.
//!
//! Redis does not roll a script back when one of its commands fails. So a script that changes a
//! record first compares, then announces, then writes. If the announcement is refused, nothing is
//! written. If the write fails after the announcement, the nodes have a cache miss.
//!
//! Scripts count as writes, even those that only read (`#!lua` without `no-writes`). A server that
//! is not a writable master refuses the whole script, so a demoted master cannot answer from
//! outdated data. Two scripts are the exception: those for a server that refuses writes because it
//! cannot save its data. They have no `#!lua` line, and ask for the server's role instead. A server
//! without free memory refuses an update before it is announced, and carries out the other scripts
//! (`allow-oom`): a logout needs no memory.
//!
//! A script touches no key that it is not given, and each has a key, but for the heartbeat of a
//! master that has no slots. Clustered and managed servers refuse others.
//!
//! Lua counts from 1 and `GETRANGE` from 0. The offsets are those of `Stored::to_bytes`.

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, cmd};

#[cfg(feature = "_guards")]
use crate::guards::{self, Guard};

/// Key: the record. Arguments: expected revision, new revision, value, time to live, channel,
/// message. Returns 1 if saved, 0 if gone, else the record that is there.
const UPDATE: &str = r"#!lua
local revision = redis.call('GETRANGE', KEYS[1], 2, 17)
if revision == '' then return 0 end
if revision == ARGV[2] then return 1 end
if revision ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('PUBLISH', ARGV[5], ARGV[6])
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
";

/// Writes before it announces, for the test that shows why the order matters.
#[cfg(feature = "_guards")]
const UPDATE_IN_THE_WRONG_ORDER: &str = r"#!lua
if redis.call('GETRANGE', KEYS[1], 2, 17) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
";

/// Key: the record. Arguments: channel, message.
/// Returns 1 if deleted, 0 if gone, else the id to which the session has moved.
const DELETE: &str = r"#!lua flags=allow-oom
local kind = redis.call('GETRANGE', KEYS[1], 1, 1)
redis.call('PUBLISH', ARGV[1], ARGV[2])
if kind == '\1' then return redis.call('GETRANGE', KEYS[1], 67, -1) end
return redis.call('DEL', KEYS[1])
";

/// Key: the record. Arguments: revision, channel, message.
/// Returns 1 if deleted, 0 if gone, else the record that is there.
const DELETE_IF: &str = r"#!lua flags=allow-oom
local revision = redis.call('GETRANGE', KEYS[1], 2, 17)
if revision ~= '' and revision ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return redis.call('DEL', KEYS[1])
";

/// Key: the record. Arguments: deadline and time of use in 8 bytes each, time to live.
/// Returns 1 if the record now lives at least that long or has a deadline of its own, 0 if gone.
/// Compares deadlines as numbers: Lua compares strings by the server's locale.
const TOUCH: &str = r"#!lua flags=allow-oom
local head = redis.call('GETRANGE', KEYS[1], 1, 66)
if head:byte(1) ~= 0 then return 0 end
if head:byte(66) == 2 then return 1 end
local is_later = struct.unpack('>I8', ARGV[1]) > struct.unpack('>I8', head, 26)
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'GT')
if is_later then
  redis.call('SETRANGE', KEYS[1], 26, ARGV[1] .. ARGV[2])
else
  redis.call('SETRANGE', KEYS[1], 34, ARGV[2])
end
return 1
";

/// Keys: those on one page of a scan. Arguments: channel, message. Returns the number of deleted
/// sessions, and the ids that the deleted tombstones have named. A key of another type belongs to
/// another application and stays. One that is gone meanwhile counts as nothing.
const CLEAR: &str = r"#!lua flags=allow-oom
local kinds, sessions, moved = {}, 0, {}
for _, key in ipairs(KEYS) do
  local kind = redis.pcall('GETRANGE', key, 1, 1)
  if type(kind) == 'string' then
    kinds[key] = kind
  elseif not string.find(kind.err, 'WRONGTYPE') then
    error(kind)
  end
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
for key, kind in pairs(kinds) do
  if kind == '\1' then moved[#moved + 1] = redis.call('GETRANGE', key, 67, -1) end
  if redis.call('UNLINK', key) == 1 and kind ~= '\1' then sessions = sessions + 1 end
end
return {sessions, moved}
";

/// Keys: those on one page of a scan. Returns for each of them 1 if there is a session, 0 if it is
/// gone meanwhile, and the id that it names if it is a tombstone. A key of another type counts as
/// that of a session: the error is reported when the session is read.
const KINDS: &str = r"#!lua flags=allow-oom
local kinds = {}
for i, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, 1)
  if type(head) ~= 'string' then
    if not string.find(head.err, 'WRONGTYPE') then error(head) end
    kinds[i] = 1
  elseif head == '' then
    kinds[i] = 0
  elseif string.sub(head, 2) == '\1' then
    kinds[i] = redis.call('GETRANGE', key, 67, -1)
  else
    kinds[i] = 1
  end
end
return kinds
";

/// Key: the owner's index. Arguments: id, time at which the entry expires. Also removes up to a
/// thousand expired entries, so that no call blocks the server for long; the key expires with its
/// last entry. Uses the server's clock, so that a node whose
/// clock is fast removes nothing too early. It runs even without free memory, of which it needs
/// little: a session with an owner must be extended like any other.
const ADD_TO_OWNER: &str = r"#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)
if #expired > 0 then redis.call('ZREM', KEYS[1], unpack(expired)) end
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
if redis.call('PEXPIREAT', KEYS[1], ARGV[2], 'GT') == 0 then
  redis.call('PEXPIREAT', KEYS[1], ARGV[2], 'NX')
end
return redis.status_reply('OK')
";

/// Key: the owner's index. Arguments: id, time to live. Only shortens the life of an entry.
const EXPIRE_IN_OWNER: &str = r"#!lua flags=allow-oom
local time = redis.call('TIME')
local expiry = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
redis.call('ZADD', KEYS[1], 'XX', 'LT', expiry, ARGV[1])
return redis.status_reply('OK')
";

/// Key: the owner's index. Arguments: cursor, count. Returns the next cursor, and the ids of the
/// entries that have not expired.
const SESSIONS_OF_OWNER: &str = r"#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local page = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local ids = {}
for i = 1, #page[2], 2 do
  if tonumber(page[2][i + 1]) > now then ids[#ids + 1] = page[2][i] end
end
return {page[1], ids}
";

/// Key: any with the prefix, which is left alone: some servers refuse a script without a key.
/// Arguments: channel, message.
const PUBLISH: &str = r"#!lua flags=allow-oom
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.status_reply('OK')
";

/// Key: the subscription's, or none on a master of a cluster that has no slots. Arguments: time to
/// live, channel, number of the heartbeat, and the command that publishes on the channel.
///
/// Publishes the number, the server's replication id, its time in microseconds, and what the key
/// held before and holds now. The id changes whenever the server becomes a master, takes over
/// another server's data, or begins its own history. The key shows if the data was flushed.
///
/// Some servers refuse `INFO` in scripts. There, the id is `-`, and the time is that of `TIME`, or
/// empty if that is refused, too.
const HEARTBEAT: &str = r"#!lua flags=allow-oom
local before, after = '0', '0'
if KEYS[1] then
  before, after = redis.call('GET', KEYS[1]) or '0', ARGV[3]
  redis.call('SET', KEYS[1], after, 'PX', ARGV[1])
end
local info = redis.pcall('INFO', 'server', 'replication')
if type(info) ~= 'string' then info = '' end
local history = string.match(info, 'master_replid:(%x+)') or '-'
local micros = string.match(info, 'server_time_usec:(%d+)')
if not micros then
  local time = redis.pcall('TIME')
  micros = time[2] and time[1] .. string.format('%06d', time[2]) or ''
end
local message = table.concat({ARGV[3], history, micros, before, after}, ' ')
if ARGV[4] == 'SPUBLISH' then
  redis.call('SPUBLISH', ARGV[2], message)
else
  redis.call('PUBLISH', ARGV[2], message)
end
return redis.status_reply('OK')
";

/// Like [`HEARTBEAT`], for a server that refuses writes because it cannot save its data. Nothing
/// can change there, so that it says it is a master, and of which history, is proof enough. It is
/// also the only proof, so a server that refuses `INFO` in scripts gives none.
///
/// It has no `#!lua` line: the server would take it for a write.
const HEARTBEAT_WITHOUT_WRITING: &str = r"
local info = redis.call('INFO', 'server', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY the server is not a master')
end
local history = string.match(info, 'master_replid:(%x+)')
local time = string.match(info, 'server_time_usec:(%d+)')
if not history then return redis.error_reply('ERR the server reports no replication id') end
local before = KEYS[1] and redis.call('GET', KEYS[1]) or '0'
local state = before .. ' ' .. before
local message = ARGV[3] .. ' ' .. history .. ' ' .. (time or '') .. ' ' .. state
if ARGV[4] == 'SPUBLISH' then
  redis.call('SPUBLISH', ARGV[2], message)
else
  redis.call('PUBLISH', ARGV[2], message)
end
return redis.status_reply('OK')
";

/// Key: the record. Returns it. For a server that refuses `GETEX` because it cannot save its data.
///
/// It has no `#!lua` line: the server would take it for a write.
const LOAD_WITHOUT_WRITING: &str = r"
if not string.find(redis.call('INFO', 'replication'), 'role:master', 1, true) then
  return redis.error_reply('READONLY the server is not a master')
end
return redis.call('GET', KEYS[1])
";

/// Number of arguments of the command that runs a script, at most.
const MAX_ARGUMENTS: usize = 10;
/// Size in bytes of these arguments without a record, if they are as long as usual.
const OTHER_ARGUMENTS: usize = 512;

/// A script and the digest under which the server caches it.
pub(super) struct Script {
    code: &'static str,
    sha: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Script { code, sha: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Returns a command that runs the script if the server has it in its cache.
    ///
    /// `record` is the size in bytes of the record among the arguments, if there is one.
    pub(super) fn by_digest(&self, record: usize, add_arguments: impl FnOnce(&mut Cmd)) -> Cmd {
        // Room for all arguments from the start: a command that grows is copied several times.
        let mut command = Cmd::with_capacity(MAX_ARGUMENTS, record + OTHER_ARGUMENTS);
        command.arg("EVALSHA").arg(&self.sha);
        add_arguments(&mut command);
        command
    }

    /// Returns a command that runs the script and puts it into the server's cache.
    pub(super) fn by_code(&self, add_arguments: impl FnOnce(&mut Cmd)) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(self.code);
        add_arguments(&mut command);
        command
    }

    /// Adds the name of the command at which the script has failed, which Redis 7.0 leaves out.
    pub(super) fn name_the_command(&self, error: RedisError) -> RedisError {
        match (error.code(), error.detail().and_then(|detail| self.command_at(detail))) {
            (Some("ERR"), Some(command)) => {
                let detail = format!("{command}: {}", error.detail().unwrap_or_default());
                (error.kind(), "An error was signalled by the server", detail).into()
            }
            _ => error,
        }
    }

    /// Returns the last command at or before the line that the text of an error ends with.
    fn command_at(&self, detail: &str) -> Option<&'static str> {
        let (_, line) = detail.rsplit_once("@user_script:")?;
        let line: usize = line.trim_end_matches('.').parse().ok()?;
        let lines: Vec<_> = self.code.lines().take(line).collect();
        lines.iter().rev().find_map(|line| line.split_once("call('")?.1.split('\'').next())
    }
}

/// Returns `true` if the server does not have the script in its cache. It has done nothing.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// All scripts of the backend.
pub(super) struct Scripts {
    pub(super) update: Script,
    pub(super) delete: Script,
    pub(super) delete_if: Script,
    pub(super) touch: Script,
    pub(super) clear: Script,
    pub(super) kinds: Script,
    pub(super) add_to_owner: Script,
    pub(super) expire_in_owner: Script,
    pub(super) sessions_of_owner: Script,
    pub(super) publish: Script,
    pub(super) heartbeat: Script,
    pub(super) heartbeat_without_writing: Script,
    pub(super) load_without_writing: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            update: Script::new(update()),
            delete: Script::new(DELETE),
            delete_if: Script::new(DELETE_IF),
            touch: Script::new(TOUCH),
            clear: Script::new(CLEAR),
            kinds: Script::new(KINDS),
            add_to_owner: Script::new(ADD_TO_OWNER),
            expire_in_owner: Script::new(EXPIRE_IN_OWNER),
            sessions_of_owner: Script::new(SESSIONS_OF_OWNER),
            publish: Script::new(PUBLISH),
            heartbeat: Script::new(HEARTBEAT),
            heartbeat_without_writing: Script::new(HEARTBEAT_WITHOUT_WRITING),
            load_without_writing: Script::new(LOAD_WITHOUT_WRITING),
        }
    }
}

fn update() -> &'static str {
    #[cfg(feature = "_guards")]
    if !guards::enabled(Guard::Order) {
        return UPDATE_IN_THE_WRONG_ORDER;
    }
    UPDATE
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn named(script: &'static str, line: &str) -> RedisError {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Script::new(script).name_the_command(Value::extract_error(reply).unwrap_err())
    }

    #[test]
    fn an_error_in_a_script_names_the_command_that_has_failed() {
        let refused = "ERR The user executing the script can't run this command or subcommand";
        for (script, line, command) in [
            (DELETE, 2, "GETRANGE"),
            (DELETE, 3, "PUBLISH"),
            (DELETE, 4, "GETRANGE"),
            (DELETE, 5, "DEL"),
            // The line that raises the error of the line before.
            (KINDS, 6, "GETRANGE"),
        ] {
            let error = named(script, &format!("{refused} script: abc, on @user_script:{line}."));
            let detail = error.detail().unwrap();
            assert!(detail.starts_with(&format!("{command}: The user")), "{line}: {detail}");
            assert_eq!(error.code(), Some("ERR"));
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        for line in [
            "ERR unknown command 'EVALSHA'",
            "NOSCRIPT No matching script.",
            "READONLY You can't write against a read only replica. on @user_script:2.",
            "ERR script: abc, on @user_script:1.",
        ] {
            let error = named(DELETE, line);
            let (code, detail) = line.split_once(' ').unwrap();
            assert_eq!((error.code(), error.detail()), (Some(code), Some(detail)));
        }
    }
}
