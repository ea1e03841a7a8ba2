//! Asks a server about its cluster.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult, Value, from_redis_value, pipe};

use super::super::commands::run_together;
use super::super::config::RedisAddress;
use super::super::error::unreachable;
use super::redirect::address;
use super::view::{Master, MemberId, View};
use crate::error::{StoreError, StoreErrorKind};

const UNREADABLE: &str = "the server's description of the cluster has an unexpected form";

/// A server's description of its cluster.
pub(super) struct Description {
    pub(super) view: View,
    /// The addresses at which the masters want to be reached. Those without slots are missing.
    pub(super) endpoints: HashMap<MemberId, RedisAddress>,
    /// The server that was asked.
    pub(super) asked: RedisAddress,
}

impl Description {
    /// Returns the address at which a master is reached, if it is known. The server knows both an
    /// IP address and a name of a master without slots; over TLS, a certificate has the name.
    pub(super) fn address_of(&self, master: &Master, by_name: bool) -> Option<RedisAddress> {
        if let Some(endpoint) = self.endpoints.get(&master.id) {
            return Some(endpoint.clone());
        }
        let host = match (by_name, &*master.name) {
            (true, name) if !name.is_empty() => name,
            _ if master.ip.is_empty() => &master.name,
            _ => &master.ip,
        };
        address(host, master.port, &self.asked)
    }
}

/// Asks a server for its view of the cluster.
pub(in super::super) async fn ask_for_view(
    mut commands: MultiplexedConnection,
) -> RedisResult<View> {
    let mut questions = pipe();
    questions.cmd("CLUSTER").arg("NODES").cmd("CLUSTER").arg("INFO");
    let replies = run_together(&mut commands, &questions, 2).await?;
    let (nodes, info): (String, String) = from_redis_value(Value::Array(replies))?;
    View::parse(&nodes, &info).ok_or_else(|| (ErrorKind::UnexpectedReturnType, UNREADABLE).into())
}

/// Asks a server for all that it knows about the cluster. The caller limits the time.
pub(super) async fn ask(
    mut commands: MultiplexedConnection,
    asked: &RedisAddress,
) -> Result<Description, StoreError> {
    let mut questions = pipe();
    questions.cmd("CLUSTER").arg("NODES").cmd("CLUSTER").arg("INFO");
    questions.cmd("CLUSTER").arg("SLOTS");
    let replies = run_together(&mut commands, &questions, 3).await.map_err(unreachable)?;
    let (nodes, info, slots): (String, String, Vec<Vec<Value>>) =
        from_redis_value(Value::Array(replies)).map_err(|error| unreachable(error.into()))?;
    let view = View::parse(&nodes, &info)
        .ok_or_else(|| StoreError::from(StoreErrorKind::Refused).with_source(UNREADABLE))?;
    let endpoints = slots.iter().filter_map(|entry| endpoint(entry, asked)).collect();
    Ok(Description { view, endpoints, asked: asked.clone() })
}

/// Returns the id and the address of the master in an entry of the reply to `CLUSTER SLOTS`: two
/// numbers, and a list for each server, of which the master is the first.
fn endpoint(entry: &[Value], asked: &RedisAddress) -> Option<(MemberId, RedisAddress)> {
    let Value::Array(master) = entry.get(2)? else { return None };
    let host: Option<String> = from_redis_value(master.first()?.clone()).ok()?;
    let port = from_redis_value(master.get(1)?.clone()).ok()?;
    let id: String = from_redis_value(master.get(2)?.clone()).ok()?;
    Some((id.into(), address(&host.unwrap_or_default(), port, asked)?))
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn answer(slots: &str, node: &str) -> Description {
        let nodes = format!("beef {node} myself,master - 0 0 6 connected");
        let info = "cluster_state:ok\r\ncluster_current_epoch:6\r\n";
        let asked = RedisAddress::tcp("asked", 7000);
        let Value::Array(entries) = parse_redis_value(slots.as_bytes()).unwrap() else { panic!() };
        let endpoints = entries.iter().filter_map(|entry| match entry {
            Value::Array(entry) => endpoint(entry, &asked),
            _ => None,
        });
        let endpoints = endpoints.collect();
        Description { view: View::parse(&nodes, info).unwrap(), endpoints, asked }
    }

    fn address_in(answer: &Description, by_name: bool) -> Option<String> {
        let master = answer.view.master("beef").unwrap();
        answer.address_of(master, by_name).map(|address| address.to_string())
    }

    #[test]
    fn a_master_is_reached_where_it_wants_to_be() {
        let entry =
            |host| format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n{host}\r\n:6380\r\n$4\r\nbeef\r\n");
        let known = "10.0.0.1:6379@16379,redis-1.example.com";
        for (slots, node, by_ip, by_name) in [
            (entry("$4\r\nhost"), known, "host:6380", "host:6380"),
            (entry("$-1"), known, "asked:6380", "asked:6380"),
            (entry("$1\r\n?"), known, "asked:6380", "asked:6380"),
            ("*0\r\n".to_owned(), known, "10.0.0.1:6379", "redis-1.example.com:6379"),
            ("*0\r\n".to_owned(), "10.0.0.1:6379@16379", "10.0.0.1:6379", "10.0.0.1:6379"),
            ("*0\r\n".to_owned(), ":6379@16379,name", "name:6379", "name:6379"),
            ("*0\r\n".to_owned(), ":6379@16379", "asked:6379", "asked:6379"),
            ("*1\r\n*2\r\n:0\r\n:1\r\n".to_owned(), ":6379@16379", "asked:6379", "asked:6379"),
        ] {
            let answer = answer(&slots, node);
            assert_eq!(address_in(&answer, false).as_deref(), Some(by_ip), "{slots} {node}");
            assert_eq!(address_in(&answer, true).as_deref(), Some(by_name), "{slots} {node}");
        }
    }
}
