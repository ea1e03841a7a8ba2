//! Finds out what has changed in the cluster.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::super::own_task::in_own_task;
use super::discovery::{Description, ask};
use super::members::Member;
use super::view::{MemberId, View};
use super::{Cluster, State, unavailable};
use crate::error::{StoreError, StoreErrorKind};

/// Minimum pause between two attempts to find out what has changed.
const REFRESH_AFTER: Duration = Duration::from_millis(200);
/// Maximum number of servers that are asked at once.
const MAX_ASKED: usize = 8;

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
            if state.knows_better_than(&answer.view) {
                return Err(unavailable("only servers that are cut off from the cluster answer"));
            }
            Ok(answer)
        });
        state.failure = answer.as_ref().err().cloned();
        self.apply(&mut state, &answer?);
        // One moment: no server can be added in between.
        Ok((state.members.all().to_vec(), *self.additions.borrow()))
    }

    /// Asks several servers at once, the known masters first. The one that has heard of the latest
    /// election knows best; others may be cut off from it.
    async fn best_answer(&self) -> Result<Description, StoreError> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let (known, epoch, turn) = {
            let mut state = self.lock();
            state.turn = state.turn.wrapping_add(1);
            (state.members.all().to_vec(), state.epoch, state.turn)
        };
        let from_turn = |number: usize| turn.checked_rem(number).unwrap_or_default();
        let order = known.iter().cycle().skip(from_turn(known.len())).take(known.len());
        let asking = order.take(MAX_ASKED).map(|member| async {
            let connected = member.lanes.commands().connected().await?;
            ask(connected.commands(), &member.address).await
        });
        let answer = best(asking.collect(), epoch, deadline).await;
        if answer.is_ok() {
            return answer;
        }
        let order = self.seeds.iter().cycle().skip(from_turn(self.seeds.len()));
        let asking = order.take(self.seeds.len().min(MAX_ASKED)).map(|address| async move {
            let link = self.endpoint(address).connect().await?;
            ask(link.wire.commands.clone(), address).await
        });
        best(asking.collect(), epoch, deadline + self.config.connect_timeout).await
    }

    /// Takes over what a server has said. Servers that are no masters any more are left.
    pub(super) fn apply(&self, state: &mut State, answer: &Description) {
        let view = &answer.view;
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
            let known = state.members.at(&address);
            let is_unchanged =
                |known: &&Arc<Member>| known.lanes.keeps_time(&self.time) == keeps_time;
            let lanes = known.filter(is_unchanged).map(|known| known.lanes.clone());
            let lanes = lanes.unwrap_or_else(|| {
                additions += 1;
                self.lanes(&address, keeps_time)
            });
            let (id, slots) = (Some(master.id.clone()), master.slots.clone());
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
    fn knows_better_than(&self, view: &View) -> bool {
        let is_known = |id: &MemberId| view.master(id).is_some();
        Some(view.current_epoch) < self.epoch
            && self.members.all().iter().filter_map(|member| member.id.as_ref()).any(is_known)
    }
}

/// Returns the answer of the server that has heard of the latest epoch. Does not wait for others
/// once one knows a later epoch than this node.
async fn best<F>(
    mut asking: FuturesUnordered<F>,
    known: Option<u64>,
    deadline: Instant,
) -> Result<Description, StoreError>
where
    F: Future<Output = Result<Description, StoreError>>,
{
    let mut best: Option<Description> = None;
    let mut failure = unavailable("no server of the cluster has answered");
    while let Ok(Some(answer)) = timeout_at(deadline, asking.next()).await {
        match answer {
            Ok(answer) => {
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
    best.ok_or(failure)
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::super::super::config::{RedisCluster, RedisConfig};
    use super::super::tests::{ONE, THREE, TWO, answer, cluster};
    use super::*;

    #[tokio::test]
    async fn the_past_of_a_cluster_is_not_taken_for_its_present() {
        let cluster = cluster();
        let knows_better =
            |nodes: &[&str], epoch| cluster.lock().knows_better_than(&answer(nodes, epoch).view);
        assert!(!knows_better(&[ONE, TWO], 0), "nothing is known yet");
        cluster.apply(&mut cluster.lock(), &answer(&[ONE, TWO], 5));
        assert!(knows_better(&[ONE, TWO], 4));
        assert!(!knows_better(&[ONE, TWO], 5));
        let new = THREE.replace("master", "myself,master");
        assert!(!knows_better(&[&new], 1), "the cluster was built again");
    }

    /// Returns a cluster of which no server answers.
    fn silent() -> Arc<Cluster> {
        let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
        let config = RedisConfig::cluster(seeds.clone())
            .connector(|_| std::future::pending::<std::io::Result<tokio::io::DuplexStream>>());
        Arc::new(Cluster::new(&config, &seeds, config.dialer().unwrap(), &Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_fail_do_not_queue_up_questions_to_a_silent_cluster() {
        let cluster = silent();
        for _ in 0..20 {
            cluster.refresh();
            sleep(REFRESH_AFTER).await;
        }
        let asked = || cluster.lock().attempts;
        // A question takes a second, and these 20 requests came within 4 s.
        sleep(Duration::from_secs(60)).await;
        assert!((1..=5).contains(&asked()), "{} questions", asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_not_polled_holds_up_no_other() {
        let cluster = silent();
        let mut unpolled = Box::pin(cluster.discovered());
        assert!(futures_util::poll!(&mut unpolled).is_pending());
        tokio::task::yield_now().await;
        let other = timeout(Duration::from_secs(10), cluster.discovered()).await;
        assert!(other.expect("it need not wait for the first").is_err());
    }

    async fn best_of(
        answers: Vec<Result<Description, StoreError>>,
        known: Option<u64>,
    ) -> Option<u64> {
        let asking: FuturesUnordered<_> = answers.into_iter().map(std::future::ready).collect();
        let answer = best(asking, known, Instant::now() + Duration::from_secs(1)).await;
        answer.ok().map(|answer| answer.view.current_epoch)
    }

    #[tokio::test]
    async fn the_server_that_has_heard_of_the_latest_election_is_believed() {
        let answers = |epochs: &[u64]| {
            let answers = epochs.iter().map(|epoch| Ok(answer(&[ONE, TWO], *epoch)));
            answers.chain([Err(unavailable("it is down"))]).collect()
        };
        assert_eq!(best_of(answers(&[3, 5, 4]), Some(5)).await, Some(5));
        assert_eq!(best_of(answers(&[3, 4]), Some(5)).await, Some(4));
        assert_eq!(best_of(answers(&[]), Some(5)).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_others_once_there_is_news() {
        let answers: FuturesUnordered<_> = [Some(6), None]
            .map(|epoch| async move {
                match epoch {
                    Some(epoch) => Ok(answer(&[ONE, TWO], epoch)),
                    None => std::future::pending().await,
                }
            })
            .into_iter()
            .collect();
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(1);
        assert!(best(answers, Some(5), deadline).await.is_ok());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
