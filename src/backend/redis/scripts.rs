//! What must be one step runs as a script on the server.
//!
//! A script is not rolled back when one of its commands fails. So each compares first, then announces, then writes: an
//! announcement that is refused leaves nothing written unannounced, and one that is followed by a failing write costs the nodes
//! a cache miss.
//!
//! All count as writes, even those that only look (`#!lua` without `no-writes`): a server that is no writable master refuses the whole
//! script, so a demoted one says neither what is gone nor what is there. One that has no memory left refuses an update before it is
//! announced, and carries out the rest (`allow-oom`): a logout needs no room.
//!
//! Lua counts from 1 and `GETRANGE` from 0; the offsets are those of `envelope.rs`.

use deadpool_redis::redis;

#[cfg(feature = "_guards")]
use crate::guards::{self, Guard};

/// A script and the digest by which the server knows it.
pub(super) struct Script {
    pub(super) code: &'static str,
    pub(super) sha: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Script { code, sha: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// All of them.
pub(super) struct Scripts {
    pub(super) update: Script,
    pub(super) delete: Script,
    pub(super) delete_if: Script,
    pub(super) touch: Script,
    pub(super) clear: Script,
    pub(super) scan: Script,
    pub(super) index: Script,
    pub(super) indexed: Script,
    pub(super) publish: Script,
    pub(super) beat: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            update: Script::new(update()),
            delete: Script::new(DELETE),
            delete_if: Script::new(DELETE_IF),
            touch: Script::new(TOUCH),
            clear: Script::new(CLEAR),
            scan: Script::new(SCAN),
            index: Script::new(INDEX),
            indexed: Script::new(INDEXED),
            publish: Script::new(PUBLISH),
            beat: Script::new(BEAT),
        }
    }
}

/// Key; expected revision, new revision, value, time to live, channel, message. 1: saved; 0: gone; a string: the other version.
const UPDATE: &str = r"#!lua
local revision = redis.call('GETRANGE', KEYS[1], 2, 17)
if revision == '' then return 0 end
if revision == ARGV[2] then return 1 end
if revision ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('PUBLISH', ARGV[5], ARGV[6])
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
";

fn update() -> &'static str {
    #[cfg(feature = "_guards")]
    if !guards::enabled(Guard::Order) {
        return UPDATE_IN_THE_WRONG_ORDER;
    }
    UPDATE
}

/// For the test that shows what the right order is good for.
#[cfg(feature = "_guards")]
const UPDATE_IN_THE_WRONG_ORDER: &str = r"#!lua
if redis.call('GETRANGE', KEYS[1], 2, 17) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
";

/// Key; channel, message. 1: deleted; 0: gone; a string: the id to which the session has moved.
const DELETE: &str = r"#!lua flags=allow-oom
local kind = redis.call('GETRANGE', KEYS[1], 1, 1)
redis.call('PUBLISH', ARGV[1], ARGV[2])
if kind == '\1' then return redis.call('GETRANGE', KEYS[1], 34, -1) end
return redis.call('DEL', KEYS[1])
";

/// Key; revision, channel, message. 1: deleted; 0: gone; a string: the other version.
const DELETE_IF: &str = r"#!lua flags=allow-oom
local revision = redis.call('GETRANGE', KEYS[1], 2, 17)
if revision ~= '' and revision ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return redis.call('DEL', KEYS[1])
";

/// Key; deadline in 8 bytes, time to live. 1: extended, or it lived longer already; 0: gone.
const TOUCH: &str = r"#!lua flags=allow-oom
local kind = redis.call('GETRANGE', KEYS[1], 1, 1)
if kind ~= '\0' then return 0 end
if redis.call('PEXPIRE', KEYS[1], ARGV[2], 'GT') == 1 then
  redis.call('SETRANGE', KEYS[1], 26, ARGV[1])
end
return 1
";

/// Cursor, pattern, length of a key, count, channel, message. The next cursor and how many sessions were deleted. A
/// key of another type is not ours and stays.
const CLEAR: &str = r"#!lua flags=allow-oom
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[4])
local keys, sessions = {}, 0
for _, key in ipairs(page[2]) do
  local kind = #key == tonumber(ARGV[3]) and redis.pcall('GETRANGE', key, 1, 1)
  if type(kind) == 'string' then
    keys[#keys + 1] = key
    if kind ~= '\1' then sessions = sessions + 1 end
  end
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
for _, key in ipairs(keys) do redis.call('UNLINK', key) end
return {page[1], sessions}
";

/// Cursor, pattern, length of a key, count. The next cursor, the keys of sessions, and the ids that tombstones name. A key of
/// another type counts as a session's: it is reported when it is read.
const SCAN: &str = r"#!lua flags=allow-oom
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[4])
local keys, moved = {}, {}
for _, key in ipairs(page[2]) do
  if #key == tonumber(ARGV[3]) then
    if redis.pcall('GETRANGE', key, 1, 1) == '\1' then
      moved[#moved + 1] = redis.call('GETRANGE', key, 34, -1)
    else
      keys[#keys + 1] = key
    end
  end
end
return {page[1], keys, moved}
";

/// Key; id, until when the entry lasts. Entries whose time is over go on the occasion; with the last one goes the key. By the server's
/// clock, so that a node whose clock is fast takes away nothing. It is carried out though there is no room, of which it takes little: a
/// session that has an owner must be extended like any other.
const INDEX: &str = r"#!lua flags=allow-oom
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
if redis.call('PEXPIREAT', KEYS[1], ARGV[2], 'GT') == 0 then
  redis.call('PEXPIREAT', KEYS[1], ARGV[2], 'NX')
end
return redis.status_reply('OK')
";

/// Key; cursor, count. The next cursor and the ids.
const INDEXED: &str = r"#!lua flags=allow-oom
local page = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
return {page[1], ids}
";

/// Channel, message.
const PUBLISH: &str = r"#!lua flags=allow-oom
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.status_reply('OK')
";

/// Key; time to live, channel, number of the beat. Publishes the number and the server's replication id, which changes whenever the
/// server becomes a master, has taken over another's data, or begins a history of its own.
const BEAT: &str = r"#!lua flags=allow-oom
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not history then return redis.error_reply('ERR the server does not tell its replication id') end
redis.call('PUBLISH', ARGV[2], ARGV[3] .. ' ' .. history)
return redis.status_reply('OK')
";
