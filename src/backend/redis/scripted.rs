//! A server for tests whose replies are those of a function.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex,
};

use super::config::{RedisAddress, RedisConfig};

/// Makes connections lead to a server that answers each command as `reply` says, or not at all.
/// Returns the number of connections that were made.
///
/// The function gets the server's address and the words of the command. What greets a client is
/// answered without it.
pub(super) fn scripted<F>(config: RedisConfig, reply: F) -> (RedisConfig, Arc<AtomicUsize>)
where
    F: Fn(&RedisAddress, &[String]) -> Option<String> + Send + Sync + 'static,
{
    let (reply, connections) = (Arc::new(reply), Arc::<AtomicUsize>::default());
    let count = connections.clone();
    let config = config.connector(move |address| {
        count.fetch_add(1, Ordering::Relaxed);
        let (near, far) = duplex(1 << 16);
        let reply = reply.clone();
        tokio::spawn(async move { serve(far, |words| reply(&address, words)).await });
        std::future::ready(io::Result::Ok(near))
    });
    (config, connections)
}

/// Returns a bulk string.
pub(super) fn bulk(text: &str) -> Option<String> {
    Some(format!("${}\r\n{text}\r\n", text.len()))
}

/// Returns what a master of a cluster replies to a question about itself, or `None` if the command
/// is none.
pub(super) fn about_a_master(words: &[String], nodes: &str, epoch: u64) -> Option<String> {
    match (&*words[0], words.get(1).map(String::as_str)) {
        ("INFO", _) => bulk("run_id:1\r\nserver_time_usec:1\r\n"),
        ("CLUSTER", Some("NODES")) => bulk(nodes),
        ("CLUSTER", Some("INFO")) => {
            bulk(&format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n"))
        }
        ("CLUSTER", Some("SLOTS")) => Some("*0\r\n".to_owned()),
        _ => None,
    }
}

/// Like [`about_a_master`], for the only one of its cluster, whose configuration epoch is 1.
pub(super) fn about_the_only_master(words: &[String], epoch: u64) -> Option<String> {
    let nodes = "one 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-16383";
    about_a_master(words, nodes, epoch)
}

/// Answers until the client closes the connection.
async fn serve(
    client: DuplexStream,
    reply: impl Fn(&[String]) -> Option<String>,
) -> io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        let words = next_command(&mut client).await?;
        let reply = match &*words[0] {
            "HELLO" => Some("%1\r\n+server\r\n+redis\r\n".to_owned()),
            "CLIENT" => Some("+OK\r\n".to_owned()),
            _ => reply(&words),
        };
        if let Some(reply) = reply {
            client.write_all(reply.as_bytes()).await?;
        }
    }
}

async fn next_command(client: &mut BufReader<DuplexStream>) -> io::Result<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..length(client).await? {
        let mut word = vec![0; length(client).await? + 2];
        client.read_exact(&mut word).await?;
        words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Ok(words)
}

async fn length(client: &mut BufReader<DuplexStream>) -> io::Result<usize> {
    let mut line = String::new();
    if client.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line[1..].trim_end().parse().expect("a length"))
}
