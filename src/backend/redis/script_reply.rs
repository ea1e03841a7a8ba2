//! The replies of scripts.

use bytes::Bytes;
use redis::{FromRedisValue, Value, from_redis_value};

use crate::id::SessionId;

/// A reply of a script: 1, 0 or the value that it found.
pub(super) enum ScriptReply {
    Yes,
    No,
    Found(Bytes),
}

impl FromRedisValue for ScriptReply {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        match value {
            Value::Int(1) => Ok(ScriptReply::Yes),
            Value::Int(0) => Ok(ScriptReply::No),
            other => from_redis_value::<Bytes>(other).map(ScriptReply::Found),
        }
    }
}

/// Returns the id in the content of a tombstone.
pub(super) fn parse_id(content: &[u8]) -> Option<SessionId> {
    content.try_into().ok().map(SessionId::from_bytes)
}
