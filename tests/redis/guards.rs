//! The guard whose necessity only a real server can show. The others are in
//! `tests/simulation/guards.rs`.

use std::time::Duration;

use clustered_sessions::guards::{Guard, disabled};
use clustered_sessions::{ClusterConfig, StoreErrorKind};
use support::failure::failure;
use support::redis::RedisServer;

use crate::nodes::{Data, config, store};
use crate::web::RedisAddress as _;

/// The violation that the guard prevents.
const UNANNOUNCED: &str = "a change was written without an announcement";

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
    assert_eq!(cached.data(), fresh.data(), "{UNANNOUNCED}");
}

#[test]
fn announcing_before_writing_is_needed() {
    assert_eq!(failure(refused_announcement), None);
    let violation = disabled(Guard::Order, || failure(refused_announcement));
    assert!(
        violation.as_ref().is_some_and(|message| message.contains(UNANNOUNCED)),
        "without {:?}: {violation:?}",
        Guard::Order
    );
}
