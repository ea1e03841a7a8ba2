//! What nodes cost one Redis server, or the masters of a cluster, and each other, as they become
//! more.
//!
//! All nodes are in this process. CPU time is that of the servers' threads and of this process's,
//! less what they take while nobody writes. Elapsed time is not used.

use std::any::Any;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clustered_sessions::{SessionId, SessionStore};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::iter;
use redis::aio::MultiplexedConnection;
use support::cluster::RedisCluster;
use support::redis::RedisServer;
use tokio::runtime::Runtime;

use crate::data::UserSession;
use crate::measure::median;
use crate::nodes;

const HEAD: &str = "\
| masters | nodes | a master, idle | heartbeats' commands at a master | a node, idle | memory of a master for a node | writes in flight | all masters, for a write | process, for a write |
|---|---|---|---|---|---|---|---|---|";
/// Nodes on one server.
const NODES: [usize; 4] = [1, 10, 100, 1000];
/// Masters of a cluster, and nodes on it. More do not fit into two cores.
const CLUSTERS: [(usize, usize); 5] = [(3, 1), (3, 10), (3, 100), (30, 1), (30, 10)];
const ROUNDS: usize = 3;
/// Sessions that are changed, one after the other.
const SESSIONS: usize = 1_000;
/// Messages to deliver in each round.
const DELIVERIES: usize = 200_000;
/// Fewest and most writes in each round.
const WRITES: (usize, usize) = (1_000, 10_000);
const IDLE: Duration = Duration::from_secs(4);
/// Time after the last write in which all nodes hear of it.
const SETTLE: Duration = Duration::from_secs(1);

/// Prints a table.
pub fn run(runtime: &Runtime) {
    println!("{HEAD}");
    NODES.iter().for_each(|nodes| with(runtime, Servers::one(runtime), *nodes));
    println!("\nmemory of the server for a session: {:.0} bytes", bytes_of_a_session(runtime));
}

/// Prints a table.
pub fn run_cluster(runtime: &Runtime) {
    println!("{HEAD}");
    for (masters, nodes) in CLUSTERS {
        with(runtime, Servers::cluster(runtime, masters), nodes);
    }
}

fn with(runtime: &Runtime, mut redis: Servers, nodes: usize) {
    let before = redis.info(runtime, "used_memory");
    let mut stores = Vec::new();
    for _ in 0..nodes {
        stores.push(nodes::start(runtime, nodes::over_redis(&redis.url, SESSIONS)));
    }
    let masters = redis.each.len() as f64;
    let memory = (redis.info(runtime, "used_memory") - before) / nodes as f64 / masters;
    let ids = nodes::fill(runtime, &stores[0], SESSIONS);
    sleep(SETTLE);

    let commands = redis.info(runtime, "total_commands_processed");
    let idle = redis.costs(|| sleep(IDLE));
    let commands = redis.info(runtime, "total_commands_processed") - commands;
    let writes = (DELIVERIES / nodes).clamp(WRITES.0, WRITES.1);
    for in_flight in [1, 64] {
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let costs = redis.costs(|| {
                    runtime.block_on(write(&stores[0], &ids, writes, in_flight));
                    sleep(SETTLE);
                });
                costs.above(&idle)
            })
            .collect();
        let each = |cost: fn(&Costs) -> f64| {
            median(&rounds.iter().map(cost).collect::<Vec<_>>()) / writes as f64 * 1e6
        };
        println!(
            "| {masters} | {nodes} | {:.2} % | {:.0}/s | {:.3} % | {:.1} KB | {in_flight} | {:.1} µs | {:.1} µs |",
            idle.servers / idle.elapsed / masters * 100.0,
            commands / idle.elapsed / masters,
            idle.process / idle.elapsed / nodes as f64 * 100.0,
            memory / 1024.0,
            each(|costs| costs.servers),
            each(|costs| costs.process),
        );
    }
    runtime.block_on(join_all(stores.iter().map(SessionStore::shutdown)));
}

async fn write(
    store: &SessionStore<UserSession>,
    ids: &[SessionId],
    writes: usize,
    in_flight: usize,
) {
    let changes = ids.iter().cycle().take(writes).map(|id| async move {
        store.modify(*id, |data| data.visits += 1).await.expect("the change is written");
    });
    iter(changes).buffer_unordered(in_flight).collect::<()>().await;
}

fn bytes_of_a_session(runtime: &Runtime) -> f64 {
    const SESSIONS: usize = 100_000;
    let mut redis = Servers::one(runtime);
    let store = nodes::start(runtime, nodes::over_redis(&redis.url, 1));
    let before = redis.info(runtime, "used_memory");
    nodes::fill(runtime, &store, SESSIONS);
    let bytes = redis.info(runtime, "used_memory") - before;
    runtime.block_on(store.shutdown());
    bytes / SESSIONS as f64
}

/// Seconds of CPU time, and of the clock.
struct Costs {
    servers: f64,
    process: f64,
    elapsed: f64,
}

impl Costs {
    /// Returns what it took more than idle nodes take in the same time.
    fn above(&self, idle: &Costs) -> Costs {
        let share = self.elapsed / idle.elapsed;
        Costs {
            servers: self.servers - idle.servers * share,
            process: self.process - idle.process * share,
            elapsed: self.elapsed,
        }
    }
}

/// One server, or all masters of a cluster, as their operator sees them.
struct Servers {
    url: String,
    each: Vec<Server>,
    /// Keeps them running.
    _processes: Box<dyn Any>,
}

struct Server {
    connection: MultiplexedConnection,
    process: String,
}

impl Servers {
    fn one(runtime: &Runtime) -> Self {
        let server = RedisServer::start();
        Servers {
            url: server.url(),
            each: vec![Server::of(runtime, &server)],
            _processes: Box::new(server),
        }
    }

    fn cluster(runtime: &Runtime, masters: usize) -> Self {
        let cluster = runtime.block_on(RedisCluster::start(masters, 0));
        Servers {
            url: cluster.url(),
            each: cluster.servers().map(|(_, server)| Server::of(runtime, server)).collect(),
            _processes: Box::new(cluster),
        }
    }

    /// Returns the sum of a field of `INFO`.
    fn info(&mut self, runtime: &Runtime, field: &str) -> f64 {
        self.each.iter_mut().map(|server| server.info(runtime, field)).sum()
    }

    fn costs(&self, run: impl FnOnce()) -> Costs {
        let servers = || self.each.iter().map(|server| cpu_time(&server.process)).sum::<f64>();
        let (before, process, begun) = (servers(), cpu_time("self"), Instant::now());
        run();
        Costs {
            elapsed: begun.elapsed().as_secs_f64(),
            servers: servers() - before,
            process: cpu_time("self") - process,
        }
    }
}

impl Server {
    fn of(runtime: &Runtime, server: &RedisServer) -> Self {
        let mut server = Server {
            connection: crate::rows::connect(runtime, &server.url()),
            process: String::new(),
        };
        server.process = format!("{}", server.info(runtime, "process_id"));
        server
    }

    fn info(&mut self, runtime: &Runtime, field: &str) -> f64 {
        let info: String = runtime
            .block_on(redis::cmd("INFO").query_async(&mut self.connection))
            .expect("the server replies");
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.and_then(|value| value.parse().ok()).expect("the field is a number")
    }
}

/// Returns the CPU time of a process's threads, in seconds.
fn cpu_time(process: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let of_thread = |path: std::path::PathBuf| {
        // A thread may have ended meanwhile.
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok())
    };
    threads.filter_map(|thread| of_thread(thread.ok()?.path())).sum::<f64>() / 1e9
}
