//! Masters and replicas.

use crate::redis::RedisServer;
use crate::wait::eventually;

/// Starts a master and a replica that has synchronised with it.
pub async fn pair() -> (RedisServer, RedisServer) {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    replica.replicate(master.port());
    replica.has_caught_up_with(&master).await;
    (master, replica)
}

impl RedisServer {
    /// Makes the server a replica of the one at a port of this machine.
    pub fn replicate(&self, master_port: u16) {
        let () = self.command(&["REPLICAOF", "127.0.0.1", &master_port.to_string()]);
    }

    /// Makes the server a master.
    pub fn promote(&self) {
        let () = self.command(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Waits until this replica has everything that its master had at the time of the call.
    pub async fn has_caught_up_with(&self, master: &RedisServer) {
        let target = master.offset("master_repl_offset:").expect("a master reports its offset");
        let caught_up = async || {
            let info = self.info("replication");
            info.contains("master_link_status:up")
                && self.offset("slave_repl_offset:") >= Some(target)
        };
        eventually(caught_up, "the replica has everything").await;
    }

    fn offset(&self, name: &str) -> Option<u64> {
        let info = self.info("replication");
        info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}
