//! The Redis backend conforms to the contract of `Backend`.

use clustered_sessions::backend::RedisBackend;
use clustered_sessions::testing;
use support::redis::RedisServer;

use crate::web::RedisAddress as _;

#[tokio::test]
async fn the_redis_backend_conforms() {
    let server = RedisServer::start();
    testing::conformance(async || {
        let () = server.command(&["FLUSHALL"]);
        RedisBackend::new(&server.config(), "announcements").unwrap()
    })
    .await;
}
