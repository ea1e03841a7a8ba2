//! What a node has made of the sentinels' answers: the master that it uses, and those to try. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::report::{Report, rank};

/// Time after which a node no longer insists on a master that most sentinels do not know.
///
/// Sentinels tell each other of a failover every 2 seconds, and demote a master that should be a
/// replica after 8. Until then, a sentinel may name the old master because it is behind.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The answers to one question.
pub(super) struct Answers {
    /// Of each sentinel that has answered.
    pub(super) reports: Vec<Report>,
    /// The number of sentinels that were asked.
    pub(super) asked: usize,
    pub(super) asked_at: Instant,
}

/// A master to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Candidate {
    pub(in super::super) report: Report,
    /// The time of the question to which this is an answer, or `None` if the node only remembers
    /// it.
    named_at: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Known {
    /// The last master that has carried out a write.
    confirmed: Option<Candidate>,
    /// The reports that named another server first, which is no master.
    refused: Vec<Report>,
    /// The failover for which commands have last moved on.
    considered: Option<Report>,
}

impl Known {
    /// Returns `true` if there is a master to fall back on while no sentinel answers.
    pub(super) fn has_master(&self) -> bool {
        self.confirmed.is_some()
    }

    /// Returns `true` if the master in use was the answer to a question that was asked at most this
    /// long ago.
    pub(super) fn was_named_within(&self, limit: Duration) -> bool {
        let named_at = self.confirmed.as_ref().and_then(|master| master.named_at);
        named_at.is_some_and(|at| at.elapsed() <= limit)
    }

    /// Returns the masters to try, in order: those that the sentinels name, and the last one that
    /// was confirmed.
    pub(super) fn candidates(&self, answers: &Answers) -> Vec<Candidate> {
        let remembered = self.confirmed.iter().map(|master| &master.report);
        let mut candidates: Vec<Candidate> = Vec::new();
        for report in rank(answers.reports.iter().chain(remembered).cloned()) {
            if candidates.iter().any(|known| known.report.master == report.master) {
                continue;
            }
            let is_named = answers.reports.iter().any(|answer| answer.master == report.master);
            candidates.push(Candidate { report, named_at: is_named.then_some(answers.asked_at) });
        }
        candidates
    }

    /// Records that a master has carried out a write, and the reports before it that named servers
    /// which are no masters.
    ///
    /// Several connections are made at the same time. One that is late may have found the master
    /// from before a failover, and changes nothing.
    pub(super) fn confirm(&mut self, master: Candidate, refused: Vec<Report>) {
        let before = self.confirmed.take();
        let is_late = |before: &Candidate| {
            master.report.epoch < before.report.epoch && !refused.contains(&before.report)
        };
        if before.as_ref().is_some_and(is_late) {
            self.confirmed = before;
            return;
        }
        let same = before.filter(|before| before.report.master == master.report.master);
        let named_at = master.named_at.max(same.and_then(|same| same.named_at));
        self.confirmed = Some(Candidate { named_at, ..master });
        self.refused = refused;
        // The attempt to follow a failover may have led back, while the sentinels were silent.
        self.considered = None;
    }

    /// Returns `true` if commands must move on: there was a failover since the present master was
    /// confirmed, or the sentinels have lost their memory of it.
    ///
    /// Answers may arrive in another order than they were given, so those of an earlier epoch
    /// change nothing at first. If sentinels disagree within one epoch, moving on without need only
    /// costs cache misses.
    pub(super) fn consider(&mut self, answers: &Answers) -> bool {
        let ranked = rank(answers.reports.iter().cloned());
        let first = ranked.into_iter().find(|report| !self.refused.contains(report));
        let (Some(confirmed), Some(first)) = (&mut self.confirmed, first) else { return false };
        if first.master == confirmed.report.master {
            confirmed.named_at = confirmed.named_at.max(Some(answers.asked_at));
            return false;
        }
        if first.epoch < confirmed.report.epoch {
            let is_forgotten = is_forgotten(confirmed, answers);
            if is_forgotten {
                *self = Self::default();
            }
            return is_forgotten;
        }
        let is_news = self.considered.as_ref() != Some(&first);
        self.considered = Some(first);
        is_news
    }
}

/// Returns `true` if the sentinels have been set up again. Given that no answer knows of the
/// failover in which this became the master, that is so if most sentinels have answered, and none
/// has named the master for long.
fn is_forgotten(confirmed: &Candidate, answers: &Answers) -> bool {
    let Answers { reports, asked, asked_at } = answers;
    let named_long_ago =
        confirmed.named_at.is_none_or(|at| asked_at.duration_since(at) > FORGOTTEN_AFTER);
    named_long_ago && reports.len() * 2 > *asked
}

