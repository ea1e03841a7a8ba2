//! Nodes whose clocks are wrong by half a minute, while sessions live for seconds.

use std::time::{Duration, SystemTime};

use clustered_sessions::{Clock, ClusterConfig, SessionStore};
use support::redis::RedisServer;
use support::wait::eventually;
use tokio::time::{Instant, sleep};

use crate::nodes::{Data, config, store};
use crate::restricted::{as_app, forbid};
use crate::web::RedisAddress as _;

const ABSOLUTE: Duration = Duration::from_secs(3);
/// Tolerance for a busy machine. Less than the clocks differ by.
const GENEROUS: Duration = Duration::from_secs(10);
const HALF_A_MINUTE: i64 = 30_000;

async fn node(server: &RedisServer, wrong_by: i64) -> SessionStore<Data> {
    let config = config().redis(server.config()).clock(Clock::wrong_by(wrong_by));
    store(config.timeout(ABSOLUTE).absolute_timeout(ABSOLUTE)).await
}

/// Creates a session on one node and keeps extending it on another. Checks that it lives for as
/// long as it should.
async fn lives_for_its_absolute_timeout(creator: &SessionStore<Data>, user: &SessionStore<Data>) {
    let created = Instant::now();
    let id = creator.create(Data::of("ada")).await.unwrap().id;
    let mut last_seen = None;
    while user.find_fresh(id).await.unwrap().is_some() {
        last_seen = Some(created.elapsed());
        user.touch(id).await.unwrap();
        assert!(created.elapsed() < ABSOLUTE + GENEROUS, "the session outlives its timeout");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(last_seen.unwrap() > ABSOLUTE / 2, "the session has ended after {last_seen:?}");
}

#[tokio::test]
async fn a_node_whose_clock_is_slow_does_not_lengthen_a_session() {
    let server = RedisServer::start();
    let (right, slow) = (node(&server, 0).await, node(&server, -HALF_A_MINUTE).await);
    lives_for_its_absolute_timeout(&right, &slow).await;
}

#[tokio::test]
async fn a_node_whose_clock_is_fast_does_not_shorten_a_session() {
    let server = RedisServer::start();
    let (right, fast) = (node(&server, 0).await, node(&server, HALF_A_MINUTE).await);
    lives_for_its_absolute_timeout(&right, &fast).await;
}

/// Returns `true` if a new session of the node has a time of creation that is right.
async fn knows_the_time(node: &SessionStore<Data>) -> bool {
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let created = node.get(id).await.unwrap().created_at();
    let age = SystemTime::now().duration_since(created);
    age.unwrap_or_else(|error| error.duration()) < GENEROUS
}

#[tokio::test]
async fn without_info_the_time_is_read_by_a_command_of_its_own() {
    let server = RedisServer::start();
    forbid(&server, &["-info"]);
    let slow = || config().redis(as_app(server.config())).clock(Clock::wrong_by(-HALF_A_MINUTE));
    let silent = store(slow().cluster(ClusterConfig::new().enabled(false))).await;
    assert!(knows_the_time(&silent).await, "it was read when the connection was made");

    forbid(&server, &["-info", "-time"]);
    let listening = store(slow()).await;
    assert!(!knows_the_time(&listening).await);
    let () = server.command(&["ACL", "SETUSER", "app", "+time"]);
    eventually(async || knows_the_time(&listening).await, "it is read by a heartbeat").await;
    assert_eq!(listening.coordinator().disconnects(), 0);
}

#[tokio::test]
async fn a_session_created_by_a_node_whose_clock_is_wrong_lives_as_long_as_any() {
    let server = RedisServer::start();
    let right = node(&server, 0).await;
    for wrong_by in [-HALF_A_MINUTE, HALF_A_MINUTE] {
        lives_for_its_absolute_timeout(&node(&server, wrong_by).await, &right).await;
    }
}
