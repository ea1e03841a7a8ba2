//! The limit on the sessions of one owner, with logins at the same time on several nodes.

use std::collections::BTreeMap;

use clustered_sessions::{
    ClusterConfig, LimitPolicy, SessionConfigBuilder, SessionStore, StoreErrorKind,
};
use futures_util::future::join_all;
use support::cluster::RedisCluster;
use support::redis::RedisServer;

use crate::nodes::{Data, config, store};
use crate::redis_cluster::redis;
use crate::web::RedisAddress as _;

fn limited(
    config: SessionConfigBuilder<Data>,
    max: usize,
    policy: LimitPolicy,
) -> SessionConfigBuilder<Data> {
    config.owner(|data: &Data| data.user.clone()).max_sessions_of_owner(max, policy)
}

/// Logs one user in 30 times at once, on all nodes.
async fn log_in_at_once(nodes: &[SessionStore<Data>]) -> (usize, BTreeMap<String, usize>) {
    let logins = (0..30).map(|at| nodes[at % nodes.len()].create(Data::of("ada")));
    let (mut successes, mut failures) = (0, BTreeMap::new());
    for login in join_all(logins).await {
        match login {
            Ok(_) => successes += 1,
            Err(error) => *failures.entry(format!("{:?}", error.kind())).or_default() += 1,
        }
    }
    (successes, failures)
}

async fn check(nodes: &[SessionStore<Data>], policy: LimitPolicy) {
    for round in 0..3 {
        let (successes, failures) = log_in_at_once(nodes).await;
        let left = nodes[0].sessions_of("ada").await.unwrap().len();
        match policy {
            LimitPolicy::RefuseNew => {
                assert!(successes <= 3, "{successes} logins, round {round}");
                assert!(successes > 0 || round > 0, "nobody could log in");
                let refused = format!("{:?}", StoreErrorKind::LimitReached);
                assert_eq!(failures, [(refused, 30 - successes)].into());
                assert!((successes..=3).contains(&left), "{left} are left");
            }
            _ => {
                assert_eq!((successes, failures.len()), (30, 0), "{failures:?}");
                assert_eq!(left, 3, "round {round}");
            }
        }
    }
}

#[tokio::test]
async fn logins_at_once_on_several_nodes_never_exceed_the_limit() {
    for policy in [LimitPolicy::RefuseNew, LimitPolicy::EndOldest] {
        let server = RedisServer::start();
        let node = || store(limited(config().redis(server.config()), 3, policy));
        let nodes = [node().await, node().await, node().await];
        check(&nodes, policy).await;
    }
}

#[tokio::test]
async fn logins_at_once_never_exceed_the_limit_in_a_cluster() {
    let cluster = RedisCluster::start(3, 0).await;
    for policy in [LimitPolicy::RefuseNew, LimitPolicy::EndOldest] {
        let node = || store(limited(config().redis(redis(&cluster)), 3, policy));
        let nodes = [node().await, node().await, node().await];
        check(&nodes, policy).await;
        let _ = nodes[0].delete_all_of("ada").await.unwrap();
    }
}

#[tokio::test]
async fn a_login_under_a_limit_costs_one_look_at_the_index_and_one_at_each_session() {
    let server = RedisServer::start();
    let silent = config().cluster(ClusterConfig::new().enabled(false)).redis(server.config());
    let store = store(limited(silent, 2, LimitPolicy::EndOldest)).await;
    for _ in 0..2 {
        let _ = store.create(Data::of("ada")).await.unwrap();
    }
    let requests = ["evalsha", "getex", "set", "zrem"];
    let made = async |user: &str| {
        let (created, calls) = server.calls_of(store.create(Data::of(user))).await;
        let _ = created.unwrap();
        requests.map(|name| calls.get(name).copied().unwrap_or_default())
    };
    // One script adds to the index, and one reads it.
    assert_eq!(made("bob").await, [2, 1, 1, 0]);
    // The oldest of three sessions is looked at once more, deleted, and removed from the index.
    assert_eq!(made("ada").await, [3, 4, 1, 1]);
}
