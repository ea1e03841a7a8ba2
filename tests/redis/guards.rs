//! The guard whose necessity only a real server can show. The others are in
//! `tests/simulation/guards.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use clustered_sessions::guards::{Guard, disabled};
use clustered_sessions::{ClusterConfig, StoreErrorKind};
use support::redis::RedisServer;

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

/// A change whose announcement is refused is not written: no other node would evict the session.
#[tokio::main(flavor = "current_thread")]
async fn refused_announcement() {
    let server = RedisServer::start();
    let trusting = ClusterConfig::new().max_staleness(Duration::from_secs(60));
    let node = store(config().cluster(trusting).redis(server.config())).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    assert!(node.find(id).await.unwrap().is_some());

    let () = server.command(&[
        "ACL",
        "SETUSER",
        "restricted",
        "on",
        ">secret",
        "+@all",
        "~*",
        "resetchannels",
    ]);
    let redis = server.config().user("restricted").password("secret");
    let restricted =
        store(config().cluster(ClusterConfig::new().enabled(false)).redis(redis)).await;
    assert_eq!(
        restricted.modify(id, |data| data.visits += 1).await.unwrap_err().kind(),
        StoreErrorKind::Refused
    );
    let cached = node.get(id).await.unwrap();
    assert_eq!(node.cache_stats().hits, 2, "both reads are cache hits");
    let fresh = node.find_fresh(id).await.unwrap().unwrap();
    assert_eq!(cached.data(), fresh.data(), "a change was written without an announcement");
}

/// Returns `true` if the scenario ends without a violation.
fn holds() -> bool {
    catch_unwind(AssertUnwindSafe(refused_announcement)).is_ok()
}

#[test]
fn announcing_before_writing_is_needed() {
    assert!(holds());
    assert!(!disabled(Guard::Order, holds), "no violation is found without {:?}", Guard::Order);
}
