//! Runs the example `quickstart` as a process and sends the requests that its page sends.
//!
//! `cargo test` builds the example first. To run this test binary alone after a change of the
//! example, run `cargo build --example quickstart`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// A process of the example. It is killed on drop.
struct Quickstart {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    node_a: String,
    node_b: String,
}

impl Quickstart {
    /// Starts the example on free ports, with a backend in memory.
    async fn start() -> Self {
        let test = std::env::current_exe().unwrap();
        let example = test.ancestors().nth(2).unwrap().join("examples/quickstart");
        let mut process = Command::new(&example)
            .env("PORT", "0")
            .env_remove("REDIS_URL")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; run `cargo build --example quickstart`", example.display())
            });
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = async |label| {
            let line = timeout(PATIENCE, output.next_line()).await.unwrap().unwrap().unwrap();
            line.strip_prefix(label).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let (node_a, node_b) = (address("node-a: ").await, address("node-b: ").await);
        Quickstart { process, output, node_a, node_b }
    }
}

/// A browser that keeps one cookie and sends it to both ports.
struct Browser {
    client: Client<HttpConnector, Full<Bytes>>,
    cookie: Option<String>,
}

impl Browser {
    fn new() -> Self {
        Browser { client: Client::builder(TokioExecutor::new()).build_http(), cookie: None }
    }

    async fn send(&mut self, method: Method, url: &str, form: &'static str) -> (StatusCode, Bytes) {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form))
            .unwrap();
        let response = self.client.request(request).await.unwrap();
        if let Some(cookie) = response.headers().get(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn post(&mut self, node: &str, action: &str, form: &'static str) -> Bytes {
        let (status, body) = self.send(Method::POST, &format!("{node}/api/{action}"), form).await;
        assert!(status.is_success(), "{action}: {status}");
        body
    }

    async fn session(&mut self, node: &str) -> Value {
        let (status, body) = self.send(Method::GET, &format!("{node}/api/session"), "").await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    /// Polls the node until a field of the session has the expected value, since announcements take
    /// some time.
    async fn sees(&mut self, node: &str, what: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let session = self.session(node).await;
            if session[what] == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{what} is not {expected} on {node}: {session}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn both_nodes_share_a_session() {
    let nodes = Quickstart::start().await;
    let (a, b) = (nodes.node_a.as_str(), nodes.node_b.as_str());
    let mut ada = Browser::new();
    // From here on the caches are in use, so the following changes must invalidate them.
    ada.sees(a, "listening", true).await;
    ada.sees(b, "listening", true).await;

    ada.post(a, "login", "name=Ada").await;
    ada.sees(a, "name", "Ada").await;
    ada.sees(b, "name", "Ada").await;
    assert_eq!(ada.session(a).await["node"], "node-a");
    assert_eq!(ada.session(b).await["node"], "node-b");

    assert_eq!(ada.post(b, "visit", "").await, "1");
    ada.sees(a, "visits", 1).await;

    // A copy of the cookie outlives the logout, which must end the session on the server.
    let mut copy = Browser { client: ada.client.clone(), cookie: ada.cookie.clone() };
    ada.post(a, "logout", "").await;
    assert_eq!(ada.cookie, None);
    copy.sees(b, "name", Value::Null).await;
}

#[tokio::test]
async fn logging_out_everywhere_ends_this_users_sessions_and_no_others() {
    let nodes = Quickstart::start().await;
    let (a, b) = (nodes.node_a.as_str(), nodes.node_b.as_str());
    let [mut phone, mut desktop, mut grace] = [Browser::new(), Browser::new(), Browser::new()];
    phone.sees(b, "listening", true).await;
    phone.post(a, "login", "name=Ada").await;
    desktop.post(a, "login", "name=Ada").await;
    grace.post(a, "login", "name=Grace").await;
    phone.sees(b, "name", "Ada").await;

    assert_eq!(desktop.post(a, "logout-everywhere", "").await, "2");
    phone.sees(b, "name", Value::Null).await;
    grace.sees(b, "name", "Grace").await;
}

#[tokio::test]
async fn visits_and_logouts_everywhere_require_a_login() {
    let nodes = Quickstart::start().await;
    let mut stranger = Browser::new();
    for action in ["visit", "logout-everywhere"] {
        let (status, _) =
            stranger.send(Method::POST, &format!("{}/api/{action}", nodes.node_a), "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{action}");
    }
    assert_eq!(stranger.cookie, None);
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_stops_it_gracefully() {
    let mut nodes = Quickstart::start().await;
    let mut browser = Browser::new();
    browser.post(&nodes.node_a, "login", "name=Ada").await;

    let kill = Command::new("kill")
        .args(["-INT", &nodes.process.id().unwrap().to_string()])
        .status()
        .await
        .unwrap();
    assert!(kill.success());
    let exit = timeout(PATIENCE, nodes.process.wait()).await.expect("the example exits").unwrap();
    assert!(exit.success(), "{exit}");
    let mut last = None;
    while let Some(line) = nodes.output.next_line().await.unwrap() {
        last = Some(line);
    }
    assert_eq!(last.as_deref(), Some("Stopped."));
}
