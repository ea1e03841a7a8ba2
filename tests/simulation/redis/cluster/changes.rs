//! What operators and failures do to the cluster: slots move, a server joins and leaves, a replica
//! takes over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::member::{Member, holds_sessions};
use super::{JOINER, NODE_TIMEOUT, REPLICA, SERVERS, Servers};
use crate::Dice;

/// Time for which a failover, or an operator, waits for a server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cause of an election.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// An operator orders it. The master pauses its clients until it is over.
    Ordered,
    /// The master has ended, and is started again later.
    Killed,
    /// The master has lost the others, but not its clients.
    Isolated,
    /// Servers vote, but the candidate never learns that it has won.
    Abandoned,
}

impl Servers {
    /// Changes the cluster in a random way.
    pub(super) async fn change_somehow(&self, dice: &Dice) {
        let owner = self.server(1).member().owner_of_sessions();
        match dice.roll(6) {
            0 => self.move_sessions(owner, self.other_master(owner, dice), dice).await,
            1 => self.join_and_leave(owner, dice).await,
            2 => self.fail_over(Cause::Ordered, dice).await,
            3 => self.fail_over(Cause::Killed, dice).await,
            4 => self.fail_over(Cause::Isolated, dice).await,
            _ => self.fail_over(Cause::Abandoned, dice).await,
        }
    }

    /// Returns the master of the group that has a replica, and its replica.
    fn replicated(&self) -> (usize, usize) {
        if self.server(0).is_master { (0, REPLICA) } else { (REPLICA, 0) }
    }

    fn other_master(&self, than: usize, dice: &Dice) -> usize {
        let masters = [self.replicated().0, 1, 2];
        let others: Vec<_> = masters.into_iter().filter(|master| *master != than).collect();
        *dice.pick(&others)
    }

    /// Moves the slots of the sessions, key by key.
    async fn move_sessions(&self, source: usize, target: usize, dice: &Dice) {
        self.server(target).member_mut().importing = Some(source);
        sleep(dice.millis(50)).await;
        self.server(source).member_mut().migrating = Some(target);
        while let Some(key) = self.next_session_key(source) {
            let (from, to) = (self.server(source).data.clone(), self.server(target).data.clone());
            if let Some(entry) = from.lock().unwrap().remove(&key) {
                to.lock().unwrap().insert(key, entry);
            }
            sleep(dice.millis(20)).await;
        }
        self.server(target).member_mut().assign_sessions(target);
        self.home.store(target, Ordering::SeqCst);
        self.gossip(target);
        sleep(dice.millis(300)).await;
        self.server(source).member_mut().assign_sessions(target);
    }

    /// Gives the slots of the sessions to the server that has the sessions if no server claims
    /// them, as `redis-cli --cluster fix` does. An old claim of the source that arrives late can
    /// take them from the target, after which each of the two believes that the other has them.
    pub(super) fn repair(&self) {
        let claims = |number| self.server(number).member().owner_of_sessions() == number;
        if self.changes.load(Ordering::SeqCst) || (0..SERVERS).any(claims) {
            return;
        }
        let home = match self.home.load(Ordering::SeqCst) {
            0 | REPLICA => self.replicated().0,
            home => home,
        };
        self.server(home).member_mut().assign_sessions(home);
    }

    fn next_session_key(&self, server: usize) -> Option<Vec<u8>> {
        let server = self.server(server);
        // A seed must give the same history each time.
        server.keys().keys().filter(|key| holds_sessions(key)).min().cloned()
    }

    async fn join_and_leave(&self, owner: usize, dice: &Dice) {
        for number in 0..JOINER {
            self.server(number).member_mut().forgive();
        }
        self.server(JOINER).member_mut().meet(owner);
        self.server(owner).member_mut().meet(JOINER);
        sleep(dice.millis(300)).await;
        self.move_sessions(owner, JOINER, dice).await;
        sleep(dice.millis(1500)).await;
        self.move_sessions(JOINER, self.other_master(JOINER, dice), dice).await;
        sleep(dice.millis(300)).await;
        *self.server(JOINER).member_mut() = Member::stranger(JOINER);
        for number in 0..JOINER {
            self.server(number).member_mut().forget(JOINER);
        }
    }

    async fn fail_over(&self, cause: Cause, dice: &Dice) {
        let (old, new) = self.replicated();
        match cause {
            Cause::Ordered => drop(self.server(old).frozen.send_replace(true)),
            Cause::Killed => {
                self.server(old).is_up = false;
                self.restart(old);
                sleep(dice.millis(1000)).await;
            }
            Cause::Isolated => {
                self.bus.isolate(old, true);
                sleep(dice.millis(1000)).await;
            }
            Cause::Abandoned => {}
        }
        let epoch = self.server(new).member_mut().stand();
        let has_won = self.collect_votes(new, epoch).await >= 2 && cause != Cause::Abandoned;
        if has_won {
            // What it acknowledged from now on would be forgotten.
            self.server(old).refuses_changes = true;
            let history = self.processes.fetch_add(1, Ordering::SeqCst);
            let mut winner = self.server(new);
            winner.member_mut().win(epoch);
            (winner.is_master, winner.history) = (true, history);
            drop(winner);
            self.gossip(new);
        }
        match cause {
            Cause::Ordered if has_won => self.has_heard(old).await,
            Cause::Isolated => {
                sleep(dice.millis(NODE_TIMEOUT.as_millis() as u64)).await;
                self.server(old).member_mut().is_cut_off = true;
            }
            _ => {}
        }
        sleep(dice.millis(1000)).await;
        self.server(old).is_up = true;
        self.server(old).frozen.send_replace(false);
        if cause == Cause::Isolated {
            self.bus.isolate(old, false);
        }
        if has_won {
            self.has_heard(old).await;
        }
        self.server(old).member_mut().is_cut_off = false;
        self.server(old).refuses_changes = false;
    }

    /// Lets the replica win an election while no other server hears of it: the old master is cut
    /// off from the others, and what the winner says takes `lag`.
    pub(super) async fn fail_over_unheard(&self, lag: Duration) {
        let (old, new) = self.replicated();
        self.bus.isolate(old, true);
        let epoch = self.server(new).member_mut().stand();
        assert_eq!(self.collect_votes(new, epoch).await, 2);
        self.bus.delay_from(new, lag);
        self.server(old).refuses_changes = true;
        let mut winner = self.server(new);
        winner.member_mut().win(epoch);
        winner.is_master = true;
    }

    /// Cuts the master that has the sessions off from the other servers, and returns it.
    pub(super) fn isolate_owner(&self) -> usize {
        let owner = self.server(1).member().owner_of_sessions();
        self.bus.isolate(owner, true);
        owner
    }

    /// Returns the number of servers that vote for a candidate.
    async fn collect_votes(&self, candidate: usize, epoch: u64) -> usize {
        let voters = (0..SERVERS).filter(|voter| *voter != candidate);
        let votes = voters.map(|voter| async move {
            let knows = self.server(voter).member().knows(candidate);
            let hears = knows && self.bus.passes(candidate, voter).await;
            let votes = hears && self.server(voter).is_up && {
                self.server(voter).member_mut().vote(epoch)
            };
            votes && self.bus.passes(voter, candidate).await
        });
        join_all(votes).await.into_iter().filter(|votes| *votes).count()
    }

    /// Waits until a master has heard that it was replaced, unless it takes too long.
    async fn has_heard(&self, old: usize) {
        let hears = async {
            while self.server(old).is_master {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(PATIENCE, hears).await;
    }
}
