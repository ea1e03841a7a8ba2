//! The Redis backend conforms to the contract of `Backend`, however the server is reached.

use clustered_sessions::backend::RedisBackend;
use clustered_sessions::{RedisCluster as ClusterServers, RedisConfig, testing};
use support::cluster::RedisCluster;
use support::redis::RedisServer;
use support::sentinel::Service;
#[cfg(feature = "tls")]
use support::{
    program::has_tls,
    tls::{Authority, TlsServer},
};

use crate::web::RedisAddress as _;

/// Runs the suite with a backend that leads to this server.
async fn conforms(server: &RedisServer, redis: &RedisConfig) {
    testing::conformance(async || {
        let () = server.command(&["FLUSHALL"]);
        RedisBackend::new(redis, "announcements").unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms() {
    let server = RedisServer::start();
    conforms(&server, &server.config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms_on_one_server_in_cluster_mode() {
    let server = RedisServer::in_cluster_mode().await;
    conforms(&server, &server.config()).await;
}

/// Managed services offer this: a cluster behind one address, as one master that has all slots.
#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms_on_a_cluster_behind_one_address() {
    let server = RedisServer::in_cluster_mode().await;
    let redis = RedisConfig::cluster(ClusterServers::new([("127.0.0.1", server.port())]));
    conforms(&server, &redis).await;
    // It may refuse what it tells about itself.
    let () = server.command(&["ACL", "SETUSER", "default", "-info"]);
    conforms(&server, &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms_with_sentinels() {
    let service = Service::start().await;
    let redis = RedisConfig::from_url(&service.url()).unwrap();
    conforms(&service.servers[0], &redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms_on_a_cluster() {
    let cluster = RedisCluster::start(3, 0).await;
    let redis = RedisConfig::from_url(&cluster.url()).unwrap();
    testing::conformance(async || {
        for (_, server) in cluster.servers() {
            let () = server.command(&["FLUSHALL"]);
        }
        RedisBackend::new(&redis, "announcements").unwrap()
    })
    .await;
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn the_redis_backend_conforms_over_tls() {
    if !has_tls() {
        return;
    }
    let authority = Authority::new();
    let server = TlsServer::start(&authority, &authority.issue("localhost"));
    let tls = clustered_sessions::RedisTls::new().root_certificates(authority.root());
    let redis = RedisConfig::new("localhost", server.port()).tls(tls);
    conforms(&server.server, &redis).await;
}
