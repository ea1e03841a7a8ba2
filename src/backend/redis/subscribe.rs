//! The subscription, and the proof that announcements arrive.
//!
//! Announcements arrive over a connection of their own. Several times per `max_staleness`, a
//! *heartbeat* runs over that same connection: a script that writes a short-lived key and publishes
//! a number on a channel to which only this subscription listens. The script's reply proves that
//! the server is a writable master. The number coming out of the subscription proves that
//! everything announced before has already come out. The server's replication id comes with the
//! number. If the server has become a replica meanwhile, even if only between two heartbeats, its
//! id is another one afterwards. Each heartbeat also reads back what the last one has written. If
//! it is not there, the data was flushed, or replaced by earlier data, without an announcement.
//!
//! Some servers do not tell scripts their replication id. There, what each heartbeat reads back is
//! the only proof of history. See [`HeartbeatTracker`](super::heartbeat::HeartbeatTracker) for what
//! that misses.
//!
//! Commands run over another connection, so that heartbeats never wait behind them. Both must lead
//! to the same server process, which its run id shows: a connection leads to one process for as
//! long as it lives. Where a run id cannot be had, a random number takes its place: it is written
//! over the connection for commands, and the first heartbeat must find it. That shows that both
//! lead to the same writable data. It is deceived by two masters at once of which one was the
//! other's replica until it had received the number.
//!
//! A `PING` would prove none of this: a demoted master answers it, and so does a connection whose
//! channel an ACL has taken away. Neither would a heartbeat that is sent over another connection: a
//! replica's subscribers receive what is published on its master, until replication breaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use redis::{Cmd, RedisResult, Value, cmd};

use super::RedisInner;
use super::connection::Connected;
use super::endpoint::Link;
use super::error::{Effect, cannot_save, is_busy, unreachable};
use super::inbox::{self, Inbox, Phase};
use super::scripts::{Script, is_unknown_script};
use crate::backend::Subscription;
use crate::clock::millis;
use crate::error::{StoreError, StoreErrorKind};
use crate::random::random_bytes;

/// Minimum lifetime of the key that heartbeats write: longer than any stall after which the
/// subscription should live on.
const MIN_KEY_TTL: Duration = Duration::from_secs(60);

/// Number of heartbeats per `max_staleness`.
const HEARTBEATS: u32 = 4;
/// Shortest time after which the master counts as unconfirmed by the sentinels. They need longer
/// themselves to notice a failure, and a shorter time would end subscriptions for nothing.
const MIN_CONFIRMATION: Duration = Duration::from_secs(1);

/// Subscribes, and returns once the first heartbeat has come back.
pub(super) async fn subscribe(
    shared: &Arc<RedisInner>,
    heartbeat: Duration,
) -> Result<Subscription, StoreError> {
    // The fault that ended the previous subscription may have broken the shared connection, too.
    let connected = shared.lanes.commands().checked().await?;
    let (events, subscription) = Subscription::channel();
    let (channel, private) = (shared.channel.clone(), private_channel(&shared.channel));
    let endpoint = shared.lanes.commands().endpoint();
    let (time, findings) = (endpoint.server_time().clone(), endpoint.findings().clone());
    findings.subscribing();
    endpoint.confirm_every(heartbeat);
    let inbox = Arc::new(Inbox::new(channel, private, time, findings, events));
    let messages = {
        let inbox = inbox.clone();
        move |push| {
            inbox.receive(push);
            Ok::<(), Infallible>(())
        }
    };
    let link = endpoint.connect_with_messages(connected.link(), messages).await?;
    let are_known = link.server.is_reported() && connected.server().is_reported();
    if are_known && link.server != *connected.server() {
        return Err(other_server());
    }
    let subscriber = Subscriber {
        key: format!("{}beat:{}", shared.key_prefix, random_name()),
        key_ttl: (heartbeat * 8).max(MIN_KEY_TTL),
        shared: shared.clone(),
        moves: connected.moves(),
        inbox,
        link,
    };
    if !are_known {
        subscriber.write_nonce(&connected).await?;
    }
    tokio::time::timeout(shared.lanes.commands().response_timeout(), subscriber.start())
        .await
        .unwrap_or_else(|elapsed| {
            Err(StoreError::from(StoreErrorKind::Unavailable).with_source(elapsed))
        })
        .map_err(|error| subscription.cause().cloned().unwrap_or(error))?;
    if !endpoint.is_confirmed_within(confirmation_limit(heartbeat)) {
        return Err(unconfirmed());
    }
    tokio::spawn(async move {
        if let Some(cause) = subscriber.run(heartbeat).await {
            subscriber.inbox.end(cause);
        }
    });
    Ok(subscription)
}

/// Returns the name of a channel to which no other subscription listens.
fn private_channel(channel: &str) -> String {
    format!("{channel}:{}", random_name())
}

