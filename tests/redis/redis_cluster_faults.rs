//! Nodes on a Redis Cluster, under load, while its masters fail and its slots move.
//!
//! Each trial prints `fault | requests failed for | of that after the switch | a revoked session
//! was served for | acknowledged changes that replication forgot | cache used again after the
//! switch`. The variable `OVER_TLS` makes all of them use TLS, also between the servers.

use std::env;
use std::time::{Duration, Instant};

use support::cluster::{Options, RedisCluster};
use support::failover::FailoverTrial;
use support::files::Files;
#[cfg(feature = "tls")]
use support::program::has_tls;
use support::program::skipped;
use support::sentinel::Protection;
use support::tls::Authority;

/// With this number of visitors of each of three nodes, each of three masters has some.
const VISITORS: usize = 4;

/// A cluster that is about to fail, and what nodes need to connect to it.
struct Setup {
    cluster: RedisCluster,
    variables: Vec<(&'static str, String)>,
    _files: Files,
}

impl Setup {
    async fn start(masters: usize, replicas_of_each: usize) -> Self {
        Self::with(masters, replicas_of_each, Options::default()).await
    }

    async fn with(masters: usize, replicas_of_each: usize, options: Options<'_>) -> Self {
        if env::var_os("OVER_TLS").is_some() {
            return Self::over_tls(masters, replicas_of_each, options).await;
        }
        let cluster = RedisCluster::with(masters, replicas_of_each, options).await;
        let variables = vec![("REDIS_URL", cluster.url())];
        Setup { cluster, variables, _files: Files::new() }
    }

    async fn over_tls(masters: usize, replicas_of_each: usize, options: Options<'_>) -> Self {
        let authority = Authority::new();
        let options = Options { protection: Protection::Tls(&authority), ..options };
        let cluster = RedisCluster::with(masters, replicas_of_each, options).await;
        let files = Files::new();
        let variables = vec![
            ("REDIS_URL", format!("rediss-cluster://{}", cluster.address(""))),
            ("SSL_CERT_FILE", files.write("roots.pem", authority.root())),
        ];
        Setup { cluster, variables, _files: files }
    }

    async fn trial(&self) -> FailoverTrial {
        let variables: Vec<_> =
            self.variables.iter().map(|(name, value)| (*name, &**value)).collect();
        FailoverTrial::with_visitors(VISITORS, &variables).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_when_a_master_is_killed() {
    let mut setup = Setup::start(3, 1).await;
    let trial = setup.trial().await;
    setup.cluster.server_mut(0).kill();
    let began = Instant::now();
    setup.cluster.has_failed_over(0).await;
    trial.end("Cluster: a master is killed", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_when_a_master_is_frozen_and_stay_when_it_resumes() {
    let setup = Setup::start(3, 1).await;
    let trial = setup.trial().await;
    setup.cluster.server(0).freeze();
    let began = Instant::now();
    setup.cluster.has_failed_over(0).await;
    let switched = Instant::now();
    // Until the others reach it, it takes itself for a master.
    setup.cluster.server(0).thaw();
    trial.end("Cluster: a master is frozen, and resumes", began, switched).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_lose_no_acknowledged_change_when_a_failover_is_ordered() {
    let setup = Setup::start(3, 1).await;
    let trial = setup.trial().await;
    let began = Instant::now();
    setup.cluster.fail_over(3);
    setup.cluster.has_failed_over(0).await;
    let cost = trial.end("Cluster: a failover is ordered", began, Instant::now()).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_leave_a_master_that_only_the_other_masters_have_lost() {
    let options = Options { can_cut_bus: true, ..Options::default() };
    let setup = Setup::with(3, 1, options).await;
    let trial = setup.trial().await;
    // Clients still reach it, and it accepts writes until it notices.
    setup.cluster.isolate(0);
    let began = Instant::now();
    setup.cluster.has_failed_over(0).await;
    trial.end("Cluster: a master is cut off", began, Instant::now()).await.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_is_used_while_the_link_between_two_masters_is_cut() {
    let options = Options { can_cut_bus: true, ..Options::default() };
    let setup = Setup::with(3, 0, options).await;
    let trial = setup.trial().await;
    setup.cluster.cut_bus(0, 1);
    let began = Instant::now();
    let cost = trial.settle("Cluster: two masters lose each other", began, began).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_slots_that_migrate() {
    let setup = Setup::start(3, 0).await;
    let trial = setup.trial().await;
    let began = Instant::now();
    setup.cluster.migrate(0..=1499, 0, 1).await;
    setup.cluster.migrate(8000..=9499, 1, 2).await;
    let cost = trial.settle("Cluster: 3,000 slots migrate", began, Instant::now()).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_slots_that_migrate_in_one_step() {
    let setup = Setup::start(3, 0).await;
    if !setup.cluster.can_migrate_atomically() {
        skipped("these servers cannot migrate slots in one step, as those of Valkey 9 can");
        return;
    }
    let trial = setup.trial().await;
    let began = Instant::now();
    setup.cluster.migrate_atomically(0..=1499, 0, 1).await;
    setup.cluster.migrate_atomically(8000..=9499, 1, 2).await;
    let cost = trial.settle("Cluster: 3,000 slots migrate in one step", began, Instant::now());
    assert_eq!(cost.await.check(), 0, "acknowledged changes are forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_a_master_that_joins_and_leaves() {
    let mut setup = Setup::start(3, 0).await;
    let trial = setup.trial().await;
    let began = Instant::now();
    let new = setup.cluster.add_master().await;
    setup.cluster.migrate(0..=999, 0, new).await;
    setup.cluster.migrate(0..=999, new, 1).await;
    setup.cluster.remove_master(new).await;
    let cost = trial.end("Cluster: a master joins and leaves", began, Instant::now());
    assert_eq!(cost.await.check(), 0, "acknowledged changes are forgotten");
}

/// `CLIENT PAUSE` stops commands, but not the links between members, so no replica takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_wait_for_a_master_that_pauses() {
    let pause = Duration::from_millis(1500);
    let setup = Setup::start(3, 1).await;
    let trial = setup.trial().await;
    let milliseconds = pause.as_millis().to_string();
    let () = setup.cluster.server(0).command(&["CLIENT", "PAUSE", &milliseconds, "ALL"]);
    let began = Instant::now();
    let end = began + pause;
    tokio::time::sleep_until(end.into()).await;
    let cost = trial.end("Cluster: a master pauses", began, end).await;
    assert_eq!(cost.check(), 0, "acknowledged changes are forgotten");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_follow_the_cluster_over_tls() {
    if !has_tls() {
        return;
    }
    let mut setup = Setup::over_tls(3, 1, Options::default()).await;
    let trial = setup.trial().await;
    setup.cluster.server_mut(0).kill();
    let began = Instant::now();
    setup.cluster.has_failed_over(0).await;
    trial.end("Cluster over TLS: a master is killed", began, Instant::now()).await.check();
}
