//! Sessions in Redis (7.0 or later): one round trip per operation.

mod cluster;
mod commands;
mod config;
mod connection;
mod connector;
mod credentials;
mod dialer;
mod endpoint;
mod error;
mod findings;
mod gather;
mod heartbeat;
mod inbox;
mod keys;
mod lanes;
mod limiter;
mod loads;
mod merge;
mod own_task;
mod refusal;
mod request;
mod scan;
mod script_reply;
#[cfg(test)]
mod scripted;
mod scripts;
mod sentinel;
mod server_info;
mod subscribe;
mod topology;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, cmd};

#[cfg(feature = "tls")]
pub use self::config::RedisTls;
pub use self::config::{RedisAddress, RedisCluster, RedisConfig, RedisCredentials, RedisSentinels};
use self::error::Effect;
use self::keys::{PAGE, Position, next_cursor};
use self::request::{Arguments, Request};
use self::script_reply::{ScriptReply, parse_id};
use self::scripts::{Script, Scripts};
use self::topology::Topology;
use super::{
    Backend, BackendInfo, Created, Cursor, Deleted, Extension, OwnerTag, Page, Revision, Stored,
    Subscription, Timestamp, Touched, Update, Updated,
};
use crate::clock::{ServerTime, millis};
use crate::error::{ConfigError, StoreError, StoreErrorKind};
use crate::id::{SessionId, TEXT_LEN};

/// Sessions in Redis (7.0 or later).
///
/// [`SessionConfigBuilder::redis`](crate::SessionConfigBuilder::redis) uses it. It is public so
/// that a custom backend can wrap it.
///
/// Each operation is one round trip over one shared connection. Announcements arrive over a second
/// connection, which speaks RESP3. Records of 64 KiB and more have a third, so that they slow only
/// each other. At most 512 reads are in flight, fewer while answers are late; another one fails
/// with [`Overloaded`](StoreErrorKind::Overloaded).
///
/// # Risk
///
/// A store to which it is passed by [`backend`](crate::SessionConfigBuilder::backend) does not know
/// that sessions are in Redis, so it differs from one that is built by
/// [`redis`](crate::SessionConfigBuilder::redis):
///
/// - The default [`realm`](crate::SessionConfigBuilder::realm) is the cookie's name alone. Cookies,
///   records and owners of the one kind of store are not those of the other. Set
///   `realm("{cookie name}@{key prefix}")` for those that share sessions.
/// - [`ClusterConfig::channel`](crate::ClusterConfig::channel) has no effect. Nodes must pass the
///   same `channel` to [`new`](Self::new), such as `{key prefix}invalidate`.
/// - Times are those of each node's own clock, so the clocks of nodes must agree.
/// - Nothing checks that [`max_staleness`](crate::ClusterConfig::max_staleness) is not shorter than
///   the [`response_timeout`](RedisConfig::response_timeout), and that
///   [`attempt_timeout`](crate::SessionConfigBuilder::attempt_timeout), 1.5 seconds unless it is
///   set, is not shorter than this and the
///   [`connect_timeout`](RedisConfig::connect_timeout) together. Nothing warns of a weak secret.
pub struct RedisBackend {
    shared: Arc<RedisInner>,
}

/// State that operations and subscriptions share.
struct RedisInner {
    topology: Topology,
    scripts: Scripts,
    key_prefix: String,
    channel: String,
}

impl RedisBackend {
    /// Creates a backend that sends announcements to `channel`. Does no IO: the first operation
    /// connects.
    ///
    /// # Errors
    ///
    /// Fails if the configuration is invalid.
    pub fn new(config: &RedisConfig, channel: &str) -> Result<Self, ConfigError> {
        Self::with_server_time(config, channel, &Arc::default())
    }

    /// Like [`new`](Self::new), and records the server's time for the clock of the store.
    pub(crate) fn with_server_time(
        config: &RedisConfig,
        channel: &str,
        time: &Arc<ServerTime>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(RedisBackend {
            shared: Arc::new(RedisInner {
                topology: Topology::new(config, time)?,
                scripts: Scripts::new(),
                key_prefix: config.key_prefix.clone(),
                channel: channel.to_owned(),
            }),
        })
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("key_prefix", &self.shared.key_prefix)
            .field("channel", &self.shared.channel)
            .finish_non_exhaustive()
    }
}

