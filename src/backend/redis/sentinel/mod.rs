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
//! cache: the master may be one that was cut off, and another one may be in use. See "Guidelines
//! for Redis clients with support for Redis Sentinel" in the Redis documentation.

mod client;
mod known;
mod report;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use self::client::SentinelClient;
pub(super) use self::known::Candidate;
use self::known::{Answers, Known};
pub(super) use self::report::Report;
use super::config::{RedisAddress, RedisSentinels};
use super::dialer::Dialer;
use super::own_task::in_own_task;
use crate::error::{StoreError, StoreErrorKind};

/// Shortest and longest interval at which all sentinels are asked.
const MIN_POLL: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_secs(1);
/// Time that the other sentinels have after the first has answered.
const GRACE: Duration = Duration::from_millis(100);

/// The sentinels of a service.
pub(super) struct Sentinels {
    clients: Vec<Arc<SentinelClient>>,
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
    known: Known,
    watcher: Option<AbortOnDropHandle<()>>,
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
            Arc::new(SentinelClient::new(service, address.clone(), dialer.clone(), announced))
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

    /// Asks the sentinels at about this interval from now on.
    pub(super) fn ask_every(&self, interval: Duration) {
        self.interval.send_replace(interval.clamp(MIN_POLL, POLL));
    }

    /// Returns `true` if the master in use was the answer to a question that was asked at most this
    /// long ago.
    pub(super) fn have_confirmed_within(&self, limit: Duration) -> bool {
        self.state().known.was_named_within(limit)
    }

    /// Returns the masters that the sentinels name, and the last one that was confirmed, in the
    /// order in which to try them. From the first call on, the sentinels are watched.
    pub(super) async fn masters(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Vec<Candidate>, StoreError> {
        self.ensure_watched();
        // If all are silent, there must be time left to connect to the last master.
        let has_last = self.state().known.has_master();
        let asked_at = Instant::now();
        let deadline = if has_last { asked_at + (deadline - asked_at) / 2 } else { deadline };
        let (mut reports, mut errors) = (Vec::new(), Vec::new());
        for answer in self.ask(deadline).await {
            match answer {
                Ok(report) => reports.push(report),
                Err(error) => errors.push(error),
            }
        }
        let answers = self.answers(reports, asked_at);
        self.consider(&answers);
        let candidates = self.state().known.candidates(&answers);
        if candidates.is_empty() { Err(most_telling(errors)) } else { Ok(candidates) }
    }

    /// Records that a master has carried out a write, and the reports before it that named servers
    /// which are no masters.
    pub(super) fn confirm(&self, master: Candidate, refused: Vec<Report>) {
        self.state().known.confirm(master, refused);
    }

    /// Stops asking, and closes all connections to sentinels.
    pub(super) fn close(&self) {
        self.state().watcher = None;
        self.clients.iter().for_each(|client| client.close());
    }

    /// Starts the task that watches the sentinels, unless it is running: it may have panicked, or
    /// ended with its runtime.
    fn ensure_watched(self: &Arc<Self>) {
        let mut state = self.state();
        if state.watcher.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            let (announced, interval) = (self.announced.clone(), self.interval.subscribe());
            let watching = watch(Arc::downgrade(self), announced, interval);
            state.watcher = Some(AbortOnDropHandle::new(tokio::spawn(watching)));
        }
    }

    /// Asks all sentinels at once, and waits for those that answer soon after the first.
    ///
    /// Each in a task of its own: one that is too far away to answer in time is connected to
    /// nevertheless. It can announce a failover then, and answers the next question sooner.
    async fn ask(&self, deadline: Instant) -> Vec<Result<Report, StoreError>> {
        let ask = |client: &Arc<SentinelClient>| {
            let client = client.clone();
            in_own_task(async move { client.ask(deadline).await })
        };
        let mut asked: FuturesUnordered<_> = self.clients.iter().map(ask).collect();
        let (mut answers, mut end) = (Vec::new(), deadline);
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(answer) => {
                        if answer.is_ok() {
                            end = end.min(Instant::now() + GRACE);
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
        let asked_at = Instant::now();
        let answers = self.ask(asked_at + self.connect_timeout).await;
        let reports = answers.into_iter().flatten().collect();
        self.consider(&self.answers(reports, asked_at));
    }

    fn answers(&self, reports: Vec<Report>, asked_at: Instant) -> Answers {
        Answers { reports, asked: self.clients.len(), asked_at }
    }

    fn consider(&self, answers: &Answers) {
        if self.state().known.consider(answers) {
            tracing::info!("the sentinels name another master of Redis");
            self.moves.send_modify(|moves| *moves += 1);
        }
    }

    /// Returns `true` if the sentinels are asked even while nobody connects.
    #[cfg(test)]
    pub(super) fn are_watched(&self) -> bool {
        self.state().watcher.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the error of a sentinel that refuses, which says more than one that cannot be reached.
fn most_telling(errors: Vec<StoreError>) -> StoreError {
    let error = errors.into_iter().max_by_key(|error| error.kind() == StoreErrorKind::Refused);
    error.unwrap_or_else(|| {
        StoreError::from(StoreErrorKind::Unavailable).with_source("no sentinel answers in time")
    })
}

/// Watches the sentinels until they are dropped.
async fn watch(
    sentinels: Weak<Sentinels>,
    announced: Arc<Notify>,
    mut interval: watch::Receiver<Duration>,
) {
    loop {
        // A pause that has begun must not outlast a subscription that wants shorter ones.
        let pause = *interval.borrow_and_update();
        tokio::select! {
            () = announced.notified() => {}
            _ = interval.changed() => {}
            () = sleep(pause) => {}
        }
        let Some(sentinels) = sentinels.upgrade() else { return };
        sentinels.check().await;
    }
}
