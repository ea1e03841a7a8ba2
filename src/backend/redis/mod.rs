//! Sessions in Redis (7.0 or later): one round trip per operation.

mod commands;
mod config;
mod connection;
mod connector;
mod credentials;
mod dialer;
mod endpoint;
mod error;
mod findings;
mod heartbeat;
mod inbox;
mod lanes;
mod limiter;
mod loads;
mod refusal;
mod scan;
mod scripts;
mod sentinel;
mod server_info;
mod subscribe;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value, cmd, from_redis_value};

use self::commands::idle_key;
#[cfg(feature = "tls")]
pub use self::config::RedisTls;
pub use self::config::{RedisAddress, RedisConfig, RedisCredentials, RedisSentinels};
use self::connection::Load;
use self::error::Effect;
use self::lanes::{Lane, Lanes};
use self::scripts::Scripts;
use super::{
    Backend, BackendInfo, Created, Cursor, Deleted, OwnerTag, Page, Revision, Stored, Subscription,
    Timestamp, Touched, Update, Updated,
};
use crate::clock::{ServerTime, millis};
use crate::error::{ConfigError, StoreError, StoreErrorKind};
use crate::id::SessionId;

/// Sessions in Redis (7.0 or later).
///
/// [`SessionConfigBuilder::redis`](crate::SessionConfigBuilder::redis) uses it. It is public so
/// that a custom backend can wrap it.
///
/// Each operation is one round trip over one shared connection. Announcements arrive over a second
/// connection, which speaks RESP3. Records of 64 KiB and more have a third, so that they slow only
/// each other. At most 512 reads are in flight, fewer while answers are late; another one fails
/// with [`Overloaded`](StoreErrorKind::Overloaded).
pub struct RedisBackend {
    shared: Arc<RedisInner>,
}

/// State that operations and subscriptions share.
struct RedisInner {
    lanes: Lanes,
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
                lanes: Lanes::new(config, time)?,
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
        format!("{}{id}", self.key_prefix)
    }

    /// Returns a key that is longer than that of a session, so that a scan does not mistake it for
    /// one.
    fn owner_key(&self, owner: &OwnerTag) -> String {
        format!("{}owner:{owner}", self.key_prefix)
    }
}

