//! Finds out what has changed in the cluster.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::super::own_task::in_own_task;
use super::discovery::{Description, ask};
use super::members::Member;
use super::{Cluster, State, unavailable};
use crate::error::{StoreError, StoreErrorKind};

/// Minimum pause between two attempts to find out what has changed.
const REFRESH_AFTER: Duration = Duration::from_millis(200);
/// Maximum number of servers that are asked at once.
const MAX_ASKED: usize = 8;

/// The answer of the server that knows best.
struct BestAnswer {
    description: Description,
    /// `true` if most of the known masters that were asked have answered.
    is_of_most: bool,
}

impl Cluster {
    /// Asks the cluster in the background, unless that is being done or was done a moment ago.
    pub(super) fn refresh(self: &Arc<Self>) {
        let mut state = self.lock();
        let is_recent = state.asked_at.is_some_and(|at| at.elapsed() < REFRESH_AFTER);
        if is_recent || state.closed {
            return;
        }
        state.asked_at = Some(Instant::now());
        drop(state);
        let cluster = self.clone();
        tokio::spawn(async move {
            // While a master is silent, an answer takes longer than the pause: tasks that waited
            // for their turn would become more and more.
            let Ok(_one) = cluster.discovering.try_lock() else { return };
            // Requests have errors of their own, and the next that fails asks again.
            let _ = cluster.discover_alone().await;
        });
    }

    /// Asks the cluster if nothing is known about it yet.
    pub(super) async fn discovered(self: &Arc<Self>) -> Result<(), StoreError> {
        let attempts_before = {
            let state = self.lock();
            if state.closed {
                return Err(StoreErrorKind::Closed.into());
            }
            if !state.members.is_empty() {
                return Ok(());
            }
            state.attempts
        };
        // A task of its own: everybody waits for the answer, and the caller that has asked first
        // may not be polled meanwhile.
        let this = self.clone();
        in_own_task(async move { this.discover_first(attempts_before).await }).await
    }

    /// Asks the cluster, unless another caller does, or has since this number of attempts.
    async fn discover_first(&self, attempts_before: u64) -> Result<(), StoreError> {
        let _one = self.discovering.lock().await;
        {
            let state = self.lock();
            if state.closed {
                return Err(StoreErrorKind::Closed.into());
            }
            if !state.members.is_empty() {
                return Ok(());
            }
            // If each waiting caller asked in turn, the last would wait too long.
            if let Some(failure) = &state.failure
                && state.attempts != attempts_before
            {
                return Err(failure.clone());
            }
        }
        self.discover_alone().await.map(drop)
    }

    /// Asks the cluster for its masters and their slots. Returns the servers that commands are sent
    /// to from now on, and the number of additions so far.
    pub(super) async fn discover(&self) -> Result<(Vec<Arc<Member>>, u64), StoreError> {
        let _one = self.discovering.lock().await;
        self.discover_alone().await
    }

    async fn discover_alone(&self) -> Result<(Vec<Arc<Member>>, u64), StoreError> {
        let answer = self.best_answer().await;
        let mut state = self.lock();
        state.attempts += 1;
        state.asked_at = Some(Instant::now());
        if state.closed {
            return Err(StoreErrorKind::Closed.into());
        }
        let answer = answer.and_then(|answer| {
            if state.knows_better_than(&answer, self.elections().danger()) {
                return Err(unavailable("only servers that are cut off from the cluster answer"));
            }
            Ok(answer.description)
        });
        state.failure = answer.as_ref().err().cloned();
        self.apply(&mut state, &answer?);
        // One moment: no server can be added in between.
        Ok((state.members.all().to_vec(), *self.additions.borrow()))
    }

