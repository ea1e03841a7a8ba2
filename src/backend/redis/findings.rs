//! What the server is and what it refuses, as far as connections and heartbeats have shown.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::server_info::{evicting_policy, has_evicted, software};
use crate::backend::{HistoryProof, ServerInfo};
use crate::clock::Timestamp;

/// `INFO` as a command of its own.
const INFO: &str = "INFO";
/// `INFO` in a script, refused or without a replication id.
const INFO_IN_SCRIPTS: &str = "INFO in scripts";
const TIME: &str = "TIME";

/// Difference between the clocks of this node and the server above which the node warns. Smaller
/// ones may be a slow round trip.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(5);

/// The findings about the present server.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `true` once a connection has been made.
    known: bool,
    software: Option<String>,
    history: HistoryProof,
    refused: BTreeSet<&'static str>,
    /// `true` if the server evicts keys when its memory is full.
    evicts_keys: bool,
    /// `true` if the server has evicted keys since it was started.
    has_evicted: bool,
    /// `true` once the node has warned that its clock and the server's differ.
    clock_differs: bool,
}

/// What a server has answered when a connection was made.
#[derive(Debug)]
pub(super) struct Answers {
    /// The reply to `INFO`, or `None` if the server refuses it.
    pub(super) info: Option<String>,
    /// The server's time, or `None` if it refuses `TIME` and does not tell it otherwise.
    pub(super) time: Option<Timestamp>,
}

impl Findings {
    /// Records what a server has answered when a connection was made.
    pub(super) fn connected(&self, answers: &Answers) {
        let mut state = self.state();
        state.known = true;
        state.software = answers.info.as_deref().and_then(software);
        state.note(INFO, answers.info.is_none());
        state.note(TIME, answers.time.is_none());
        state.note_eviction(answers.info.as_deref().unwrap_or_default());
        if let Some(time) = answers.time {
            state.note_clock(time);
        }
    }

    /// Records what the server says about its memory now: both may have changed since the
    /// connection was made.
    pub(super) fn told_about_memory(&self, info: &str) {
        self.state().note_eviction(info);
    }

    /// Returns `true` if the server may have evicted keys, as far as it has said.
    pub(super) fn may_have_evicted(&self) -> bool {
        let state = self.state();
        state.evicts_keys || state.has_evicted
    }

    /// Records that a subscription begins, which nothing proves yet.
    pub(super) fn subscribing(&self) {
        self.state().history = HistoryProof::NoneYet;
    }

    /// Records the proof that a heartbeat of the present subscription has given.
    pub(super) fn proven_by(&self, history: HistoryProof) {
        let mut state = self.state();
        state.history = history;
        // A server that refuses `INFO` altogether is said to do so already.
        let only_in_scripts =
            history == HistoryProof::HeartbeatsAlone && !state.refused.contains(INFO);
        state.note(INFO_IN_SCRIPTS, only_in_scripts);
    }

    /// Returns the findings, or `None` before the first connection.
    pub(super) fn to_info(&self) -> Option<ServerInfo> {
        let state = self.state();
        let refused = state.refused.iter().map(|command| (*command).to_owned()).collect();
        state.known.then(|| ServerInfo::new(state.software.clone(), state.history, refused))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records if a command is refused, and logs it when it is refused for the first time, or
    /// again.
    fn note(&mut self, command: &'static str, refused: bool) {
        if !refused {
            self.refused.remove(command);
        } else if self.refused.insert(command) {
            tracing::warn!(
                command,
                software = self.software.as_deref(),
                "the Redis server refuses a command that the session backend can do without"
            );
        }
    }

    fn note_eviction(&mut self, info: &str) {
        self.has_evicted = has_evicted(info);
        let policy = evicting_policy(info);
        let evicted_before = std::mem::replace(&mut self.evicts_keys, policy.is_some());
        if policy.is_some() && !evicted_before {
            tracing::warn!(
                maxmemory_policy = policy,
                "Redis evicts keys when its memory is full, which logs users out: use `noeviction`"
            );
        }
    }

    /// Warns once if this node's clock differs from the server's. Sessions follow the server's, but
    /// logs, and applications that compare times, do not.
    fn note_clock(&mut self, server: Timestamp) {
        let node = Timestamp::from(SystemTime::now());
        let difference =
            node.saturating_duration_since(server).max(server.saturating_duration_since(node));
        if difference > MAX_CLOCK_DIFFERENCE && !self.clock_differs {
            self.clock_differs = true;
            tracing::warn!(
                seconds = difference.as_secs(),
                "the clocks of this node and of the Redis server differ"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(findings: &Findings) -> Vec<String> {
        findings.to_info().unwrap().refused
    }

    fn answers(info: Option<&str>, refuses_time: bool) -> Answers {
        let time = (!refuses_time).then(|| Timestamp::from(SystemTime::now()));
        Answers { info: info.map(str::to_owned), time }
    }

    #[test]
    fn nothing_is_said_about_a_server_before_the_first_connection() {
        let findings = Findings::default();
        assert_eq!(findings.to_info(), None);
        findings.connected(&answers(Some("redis_version:8.0.0\r\n"), false));
        let server = ServerInfo::new(Some("redis 8.0.0".into()), HistoryProof::NoneYet, vec![]);
        assert_eq!(findings.to_info(), Some(server));
    }

    #[test]
    fn what_is_refused_in_scripts_is_found_by_a_heartbeat() {
        let findings = Findings::default();
        findings.connected(&answers(Some(""), false));
        findings.proven_by(HistoryProof::ReplicationIdAndHeartbeats);
        assert_eq!(refused(&findings), [""; 0]);
        findings.proven_by(HistoryProof::HeartbeatsAlone);
        assert_eq!(refused(&findings), [INFO_IN_SCRIPTS]);
        findings.subscribing();
        assert_eq!(findings.to_info().unwrap().history, HistoryProof::NoneYet);
        assert_eq!(refused(&findings), [INFO_IN_SCRIPTS], "it is not logged again");
        findings.proven_by(HistoryProof::ReplicationIdAndHeartbeats);
        assert_eq!(refused(&findings), [""; 0], "the server permits it now");
    }

    #[test]
    fn what_is_refused_altogether_is_named_once() {
        let findings = Findings::default();
        findings.connected(&answers(None, true));
        findings.proven_by(HistoryProof::HeartbeatsAlone);
        assert_eq!(refused(&findings), [INFO, TIME]);
    }
}