fn random_name() -> String {
    random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the error of a subscription on another server than the one that gets the commands.
fn other_server() -> StoreError {
    inbox::ended("commands and subscription lead to different servers")
}

/// Returns the time after which the master counts as unconfirmed.
fn confirmation_limit(heartbeat: Duration) -> Duration {
    (heartbeat * HEARTBEATS).max(MIN_CONFIRMATION)
}

/// Returns the error of a subscription on a master that may have been replaced.
fn unconfirmed() -> StoreError {
    inbox::ended("no sentinel confirms the master")
}

/// Keeps a subscription alive for as long as it proves itself.
struct Subscriber {
    shared: Arc<RedisInner>,
    /// The number of moves at the time of subscribing.
    moves: u64,
    inbox: Arc<Inbox>,
    link: Link,
    /// The key that heartbeats write and read back.
    key: String,
    key_ttl: Duration,
}

impl Subscriber {
    /// Writes a random number over the connection for commands, which the first heartbeat must
    /// find.
    async fn write_nonce(&self, commands: &Connected) -> Result<(), StoreError> {
        let nonce = u64::from_ne_bytes(random_bytes());
        self.inbox.expect(nonce);
        let mut command = cmd("SET");
        command.arg(&self.key).arg(nonce).arg("PX").arg(millis(self.key_ttl));
        self.shared.lanes.commands().run_on(commands, &command, Effect::Idempotent).await
    }

    /// Subscribes to both channels, sends the first heartbeat and waits until it comes back.
    async fn start(&self) -> Result<(), StoreError> {
        let mut commands = self.link.wire.commands.clone();
        // Each call returns after the server has confirmed it.
        commands.subscribe(self.inbox.private()).await.map_err(unreachable)?;
        commands.subscribe(self.inbox.channel()).await.map_err(unreachable)?;
        self.heartbeat().await.map_err(unreachable)?;
        match self.inbox.reaches(Phase::Proven).await {
            Phase::Proven => Ok(()),
            Phase::Unproven | Phase::Ended => {
                Err(inbox::ended("the subscription receives no messages"))
            }
        }
    }

    /// Sends heartbeats until the subscription must end: when its connection is lost, a heartbeat
    /// fails or stays pending for too long, commands are sent to another server, or the listener
    /// drops the subscription. Returns the cause, unless the inbox knows it.
    async fn run(&self, heartbeat: Duration) -> Option<StoreError> {
        let connection = self.shared.lanes.commands();
        let patience = heartbeat * HEARTBEATS + connection.response_timeout();
        let mut ended = std::pin::pin!(self.inbox.reaches(Phase::Ended));
        let mut left = std::pin::pin!(connection.moves_on_from(self.moves));
        let mut dropped = std::pin::pin!(self.inbox.dropped_by_listener());
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = std::pin::pin!(Fuse::terminated());
        loop {
            tokio::select! {
                biased;
                _ = &mut ended => return None,
                () = &mut left => return Some(inbox::ended("commands are sent to another server")),
                () = &mut dropped => return None,
                result = &mut sending, if !sending.is_terminated() => {
                    // A busy server has done nothing, and may carry out the next heartbeat in time.
                    if let Err(error) = result && !is_busy(&error) {
                        return Some(unreachable(error));
                    }
                }
                _ = ticks.tick() => {
                    if self.inbox.is_overdue(now(), patience) {
                        return Some(inbox::ended("heartbeats do not come back"));
                    }
                    if !connection.endpoint().is_confirmed_within(confirmation_limit(heartbeat)) {
                        return Some(unconfirmed());
                    }
                    if sending.is_terminated() {
                        sending.set(self.heartbeat().fuse());
                    }
                }
            }
        }
    }

    /// Sends a heartbeat. It is pending from the first poll on.
    async fn heartbeat(&self) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        let sent = self.heartbeat_by(&scripts.heartbeat).await;
        if sent.as_ref().is_err_and(cannot_save) {
            return self.heartbeat_by(&scripts.heartbeat_without_writing).await;
        }
        sent
    }

    async fn heartbeat_by(&self, script: &Script) -> RedisResult<()> {
        let number = self.inbox.heartbeat_sent(now());
        let arguments = |command: &mut Cmd| {
            let ttl = millis(self.key_ttl);
            command.arg(1).arg(&self.key).arg(ttl).arg(self.inbox.private()).arg(number);
        };
        let mut commands = self.link.wire.commands.clone();
        let by_digest = script.by_digest(arguments);
        let mut reply =
            commands.send_packed_command(&by_digest).await.and_then(Value::extract_error);
        if reply.as_ref().is_err_and(is_unknown_script) {
            let by_code = script.by_code(arguments);
            reply = commands.send_packed_command(&by_code).await.and_then(Value::extract_error);
        }
        reply.map(drop).map_err(|error| script.name_the_command(error))
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