/// A reply of a script: 1, 0 or the value that it found.
enum ScriptReply {
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
fn parse_id(content: &[u8]) -> Option<SessionId> {
    content.try_into().ok().map(SessionId::from_bytes)
}

fn unexpected() -> StoreError {
    StoreError::from(StoreErrorKind::Corrupt)
        .with_source("the reply of the server has an unexpected form")
}

#[deny(clippy::missing_trait_methods)]
impl Backend for RedisBackend {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let key = self.shared.key(id);
        let load = Load { key: &key, without_writing: &scripts.load_without_writing };
        let value = lanes.load(id, &load).await;
        let value = value.map_err(|error| error.with_session_id(id))?;
        value.map(Stored::from_bytes).transpose().map_err(|error| error.with_session_id(id))
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let value = stored.to_bytes();
        let mut command = cmd("SET");
        command.arg(self.shared.key(id)).arg(&value[..]).arg("NX").arg("PX").arg(millis(ttl));
        let Lane { connection, connected } = self.shared.lanes.lane_for(id, value.len()).await?;
        let answer: Option<String> =
            connection.run_on(&connected, &command, Effect::Mutating).await?;
        Ok(if answer.is_some() { Created::Created } else { Created::Exists })
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let Update { id, expected, stored, ttl, announcement } = update;
        let RedisInner { lanes, scripts, channel, .. } = &*self.shared;
        let (key, value) = (self.shared.key(id), stored.to_bytes());
        let Lane { connection, connected } = lanes.lane_for(id, value.len()).await?;
        let answer = connection
            .run_script_on(&connected, &scripts.update, Effect::Mutating, |command| {
                command.arg(1).arg(&key);
                command.arg(expected.as_bytes()).arg(stored.meta.revision.as_bytes());
                command.arg(&value[..]).arg(millis(ttl)).arg(channel).arg(announcement);
            })
            .await?;
        match answer {
            ScriptReply::Yes => Ok(Updated::Saved),
            ScriptReply::No => Ok(Updated::Gone),
            ScriptReply::Found(value) => Stored::from_bytes(value)
                .map(Updated::Conflict)
                .map_err(|error| error.with_session_id(id)),
        }
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let RedisInner { lanes, scripts, channel, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = self.shared.key(id);
        let answer = connection
            .run_script(&scripts.delete, Effect::Mutating, |command| {
                command.arg(1).arg(&key).arg(channel).arg(announcement);
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
        let RedisInner { lanes, scripts, channel, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = self.shared.key(id);
        let answer = connection
            .run_script(&scripts.delete_if, Effect::Mutating, |command| {
                command.arg(1).arg(&key).arg(revision.as_bytes()).arg(channel).arg(announcement);
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

    async fn touch(
        &self,
        id: &SessionId,
        deadline: Timestamp,
        ttl: Duration,
    ) -> Result<Touched, StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = self.shared.key(id);
        let answer: i64 = connection
            .run_script(&scripts.touch, Effect::Mutating, |command| {
                command.arg(1).arg(&key).arg(&deadline.as_millis().to_be_bytes()).arg(millis(ttl));
            })
            .await?;
        Ok(if answer == 1 { Touched::Extended } else { Touched::Gone })
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let RedisInner { lanes, scripts, channel, .. } = &*self.shared;
        // The scan ends if this connection breaks: see `Connected::position`.
        let connected = lanes.commands().connected().await?;
        let (mut position, mut deleted, mut announced) = (0, 0, false);
        loop {
            let (ids, next) = self.shared.page(&connected, position).await?;
            let counts: Vec<u64> = self
                .shared
                .run_for(&ids, &connected, &scripts.clear, Effect::Mutating, |command| {
                    command.arg(channel).arg(announcement);
                })
                .await?;
            announced |= !counts.is_empty();
            deleted += counts.into_iter().sum::<u64>();
            position = next;
            if position == 0 {
                break;
            }
        }
        // A page without sessions needs no script.
        if !announced {
            self.publish(announcement).await?;
        }
        Ok(deleted)
    }

    async fn scan(&self, cursor: Option<&Cursor>) -> Result<Page, StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let connected = lanes.commands().connected().await?;
        let Some(position) = connected.position(cursor) else { return Ok(Page::Restart) };
        let (candidates, next) = self.shared.page(&connected, position).await?;
        let kinds: Vec<Vec<ScriptReply>> = self
            .shared
            .run_for(&candidates, &connected, &scripts.kinds, Effect::Idempotent, |_| ())
            .await?;
        let (mut ids, mut moved) = (Vec::new(), Vec::new());
        for (id, kind) in candidates.into_iter().zip(kinds.into_iter().flatten()) {
            match kind {
                ScriptReply::Yes => ids.push(id),
                ScriptReply::No => {}
                ScriptReply::Found(target) => moved.extend(parse_id(&target)),
            }
        }
        Ok(Page::Ids { ids, moved, next: connected.cursor(next) })
    }

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = self.shared.owner_key(owner);
        // Harmless if carried out twice, so its failure is not a write of unknown outcome.
        connection
            .run_script(&scripts.add_to_owner, Effect::Idempotent, |command| {
                command.arg(1).arg(&key).arg(id.to_string()).arg(until.as_millis());
            })
            .await
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        let mut command = cmd("ZREM");
        command.arg(self.shared.owner_key(owner)).arg(id.to_string());
        let _: u64 = self.shared.lanes.commands().run_idempotent(&command).await?;
        Ok(())
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = self.shared.owner_key(owner);
        connection
            .run_script(&scripts.expire_in_owner, Effect::Idempotent, |command| {
                command.arg(1).arg(&key).arg(id.to_string()).arg(millis(ttl));
            })
            .await
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        let RedisInner { lanes, scripts, .. } = &*self.shared;
        let connection = lanes.commands();
        let connected = connection.connected().await?;
        let Some(position) = connected.position(cursor) else { return Ok(Page::Restart) };
        let key = self.shared.owner_key(owner);
        let (next, ids): (u64, Vec<Bytes>) = connection
            .run_script_on(&connected, &scripts.sessions_of_owner, Effect::Idempotent, |command| {
                command.arg(1).arg(&key).arg(position).arg(scan::PAGE);
            })
            .await?;
        let ids = ids.iter().filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()).collect();
        Ok(Page::Ids { ids, moved: Vec::new(), next: connected.cursor(next) })
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        let RedisInner { lanes, scripts, channel, .. } = &*self.shared;
        let connection = lanes.commands();
        let key = idle_key(&self.shared.key_prefix);
        // Harmless if carried out twice, so its failure is not a write of unknown outcome.
        connection
            .run_script(&scripts.publish, Effect::Idempotent, |command| {
                command.arg(1).arg(&key).arg(channel).arg(announcement);
            })
            .await
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        subscribe::subscribe(&self.shared, heartbeat).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.shared.lanes.commands().probe().await
    }

    async fn close(&self) {
        self.shared.lanes.close();
    }

    fn may_lose_index_entries(&self) -> bool {
        self.shared.lanes.commands().endpoint().findings().evicts_keys()
    }

    fn info(&self) -> BackendInfo {
        self.shared.lanes.commands().endpoint().findings().to_info()
    }
}