#[cfg(test)]
mod tests {
    use super::super::super::config::RedisAddress;
    use super::*;

    fn report(host: &str, epoch: u64) -> Report {
        Report { master: RedisAddress::tcp(host, 6379), epoch }
    }

    /// Returns what some of three sentinels answer now.
    fn answers<const N: usize>(reports: [(&str, u64); N]) -> Answers {
        let reports = reports.map(|(host, epoch)| report(host, epoch)).into();
        Answers { reports, asked: 3, asked_at: Instant::now() }
    }

    /// Returns what a node knows that has connected to the first candidate.
    fn connected<const N: usize>(reports: [(&str, u64); N]) -> Known {
        let mut known = Known::default();
        let first = known.candidates(&answers(reports)).remove(0);
        known.confirm(first, Vec::new());
        known
    }

    fn to_try<const N: usize>(known: &Known, reports: [(&str, u64); N]) -> Vec<Report> {
        known.candidates(&answers(reports)).into_iter().map(|it| it.report).collect()
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_master_is_tried_although_a_sentinel_is_behind_or_none_answers() {
        let known = connected([("new", 6)]);
        assert_eq!(to_try(&known, [("old", 5)]), [report("new", 6), report("old", 5)]);
        assert_eq!(to_try(&known, []), [report("new", 6)]);
        assert_eq!(to_try(&known, [("next", 7)]), [report("next", 7), report("new", 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_confirms_the_master_and_not_the_nodes_own_memory() {
        let mut known = connected([("new", 6)]);
        let limit = Duration::from_secs(2);
        pass(2).await;
        assert!(known.was_named_within(limit));
        pass(1).await;
        assert!(!known.consider(&answers([("old", 5)])), "one that is behind changes nothing");
        assert!(!known.was_named_within(limit));
        let remembered = known.candidates(&answers([("old", 5)])).remove(0);
        known.confirm(remembered, Vec::new());
        assert!(!known.was_named_within(limit), "a new connection is no answer either");
        assert!(!known.consider(&answers([("new", 6), ("old", 5)])));
        assert!(known.was_named_within(limit));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failover_moves_commands_once() {
        let mut known = connected([("old", 5)]);
        assert!(known.consider(&answers([("old", 5), ("new", 6)])));
        assert!(!known.consider(&answers([("new", 6), ("new", 6)])));
        assert!(known.consider(&answers([("next", 7)])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_led_back_by_silent_sentinels_follows_the_failover_again() {
        let mut known = connected([("old", 5)]);
        assert!(known.consider(&answers([("new", 6)])));
        let remembered = known.candidates(&answers([])).remove(0);
        known.confirm(remembered, Vec::new());
        assert!(known.consider(&answers([("new", 6)])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_connection_does_not_undo_a_later_answer() {
        let mut known = connected([("new", 6)]);
        let slow = known.candidates(&answers([("new", 6)])).remove(0);
        pass(5).await;
        assert!(!known.consider(&answers([("new", 6)])));
        known.confirm(slow, Vec::new());
        assert!(known.was_named_within(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn sentinels_that_are_set_up_again_are_believed_when_most_of_them_agree_for_long() {
        let set_up_again = [("other", 0), ("other", 0)];
        let mut known = connected([("lost", 6)]);
        pass(10).await;
        assert!(!known.consider(&answers(set_up_again)), "they may be behind");
        pass(1).await;
        assert!(!known.consider(&answers([("other", 0)])), "one may be cut off");
        assert!(!known.consider(&answers([("other", 0), ("lost", 6)])));
        pass(11).await;
        assert_eq!(to_try(&known, set_up_again), [report("lost", 6), report("other", 0)]);
        assert!(known.consider(&answers(set_up_again)));
        assert_eq!(to_try(&known, set_up_again), [report("other", 0)]);
        let other = known.candidates(&answers(set_up_again)).remove(0);
        known.confirm(other, Vec::new());
        assert!(known.was_named_within(Duration::ZERO));
        assert!(!known.consider(&answers(set_up_again)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_made_late_does_not_undo_a_failover() {
        let mut known = connected([("old", 5)]);
        let late = known.candidates(&answers([("old", 5)])).remove(0);
        assert!(known.consider(&answers([("new", 6)])));
        let new = known.candidates(&answers([("new", 6)])).remove(0);
        known.confirm(new, Vec::new());
        known.confirm(late.clone(), Vec::new());
        pass(1).await;
        assert!(!known.consider(&answers([("new", 6)])));
        assert!(known.was_named_within(Duration::ZERO), "the new master is the one in use");
        // Unless the new one turned out to be a replica.
        known.confirm(late, vec![report("new", 6)]);
        assert_eq!(to_try(&known, []), [report("old", 5)]);
    }
}
