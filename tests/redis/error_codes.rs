//! Answers that a real server gives only under conditions which a test cannot bring about: a
//! scripted server gives them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clustered_sessions::{RedisConfig, SessionId, SessionStore, StoreErrorKind};
use support::log::Log;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::nodes::{Data, config};

/// A server that greets its clients, and answers each other command with an error.
struct ScriptedServer {
    port: u16,
    error: Arc<Mutex<&'static str>>,
}

impl ScriptedServer {
    /// Starts a server that answers `INFO` with this text.
    async fn start(info: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Arc::new(Mutex::new("ERR"));
        let answer = error.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, info, answer.clone()));
            }
        });
        ScriptedServer { port, error }
    }
}

/// Answers until the client closes the connection.
async fn serve(
    client: TcpStream,
    info: &str,
    error: Arc<Mutex<&'static str>>,
) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let name = next_command(&mut client).await?;
        let reply = match name.as_str() {
            "HELLO" => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned(),
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            "CLIENT" => "+OK\r\n".to_owned(),
            _ => format!("-{}\r\n", error.lock().unwrap()),
        };
        client.write_all(reply.as_bytes()).await?;
    }
}

/// Reads one command and returns its name.
async fn next_command(client: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut parts = Vec::new();
    for _ in 0..length(client).await? {
        let mut part = vec![0; length(client).await? + 2];
        client.read_exact(&mut part).await?;
        parts.push(part);
    }
    Ok(String::from_utf8_lossy(&parts[0]).trim_end().to_ascii_uppercase())
}

async fn length(client: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
    let mut line = String::new();
    if client.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line[1..].trim_end().parse().unwrap())
}

#[tokio::test]
async fn not_now_is_an_outage_and_not_allowed_is_a_refusal() {
    let server = ScriptedServer::start("").await;
    let redis = RedisConfig::new("127.0.0.1", server.port);
    let id = SessionId::from_bytes([1; 16]);
    use StoreErrorKind::{Corrupt, Refused, Unavailable};
    for (error, kind) in [
        ("LOADING Redis is loading the dataset in memory", Unavailable),
        ("BUSY Redis is busy running a script.", Unavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Unavailable),
        ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Unavailable),
        ("ERR max number of clients reached", Unavailable),
        ("READONLY You can't write against a read only replica.", Unavailable),
        ("MASTERDOWN Link with MASTER is down", Unavailable),
        ("CLUSTERDOWN The cluster is down", Unavailable),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable),
        ("MISCONF Redis is configured to save RDB snapshots", Unavailable),
        ("NOAUTH Authentication required.", Refused),
        ("WRONGPASS invalid username-password pair or user is disabled.", Refused),
        ("NOPERM User app has no permissions to run the 'getex' command", Refused),
        ("OOM command not allowed when used memory > 'maxmemory'.", Refused),
        ("NOSCRIPT No matching script.", Refused),
        ("EXECABORT Transaction discarded because of previous errors.", Refused),
        ("MOVED 3999 127.0.0.1:6381", Refused),
        ("ERR unknown command", Refused),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
    ] {
        *server.error.lock().unwrap() = error;
        // A new one, which does not remember the last attempt to connect.
        let redis = config().enable_retry(false).redis(redis.clone());
        let store: SessionStore<Data> = SessionStore::new(redis.build().unwrap());
        assert_eq!(store.find(id).await.unwrap_err().kind(), kind, "a read: {error}");
        assert_eq!(store.delete(id).await.unwrap_err().kind(), kind, "a deletion: {error}");
        let created = store.create(Data::of("ada")).await;
        assert_eq!(created.unwrap_err().kind(), kind, "a creation: {error}");
    }
}

#[tokio::test]
async fn a_node_warns_once_if_its_clock_and_the_servers_differ() {
    let (log, id) = (Log::default(), SessionId::from_bytes([1; 16]));
    let guard = log.capture("clustered_sessions=warn");
    let warnings = async |info: &'static str| {
        let server = ScriptedServer::start(info).await;
        let redis = RedisConfig::new("127.0.0.1", server.port);
        let store: SessionStore<Data> = SessionStore::new(config().redis(redis).build().unwrap());
        let before = log.text().matches("the clocks of this node").count();
        for _ in 0..2 {
            store.find(id).await.unwrap_err();
        }
        // The subscription makes further connections.
        store.wait_until_ready(Duration::from_millis(300)).await.unwrap_err();
        store.shutdown().await;
        log.text().matches("the clocks of this node").count() - before
    };
    assert_eq!(warnings("server_time_usec:1000000000000000").await, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let right = Box::leak(format!("server_time_usec:{now}").into_boxed_str());
    assert_eq!(warnings(right).await, 0);
    drop(guard);
}