impl RedisInner {
    fn key(&self, id: &SessionId) -> String {
        [&self.key_prefix, id.write_text(&mut [0; TEXT_LEN])].concat()
    }

    /// Returns a key that is longer than that of a session, so that a scan does not mistake it for
    /// one.
    fn owner_key(&self, owner: &OwnerTag) -> String {
        format!("{}owner:{owner}", self.key_prefix)
    }
}

fn unexpected() -> StoreError {
    StoreError::from(StoreErrorKind::Corrupt)
        .with_source("the reply of the server has an unexpected form")
}

#[deny(clippy::missing_trait_methods)]
impl Backend for RedisBackend {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let RedisInner { topology, scripts, .. } = &*self.shared;
        let key = self.shared.key(id);
        let request = Request::load(&key, id, &scripts.load_without_writing);
        let value: Option<Bytes> =
            topology.run(&request).await.map_err(|error| error.with_session_id(id))?;
        value.map(Stored::from_bytes).transpose().map_err(|error| error.with_session_id(id))
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let (key, value) = (self.shared.key(id), stored.to_bytes());
        let mut command = cmd("SET");
        command.arg(&key).arg(&value[..]).arg("NX").arg("PX").arg(millis(ttl));
        let request =
            Request::command(&key, &command, Effect::Mutating).with_record(id, value.len());
        let answer: Option<String> = self.shared.topology.run(&request).await?;
        Ok(if answer.is_some() { Created::Created } else { Created::Exists })
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let RedisInner { topology, scripts, channel, .. } = &*self.shared;
        let (key, value) = (self.shared.key(update.id), update.stored.to_bytes());
        let arguments = |command: &mut Cmd| {
            command.arg(1).arg(&key);
            command.arg(update.expected.as_bytes()).arg(update.stored.meta.revision.as_bytes());
            command.arg(&value[..]).arg(millis(update.ttl)).arg(channel).arg(update.announcement);
        };
        let request = Request::script(&key, &scripts.update, &arguments, Effect::Mutating)
            .with_record(update.id, value.len());
        match topology.run(&request).await? {
            ScriptReply::Yes => Ok(Updated::Saved),
            ScriptReply::No => Ok(Updated::Gone),
            ScriptReply::Found(value) => Stored::from_bytes(value)
                .map(Updated::Conflict)
                .map_err(|error| error.with_session_id(update.id)),
        }
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let RedisInner { scripts, channel, .. } = &*self.shared;
        let key = self.shared.key(id);
        let answer = self
            .run_script(&key, &scripts.delete, Effect::Mutating, &|command| {
                command.arg(channel).arg(announcement);
            })
            .await?;
        match answer {
            ScriptReply::Yes => Ok(Deleted::Deleted),
            ScriptReply::No => Ok(Deleted::Gone),
            ScriptReply::Found(id) => parse_id(&id).map(Deleted::MovedTo).ok_or_else(unexpected),
        }
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let RedisInner { scripts, channel, .. } = &*self.shared;
        let key = self.shared.key(id);
        let answer = self
            .run_script(&key, &scripts.delete_if, Effect::Mutating, &|command| {
                command.arg(revision.as_bytes()).arg(channel).arg(announcement);
            })
            .await?;
        match answer {
            ScriptReply::Yes => Ok(Deleted::Deleted),
            ScriptReply::No => Ok(Deleted::Gone),
            ScriptReply::Found(value) => Stored::from_bytes(value)
                .map(Deleted::Conflict)
                .map_err(|error| error.with_session_id(id)),
        }
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        let key = self.shared.key(id);
        let Extension { deadline, used_at, ttl } = extension;
        let [deadline, used_at] = [deadline, used_at].map(|it| it.as_millis().to_be_bytes());
        let answer: i64 = self
            .run_script(&key, &self.shared.scripts.touch, Effect::Mutating, &|command| {
                command.arg(&deadline).arg(&used_at).arg(millis(ttl));
            })
            .await?;
        Ok(if answer == 1 { Touched::Extended } else { Touched::Gone })
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let (deleted, announced) = self.shared.clear(announcement).await?;
        // A page without sessions needs no script.
        if !announced {
            self.publish(announcement).await?;
        }
        Ok(deleted)
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        self.shared.scan(cursor).await
    }

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let key = self.shared.owner_key(owner);
        // Harmless if carried out twice, so its failure is not a write of unknown outcome.
        self.run_script(&key, &self.shared.scripts.add_to_owner, Effect::Idempotent, &|command| {
            command.arg(id.to_string()).arg(until.as_millis());
        })
        .await
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let key = self.shared.owner_key(owner);
        let mut command = cmd("ZREM");
        command.arg(&key).arg(id.to_string());
        let request = Request::command(&key, &command, Effect::Idempotent);
        let _: u64 = self.shared.topology.run(&request).await?;
        Ok(())
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let key = self.shared.owner_key(owner);
        let script = &self.shared.scripts.expire_in_owner;
        self.run_script(&key, script, Effect::Idempotent, &|command| {
            command.arg(id.to_string()).arg(millis(ttl));
        })
        .await
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        let RedisInner { topology, scripts, .. } = &*self.shared;
        let Some(position) = Position::of(cursor) else { return Ok(Page::Restart) };
        let key = self.shared.owner_key(owner);
        let arguments = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(position.cursor).arg(PAGE);
        };
        let script = &scripts.sessions_of_owner;
        let request = Request::script(&key, script, &arguments, Effect::Idempotent);
        let reply = topology.carry_out(&request).await?;
        if !position.is_on(&reply.server) {
            return Ok(Page::Restart);
        }
        let server = reply.server.clone();
        let (next, ids): (u64, Vec<Bytes>) = reply.interpret()?;
        if next == 0 {
            // After the last page: what is evicted later was on one of them.
            topology.ask_about_memory(&key).await?;
        }
        let ids = ids.iter().filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect();
        Ok(Page::new(ids, Vec::new(), next_cursor(&server, next)))
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let RedisInner { topology, scripts, channel, key_prefix } = &*self.shared;
        // A node that has just lost touch with one server may still hear it from another.
        let keys = topology.idle_keys(key_prefix).await?;
        // Harmless if carried out twice, so its failure is not a write of unknown outcome.
        let publish = async |key: &String| {
            self.run_script::<()>(key, &scripts.publish, Effect::Idempotent, &|command| {
                command.arg(channel).arg(announcement);
            })
            .await
        };
        try_join_all(keys.iter().map(publish)).await?;
        Ok(())
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        subscribe::subscribe(&self.shared, heartbeat).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.shared.topology.probe(&self.shared.key_prefix).await
    }

    async fn close(&self) {
        self.shared.topology.close();
    }

    fn may_lose_index_entries(&self) -> bool {
        self.shared.topology.findings().iter().any(|findings| findings.may_have_evicted())
    }

    fn info(&self) -> BackendInfo {
        let findings = self.shared.topology.findings();
        BackendInfo::new(findings.iter().filter_map(|findings| findings.to_info()).collect())
    }
}

