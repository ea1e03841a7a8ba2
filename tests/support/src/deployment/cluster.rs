//! The servers of `deploy/cluster/`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Deployed, Deployment, Edit, Kind, certificates, file, replaced, rule_in};
use crate::files::Files;
use crate::wait::{eventually, eventually_within};

/// Six servers that have lost each other need seven seconds on an idle machine.
pub const FORMATION: Duration = Duration::from_secs(30);

/// This machine, by a name for each server.
const HOSTS: [&str; 6] =
    ["localhost", "Localhost", "LOCALHOST", "localHost", "LocalHost", "localHOST"];
const SERVER: Kind = Kind {
    folder: "cluster",
    files: &[
        "../redis.conf",
        "server.conf",
        "users.acl",
        "cli.sh",
        "server.sh",
        "create.sh",
        "ready.sh",
    ],
    script: "server",
    users: "users.acl",
    identity: "redis",
    port: 6379,
    has_bus: true,
};

/// Six servers. The first three become masters, and each of the others a replica of one of them.
pub struct DeployedCluster {
    pub servers: Vec<Deployed>,
    files: Files,
}

impl DeployedCluster {
    /// Starts all servers, makes them a cluster, and waits until all of it works.
    pub async fn start() -> Self {
        let deployment = Self::before_creation();
        assert!(!deployment.is_ready(0), "there is no cluster yet");
        let created = deployment.create().wait_with_output().unwrap();
        assert!(created.status.success(), "{created:?}");
        deployment.is_complete().await;
        deployment
    }

    /// Starts all servers.
    pub fn before_creation() -> Self {
        let files = certificates(&["redis"]);
        let edits = |port| -> Vec<Edit> {
            let edit = |file, from: &str, to: &str| (file, from.to_owned(), to.to_owned());
            // Tests take less time if failures are noticed sooner.
            vec![
                edit("server.conf", "cluster-node-timeout 5000", "cluster-node-timeout 1000"),
                edit("server.sh", "sleep 10", "sleep 2"),
                edit("cli.sh", "-p 6379", &format!("-p {port}")),
            ]
        };
        let start = |host| Deployed::start(&SERVER, host, &[], edits, &files);
        let mut servers: Vec<_> = HOSTS.map(start).into();
        let all = servers.iter().map(|server| format!("{}:{}", server.host, server.port));
        let all = all.collect::<Vec<_>>().join(" ");
        for server in &mut servers {
            server.variables = vec![("SERVERS", all.clone())];
        }
        DeployedCluster { servers, files }
    }

    /// Runs the script that makes the servers a cluster.
    pub fn create(&self) -> Child {
        let mut script = self.script(0, "create");
        script.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns `true` if the probe of a server succeeds.
    pub fn is_ready(&self, server: usize) -> bool {
        self.script(server, "ready").stderr(Stdio::null()).status().unwrap().success()
    }

    fn script(&self, server: usize, name: &str) -> Command {
        let server = &self.servers[server];
        let mut command = Command::new("sh");
        let script = server.files.path(&format!("etc/{name}.sh"));
        command.arg(script).envs(server.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Waits until all servers reach each other, and each master has a replica. All must be up.
    pub async fn is_complete(&self) {
        let is_complete = async || self.servers.iter().all(is_complete);
        eventually_within(FORMATION, is_complete, "all of the cluster works").await;
        for server in 0..self.servers.len() {
            assert!(self.is_ready(server), "the probe of server {server} fails");
        }
    }

    /// Returns the index of the master that has a key.
    pub fn owner(&self, key: &str) -> usize {
        let has_key = |server: &Deployed| server.command(&["EXISTS", key]) == Ok(1);
        self.servers.iter().position(has_key).expect("a master has the key")
    }

    /// Returns the index of the replica of a master.
    pub fn replica(&self, master: usize) -> usize {
        let port = format!("master_port:{}\r", self.servers[master].port);
        let is_replica = |server: &Deployed| server.info("replication").contains(&port);
        self.servers.iter().position(is_replica).expect("each master has a replica")
    }

    /// Waits until a replica has become a master, and its server knows that the others agree.
    pub async fn is_master(&self, server: usize) {
        let server = &self.servers[server];
        let is_master = async || {
            server.info("replication").contains("role:master")
                && cluster_info(server).contains("cluster_slots_fail:0\r")
        };
        eventually(is_master, "the replica is the master").await;
    }

    /// Kills all servers, and starts them again as if each had another address than before.
    pub async fn restart_elsewhere(&mut self) {
        for server in &mut self.servers {
            server.has_saved().await;
            server.kill();
        }
        for server in &mut self.servers {
            let nodes = server.file("data/nodes.conf");
            // Nobody listens there.
            server.files.write("data/nodes.conf", &replaced(&nodes, " 127.0.0.1:", " 127.0.0.9:"));
            server.restart();
        }
    }

    /// Returns the path of the certificate of the authority.
    pub fn authority(&self) -> String {
        self.files.path("ca.pem")
    }

    /// Returns the URL in the Compose file, with the addresses of these servers.
    pub fn url(&self) -> String {
        let compose = std::fs::read_to_string(file("cluster/compose.yaml")).unwrap();
        let url = compose.lines().find_map(|line| line.trim().strip_prefix("REDIS_URL: ")).unwrap();
        let named = (1..=3).zip(&self.servers);
        named.fold(url.to_owned(), |url, (number, server)| {
            let own = format!("{}:{}", server.host, server.port);
            replaced(&url, &format!("redis-{number}:6379"), &own)
        })
    }

    /// Gives a user the deployed permissions on all servers, without some of them.
    pub fn set_user(&self, user: &str, missing: &[&str]) {
        for server in &self.servers {
            server.set_user("users.acl", user, missing);
        }
    }

    /// Returns what the servers have denied to a user: commands, keys and channels.
    pub fn denied(&self, user: &str) -> Vec<String> {
        Deployment::denied(&self.servers, user).into_iter().collect()
    }
}

fn cluster_info(server: &Deployed) -> String {
    server.command(&["CLUSTER", "INFO"]).unwrap_or_default()
}

fn is_complete(server: &Deployed) -> bool {
    let nodes: String = server.command(&["CLUSTER", "NODES"]).unwrap_or_default();
    let is_sound = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let mut flags = fields[2].split(',');
        flags.all(|flag| matches!(flag, "myself" | "master" | "slave")) && fields[7] == "connected"
    };
    let replication = server.info("replication");
    nodes.lines().count() == HOSTS.len()
        && nodes.lines().all(is_sound)
        && cluster_info(server).contains("cluster_state:ok")
        && (replication.contains("min_slaves_good_slaves:1\r")
            || replication.contains("master_link_status:up"))
}

/// Returns the rule of a user.
pub fn rule(user: &str) -> String {
    rule_in("cluster", "users.acl", user)
}
