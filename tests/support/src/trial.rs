//! Measures the effect of a fault on a running cluster: how long a revoked session is still served,
//! when the cache is used again, and that no acknowledged write is lost.
//!
//! Three visitors are logged in: Ada visits both nodes all the time, Bob only reads, and Eve's
//! session is revoked while both nodes are queried for it continuously.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join;
use http::StatusCode;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::node::Node;
use crate::proxy::Proxy;
use crate::redis::RedisServer;
use crate::visits::Visits;
use crate::wait::eventually;

/// The staleness bound that the nodes are configured with.
pub const MAX_STALENESS: Duration = Duration::from_millis(500);
/// Tolerance for clocks that are not read at the same instant. The age of a response counts from
/// the time at which its request was sent, so a busy machine that delays it does not weaken the
/// bound.
pub const MARGIN: Duration = Duration::from_millis(100);
/// Pause between two requests of a watch or of a visitor.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

pub struct Trial {
    /// Declared first, so that the watches are dropped before the nodes.
    watches: Vec<Watch>,
    pub redis: RedisServer,
    pub proxy: Proxy,
    /// The node that is connected to Redis directly.
    pub near: Node,
    /// The node that is connected to Redis through the proxy.
    pub far: Node,
    pub bob: Client,
    pub eve: Client,
    visits: Visits,
    /// The number of subscriptions that each node had lost before the fault, by its address.
    disconnects: HashMap<String, u64>,
}

impl Trial {
    pub async fn start() -> Self {
        Self::on(RedisServer::start(), "").await
    }

    /// Starts a trial on a server, with credentials for the far node, such as `user:password@`.
    pub async fn on(redis: RedisServer, credentials: &str) -> Self {
        let proxy = Proxy::start(redis.port()).await;
        let near = start_node(redis.port(), "", &[]);
        let far = start_node(proxy.port(), credentials, &[]);
        let [ada, bob, eve] =
            [login(&near, "ada").await, login(&near, "bob").await, login(&near, "eve").await];
        let (mut watches, mut disconnects) = (Vec::new(), HashMap::new());
        for node in [&near, &far] {
            hits(node, &bob).await;
            hits(node, &eve).await;
            watches.push(Watch::start(node, &eve).await);
            disconnects.insert(node.url(""), counter(node, "disconnects").await);
        }
        let visits = Visits::start(ada, [&near, &far]);
        Trial { watches, redis, proxy, near, far, bob, eve, visits, disconnects }
    }

    /// Logs Eve out through a node, with retries. Returns the time of the acknowledgement.
    pub async fn revoke_at(&self, node: &Node) -> Instant {
        let logout = async || {
            self.eve.clone().post(&node.url("/logout")).await.status == StatusCode::NO_CONTENT
        };
        eventually(logout, "the logout is acknowledged").await;
        Instant::now()
    }

    /// Logs Eve out through the near node. Returns the time of the acknowledgement.
    pub async fn revoke(&self) -> Instant {
        self.revoke_at(&self.near).await
    }

    /// Waits until a node responds to a visitor's `/me` with the expected status.
    pub async fn answers(&self, node: &Node, browser: &Client, expected: StatusCode) {
        let answers = async || {
            let status = me(node, browser).await;
            if status != expected {
                println!("got {status}, waiting for {expected}");
            }
            status == expected
        };
        eventually(answers, &format!("the node responds with {expected}")).await;
    }

    /// Waits until the near or the far node has lost its subscription since the trial started.
    pub async fn notices(&self, node: &Node) {
        let before = self.disconnects[&node.url("")];
        eventually(
            async || counter(node, "disconnects").await > before,
            "the node notices the loss of its subscription",
        )
        .await;
    }

    /// Adds a watch of Eve's session on another node.
    pub async fn watch(&mut self, node: &Node) {
        self.watches.push(Watch::start(node, &self.eve).await);
    }

    /// Stops Ada's visits.
    pub async fn stop_visits(&mut self) {
        self.visits.stop().await;
    }

    /// Makes Ada visit a node once, which must succeed.
    pub async fn visit(&self, node: &Node) {
        self.visits.visit(node).await;
    }

    /// Checks that all sessions are lost, after Redis has restarted empty. Then Ada and Bob log in
    /// again.
    pub async fn log_in_again(&mut self) {
        self.visits.stop().await;
        for browser in [self.visits.browser(), &self.bob, &self.eve] {
            self.answers(&self.near, browser, StatusCode::UNAUTHORIZED).await;
        }
        self.bob = login(&self.near, "bob").await;
        self.visits = Visits::start(login(&self.near, "ada").await, [&self.near, &self.far]);
    }

