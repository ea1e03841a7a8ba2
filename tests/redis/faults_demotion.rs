//! Real nodes whose Redis is demoted by hand while they run, and another one is promoted.
//!
//! Each trial prints `fault | still served for | cache used again after`.

use std::time::Instant;

use axum::http::StatusCode;
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::trial::{Trial, start_node};

/// The replica of a master, and a proxy that can block replication from it.
struct Pair {
    replica: RedisServer,
    to_replica: Proxy,
}

impl Pair {
    /// Starts a replica and waits until it has replicated everything.
    async fn of(master: &RedisServer) -> Self {
        let replica = RedisServer::start();
        let to_replica = Proxy::start(replica.port()).await;
        replica.replicate(master.port());
        replica.has_caught_up_with(master).await;
        Pair { replica, to_replica }
    }

    /// Promotes the replica and demotes the master. The demoted server receives no writes of the
    /// new master.
    async fn swap(&self, master: &RedisServer) {
        self.replica.has_caught_up_with(master).await;
        self.to_replica.blackhole();
        self.replica.promote();
        master.replicate(self.to_replica.port());
    }

    /// Restores the original roles, after the original master has replicated all writes made
    /// meanwhile.
    async fn swap_back(&self, master: &RedisServer) {
        self.to_replica.heal();
        master.has_caught_up_with(&self.replica).await;
        self.replica.replicate(master.port());
        master.promote();
    }
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
    trial.watch(&node).await;
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
