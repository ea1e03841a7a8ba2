use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::RedisBackend;
use super::super::config::{RedisCluster, RedisConfig};
use super::super::scripted::{about_a_master, about_the_only_master, bulk, scripted};
use super::*;
use crate::backend::Backend as _;

const HEARTBEAT: Duration = Duration::from_millis(500);

/// Returns the confirmation of a subscription, if the command asks for one.
fn confirmed(words: &[String]) -> Option<String> {
    let name = words[0].to_lowercase();
    name.ends_with("subscribe").then(|| format!(">3\r\n+{name}\r\n+{}\r\n:1\r\n", words[1]))
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_begins_in_an_election_waits_for_its_end_over_the_same_connections() {
    let questions = Arc::new(AtomicUsize::new(0));
    let count = questions.clone();
    let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
    // The winner of epoch 2 is never heard of.
    let (config, connections) = scripted(RedisConfig::cluster(seeds), move |_, words| {
        let is_question = words[0] == "CLUSTER" && words[1] == "NODES";
        count.fetch_add(usize::from(is_question), Ordering::Relaxed);
        let probed = (words[0] == "GETEX").then(|| "$-1\r\n".to_owned());
        probed.or_else(|| confirmed(words)).or_else(|| about_the_only_master(words, 2))
    });
    let backend = RedisBackend::new(&config, "channel").unwrap();
    let ended = subscribe(&backend.shared, HEARTBEAT).await.err().unwrap();
    assert!(format!("{ended:?}").contains("the winner of an election"), "{ended:?}");
    // To discover the cluster, to connect, and then 5 times in 2.5 s.
    assert_eq!(questions.load(Ordering::Relaxed), 2 + 5);
    // One to the seed, one for commands, one for the subscription.
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

/// Subscribes at an address that leads to one server, and then to another one with this role, until
/// commands could have followed. Returns the run id of the server that gets them.
async fn server_after_a_switch_to(role: &'static str) -> String {
    let greetings = AtomicUsize::new(0);
    let (config, _) = scripted(RedisConfig::new("localhost", 6379), move |_, words| {
        match (&*words[0], greetings.load(Ordering::Relaxed)) {
            ("INFO", 0) => {
                greetings.fetch_add(1, Ordering::Relaxed);
                bulk("run_id:1\r\nredis_version:1.0\r\nserver_time_usec:1\r\n")
            }
            ("INFO", _) => {
                let role = format!("role:{role}\r\n");
                bulk(
                    &("run_id:2\r\nredis_version:2.0\r\nserver_time_usec:1\r\n".to_owned() + &role),
                )
            }
            ("GETEX", _) => Some("$-1\r\n".to_owned()),
            _ => None,
        }
    });
    let backend = RedisBackend::new(&config, "channel").unwrap();
    let Topology::Single(lanes) = &backend.shared.topology else { panic!("one server") };
    let commands = async || lanes.commands().connected().await.unwrap().server().to_string();
    for _ in 0..2 {
        let ended = subscribe(&backend.shared, HEARTBEAT).await.err().unwrap();
        assert!(format!("{ended:?}").contains("lead to different servers"), "{ended:?}");
        let software = lanes.findings().to_info().unwrap().software;
        assert_eq!(software.as_deref(), Some("redis 1.0"), "the other one was refused");
        sleep(Duration::from_secs(5)).await;
    }
    commands().await
}

#[tokio::test(start_paused = true)]
async fn commands_follow_an_address_that_has_led_to_another_master_for_some_seconds() {
    assert_eq!(server_after_a_switch_to("master").await, "2");
    assert_eq!(server_after_a_switch_to("slave").await, "1", "it would refuse them");
}

/// Returns what a server that has carried a heartbeat out sends: the message, in which the key held
/// nothing before, and the reply.
fn heartbeat(words: &[String]) -> Option<String> {
    let [_, _, _, _, _, channel, number, _] = words else { return None };
    let message = format!("{number} - 7000 0 {number}");
    let push = [channel, &message].map(|text| bulk(text).unwrap()).concat();
    Some(format!(">3\r\n$8\r\nsmessage\r\n{push}+OK\r\n"))
}

#[tokio::test(start_paused = true)]
async fn a_member_without_a_run_id_must_have_what_the_node_has_written() {
    let subscribed = async |run_id: &'static str| {
        let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
        let (config, _) = scripted(RedisConfig::cluster(seeds), move |_, words| match &*words[0] {
            "INFO" => bulk(&format!("{run_id}server_time_usec:1\r\n")),
            "GETEX" => Some("$-1\r\n".to_owned()),
            "SET" => Some("+OK\r\n".to_owned()),
            "EVALSHA" => heartbeat(words),
            _ => confirmed(words).or_else(|| about_the_only_master(words, 1)),
        });
        let backend = RedisBackend::new(&config, "channel").unwrap();
        subscribe(&backend.shared, HEARTBEAT).await
    };
    assert!(subscribed("run_id:1\r\n").await.is_ok());
    assert!(subscribed("").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_made_on_each_master_of_a_cluster() {
    let nodes = "one 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-8191\n\
        two 10.0.0.2:6379@16379 master - 0 0 2 connected 8192-16383";
    let seeds = RedisCluster::new([("10.0.0.1", 6379)]);
    let announced = Arc::new(Mutex::new(Vec::new()));
    let (config, _) = scripted(RedisConfig::cluster(seeds), {
        let announced = announced.clone();
        move |address, words| match &*words[0] {
            "EVALSHA" => {
                announced.lock().unwrap().push(address.to_string());
                Some("+OK\r\n".to_owned())
            }
            _ if address.to_string().starts_with("10.0.0.1") => about_a_master(words, nodes, 2),
            _ => {
                let nodes = nodes
                    .replace("myself,", "")
                    .replace("79 master - 0 0 2", "79 myself,master - 0 0 2");
                about_a_master(words, &nodes, 2)
            }
        }
    });
    let backend = RedisBackend::new(&config, "channel").unwrap();
    backend.publish(b"a message").await.unwrap();
    announced.lock().unwrap().sort();
    assert_eq!(*announced.lock().unwrap(), ["10.0.0.1:6379", "10.0.0.2:6379"]);
}
