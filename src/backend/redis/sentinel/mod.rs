//! Finds the master of a service by its sentinels, and notices when there is another one.
//!
//! All sentinels are asked at once, and the master of the highest configuration epoch is tried
//! first: a sentinel that is cut off from the others still names the old one. An answer is only a
//! hint. A server is used if it says that it is a master and carries out a write, which
//! [`Endpoint`](super::endpoint::Endpoint) checks.
//!
//! Sentinels announce a failover (`+switch-master`). An announcement may be lost, or come from a
//! sentinel that is behind, so it only makes the node ask all of them at once. The node also asks
//! all the time. While no sentinel answers, the node keeps its connection and does not use its
//! cache: the master may be one that was cut off from them, and another one may be in use. See
//! "Guidelines for Redis clients with support for Redis Sentinel" in the Redis documentation.

mod client;
mod report;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::client::SentinelClient;
pub(super) use self::report::Report;
use self::report::rank;
use super::config::{RedisAddress, RedisSentinels};
use super::dialer::{AbortOnDrop, Dialer};
use crate::error::{StoreError, StoreErrorKind};

/// Longest interval at which all sentinels are asked.
const POLL: Duration = Duration::from_secs(1);
/// Time that the other sentinels have after the first has answered.
const GRACE: Duration = Duration::from_millis(100);

/// The sentinels of a service.
pub(super) struct Sentinels {
    clients: Vec<SentinelClient>,
    connect_timeout: Duration,
    state: Mutex<State>,
    /// Number of times that commands may have to go elsewhere: see
    /// [`SharedConnection`](super::connection::SharedConnection).
    moves: watch::Sender<u64>,
    /// Notified when a sentinel announces a failover.
    announced: Arc<Notify>,
    /// Interval at which all sentinels are asked.
    interval: watch::Sender<Duration>,
}

#[derive(Default)]
struct State {
    /// The last master that has carried out a write.
    confirmed: Option<Report>,
    /// What was named before it when it was confirmed, and is no master.
    refused: Vec<Report>,
    /// The failover for which commands have last moved on.
    considered: Option<Report>,
    /// The time at which the sentinels were last asked, and one of them answered.
    heard: Option<Instant>,
    watcher: Option<AbortOnDrop>,
}

impl Sentinels {
    /// Creates the means to ask sentinels. Does no IO. Increments `moves` when they name another
    /// master.
    pub(super) fn new(
        config: &RedisSentinels,
        dialer: &Dialer,
        connect_timeout: Duration,
        moves: watch::Sender<u64>,
    ) -> Self {
        let announced = Arc::new(Notify::new());
        let client = |address: &RedisAddress| {
            let (service, announced) = (config.service.clone(), announced.clone());
            SentinelClient::new(service, address.clone(), dialer.clone(), announced)
        };
        Sentinels {
            clients: config.addresses.iter().map(client).collect(),
            connect_timeout,
            state: Mutex::default(),
            moves,
            announced,
            interval: watch::Sender::new(POLL),
        }
    }

    /// Asks the sentinels at least at this interval from now on.
    pub(super) fn ask_every(&self, interval: Duration) {
        self.interval.send_replace(interval.min(POLL));
    }

    /// Returns `true` if a sentinel has answered a question that was asked at most this long ago.
    pub(super) fn have_answered_within(&self, limit: Duration) -> bool {
        self.state().heard.is_some_and(|heard| heard.elapsed() <= limit)
    }

    /// Returns the masters to try, in order: those that the sentinels name, and the last one that
    /// was confirmed. From the first call on, the sentinels are watched.
    ///
    /// Each master is returned once, with the report that is to be believed most.
    pub(super) async fn masters(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Vec<Report>, StoreError> {
        self.state().watcher.get_or_insert_with(|| {
            let (announced, interval) = (self.announced.clone(), self.interval.subscribe());
            AbortOnDrop::spawn(watch(Arc::downgrade(self), announced, interval))
        });
        let ranked = self.ranked(deadline).await?;
        self.consider(&ranked);
        let mut masters: Vec<Report> = Vec::new();
        for report in ranked {
            if masters.iter().all(|known| known.master != report.master) {
                masters.push(report);
            }
        }
        Ok(masters)
    }

    /// Records which of the masters has carried out a write, if any, and those before it that have
    /// not.
    pub(super) fn tried(&self, refused: Vec<Report>, confirmed: Option<Report>) {
        let mut state = self.state();
        state.refused = refused;
        if confirmed.is_some() {
            state.confirmed = confirmed;
        }
    }

    /// Stops asking, and closes all connections to sentinels.
    pub(super) fn close(&self) {
        self.state().watcher = None;
        self.clients.iter().for_each(SentinelClient::close);
    }

    async fn ranked(&self, deadline: Instant) -> Result<Vec<Report>, StoreError> {
        let answers = self.ask(deadline).await;
        let confirmed = self.state().confirmed.clone();
        let ranked = rank(answers.iter().flatten().cloned().chain(confirmed));
        if !ranked.is_empty() {
            return Ok(ranked);
        }
        // A sentinel that refuses says more than one that cannot be reached.
        let errors = answers.into_iter().filter_map(Result::err);
        let error = errors.max_by_key(|error| error.kind() == StoreErrorKind::Refused);
        Err(error.unwrap_or_else(|| {
            StoreError::from(StoreErrorKind::Unavailable).with_source("no sentinel answers in time")
        }))
    }

    /// Asks all sentinels at once, and waits for those that answer soon after the first.
    async fn ask(&self, deadline: Instant) -> Vec<Result<Report, StoreError>> {
        let asked_at = Instant::now();
        let mut asked: FuturesUnordered<_> =
            self.clients.iter().map(|client| client.ask(deadline)).collect();
        let (mut answers, mut end) = (Vec::new(), deadline);
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(answer) => {
                        if answer.is_ok() {
                            end = end.min(Instant::now() + GRACE);
                            self.state().heard = Some(asked_at);
                        }
                        answers.push(answer);
                    }
                    None => return answers,
                },
                () = sleep_until(end) => return answers,
            }
        }
    }

    /// Asks all sentinels, so that another master is noticed while nobody connects.
    async fn check(&self) {
        if let Ok(ranked) = self.ranked(Instant::now() + self.connect_timeout).await {
            self.consider(&ranked);
        }
    }

    /// Moves on if there was a failover since the present master was confirmed.
    ///
    /// Answers may arrive in another order than they were given, so those of an earlier epoch
    /// change nothing. If sentinels disagree within one epoch, moving on without need only costs
    /// cache misses.
    fn consider(&self, ranked: &[Report]) {
        let mut state = self.state();
        let Some(confirmed) = &state.confirmed else { return };
        let first = ranked.iter().find(|report| !state.refused.contains(report));
        let Some(first) = first.filter(|first| first.master != confirmed.master) else { return };
        if first.epoch < confirmed.epoch || state.considered.as_ref() == Some(first) {
            return;
        }
        state.considered = Some(first.clone());
        drop(state);
        tracing::info!("the sentinels name another master of Redis");
        self.moves.send_modify(|moves| *moves += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the sentinels until they are dropped.
async fn watch(
    sentinels: Weak<Sentinels>,
    announced: Arc<Notify>,
    interval: watch::Receiver<Duration>,
) {
    loop {
        let pause = *interval.borrow();
        let _ = timeout(pause, announced.notified()).await;
        let Some(sentinels) = sentinels.upgrade() else { return };
        sentinels.check().await;
    }
}
