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

/// What the nodes promise.
pub const MAX_STALENESS: Duration = Duration::from_millis(500);
/// For clocks that are read a moment apart. The age of an answer counts from when its request was
/// sent, so a busy machine that delays the answer does not weaken the bound.
pub const MARGIN: Duration = Duration::from_millis(100);
/// Between one question of a watch and the next.
const PAUSE: Duration = Duration::from_millis(1);

pub struct Trial {
    /// Ended before the nodes are.
    watches: Vec<Watch>,
    pub redis: RedisServer,
    pub proxy: Proxy,
    /// Has Redis before it, without a proxy.
    pub near: Node,
    /// Has the proxy between itself and Redis.
    pub far: Node,
    pub bob: Client,
    pub eve: Client,
    visits: Visits,
}

impl Trial {
    pub async fn start() -> Self {
        Self::on(RedisServer::start(), "").await
    }

    /// With credentials for the far node, such as `user:password@`.
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

    /// Ends Eve's session at a node, however often it must be tried. When that was acknowledged.
    pub async fn revoke_at(&self, node: &Node) -> Instant {
        let logout = async || {
            self.eve.clone().post(&node.url("/logout")).await.status == StatusCode::NO_CONTENT
        };
        eventually(logout, "the logout is acknowledged").await;
        Instant::now()
    }

    pub async fn revoke(&self) -> Instant {
        self.revoke_at(&self.near).await
    }

    /// Waits until a node answers so to somebody who may have a session.
    pub async fn answers(&self, node: &Node, browser: &Client, expected: StatusCode) {
        let answers = async || {
            let status = me(node, browser).await;
            if status != expected {
                println!("{status} where {expected} is to come");
            }
            status == expected
        };
        eventually(answers, &format!("it is answered with {expected}")).await;
    }

    /// Waits until a node has been without its lease since the beginning.
    pub async fn notices(&self, node: &Node) {
        eventually(
            async || stats(node).await["disconnects"] != 0,
            "the node notices that it does not hear",
        )
        .await;
    }

    /// Watches another node, too.
    pub fn watch(&mut self, node: &Node) {
        self.watches.push(Watch::start(node, &self.eve));
    }

    /// From now on, Ada does not visit by herself.
    pub async fn rest(&mut self) {
        self.visits.rest().await;
    }

    /// Ada visits a node once, which succeeds.
    pub async fn visit(&self, node: &Node) {
        assert_eq!(self.visits.ada.visit(&node.url("/visit")).await, StatusCode::OK);
    }

    /// All that was acknowledged is lost, as it must be when Redis was emptied. The visitors log in anew.
    pub async fn begin_anew(&mut self) {
        self.visits.rest().await;
        for browser in [&self.visits.ada.browser, &self.bob, &self.eve] {
            self.answers(&self.near, browser, StatusCode::UNAUTHORIZED).await;
        }
        self.bob = login(&self.near, "bob").await;
        self.visits = Visits::start(login(&self.near, "ada").await, [&self.near, &self.far]);
    }

    /// Waits until all is well, and says how it went. Eve's logout was acknowledged at the one moment, and the fault ended at the
    /// other.
    pub async fn ends_well(mut self, fault: &str, acknowledged: Instant, ended: Instant) {
        join(hits(&self.near, &self.bob), hits(&self.far, &self.bob)).await;
        let used_again = ended.elapsed();
        for node in [&self.near, &self.far] {
            eventually(async || stats(node).await["listening"] == true, "the node listens").await;
            self.answers(node, &self.eve, StatusCode::UNAUTHORIZED).await;
            self.answers(node, &self.bob, StatusCode::OK).await;
        }
        self.visits.rest().await;
        self.visit(&self.far).await;
        self.visits.are_all_there();

        let mut still_answered = Duration::ZERO;
        for watch in self.watches {
            still_answered = still_answered.max(watch.answered_after(acknowledged).await);
        }
        println!("{fault} | {} ms | {} ms", still_answered.as_millis(), used_again.as_millis());
        assert!(
            still_answered < MAX_STALENESS + MARGIN,
            "{fault}: a revoked session was answered for {still_answered:?}"
        );
    }
}

/// A node on the Redis, or the proxy, at a port. What fails fails at once, so that it can be asked often while it does.
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

/// Waits until the node answers a visitor from memory.
pub async fn hits(node: &Node, browser: &Client) {
    let hit = async || {
        let hits = stats(node).await["hits"].as_u64();
        me(node, browser).await == StatusCode::OK && stats(node).await["hits"].as_u64() > hits
    };
    eventually(hit, "the node answers from memory").await;
}

/// Asks a node for a session again and again, until it is dropped.
struct Watch {
    task: JoinHandle<()>,
    /// When the last question was asked that was answered with the session.
    last: Arc<Mutex<Instant>>,
}

impl Watch {
    fn start(node: &Node, browser: &Client) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        let (url, mut browser, noted) = (node.url("/me"), browser.clone(), last.clone());
        let task = tokio::spawn(async move {
            loop {
                let asked = Instant::now();
                if browser.get(&url).await.status == StatusCode::OK {
                    *noted.lock().unwrap() = asked;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Watch { task, last }
    }

    /// Ends the watch: for how long after a moment the session was still answered.
    async fn answered_after(mut self, moment: Instant) -> Duration {
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

/// Somebody whose visits are counted, each of which gets a number of its own if it is acknowledged.
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

/// Visits to two nodes, until rest is called for.
struct Visits {
    ada: Visitor,
    resting: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Visits {
    fn start(browser: Client, nodes: [&Node; 2]) -> Self {
        let ada = Visitor { browser, tried: Arc::default(), acknowledged: Arc::default() };
        let resting = Arc::new(AtomicBool::new(false));
        let tasks = nodes.map(|node| {
            let (url, ada, resting) = (node.url("/visit"), ada.clone(), resting.clone());
            tokio::spawn(async move {
                while !resting.load(Ordering::SeqCst) {
                    ada.visit(&url).await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        Visits { ada, resting, tasks: tasks.into() }
    }

    async fn rest(&mut self) {
        self.resting.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Each was counted once, if it was acknowledged, and at most once, if it was not.
    fn are_all_there(&self) {
        let mut numbers = self.ada.acknowledged.lock().unwrap().clone();
        numbers.sort_unstable();
        let acknowledged = numbers.len() as u64;
        numbers.dedup();
        assert_eq!(numbers.len() as u64, acknowledged, "two visits got the same number");
        let tried = self.ada.tried.load(Ordering::SeqCst);
        let counted = numbers.last().copied().unwrap_or_default();
        assert!(
            (acknowledged..=tried).contains(&counted),
            "{counted} of {tried} visits, {acknowledged} acknowledged"
        );
    }
}
