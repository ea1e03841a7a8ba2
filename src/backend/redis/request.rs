//! What is asked of the server that has a key.

use redis::{Cmd, FromRedisValue, RedisResult, Value};

use super::endpoint::ServerId;
use super::error::Effect;
use super::scripts::Script;
use crate::error::StoreError;
use crate::id::SessionId;

/// A command or a script that concerns one key.
pub(super) struct Request<'a> {
    pub(super) key: &'a str,
    pub(super) effect: Effect,
    pub(super) work: Work<'a>,
    /// The session whose record is written, and its size in bytes, if it may be large.
    pub(super) record: Option<(&'a SessionId, usize)>,
}

/// What a server is asked to do.
pub(super) enum Work<'a> {
    Command(&'a Cmd),
    Script(&'a Script, &'a Arguments<'a>),
    /// The record of a session is read, unless too many others are being read. The script is for a
    /// server that refuses writes.
    Load(&'a SessionId, &'a Script),
}

/// Why a request is sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// The server has the key.
    Owner,
    /// The server that has the key's slot has answered `ASK`: this one is importing the slot, and
    /// has the key already.
    Asking,
}

/// Adds keys and arguments to a script.
pub(super) type Arguments<'a> = dyn Fn(&mut Cmd) + Send + Sync + 'a;

/// The reply of a server.
pub(super) struct ServerReply {
    /// The value, or the error that the server has replied with.
    pub(super) result: RedisResult<Value>,
    /// The server.
    pub(super) server: ServerId,
    effect: Effect,
}

impl<'a> Request<'a> {
    /// Creates a request for a command.
    pub(super) fn command(key: &'a str, command: &'a Cmd, effect: Effect) -> Self {
        Request { key, effect, work: Work::Command(command), record: None }
    }

    /// Creates a request for a script.
    pub(super) fn script(
        key: &'a str,
        script: &'a Script,
        arguments: &'a Arguments<'a>,
        effect: Effect,
    ) -> Self {
        Request { key, effect, work: Work::Script(script, arguments), record: None }
    }

    /// Creates a request that reads a session's record.
    pub(super) fn load(key: &'a str, id: &'a SessionId, without_writing: &'a Script) -> Self {
        let work = Work::Load(id, without_writing);
        Request { key, effect: Effect::Idempotent, work, record: None }
    }

    /// Says that the request writes a session's record of this size.
    pub(super) fn with_record(mut self, id: &'a SessionId, size: usize) -> Self {
        self.record = Some((id, size));
        self
    }

    /// Returns the reply to this request.
    pub(super) fn replied(&self, result: RedisResult<Value>, server: ServerId) -> ServerReply {
        ServerReply { result, server, effect: self.effect }
    }
}

impl ServerReply {
    /// Returns the value.
    pub(super) fn interpret<R: FromRedisValue>(self) -> Result<R, StoreError> {
        self.effect.interpret(self.result)
    }
}