impl RedisBackend {
    /// Runs a script with one key, on the server that has it. `arguments` adds what follows the
    /// key.
    async fn run_script<R: FromRedisValue>(
        &self,
        key: &str,
        script: &Script,
        effect: Effect,
        arguments: &Arguments<'_>,
    ) -> Result<R, StoreError> {
        let with_key = |command: &mut Cmd| {
            command.arg(1).arg(key);
            arguments(command);
        };
        self.shared.topology.run(&Request::script(key, script, &with_key, effect)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::record::{Content, Meta};

    /// Each call is in a box. Allocators keep small blocks at hand: glibc's up to 1,032 bytes.
    #[test]
    fn the_futures_of_calls_are_small() {
        let config = RedisConfig::from_url("redis://localhost").unwrap();
        let backend = RedisBackend::new(&config, "channel").unwrap();
        let (id, now) = (SessionId::from_bytes([1; 16]), Clock::system().wall());
        let meta = Meta::new(Revision::first(), now, now, id);
        let stored = Stored::new(meta, Content::MovedTo(id));
        let update = Update::new(&id, meta.revision, &stored, Duration::ZERO, &[]);
        assert!(size_of_val(&backend.load(&id)) <= 1024);
        assert!(size_of_val(&backend.update(update)) <= 1024);
    }
}
