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
//! In a cluster, there is a subscription to each master, and each proves itself in this way. Before
//! a heartbeat, the master is also asked for its view of the cluster. The heartbeat proves
//! something if the masters in that view are those whose announcements are received.
//!
//! A `PING` would prove none of this: a demoted master answers it, and so does a connection whose
//! channel an ACL has taken away. Neither would a heartbeat that is sent over another connection: a
//! replica's subscribers receive what is published on its master, until replication breaks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _, select_all, try_join_all};
use redis::{Cmd, RedisError, Value, cmd};
use tokio::time::{Instant, sleep};

use super::RedisInner;
use super::cluster::{Cluster, Participant, Standing, Verdict, ask_for_view, slot_of};
use super::commands::{beat_key, run};
use super::connection::{Connected, SharedConnection};
use super::dialer::before;
use super::endpoint::Link;
use super::error::{Effect, cannot_save, is_busy, is_redirect, unreachable};
use super::inbox::{self, Channels, Inbox, Phase};
use super::lanes::Lanes;
use super::merge::Merge;
use super::scripts::{Script, is_unknown_script};
use super::topology::Topology;
use crate::backend::Subscription;
use crate::clock::millis;
use crate::error::StoreError;
use crate::guards::{self, Guard};
use crate::random::random_bytes;

/// Minimum lifetime of the key that heartbeats write: longer than any stall after which the
/// subscription should live on.
const MIN_KEY_TTL: Duration = Duration::from_secs(60);

/// Number of heartbeats per `max_staleness`.
const HEARTBEATS: u32 = 4;
/// Shortest time after which a master that the sentinels do not confirm is left. They need longer
/// themselves to notice a failure, and a shorter time would end subscriptions for nothing.
const MIN_CONFIRMATION: Duration = Duration::from_secs(1);

/// Subscribes, and returns once the first heartbeat has come back from each server.
pub(super) async fn subscribe(
    shared: &Arc<RedisInner>,
    heartbeat: Duration,
) -> Result<Subscription, StoreError> {
    let beginning = format!("{}{}", beat_key(&shared.key_prefix), random_name());
    match &shared.topology {
        Topology::Single(lanes) => {
            let server = Server { lanes: lanes.clone(), key: Some(beginning), membership: None };
            subscribe_to(shared, vec![server], heartbeat, std::future::pending()).await
        }
        Topology::Cluster(cluster) => {
            let (participants, additions) = cluster.participants(&format!("{beginning}:")).await?;
            let servers = participants.into_iter().map(|Participant { lanes, standing, key }| {
                let membership = Some(Membership { cluster: cluster.clone(), standing });
                Server { lanes, key, membership }
            });
            let cluster = cluster.clone();
            let grows = async move { cluster.grows_from(additions).await };
            subscribe_to(shared, servers.collect(), heartbeat, grows).await
        }
    }
}

/// Subscribes to these servers, until commands may be sent to others.
async fn subscribe_to(
    shared: &Arc<RedisInner>,
    servers: Vec<Server>,
    heartbeat: Duration,
    others: impl Future<Output = ()> + Send + 'static,
) -> Result<Subscription, StoreError> {
    if servers.is_empty() {
        return Err(inbox::ended("the cluster has no masters"));
    }
    let (events, subscription) = Subscription::channel();
    let merge = Arc::new(Merge::new(events, servers.len()));
    let start = |(number, server): (usize, Server)| {
        Subscriber::start(shared, server, number, merge.clone(), heartbeat)
    };
    let subscribers = try_join_all(servers.into_iter().enumerate().map(start))
        .await
        .map_err(|error| subscription.cause().cloned().unwrap_or(error))?;
    tokio::spawn(async move {
        let running = subscribers.iter().map(|subscriber| Box::pin(subscriber.run(heartbeat)));
        let cause = tokio::select! {
            (cause, _, _) = select_all(running) => cause,
            () = others => Some(other_server()),
        };
        if let Some(cause) = cause {
            merge.end(cause);
        }
    });
    Ok(subscription)
}

