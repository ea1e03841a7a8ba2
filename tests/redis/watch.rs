//! A thousand watches on three nodes over a real server, while sessions are revoked and one node is
//! cut off for a while.

use std::time::Duration;

use clustered_sessions::{ClusterConfig, Ended, RedisConfig, SessionId, SessionStore};
use support::proxy::Proxy;
use support::redis::RedisServer;
use support::wait::eventually;
use tokio::task::JoinHandle;

use crate::nodes::{self, Data, store};
use crate::web::RedisAddress as _;

const SESSIONS: usize = 333;
const REVOKED: usize = 100;
const MAX_STALENESS: Duration = Duration::from_millis(500);
/// Longer than any test waits for anything, so that no watch ends for want of an answer.
const GRACE: Duration = Duration::from_secs(60);

/// A node, and one watch on each session.
struct Node {
    store: SessionStore<Data>,
    watches: Vec<JoinHandle<Ended>>,
}

impl Node {
    async fn start(redis: RedisConfig) -> Self {
        let redis = redis.response_timeout(MAX_STALENESS / 2);
        let cluster = ClusterConfig::new().max_staleness(MAX_STALENESS).watch_grace(GRACE);
        let store = store(nodes::config().redis(redis).cluster(cluster)).await;
        Node { store, watches: Vec::new() }
    }

    fn watch(&mut self, ids: &[SessionId]) {
        self.watches = ids.iter().map(|id| tokio::spawn(self.store.watch(*id).ended())).collect();
    }

    /// Returns how many watches have ended.
    fn ended(&self) -> usize {
        self.watches.iter().filter(|watch| watch.is_finished()).count()
    }
}

async fn revoke(node: &Node, ids: &[SessionId]) {
    for id in ids {
        assert!(node.store.delete(*id).await.unwrap());
    }
}

#[tokio::test]
async fn sessions_that_are_revoked_end_their_watches_on_every_node_also_through_a_partition() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let mut nodes = [
        Node::start(server.config()).await,
        Node::start(server.config()).await,
        Node::start(proxy.config()).await,
    ];
    let mut ids = Vec::new();
    for number in 0..SESSIONS {
        ids.push(nodes[0].store.create(Data::of(&number.to_string())).await.unwrap().id);
    }
    nodes.iter_mut().for_each(|node| node.watch(&ids));
    let (first, rest) = ids.split_at(REVOKED);
    let (second, kept) = rest.split_at(REVOKED);

    revoke(&nodes[1], first).await;
    for node in &nodes {
        eventually(async || node.ended() == REVOKED, "the watches of the revoked end").await;
    }

    proxy.blackhole();
    revoke(&nodes[1], second).await;
    let [near, other, far] = &nodes;
    for node in [near, other] {
        eventually(async || node.ended() == 2 * REVOKED, "the nodes with a link hear of it").await;
    }
    eventually(async || !far.store.coordinator().is_listening(), "the lease ends").await;
    assert_eq!(far.ended(), REVOKED, "the node that is cut off cannot know");
    proxy.heal();
    eventually(async || far.ended() == 2 * REVOKED, "it asks as soon as it can").await;

    for node in nodes {
        assert_eq!(node.ended(), 2 * REVOKED, "no other watch has ended");
        for (number, watch) in node.watches.into_iter().enumerate() {
            if number < 2 * REVOKED {
                // A node that was cut off, or that looked before it heard, does not know why.
                assert!(matches!(watch.await.unwrap(), Ended::Revoked | Ended::Deleted));
            } else {
                watch.abort();
            }
        }
        assert!(node.store.find(kept[0]).await.unwrap().is_some());
    }
}
