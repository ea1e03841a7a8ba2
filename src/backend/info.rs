//! What a backend has found out about its servers.

/// The servers of a backend, as far as the node has got to know them: the answer of
/// [`SessionStore::backend_info`](crate::SessionStore::backend_info).
///
/// It has no servers if the backend has none, or if the node has not been connected to one yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo {
    /// The servers.
    pub servers: Vec<ServerInfo>,
}

impl BackendInfo {
    /// Creates the answer of a backend with these servers.
    pub fn new(servers: Vec<ServerInfo>) -> Self {
        BackendInfo { servers }
    }

    /// Returns the number of commands that are refused, over all servers.
    pub(crate) fn refused_commands(&self) -> usize {
        self.servers.iter().map(|server| server.refused.len()).sum()
    }
}

/// A server of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Name and version of the software, such as `redis 7.0.15`, if the server tells.
    pub software: Option<String>,
    /// The proof that the data still has the same history, as of the last heartbeat.
    pub history: HistoryProof,
    /// The commands that the server has refused and that the backend does without, in alphabetical
    /// order.
    pub refused: Vec<String>,
}

impl ServerInfo {
    /// Creates the description of a server.
    pub fn new(software: Option<String>, history: HistoryProof, refused: Vec<String>) -> Self {
        ServerInfo { software, history, refused }
    }
}

/// The proof that a server's data still has the history that a node has followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryProof {
    /// No heartbeat of the present subscription has come back yet, or the backend needs no proof.
    #[default]
    NoneYet,
    /// Each heartbeat finds what the last one has left. A server whose data had another history for
    /// a moment, between two heartbeats, is not noticed.
    HeartbeatsAlone,
    /// Each heartbeat finds what the last one has left, and the server's replication id is still
    /// the same.
    ReplicationIdAndHeartbeats,
}
