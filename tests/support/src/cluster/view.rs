//! What the members say about the cluster.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::RedisCluster;
use crate::redis::RedisServer;
use crate::wait::DEADLINE;

/// A member that does not answer within this time has no view.
const PATIENCE: Duration = Duration::from_millis(500);

/// The cluster as one member sees it.
pub(super) struct View {
    /// All members that it knows, by their ids.
    pub(super) nodes: BTreeMap<String, Node>,
    /// It is connected to all of them, and takes none for down.
    is_connected: bool,
    /// All slots are served, and it is a master or has synchronised with its master.
    is_ready: bool,
}

#[derive(PartialEq, Eq)]
pub(super) struct Node {
    /// The id of its master, if it is a replica.
    master: Option<String>,
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

impl Node {
    fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }
}

impl View {
    async fn of(server: &RedisServer) -> Option<Self> {
        let answers = async {
            let (nodes, cluster, replication): (String, String, String) = redis::pipe()
                .cmd("CLUSTER")
                .arg("NODES")
                .cmd("CLUSTER")
                .arg("INFO")
                .cmd("INFO")
                .arg("replication")
                .query_async(&mut connect(server).await?)
                .await?;
            let is_synchronised = replication.contains("role:master")
                || replication.contains("master_link_status:up");
            let is_ready = cluster.contains("cluster_state:ok") && is_synchronised;
            redis::RedisResult::Ok((nodes, is_ready))
        };
        let (nodes, is_ready) = tokio::time::timeout(PATIENCE, answers).await.ok()?.ok()?;
        let (mut view, mut is_connected) = (BTreeMap::new(), true);
        for line in nodes.lines() {
            // The fields are: id, address, flags, master, ping, pong, epoch, link, slots.
            let fields: Vec<&str> = line.split(' ').collect();
            let mut flags = fields[2].split(',');
            let is_sound = |flag| matches!(flag, "myself" | "master" | "slave" | "nofailover");
            is_connected &= flags.all(is_sound) && fields[7] == "connected";
            let master = (fields[3] != "-").then(|| fields[3].to_owned());
            let slots = fields[8..].iter().filter_map(|field| slots(field)).collect();
            view.insert(fields[0].to_owned(), Node { master, slots });
        }
        Some(View { nodes: view, is_connected, is_ready })
    }

    /// Returns the id of the master that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&str> {
        Some(self.nodes.iter().find(|(_, node)| node.owns(slot))?.0)
    }
}

/// Returns the slots that a field names, unless it names one that migrates.
fn slots(field: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

impl RedisCluster {
    /// Returns the views of all members that answer.
    pub(super) async fn views(&self) -> BTreeMap<usize, View> {
        let view = async |(index, server)| Some((index, View::of(server).await?));
        join_all(self.servers().map(view)).await.into_iter().flatten().collect()
    }

    /// Returns the views of the members that take themselves for masters.
    pub(super) async fn views_of_masters(&self) -> BTreeMap<usize, View> {
        let mut views = self.views().await;
        views.retain(|index, view| view.nodes[self.id(*index)].master.is_none());
        views
    }

    /// Returns `true` if all members know and reach all others.
    pub(super) async fn is_connected(&self) -> bool {
        self.are_connected(&self.views().await)
    }

    fn are_connected(&self, views: &BTreeMap<usize, View>) -> bool {
        let knows_all = |view: &View| view.is_connected && view.nodes.len() == self.members.len();
        views.len() == self.members.len() && views.values().all(knows_all)
    }

    /// Returns `true` if, moreover, they agree that each slot has a master, and which, and all
    /// replicas have synchronised with their masters.
    pub(super) async fn is_settled(&self) -> bool {
        let views = self.views().await;
        let mut maps = views.values().map(|view| &view.nodes);
        let first = maps.next();
        self.are_connected(&views)
            && maps.all(|map| Some(map) == first)
            && views.values().all(|view| view.is_ready)
    }
}

/// Opens a connection to the port of the test's own commands.
pub(super) async fn connect(server: &RedisServer) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
    server.client()?.get_multiplexed_async_connection_with_config(&config).await
}

/// Returns what most of the votes say.
pub(super) fn majority(votes: &[Option<usize>]) -> Option<usize> {
    let count = |vote| votes.iter().filter(|other| **other == vote).count();
    votes.iter().copied().find(|vote| 2 * count(*vote) > votes.len())?
}
