//! Elections whose winner, if there is one, is not known yet. Pure: time comes from outside.

use std::time::{Duration, Instant};

use super::view::View;

/// Shortest time in which a replica must have won an election.
const MIN_ELECTION: Duration = Duration::from_secs(2);

/// Notices elections, and when an unknown winner of one no longer matters.
///
/// Before a replica that takes over accepts its first write, most masters have raised their current
/// epoch and voted for it. So a master that has voted, and whose current epoch is above the
/// configuration epochs of all servers that it knows, may have voted for one that it has not heard
/// of. But the current epoch also stays there if nobody wins, or if the master with the highest
/// configuration epoch is removed.
///
/// A winner that no master has heard of after some time accepts no more writes. A replica has twice
/// the `cluster-node-timeout` to win, at least two seconds; and a master without contact to most
/// others accepts no writes after `cluster-node-timeout`.
#[derive(Debug)]
pub(super) struct Elections {
    /// The time for which an unknown winner may accept writes.
    danger: Duration,
    /// The highest epoch for which the winner was not known, and when it was first seen.
    open: Option<(u64, Instant)>,
}

impl Elections {
    pub(super) fn new(node_timeout: Duration) -> Self {
        let danger = (node_timeout * 2).max(MIN_ELECTION) + node_timeout;
        Elections { danger, open: None }
    }

    /// Returns the time for which an unknown winner may accept writes.
    pub(super) fn danger(&self) -> Duration {
        self.danger
    }

    /// Forgets the elections of a cluster whose epochs have begun again.
    pub(super) fn forget(&mut self) {
        self.open = None;
    }

    /// Returns `true` if there may be a master that accepts writes, and that this view does not
    /// have because its election is recent.
    pub(super) fn may_hide_a_master(&mut self, view: &View, now: Instant) -> bool {
        if !view.awaits_winner() {
            return false;
        }
        // An election of a lower epoch began earlier.
        let (_, since) = *match &mut self.open {
            Some(open) if open.0 >= view.current_epoch => open,
            open => open.insert((view.current_epoch, now)),
        };
        now.saturating_duration_since(since) < self.danger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn view(current: u64, config: u64) -> View {
        let nodes = format!("beef :3@4 myself,master - 0 0 {config} connected 0-16383");
        let info = format!("cluster_state:ok\r\ncluster_current_epoch:{current}\r\n");
        View::parse(&nodes, &info).unwrap()
    }

    #[test]
    fn an_unknown_winner_matters_until_it_must_have_stopped() {
        let (mut elections, start) = (Elections::new(15 * SECOND), Instant::now());
        assert!(!elections.may_hide_a_master(&view(3, 3), start));
        assert!(elections.may_hide_a_master(&view(4, 3), start));
        assert!(elections.may_hide_a_master(&view(4, 3), start + 44 * SECOND));
        assert!(!elections.may_hide_a_master(&view(4, 3), start + 45 * SECOND));
        assert!(!elections.may_hide_a_master(&view(4, 4), start), "the winner is known");
        // A master that is behind names an earlier election.
        assert!(!elections.may_hide_a_master(&view(3, 2), start + 45 * SECOND));
        // The next election begins.
        assert!(elections.may_hide_a_master(&view(5, 4), start + 45 * SECOND));
        assert!(!elections.may_hide_a_master(&view(5, 4), start + 90 * SECOND));
    }

    #[test]
    fn an_election_takes_at_least_two_seconds() {
        let (mut elections, start) = (Elections::new(SECOND / 10), Instant::now());
        assert!(elections.may_hide_a_master(&view(4, 3), start));
        assert!(elections.may_hide_a_master(&view(4, 3), start + 2 * SECOND));
        assert!(!elections.may_hide_a_master(&view(4, 3), start + 3 * SECOND));
    }
}