fn random_name() -> String {
    random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the error of a subscription on another server than the one that gets the commands.
fn other_server() -> StoreError {
    inbox::ended("commands and subscription lead to different servers")
}

fn moved_on() -> StoreError {
    inbox::ended("commands are sent to another server")
}

/// Returns the time after which the master counts as unconfirmed. It is looked at before each
/// heartbeat, so a whole interval may pass until it is noticed.
fn confirmation_limit(heartbeat: Duration) -> Duration {
    (heartbeat * HEARTBEATS).max(MIN_CONFIRMATION).saturating_sub(heartbeat)
}

/// Returns the error of a subscription on a master that may have been replaced.
fn unconfirmed() -> StoreError {
    inbox::ended("no sentinel confirms the master")
}

/// A server to subscribe to.
struct Server {
    lanes: Arc<Lanes>,
    /// The key that heartbeats write and read back. A master of a cluster has none without slots.
    key: Option<String>,
    /// The server's part in a cluster.
    membership: Option<Membership>,
}

/// The part of a master in its cluster.
struct Membership {
    cluster: Arc<Cluster>,
    standing: Standing,
}

/// Keeps the subscription to one server alive for as long as it proves itself.
struct Subscriber {
    shared: Arc<RedisInner>,
    server: Server,
    /// The number of moves at the time of subscribing.
    moves: u64,
    inbox: Arc<Inbox>,
    link: Link,
    key_ttl: Duration,
}

/// The end of an attempt to send a heartbeat.
enum Failure {
    /// The server has done nothing, and may carry out the next one.
    NotNow(StoreError),
    /// Announcements may be missed.
    End(StoreError),
}

/// What a heartbeat's command has failed with.
impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if is_busy(&error) {
            Failure::NotNow(unreachable(error))
        } else if is_redirect(&error) {
            Failure::End(inbox::ended("the slot of the heartbeat's key is moving"))
        } else {
            Failure::End(unreachable(error))
        }
    }
}

impl Subscriber {
    /// Subscribes to a server, and returns once the first heartbeat has come back.
    async fn start(
        shared: &Arc<RedisInner>,
        server: Server,
        number: usize,
        merge: Arc<Merge>,
        heartbeat: Duration,
    ) -> Result<Self, StoreError> {
        // The fault that ended the previous subscription may have broken this connection, too.
        let connected = server.commands().checked().await?;
        let endpoint = server.commands().endpoint();
        let (time, findings) = (endpoint.server_time().clone(), endpoint.findings().clone());
        findings.subscribing();
        endpoint.confirm_every(heartbeat);
        let channels = server.channels(&shared.channel);
        let inbox = Arc::new(Inbox::new(channels, time, findings, merge, number));
        let messages = {
            let inbox = inbox.clone();
            move |push| {
                inbox.receive(push);
                Ok::<(), Infallible>(())
            }
        };
        let link = endpoint.connect_with_messages(connected.link(), messages).await?;
        if link.differs_from(connected.link()) {
            // A replica takes no commands.
            if link.may_be_a_master() {
                server.commands().leave(&connected);
            }
            return Err(other_server());
        }
        let key_ttl = (heartbeat * 8).max(MIN_KEY_TTL);
        let moves = connected.moves();
        let subscriber = Subscriber { shared: shared.clone(), server, moves, inbox, link, key_ttl };
        if subscriber.link.server != *connected.server() {
            subscriber.write_nonce(&connected).await?;
        }
        let commands = subscriber.server.commands();
        let limit = Instant::now() + subscriber.patience(heartbeat);
        tokio::select! {
            proven = before(limit, subscriber.prove(heartbeat, limit)) => proven?,
            () = commands.moves_on_from(subscriber.moves) => return Err(moved_on()),
        }
        if !commands.endpoint().is_confirmed_within(confirmation_limit(heartbeat)) {
            return Err(unconfirmed());
        }
        Ok(subscriber)
    }

    /// Returns the longest time that a heartbeat may stay pending. The first one shares it with the
    /// subscription: both take several round trips, so the timeout of one would keep a node from
    /// listening to a distant or busy server, which answers it otherwise.
    fn patience(&self, heartbeat: Duration) -> Duration {
        heartbeat * HEARTBEATS + self.server.commands().response_timeout()
    }

    /// Writes a random number over the connection for commands, which the first heartbeat must
    /// find. A master without slots has no keys: no command goes there.
    async fn write_nonce(&self, commands: &Connected) -> Result<(), StoreError> {
        let Some(key) = &self.server.key else { return Ok(()) };
        let nonce = u64::from_ne_bytes(random_bytes());
        self.inbox.expect(nonce);
        let mut command = cmd("SET");
        command.arg(key).arg(nonce).arg("PX").arg(millis(self.key_ttl));
        self.server.commands().run_on(commands, &command, Effect::Idempotent).await
    }

