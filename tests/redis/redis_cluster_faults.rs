//! Nodes on a Redis Cluster, under load, while its masters fail and its slots move.
//!
//! Each trial prints `fault | requests failed for | of that after the switch | a revoked session
//! was served for | acknowledged changes that replication forgot | cache used again after the
//! switch`.

use std::time::Instant;

use support::cluster::{Options, RedisCluster};
use support::failover::FailoverTrial;
use support::program::skipped;
#[cfg(feature = "tls")]
use support::{files::Files, program::has_tls, sentinel::Protection, tls::Authority};

/// With this number of visitors of each of three nodes, each of three masters has some.
const VISITORS: usize = 4;

async fn start(cluster: &RedisCluster) -> FailoverTrial {
    FailoverTrial::with_visitors(VISITORS, &[("REDIS_URL", &cluster.url())]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_when_a_master_is_killed() {
    let mut cluster = RedisCluster::start(3, 1).await;
    let trial = start(&cluster).await;
    cluster.server_mut(0).kill();
    let began = Instant::now();
    cluster.has_failed_over(0).await;
    trial.end("Cluster: a master is killed", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_when_a_master_is_frozen_and_stay_when_it_resumes() {
    let cluster = RedisCluster::start(3, 1).await;
    let trial = start(&cluster).await;
    cluster.server(0).freeze();
    let began = Instant::now();
    cluster.has_failed_over(0).await;
    let switched = Instant::now();
    // Until the others reach it, it takes itself for a master.
    cluster.server(0).thaw();
    trial.end("Cluster: a master is frozen, and resumes", began, switched).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_lose_no_acknowledged_change_when_a_failover_is_ordered() {
    let cluster = RedisCluster::start(3, 1).await;
    let trial = start(&cluster).await;
    let began = Instant::now();
    cluster.fail_over(3);
    cluster.has_failed_over(0).await;
    let cost = trial.end("Cluster: a failover is ordered", began, Instant::now()).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_leave_a_master_that_only_the_other_masters_have_lost() {
    let options = Options { can_cut_bus: true, ..Options::default() };
    let cluster = RedisCluster::with(3, 1, options).await;
    let trial = start(&cluster).await;
    // Clients still reach it, and it accepts writes until it notices.
    cluster.isolate(0);
    let began = Instant::now();
    cluster.has_failed_over(0).await;
    trial.end("Cluster: a master is cut off", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_is_used_while_the_link_between_two_masters_is_cut() {
    let options = Options { can_cut_bus: true, ..Options::default() };
    let cluster = RedisCluster::with(3, 0, options).await;
    let trial = start(&cluster).await;
    cluster.cut_bus(0, 1);
    let began = Instant::now();
    let cost = trial.settle("Cluster: two masters lose each other", began, began).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_slots_that_migrate() {
    let cluster = RedisCluster::start(3, 0).await;
    let trial = start(&cluster).await;
    let began = Instant::now();
    cluster.migrate(0..=1499, 0, 1).await;
    cluster.migrate(8000..=9499, 1, 2).await;
    let cost = trial.settle("Cluster: 3,000 slots migrate", began, Instant::now()).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_slots_that_migrate_in_one_step() {
    let cluster = RedisCluster::start(3, 0).await;
    if !cluster.can_migrate_atomically() {
        skipped("these servers cannot migrate slots in one step, as those of Valkey 9 can");
        return;
    }
    let trial = start(&cluster).await;
    let began = Instant::now();
    cluster.migrate_atomically(0..=1499, 0, 1).await;
    cluster.migrate_atomically(8000..=9499, 1, 2).await;
    let cost = trial.settle("Cluster: 3,000 slots migrate in one step", began, Instant::now());
    assert_eq!(cost.await.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_a_master_that_joins_and_leaves() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let trial = start(&cluster).await;
    let began = Instant::now();
    let new = cluster.add_master().await;
    cluster.migrate(0..=999, 0, new).await;
    cluster.migrate(0..=999, new, 1).await;
    cluster.remove_master(new).await;
    let cost = trial.end("Cluster: a master joins and leaves", began, Instant::now());
    assert_eq!(cost.await.check(), 0, "acknowledged changes are forgotten");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_over_tls() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let protection = Protection::Tls(&authority);
    let mut cluster = RedisCluster::with(3, 1, Options { protection, ..Options::default() }).await;
    let files = Files::new();
    let roots = files.write("roots.pem", authority.root());
    let url = format!("rediss-cluster://{}", cluster.address(""));
    let variables = [("REDIS_URL", &*url), ("SSL_CERT_FILE", &*roots)];
    let trial = FailoverTrial::with_visitors(VISITORS, &variables).await;
    cluster.server_mut(0).kill();
    let began = Instant::now();
    cluster.has_failed_over(0).await;
    trial.end("Cluster over TLS: a master is killed", began, Instant::now()).await.check();
}
