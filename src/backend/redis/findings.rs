//! What the server is and what it refuses, as far as connections and heartbeats have shown.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::{BackendInfo, HistoryProof, ServerInfo};

/// `INFO` as a command of its own.
const INFO: &str = "INFO";
/// `INFO` in a script, refused or without a replication id.
const INFO_IN_SCRIPTS: &str = "INFO in scripts";
const TIME: &str = "TIME";

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
}

/// What a server has answered when a connection was made.
#[derive(Debug)]
pub(super) struct Answers {
    /// The reply to `INFO`, or `None` if the server refuses it.
    pub(super) info: Option<String>,
    /// `true` if the server was asked for its time apart, and refused.
    pub(super) refuses_time: bool,
}

impl Findings {
    /// Records what a server has answered when a connection was made.
    pub(super) fn connected(&self, answers: &Answers) {
        let mut state = self.state();
        state.known = true;
        state.software = answers.info.as_deref().and_then(software);
        state.note(INFO, answers.info.is_none());
        state.note(TIME, answers.refuses_time);
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

    pub(super) fn to_info(&self) -> BackendInfo {
        let state = self.state();
        if !state.known {
            return BackendInfo::default();
        }
        let refused = state.refused.iter().map(|command| (*command).to_owned()).collect();
        BackendInfo::new(vec![ServerInfo::new(state.software.clone(), state.history, refused)])
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
}

/// Returns the name and version of a server's software.
fn software(info: &str) -> Option<String> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    // Valkey also reports the version of Redis that it is compatible with.
    field("valkey_version")
        .map(|version| format!("valkey {version}"))
        .or_else(|| field("redis_version").map(|version| format!("redis {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(findings: &Findings) -> Vec<String> {
        findings.to_info().servers.remove(0).refused
    }

    fn answers(info: Option<&str>, refuses_time: bool) -> Answers {
        Answers { info: info.map(str::to_owned), refuses_time }
    }

    #[test]
    fn the_software_is_named_with_its_version() {
        let redis = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(software(redis).as_deref(), Some("redis 7.0.15"));
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        assert_eq!(software(valkey).as_deref(), Some("valkey 9.1.2"));
        assert_eq!(software("# Server\r\n"), None);
    }

    #[test]
    fn nothing_is_said_about_a_server_before_the_first_connection() {
        let findings = Findings::default();
        assert_eq!(findings.to_info(), BackendInfo::default());
        findings.connected(&answers(Some("redis_version:8.0.0\r\n"), false));
        let server = ServerInfo::new(Some("redis 8.0.0".into()), HistoryProof::NoneYet, vec![]);
        assert_eq!(findings.to_info().servers, [server]);
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
        assert_eq!(findings.to_info().servers[0].history, HistoryProof::NoneYet);
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