    /// Subscribes to both channels, sends the first heartbeat and waits until it comes back. While
    /// the server cannot carry it out, the next one is sent, until the limit.
    async fn prove(&self, heartbeat: Duration, limit: Instant) -> Result<(), StoreError> {
        let mut commands = self.link.wire.commands.clone();
        let channels = self.inbox.channels();
        // Each call returns after the server has confirmed it, by a push that counts as the reply.
        if channels.is_sharded {
            let mut subscribe = cmd("SSUBSCRIBE");
            run(&mut commands, subscribe.arg(&channels.private)).await.map_err(unreachable)?;
        } else {
            commands.subscribe(&channels.private).await.map_err(unreachable)?;
        }
        commands.subscribe(&channels.all).await.map_err(unreachable)?;
        loop {
            match self.heartbeat().await {
                Ok(()) => break,
                // Another attempt would only subscribe again, to all masters of a cluster.
                Err(Failure::NotNow(_)) if Instant::now() + heartbeat < limit => {
                    sleep(heartbeat).await;
                }
                Err(Failure::NotNow(error) | Failure::End(error)) => return Err(error),
            }
        }
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
        let connection = self.server.commands();
        let patience = self.patience(heartbeat);
        let mut ended = std::pin::pin!(self.inbox.reaches(Phase::Ended));
        let mut left = std::pin::pin!(connection.moves_on_from(self.moves));
        let mut dropped = std::pin::pin!(self.inbox.dropped_by_listener());
        let mut ticks = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = std::pin::pin!(Fuse::terminated());
        loop {
            tokio::select! {
                biased;
                _ = &mut ended => return None,
                () = &mut left => return Some(moved_on()),
                () = &mut dropped => return None,
                result = &mut sending, if !sending.is_terminated() => {
                    if let Err(Failure::End(error)) = result {
                        return Some(error);
                    }
                }
                _ = ticks.tick() => {
                    if self.inbox.is_overdue(now(), patience) {
                        return Some(inbox::ended("heartbeats do not come back"));
                    }
                    if !connection.endpoint().is_confirmed_within(confirmation_limit(heartbeat))
                        && guards::enabled(Guard::SentinelsConfirm)
                    {
                        return Some(unconfirmed());
                    }
                    if sending.is_terminated() {
                        sending.set(self.heartbeat().fuse());
                    }
                }
            }
        }
    }

    /// Sends a heartbeat. It is pending from the first poll on, and the moment of that is what it
    /// proves: whatever the server is asked comes later.
    async fn heartbeat(&self) -> Result<(), Failure> {
        let number = self.inbox.heartbeat_sent(now());
        if let Some(Membership { cluster, standing }) = &self.server.membership {
            let view = ask_for_view(self.link.wire.commands.clone()).await?;
            match cluster.judge(standing, &view) {
                Verdict::Proof => {}
                Verdict::NoProof(cause) => {
                    self.inbox.withdraw(number);
                    return Err(Failure::NotNow(inbox::ended(cause)));
                }
                Verdict::End(cause) => return Err(Failure::End(inbox::ended(cause))),
            }
        }
        let scripts = &self.shared.scripts;
        match self.heartbeat_by(&scripts.heartbeat, number).await {
            Err(error) if cannot_save(&error) => {
                self.heartbeat_by(&scripts.heartbeat_without_writing, number).await?;
            }
            sent => sent?,
        }
        Ok(())
    }

    async fn heartbeat_by(&self, script: &Script, number: u64) -> Result<(), RedisError> {
        let arguments = |command: &mut Cmd| {
            let keys = self.server.key.as_slice();
            command.arg(keys.len()).arg(keys).arg(millis(self.key_ttl));
            let channels = self.inbox.channels();
            command.arg(&channels.private).arg(number);
            command.arg(if channels.is_sharded { "SPUBLISH" } else { "PUBLISH" });
        };
        let mut commands = self.link.wire.commands.clone();
        let by_digest = script.by_digest(0, arguments);
        let mut reply =
            commands.send_packed_command(&by_digest).await.and_then(Value::extract_error);
        if reply.as_ref().is_err_and(is_unknown_script) {
            let by_code = script.by_code(arguments);
            reply = commands.send_packed_command(&by_code).await.and_then(Value::extract_error);
        }
        reply.map(drop).map_err(|error| script.name_the_command(error))
    }
}

impl Server {
    /// Returns the channel of announcements, and a new one for heartbeats.
    ///
    /// In a cluster, what is published on an ordinary channel goes to all servers. That of the
    /// heartbeats belongs to the slot of their key, and so to this server and its replicas.
    fn channels(&self, all: &str) -> Channels {
        let tag = self.key.as_deref().and_then(|key| Some(&key[key.find('{')?..]));
        let private = format!("{all}:{}{}", random_name(), tag.unwrap_or_default());
        // The application's channel may have a hash tag of its own.
        let is_sharded = tag.is_some_and(|tag| slot_of(tag) == slot_of(&private));
        Channels { all: all.to_owned(), private, is_sharded }
    }

    fn commands(&self) -> &Arc<SharedConnection> {
        self.lanes.commands()
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
