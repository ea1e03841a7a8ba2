//! Real nodes whose Redis is demoted by hand while they run, and another one is promoted.
//!
//! Each trial prints `fault | still served for | cache used again after`.

use std::time::Instant;

use axum::http::StatusCode;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::trial::{Trial, start_node};
use support::wait::eventually;

/// The replica of a master, and a proxy that can block replication from it.
struct Pair {
    replica: RedisServer,
    to_replica: Proxy,
}

impl Pair {
    /// Starts a replica and waits until it has replicated everything.
    async fn of(master: &RedisServer) -> Self {
        let replica = RedisServer::start();
        for server in [master, &replica] {
            // By default, a master waits for more replicas before it sends its data to the first.
            let () = server.command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        }
        let to_replica = Proxy::start(replica.port()).await;
        replicate(&replica, master.port());
        synced(&replica, master).await;
        Pair { replica, to_replica }
    }

    /// Promotes the replica and demotes the master. The demoted server receives no writes of the
    /// new master.
    async fn swap(&self, master: &RedisServer) {
        synced(&self.replica, master).await;
        self.to_replica.blackhole();
        promote(&self.replica);
        replicate(master, self.to_replica.port());
    }

    /// Restores the original roles, after the original master has replicated all writes made
    /// meanwhile.
    async fn swap_back(&self, master: &RedisServer) {
        self.to_replica.heal();
        synced(master, &self.replica).await;
        replicate(&self.replica, master.port());
        promote(master);
    }
}

fn replicate(server: &RedisServer, master_port: u16) {
    let () = server.command(&["REPLICAOF", "127.0.0.1", &master_port.to_string()]);
}

fn promote(server: &RedisServer) {
    let () = server.command(&["REPLICAOF", "NO", "ONE"]);
}

/// Waits until a replica has everything that its master had at the time of the call.
async fn synced(replica: &RedisServer, master: &RedisServer) {
    let offset = |server: &RedisServer, name: &str| -> Option<u64> {
        let info: String = server.command(&["INFO", "replication"]);
        info.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
    };
    let target = offset(master, "master_repl_offset:");
    let caught_up = async || {
        let info: String = replica.command(&["INFO", "replication"]);
        info.contains("master_link_status:up") && offset(replica, "slave_repl_offset:") >= target
    };
    eventually(caught_up, "the replica has everything").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_nothing_from_a_demoted_master() {
    let mut trial = Trial::start().await;
    let pair = Pair::of(&trial.redis).await;
    // Redis loses writes that it acknowledges between the last replication and the demotion, so
    // there must be none.
    trial.stop_visits().await;
    let elsewhere = start_node(pair.replica.port(), "", &[]);
    pair.swap(&trial.redis).await;
    let acknowledged = trial.revoke_at(&elsewhere).await;
    trial.visit(&elsewhere).await;
    for node in [&trial.near, &trial.far] {
        for browser in [&trial.eve, &trial.bob] {
            trial.answers(node, browser, StatusCode::SERVICE_UNAVAILABLE).await;
        }
    }
    pair.swap_back(&trial.redis).await;
    trial
        .ends_well(
            "its master is demoted (`REPLICAOF`), and later promoted again",
            acknowledged,
            Instant::now(),
        )
        .await;
}

/// Runs the trial with a third node that never holds a lease: it must notice the demotion, too.
async fn demotion_with_a_node_without_a_lease(
    fault: &str,
    credentials: &str,
    variables: &[(&str, &str)],
) {
    let redis = RedisServer::start();
    let () = redis.command(&[
        "ACL",
        "SETUSER",
        "restricted",
        "on",
        ">secret",
        "+@all",
        "~*",
        "resetchannels",
    ]);
    let mut trial = Trial::on(redis, "").await;
    let node = start_node(trial.redis.port(), credentials, variables);
    let pair = Pair::of(&trial.redis).await;
    trial.stop_visits().await;
    let elsewhere = start_node(pair.replica.port(), "", &[]);
    trial.answers(&node, &trial.eve, StatusCode::OK).await;
    trial.watch(&node);
    pair.swap(&trial.redis).await;
    let acknowledged = trial.revoke_at(&elsewhere).await;
    trial.answers(&node, &trial.eve, StatusCode::SERVICE_UNAVAILABLE).await;
    pair.swap_back(&trial.redis).await;
    let promoted = Instant::now();
    trial.answers(&node, &trial.eve, StatusCode::UNAUTHORIZED).await;
    trial.ends_well(fault, acknowledged, promoted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cache_serves_nothing_from_a_demoted_master() {
    let fault = "its master is demoted, and a node has no cache";
    demotion_with_a_node_without_a_lease(fault, "", &[("LOCAL_CACHE", "off")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_subscribe_serves_nothing_from_a_demoted_master() {
    let fault = "its master is demoted, and a node may not subscribe";
    demotion_with_a_node_without_a_lease(fault, "restricted:secret@", &[]).await;
}