    /// Asks several servers at once, the known masters first. The one that has heard of the latest
    /// election knows best; others may be cut off from it.
    ///
    /// A server of another cluster may have taken over the address of a master that has gone. Only
    /// the configured addresses can lead to a cluster that was built again.
    async fn best_answer(&self) -> Result<BestAnswer, StoreError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let (known, epoch, turn) = {
            let mut state = self.lock();
            state.turn = state.turn.wrapping_add(1);
            (state.members.all().to_vec(), state.epoch, state.turn)
        };
        let from_turn = |number: usize| turn.checked_rem(number).unwrap_or_default();
        let order = known.iter().cycle().skip(from_turn(known.len())).take(known.len());
        let ids = || known.iter().filter_map(|member| member.id.as_ref());
        let asking = order.take(MAX_ASKED).map(|member| async {
            let connected = member.lanes.commands().connected().await?;
            let answer = ask(connected.commands(), &member.address).await?;
            if !answer.view.is_of(ids()) {
                return Err(unavailable("the address of a master leads to another cluster"));
            }
            Ok(answer)
        });
        let asking: FuturesUnordered<_> = asking.collect();
        let asked = asking.len();
        if let Ok((description, answers)) = best(asking, epoch, deadline).await {
            return Ok(BestAnswer { description, is_of_most: answers > asked / 2 });
        }
        let order = self.seeds.iter().cycle().skip(from_turn(self.seeds.len()));
        let asking = order.take(self.seeds.len().min(MAX_ASKED)).map(|address| async move {
            let link = self.endpoint(address).connect().await?;
            ask(link.wire.commands.clone(), address).await
        });
        let deadline = deadline + self.config.connect_timeout;
        let (description, _) = best(asking.collect(), epoch, deadline).await?;
        Ok(BestAnswer { description, is_of_most: false })
    }

    /// Takes over what a server has said. Servers that are no masters any more are left.
    pub(super) fn apply(&self, state: &mut State, answer: &Description) {
        let view = &answer.view;
        if Some(view.current_epoch) < state.epoch {
            self.elections().forget();
        }
        state.epoch = Some(view.current_epoch);
        // All nodes observe the time of the same master.
        let timekeeper = view.ids().first().cloned();
        let mut additions = 0;
        let mut members = Vec::new();
        for master in &view.masters {
            let Some(address) = answer.address_of(master, self.config.names_servers()) else {
                continue;
            };
            let keeps_time = timekeeper.as_ref() == Some(&master.id);
            let id = Some(master.id.clone());
            let known = state.members.at(&address);
            let is_unchanged = |known: &&Arc<Member>| {
                known.id == id && known.lanes.keeps_time(&self.time) == keeps_time
            };
            let lanes = known.filter(is_unchanged).map(|known| known.lanes.clone());
            let lanes = lanes.unwrap_or_else(|| {
                additions += 1;
                self.lanes(&address, id.as_ref(), keeps_time)
            });
            let slots = master.slots.clone();
            members.push(Arc::new(Member { id, address, slots, lanes }));
        }
        state.members.replace(members);
        self.additions.send_modify(|count| *count += additions);
    }
}

impl State {
    /// Returns `true` if a view is of a past of the cluster: an old master that is cut off from the
    /// others does not know that it has been replaced. A cluster that was built again has lower
    /// epochs, too, but consists of other members.
    ///
    /// So has one whose servers have gone back to earlier data. No master of it can be cut off from
    /// most others and accept writes for longer than `danger`.
    fn knows_better_than(&mut self, answer: &BestAnswer, danger: Duration) -> bool {
        let view = &answer.description.view;
        let is_behind = Some(view.current_epoch) < self.epoch && view.is_of(self.members.ids());
        if !is_behind || !answer.is_of_most {
            self.behind_since = None;
            return is_behind;
        }
        self.behind_since.get_or_insert_with(Instant::now).elapsed() <= danger
    }
}

/// Returns the answer of the server that has heard of the latest epoch, and the number of answers.
/// Does not wait for others once one knows a later epoch than this node.
async fn best<F>(
    mut asking: FuturesUnordered<F>,
    known: Option<u64>,
    deadline: Instant,
) -> Result<(Description, usize), StoreError>
where
    F: Future<Output = Result<Description, StoreError>>,
{
    let (mut best, mut answers) = (None::<Description>, 0);
    let mut failure = unavailable("no server of the cluster has answered");
    while let Ok(Some(answer)) = timeout_at(deadline, asking.next()).await {
        match answer {
            Ok(answer) => {
                answers += 1;
                let rank = |answer: &Description| (answer.view.is_ok, answer.view.current_epoch);
                let is_news = answer.view.is_ok && Some(answer.view.current_epoch) > known;
                if best.as_ref().is_none_or(|best| rank(&answer) > rank(best)) {
                    best = Some(answer);
                }
                if is_news {
                    break;
                }
            }
            Err(error) => failure = error,
        }
    }
    best.map(|best| (best, answers)).ok_or(failure)
}

#[cfg(test)]
mod tests;