    /// Waits until both nodes have recovered, checks the result and prints the measurements.
    ///
    /// `acknowledged` is the time of the acknowledgement of Eve's logout, and `ended` the end of
    /// the fault.
    pub async fn ends_well(mut self, fault: &str, acknowledged: Instant, ended: Instant) {
        join(hits(&self.near, &self.bob), hits(&self.far, &self.bob)).await;
        let used_again = ended.elapsed();
        for node in [&self.near, &self.far] {
            eventually(async || stats(node).await["listening"] == true, "the node listens").await;
            self.answers(node, &self.eve, StatusCode::UNAUTHORIZED).await;
            self.answers(node, &self.bob, StatusCode::OK).await;
        }
        self.visits.stop().await;
        self.visit(&self.far).await;
        assert_eq!(self.visits.forgotten(), 0, "{fault}: acknowledged visits are forgotten");

        let mut still_served = Duration::ZERO;
        for watch in self.watches {
            still_served = still_served.max(watch.served_after(acknowledged).await);
        }
        println!("{fault} | {} ms | {} ms", still_served.as_millis(), used_again.as_millis());
        assert!(
            still_served < MAX_STALENESS + MARGIN,
            "{fault}: a revoked session was still served for {still_served:?}"
        );
    }
}

/// Starts a node that connects to Redis, or to the proxy, at a port. Retries are disabled, so that
/// requests fail quickly and can be sent often during a fault.
pub fn start_node(port: u16, credentials: &str, variables: &[(&str, &str)]) -> Node {
    let url = format!("redis://{credentials}127.0.0.1:{port}");
    let max_staleness = MAX_STALENESS.as_millis().to_string();
    let common =
        [("REDIS_URL", url.as_str()), ("MAX_STALENESS_MS", &max_staleness), ("RETRY", "off")];
    Node::start(&[&common, variables].concat())
}

pub async fn login(node: &Node, user: &str) -> Client {
    let mut browser = Client::new();
    let login = async || {
        browser.post(&node.url(&format!("/login?user={user}"))).await.status == StatusCode::OK
    };
    eventually(login, "the visitor is logged in").await;
    browser
}

pub async fn me(node: &Node, browser: &Client) -> StatusCode {
    browser.clone().get(&node.url("/me")).await.status
}

pub async fn stats(node: &Node) -> Value {
    Client::new().get(&node.url("/stats")).await.body
}

/// Returns one of the counters of a node.
pub async fn counter(node: &Node, name: &str) -> u64 {
    let stats = stats(node).await;
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} is no counter of {stats}"))
}

/// Waits until the node serves a visitor's session from its cache.
pub async fn hits(node: &Node, browser: &Client) {
    let hit = async || {
        let hits = counter(node, "hits").await;
        me(node, browser).await == StatusCode::OK && counter(node, "hits").await > hits
    };
    eventually(hit, "the node serves the session from its cache").await;
}

/// A task that requests a session from a node continuously. It ends on drop.
pub(crate) struct Watch {
    task: JoinHandle<()>,
    /// The time at which the last request was sent that was answered with the session. `None`
    /// before the first.
    last: Arc<Mutex<Option<Instant>>>,
}

impl Watch {
    /// Starts a watch and waits until the node has answered with the session.
    pub(crate) async fn start(node: &Node, browser: &Client) -> Self {
        let last = Arc::new(Mutex::new(None));
        let (url, mut browser, noted) = (node.url("/me"), browser.clone(), last.clone());
        let task = tokio::spawn(async move {
            loop {
                let sent = Instant::now();
                if browser.get(&url).await.status == StatusCode::OK {
                    *noted.lock().unwrap() = Some(sent);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        let watch = Watch { task, last };
        let has_seen = async || watch.last.lock().unwrap().is_some();
        eventually(has_seen, "the watch sees the session").await;
        watch
    }

    /// Ends the watch and returns for how long after `moment` the session was still served.
    pub(crate) async fn served_after(mut self, moment: Instant) -> Duration {
        assert!(!self.task.is_finished(), "the watch has ended before the trial");
        self.task.abort();
        let _ = (&mut self.task).await;
        let last = self.last.lock().unwrap().expect("the watch has seen the session");
        last.saturating_duration_since(moment)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
