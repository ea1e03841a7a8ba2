//! The subscription, and the proof that announcements arrive.
//!
//! Announcements arrive over their own connection. Several times per `max_staleness`, a *heartbeat*
//! runs over the shared connection: a script that writes a short-lived key and publishes a number
//! on a channel to which only this subscription listens. The script's reply proves that the shared
//! connection leads to a writable master. The number coming out of the subscription proves that the
//! subscription is on that same server, and that everything announced before has already come out.
//! The server's replication id comes with the number. If the server has become a replica meanwhile,
//! even if only between two heartbeats, its id is another one afterwards.
//!
//! A `PING` would prove neither: a demoted master answers it, and so does a connection whose
//! channel an ACL has taken away.

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

/// Subscribes, and returns once the first heartbeat has come back.
pub(super) async fn subscribe(
    shared: &Arc<RedisInner>,
    heartbeat: Duration,
) -> Result<Subscription, StoreError> {
    // The fault that ended the previous subscription may have broken the shared connection, too.
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
        heartbeats: HeartbeatTracker::default(),
    };
    let stream = forwarder.prove(stream).await?;
    tokio::spawn(forwarder.run(stream, heartbeat));
    Ok(subscription)
}

/// Returns the name of a channel to which no other subscription listens.
fn private_channel(channel: &str) -> String {
    let random: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{channel}:{random}")
}

/// Opens a connection and subscribes to both channels.
async fn connect(
    client: &Client,
    channel: &str,
    private: &str,
) -> Result<PubSubStream, StoreError> {
    let connection: PubSub = client.get_async_pubsub().await.map_err(unreachable)?;
    let (mut sink, stream) = connection.split();
    // Each call returns after the server has confirmed it.
    sink.subscribe(channel).await.map_err(unreachable)?;
    sink.subscribe(private).await.map_err(unreachable)?;
    Ok(stream)
}

/// Forwards messages from the connection to the subscription's bounded queue.
struct Forwarder {
    shared: Arc<RedisInner>,
    /// The shared connection at the time of subscribing, over which the heartbeats run. A proof
    /// holds for this connection alone.
    connected: Connected,
    private: String,
    events: SubscriptionSender,
    heartbeats: HeartbeatTracker,
}

impl Forwarder {
    /// Sends the first heartbeat and waits until it comes back: nothing was missed since the server
    /// confirmed the subscription.
    async fn prove(&mut self, mut stream: PubSubStream) -> Result<PubSubStream, StoreError> {
        self.events.send(Event::Connected);
        self.heartbeat().await?;
        let patience = self.shared.connection.response_timeout();
        let received = async {
            while let Some(message) = stream.next().await {
                self.forward(&message);
                if self.heartbeats.all_received() {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(patience, received).await {
            Ok(true) => Ok(stream),
            Ok(false) | Err(_) => Err(StoreError::from(StoreErrorKind::Unavailable)
                .with_source("the subscription receives no messages")),
        }
    }

    /// Forwards messages and sends heartbeats until the subscription must end: when its connection
    /// is lost, a heartbeat fails or stays pending for too long, the shared connection is replaced,
    /// or the listener drops the subscription.
    async fn run(mut self, mut stream: PubSubStream, heartbeat: Duration) {
        let shared = self.shared.clone();
        let replaced = std::pin::pin!(shared.connection.replaced(self.connected.generation));
        let mut replaced = replaced.fuse();
        let mut ticks =
            tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sending = std::pin::pin!(futures_util::future::Fuse::terminated());
        loop {
            tokio::select! {
                // In this order, so that neither messages can starve the heartbeats nor heartbeats
                // the messages.
                biased;
                () = &mut replaced => return,
                () = self.events.closed() => return,
                result = &mut sending, if !sending.is_terminated() => {
                    if let Err(error) = result {
                        tracing::debug!(error = &error as &dyn std::error::Error, "a heartbeat failed");
                        return;
                    }
                }
                _ = ticks.tick() => {
                    let patience = heartbeat * 4 + shared.connection.response_timeout();
                    if self.heartbeats.is_overdue(now(), patience) {
                        return;
                    }
                    if sending.is_terminated() {
                        sending.set(self.heartbeat().fuse());
                    }
                }
                message = stream.next() => match message {
                    Some(message) => if !self.forward(&message) { return },
                    None => return,
                },
            }
        }
    }

    /// Forwards one message. Returns `false` if the subscription must end.
    fn forward(&mut self, message: &Msg) -> bool {
        if message.get_channel_name() != self.private {
            return self.events.send(Event::Message(message.get_payload_bytes().to_vec().into()));
        }
        match self.heartbeats.receive(message.get_payload_bytes()) {
            Reply::Heartbeat(sent_at) => self.events.send(Event::Alive(sent_at)),
            Reply::OtherHistory => {
                tracing::debug!("the server was demoted between two heartbeats");
                false
            }
            Reply::Nothing => true,
        }
    }

    /// Returns a future that sends a heartbeat. The heartbeat is pending from now on.
    fn heartbeat(&mut self) -> impl Future<Output = Result<(), StoreError>> + use<> {
        let (shared, connected) = (self.shared.clone(), self.connected.clone());
        let (private, number) = (self.private.clone(), self.heartbeats.send(now()));
        let key = format!("{}beat", shared.key_prefix);
        async move {
            let send = |command: &mut Cmd| {
                command.arg(1).arg(&key).arg(1000).arg(&private).arg(number);
            };
            shared
                .connection
                .run_script_on(&connected, &shared.scripts.heartbeat, Effect::Mutating, send)
                .await
        }
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
