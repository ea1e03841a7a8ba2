//! Measures the effect of a fault on a running cluster: how long a revoked session is still served,
//! when the cache is used again, and that no acknowledged write is lost.
//!
//! Three visitors are logged in: Ada visits both nodes all the time, Bob only reads, and Eve's
//! session is revoked while both nodes are queried for it continuously.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
        for node in [&near, &far] {
            hits(node, &bob).await;
            hits(node, &eve).await;
        }
        let watches = [&near, &far].map(|node| Watch::start(node, &eve)).into();
        let visits = Visits::start(ada, [&near, &far]);
        Trial { watches, redis, proxy, near, far, bob, eve, visits }
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

    /// Waits until a node has lost its subscription at least once since it started.
    pub async fn notices(&self, node: &Node) {
        eventually(
            async || stats(node).await["disconnects"] != 0,
            "the node notices the loss of its subscription",
        )
        .await;
    }

    /// Adds a watch of Eve's session on another node.
    pub fn watch(&mut self, node: &Node) {
        self.watches.push(Watch::start(node, &self.eve));
    }

    /// Stops Ada's visits.
    pub async fn stop_visits(&mut self) {
        self.visits.stop().await;
    }

    /// Makes Ada visit a node once, which must succeed.
    pub async fn visit(&self, node: &Node) {
        assert_eq!(self.visits.ada.visit(&node.url("/visit")).await, StatusCode::OK);
    }

    /// Checks that all sessions are lost, after Redis has restarted empty. Then Ada and Bob log in
    /// again.
    pub async fn log_in_again(&mut self) {
        self.visits.stop().await;
        for browser in [&self.visits.ada.browser, &self.bob, &self.eve] {
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
        self.visits.assert_counted_once();

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

/// Waits until the node serves a visitor's session from its cache.
pub async fn hits(node: &Node, browser: &Client) {
    let hit = async || {
        let hits = stats(node).await["hits"].as_u64();
        me(node, browser).await == StatusCode::OK && stats(node).await["hits"].as_u64() > hits
    };
    eventually(hit, "the node serves the session from its cache").await;
}

/// A task that requests a session from a node continuously. It ends on drop.
pub(crate) struct Watch {
    task: JoinHandle<()>,
    /// The time at which the last request was sent that was answered with the session.
    last: Arc<Mutex<Instant>>,
}

impl Watch {
    pub(crate) fn start(node: &Node, browser: &Client) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        let (url, mut browser, noted) = (node.url("/me"), browser.clone(), last.clone());
        let task = tokio::spawn(async move {
            loop {
                let sent = Instant::now();
                if browser.get(&url).await.status == StatusCode::OK {
                    *noted.lock().unwrap() = sent;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Watch { task, last }
    }

    /// Ends the watch and returns for how long after `moment` the session was still served.
    pub(crate) async fn served_after(mut self, moment: Instant) -> Duration {
        assert!(!self.task.is_finished(), "the watch has ended before the trial");
        self.task.abort();
        let _ = (&mut self.task).await;
        self.last.lock().unwrap().saturating_duration_since(moment)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A visitor whose visits are counted. Each acknowledged visit returns a distinct number.
#[derive(Clone)]
struct Visitor {
    browser: Client,
    tried: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
}

impl Visitor {
    async fn visit(&self, url: &str) -> StatusCode {
        self.tried.fetch_add(1, Ordering::SeqCst);
        let answer = self.browser.clone().post(url).await;
        if answer.status == StatusCode::OK {
            self.acknowledged.lock().unwrap().push(answer.body["visits"].as_u64().unwrap());
        }
        answer.status
    }
}

/// Ada's continuous visits to two nodes.
struct Visits {
    ada: Visitor,
    stopping: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Visits {
    fn start(browser: Client, nodes: [&Node; 2]) -> Self {
        let ada = Visitor { browser, tried: Arc::default(), acknowledged: Arc::default() };
        let stopping = Arc::new(AtomicBool::new(false));
        let tasks = nodes.map(|node| {
            let (url, ada, stopping) = (node.url("/visit"), ada.clone(), stopping.clone());
            tokio::spawn(async move {
                while !stopping.load(Ordering::SeqCst) {
                    ada.visit(&url).await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        Visits { ada, stopping, tasks: tasks.into() }
    }

    /// Stops the visits and waits for those in progress.
    async fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Checks that each acknowledged visit was counted exactly once, and each other visit at most
    /// once.
    fn assert_counted_once(&self) {
        let mut numbers = self.ada.acknowledged.lock().unwrap().clone();
        numbers.sort_unstable();
        let acknowledged = numbers.len() as u64;
        numbers.dedup();
        assert_eq!(numbers.len() as u64, acknowledged, "two visits got the same number");
        let tried = self.ada.tried.load(Ordering::SeqCst);
        let counted = numbers.last().copied().unwrap_or_default();
        assert!(
            (acknowledged..=tried).contains(&counted),
            "{counted} of {tried} visits were counted, {acknowledged} acknowledged"
        );
    }
}
