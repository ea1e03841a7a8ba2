//! A write as an application would code it by hand, without retries, metrics or owners: compare the
//! revision, announce, write.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::StreamExt as _;
use redis::aio::MultiplexedConnection;
use redis::{Client, cmd};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::redis::TIMEOUT;
use crate::data::UserSession;

/// Key: the record, which begins with its revision. Arguments: expected revision, value, time to
/// live, channel, message.
const SCRIPT: &str = r"#!lua
local revision = redis.call('GETRANGE', KEYS[1], 0, 15)
if revision == '' then return 0 end
if revision ~= ARGV[1] then return redis.call('GET', KEYS[1]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
";

/// As many bytes as the announcement of our node.
#[derive(Serialize, Deserialize)]
pub struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    session_id: &'a str,
    revision: &'a str,
    node_id: &'a str,
    timestamp: u64,
}

/// Sessions that are written by a script, with a copy of each in memory.
#[derive(Clone)]
pub struct ByHand {
    connection: MultiplexedConnection,
    channel: &'static str,
    script: Arc<str>,
    sessions: Arc<[Mutex<Session>]>,
}

/// The version of a session that was written last.
#[derive(Clone)]
struct Session {
    revision: u64,
    data: Arc<UserSession>,
}

impl ByHand {
    pub async fn new(
        mut connection: MultiplexedConnection,
        channel: &'static str,
        sessions: usize,
    ) -> Self {
        let script: String = cmd("SCRIPT")
            .arg("LOAD")
            .arg(SCRIPT)
            .query_async(&mut connection)
            .await
            .expect("the script is loaded");
        let session = |number| Session { revision: 0, data: Arc::new(UserSession::number(number)) };
        let sessions = (0..sessions as u64).map(|it| Mutex::new(session(it))).collect();
        let new = ByHand { connection, channel, script: script.into(), sessions };
        for number in 0..new.sessions.len() {
            let mut set = cmd("SET");
            set.arg(new.key(number)).arg(value(0, &json(&UserSession::number(number as u64))));
            set.exec_async(&mut new.connection.clone()).await.expect("the session is written");
        }
        new
    }

    /// Subscribes, and calls a function for each message once it is parsed.
    pub async fn subscribe(
        &self,
        url: &str,
        received: impl Fn(&Message<'_>) + Send + 'static,
    ) -> JoinHandle<()> {
        let client = Client::open(url).expect("the server's URL is valid");
        let mut connection = client.get_async_pubsub().await.expect("the server is connected to");
        connection.subscribe(self.channel).await.expect("the channel is subscribed to");
        tokio::spawn(async move {
            let mut messages = connection.into_on_message();
            while let Some(message) = messages.next().await {
                let message = serde_json::from_slice(message.get_payload_bytes());
                received(&message.expect("the message is JSON"));
            }
        })
    }

    /// Changes a session in the way that `SessionStore::modify` does: a copy, JSON both ways, so
    /// that nothing is written that cannot be read, and one step on the server.
    pub async fn change(&self, number: usize) {
        let Session { revision, data } = self.session(number);
        let mut data = (*data).clone();
        data.visits += 1;
        let json = json(&data);
        let data: Arc<UserSession> =
            Arc::new(serde_json::from_slice(&json).expect("the JSON is valid"));
        let write = self.write(number, revision, &json);
        timeout(TIMEOUT, write).await.expect("it is in time");
        self.set(number, Session { revision: revision + 1, data });
    }

    /// Does nothing but run the script, with the same value again and a new revision.
    pub async fn run_script(&self, number: usize) {
        let Session { revision, data } = self.session(number);
        self.write(number, revision, SAME_JSON.get_or_init(|| json(&data))).await;
        self.set(number, Session { revision: revision + 1, data });
    }

    async fn write(&self, number: usize, revision: u64, json: &[u8]) {
        let text = format!("{:022}", revision + 1);
        let id = format!("{number:022}");
        let message = Message {
            kind: "SessionInvalidated",
            session_id: &id,
            revision: &text,
            node_id: "0123abcd",
            timestamp: 1_795_000_000_000,
        };
        let mut evalsha = cmd("EVALSHA");
        evalsha.arg(&*self.script).arg(1).arg(self.key(number)).arg(&revision_bytes(revision));
        evalsha.arg(value(revision + 1, json)).arg(3_600_000).arg(self.channel);
        evalsha.arg(serde_json::to_vec(&message).expect("the message is JSON"));
        let saved: i64 =
            evalsha.query_async(&mut self.connection.clone()).await.expect("the script runs");
        assert_eq!(saved, 1, "nobody else writes");
    }

    fn key(&self, number: usize) -> String {
        format!("{}:{:022}", self.channel, number % self.sessions.len())
    }

    fn session(&self, number: usize) -> Session {
        let session = &self.sessions[number % self.sessions.len()];
        session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, number: usize, new: Session) {
        let session = &self.sessions[number % self.sessions.len()];
        *session.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

/// The value that `run_script` writes, encoded once.
static SAME_JSON: OnceLock<Vec<u8>> = OnceLock::new();

fn json(data: &UserSession) -> Vec<u8> {
    serde_json::to_vec(data).expect("the data is JSON")
}

fn revision_bytes(revision: u64) -> [u8; 16] {
    u128::from(revision).to_be_bytes()
}

/// Returns a value with its revision in front.
fn value(revision: u64, json: &[u8]) -> Vec<u8> {
    [&revision_bytes(revision), json].concat()
}
