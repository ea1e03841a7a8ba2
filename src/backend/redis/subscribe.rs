//! The subscription, and the proof that it hears.
//!
//! Announcements come over a connection of their own. Several times per `max_staleness` a *beat* runs over the connection: a script that
//! writes a short-lived key and publishes a number on a channel that only this subscription listens to. The script's answer
//! proves that the lane leads to a writable master; the number coming out of the subscription proves that the subscription hears
//! that same server, and that everything announced before has come out already. With the number comes the server's replication
//! id: one that has become another's replica meanwhile, if only between two beats, has another one afterwards.
//!
//! A `PING` would prove neither: a demoted master answers it, and so does a connection whose channel was taken away by an ACL.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::{PubSub, PubSubStream};
use deadpool_redis::redis::{Client, Cmd, Msg};
use futures_util::StreamExt as _;
use futures_util::future::{FusedFuture as _, FutureExt as _};

use super::RedisInner;
use super::connection::Connected;
use super::error::{Effect, unreachable};
use super::heartbeat::{HeartbeatTracker, Reply};
use crate::backend::{Event, Subscription, SubscriptionSender};
use crate::error::{StoreError, StoreErrorKind};
use crate::random::random_bytes;

/// Subscribes, and proves it once before saying so.
pub(super) async fn subscribe(
    shared: &Arc<RedisInner>,
    heartbeat: Duration,
) -> Result<Subscription, StoreError> {
    // What ended the subscription before may have ended the lane's connection, too, without anybody having tried it.
    let connected = shared.connection.checked().await?;
    let private = private_channel(&shared.channel);
    let stream =
        shared.connection.in_time(connect(&shared.client, &shared.channel, &private)).await??;
    let (events, subscription) = Subscription::channel();
    let mut forwarder = Forwarder {
        shared: shared.clone(),
        connected,
        private,
        events,
        beats: HeartbeatTracker::default(),
    };
    let stream = forwarder.prove(stream).await?;
    tokio::spawn(forwarder.run(stream, heartbeat));
    Ok(subscription)
}

/// The name of a channel that nobody else listens to.
fn private_channel(channel: &str) -> String {
    let random: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{channel}:{random}")
}

async fn connect(
    client: &Client,
    channel: &str,
    private: &str,
) -> Result<PubSubStream, StoreError> {
    let connection: PubSub = client.get_async_pubsub().await.map_err(unreachable)?;
    let (mut sink, stream) = connection.split();
    // Each is confirmed by the server before this goes on.
    sink.subscribe(channel).await.map_err(unreachable)?;
    sink.subscribe(private).await.map_err(unreachable)?;
    Ok(stream)
}

/// Moves what comes over the connection into the subscription's bounded queue.
struct Forwarder {
    shared: Arc<RedisInner>,
    /// The lane's connection over which the beats run. With another one, the proof would be about another one.
    connected: Connected,
    private: String,
    events: SubscriptionSender,
    beats: HeartbeatTracker,
}

impl Forwarder {
    /// The first beat: from the confirmation to it, nothing was missed.
    async fn prove(&mut self, mut stream: PubSubStream) -> Result<PubSubStream, StoreError> {
        self.events.send(Event::Connected);
        self.beat().await?;
        let patience = self.shared.connection.response_timeout();
        let heard = async {
            while let Some(message) = stream.next().await {
                self.forward(&message);
                if self.beats.all_received() {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(patience, heard).await {
            Ok(true) => Ok(stream),
            Ok(false) | Err(_) => Err(StoreError::from(StoreErrorKind::Unavailable)
                .with_source("the subscription does not hear")),
        }
    }

    /// Ends, and with it the subscription, when the link is lost, a beat fails or stays pending, the lane uses another
    /// connection, or nobody listens any more.
    async fn run(mut self, mut stream: PubSubStream, heartbeat: Duration) {
        let shared = self.shared.clone();
        let replaced = std::pin::pin!(shared.connection.replaced(self.connected.generation));
        let mut replaced = replaced.fuse();
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats = std::pin::pin!(futures_util::future::Fuse::terminated());
        loop {
            tokio::select! {
                // In this order, so that a backlog of messages cannot starve the beats, nor beats the messages.
                biased;
                () = &mut replaced => return,
                () = self.events.closed() => return,
                result = &mut beats, if !beats.is_terminated() => {
                    if let Err(error) = result {
                        tracing::debug!(error = &error as &dyn std::error::Error, "a heartbeat failed");
                        return;
                    }
                }
                _ = ticks.tick() => {
                    let patience = heartbeat * 4 + shared.connection.response_timeout();
                    if self.beats.is_overdue(now(), patience) {
                        return;
                    }
                    if beats.is_terminated() {
                        beats.set(self.beat().fuse());
                    }
                }
                message = stream.next() => match message {
                    Some(message) => if !self.forward(&message) { return },
                    None => return,
                },
            }
        }
    }

    /// `false` when the subscription is over.
    fn forward(&mut self, message: &Msg) -> bool {
        if message.get_channel_name() != self.private {
            return self.events.send(Event::Message(message.get_payload_bytes().to_vec().into()));
        }
        match self.beats.receive(message.get_payload_bytes()) {
            Reply::Heartbeat(sent_at) => self.events.send(Event::Alive(sent_at)),
            Reply::OtherHistory => {
                tracing::debug!("the server was demoted between two heartbeats");
                false
            }
            Reply::Nothing => true,
        }
    }

    /// Sends a beat. It counts from now on, whenever it is sent.
    fn beat(&mut self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (shared, connected) = (self.shared.clone(), self.connected.clone());
        let (private, number) = (self.private.clone(), self.beats.send(now()));
        let key = format!("{}beat", shared.key_prefix);
        async move {
            let send = |command: &mut Cmd| {
                command.arg(1).arg(&key).arg(1000).arg(&private).arg(number);
            };
            shared
                .connection
                .run_script_on(&connected, &shared.scripts.beat, Effect::Mutating, send)
                .await
        }
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
