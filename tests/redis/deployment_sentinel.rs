//! The files in `deploy/sentinel/` run as they are, but for addresses, ports and paths.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clustered_sessions::{
    RedisConfig, RedisSentinels, RedisTls, SessionStore, StoreError, StoreErrorKind,
};
use http::StatusCode;
use support::deployment::{Deployed, Deployment, SERVICE, rule};
use support::files::Files;
use support::node::Node;
use support::trial::{login, me, stats};
use support::wait::eventually;

use crate::deployment::with_sources;
use crate::nodes::{Data, config, store};

/// Reads a file of the repository.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Returns what the URL in the Compose file says, with the authority of a deployment.
fn redis(deployment: &Deployment) -> RedisConfig {
    let tls = RedisTls::new().root_certificates(fs::read(deployment.authority()).unwrap());
    let addresses = deployment.sentinels.iter().map(|sentinel| ("localhost", sentinel.port));
    let sentinels = RedisSentinels::new(SERVICE, addresses).user("sessions").password("change-me");
    RedisConfig::sentinel(sentinels.tls(tls.clone()))
        .user("sessions")
        .password("change-me")
        .tls(tls)
}

/// Returns a store that has not connected yet.
fn new_store(deployment: &Deployment) -> SessionStore<Data> {
    SessionStore::new(config().redis(redis(deployment)).enable_retry(false).build().unwrap())
}

/// Returns the commands and channels in a rule.
pub(crate) fn permissions(rule: &str) -> Vec<&str> {
    rule.split(' ').filter(|word| word.starts_with(['+', '&'])).collect()
}

/// Returns the same without those of a list, channels apart: without a channel, a command is
/// denied because of it.
fn in_two_steps<'a>(rule: &'a str, without: &[&str]) -> [Vec<&'a str>; 2] {
    let rest = permissions(rule).into_iter().filter(|word| !without.contains(word));
    let (channels, commands) = rest.partition(|word| word.starts_with('&'));
    [channels, commands]
}

/// Takes permissions away from a user of each process.
fn take_away(processes: &[Deployed], acl: &str, user: &str, missing: &[&str]) {
    for process in processes {
        process.set_user(acl, user, missing);
    }
}

/// Closes all connections of a user, so that it authenticates again.
fn disconnect(processes: &[Deployed], user: &str) {
    for process in processes {
        let _: u64 = process.command(&["CLIENT", "KILL", "USER", user]).unwrap();
    }
}

/// Waits until the processes have denied a user all of these permissions.
async fn are_denied(processes: &[Deployed], user: &str, permissions: &[&str]) {
    let complete = async || {
        let denied = Deployment::denied(processes, user);
        permissions.iter().all(|permission| denied.contains(&permission[1..]))
    };
    eventually(complete, &format!("{user} asks for each of {permissions:?}")).await;
}

#[tokio::test]
async fn nodes_use_the_deployed_servers_and_follow_the_deployed_sentinels() {
    let mut deployment = Deployment::start().await;
    deployment.notice_failures_soon();
    let (url, authority) = (deployment.url(), deployment.authority());
    let start = || Node::start(&[("REDIS_URL", url.as_str()), ("SSL_CERT_FILE", &authority)]);
    let nodes = [start(), start()];
    let mut ada = login(&nodes[0], "ada").await;
    let eve = login(&nodes[0], "eve").await;
    assert_eq!(me(&nodes[1], &ada).await, StatusCode::OK);
    let logout = async |visitor: &support::client::Client| {
        let answer = visitor.clone().post(&nodes[0].url("/logout")).await;
        answer.status == StatusCode::NO_CONTENT
    };
    assert!(logout(&eve).await);
    let is_out = async || me(&nodes[1], &eve).await == StatusCode::UNAUTHORIZED;
    eventually(is_out, "the session is revoked").await;

    deployment.servers[0].kill();
    let master = deployment.has_switched().await;
    let visit = async || ada.post(&nodes[1].url("/visit")).await.status == StatusCode::OK;
    eventually(visit, "the new master is used").await;
    for node in &nodes {
        let listens = async || stats(node).await["listening"] == true;
        eventually(listens, "the node listens to the new master").await;
    }
    eventually(async || logout(&ada).await, "the logout is acknowledged").await;
    let is_out = async || me(&nodes[1], &ada).await == StatusCode::UNAUTHORIZED;
    eventually(is_out, "the session is revoked").await;

    // Roles survive a restart.
    let role = format!("replicaof {} {}", master.host(), master.port);
    for server in &deployment.servers[1..] {
        let kept = async || {
            let kept = server.file("data/role.conf");
            if server.port == master.port {
                !kept.contains("replicaof")
            } else {
                kept.contains(&role)
            }
        };
        eventually(kept, "each server keeps its role").await;
    }
    for user in ["default", "sessions", "replica", "sentinel"] {
        let alive = deployment.servers[1..].iter().chain(&deployment.sentinels);
        for process in alive {
            let denied = Deployment::denied(std::slice::from_ref(process), user);
            assert!(denied.is_empty(), "{user} lacks {denied:?}");
        }
    }
}

#[tokio::test]
async fn an_old_master_that_starts_again_acknowledges_no_writes() {
    let mut deployment = Deployment::start().await;
    deployment.notice_failures_soon();
    deployment.servers[0].kill();
    deployment.has_switched().await;
    deployment.servers[0].restart();
    let written = deployment.servers[0].command::<()>(&["SET", "session:a", "b"]);
    // It is demoted a while later.
    let code = written.unwrap_err().code().map(str::to_owned).unwrap();
    assert!(["NOREPLICAS", "READONLY"].contains(&&*code), "{code}");
}

#[tokio::test]
async fn a_master_that_is_restarted_has_lost_no_change_of_several_keys() {
    let mut deployment = Deployment::start().await;
    let config = config().redis(redis(&deployment)).owner(|data: &Data| data.user.clone());
    let node = store(config).await;
    let kept = node.create(Data::of("ada")).await.unwrap().id;
    let deleted = node.create(Data::of("ada")).await.unwrap().id;
    assert!(node.delete(deleted).await.unwrap());
    deployment.servers[0].has_saved().await;
    // Sooner than the sentinels notice.
    deployment.servers[0].restart();
    // The replicas take a while to come back.
    let setting = ["CONFIG", "SET", "min-replicas-to-write", "0"];
    let () = deployment.servers[0].command(&setting).unwrap();
    let found = async || node.find_fresh(kept).await.is_ok_and(|found| found.is_some());
    eventually(found, "the session is there").await;
    assert!(node.find_fresh(deleted).await.unwrap().is_none());
    let sessions = node.sessions_of("ada").await.unwrap();
    assert_eq!(sessions.iter().map(|session| session.id()).collect::<Vec<_>>(), [kept]);
    assert!(deployment.servers[0].info("replication").contains("role:master"));
}

#[tokio::test]
async fn a_master_that_has_lost_its_replicas_acknowledges_no_writes() {
    let deployment = Deployment::start().await;
    let node = store(config().redis(redis(&deployment)).enable_retry(false)).await;
    let _ = node.create(Data::of("ada")).await.unwrap();
    for replica in &deployment.servers[1..] {
        let () = replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    }
    let refused = async || node.create(Data::of("ada")).await.err();
    let error = eventually(refused, "a write is refused").await;
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(with_sources(&error).contains("NOREPLICAS"), "{}", with_sources(&error));
}

async fn first_error(deployment: &Deployment) -> StoreError {
    new_store(deployment).create(Data::of("ada")).await.unwrap_err()
}

#[tokio::test]
async fn without_a_permission_at_the_sentinels_the_error_names_it_or_nodes_only_ask() {
    let deployment = Deployment::start().await;
    let sentinels = &deployment.sentinels;
    let rule = rule("sentinels.acl", "sessions");
    let permissions = permissions(&rule);
    assert!(permissions.len() >= 5, "{permissions:?}");
    for permission in permissions {
        take_away(sentinels, "sentinels.acl", "sessions", &[permission]);
        if permission.starts_with("+sentinel|") {
            let error = first_error(&deployment).await;
            assert_eq!(error.kind(), StoreErrorKind::Refused, "without {permission}");
            let text = with_sources(&error);
            assert!(text.contains(&permission[1..]), "without {permission}: {text}");
        } else {
            let _ = new_store(&deployment).create(Data::of("ada")).await.unwrap();
            are_denied(sentinels, "sessions", &[permission]).await;
        }
    }
}

#[tokio::test]
async fn nodes_that_may_not_listen_to_the_sentinels_ask_them() {
    let deployment = Deployment::start().await;
    take_away(&deployment.sentinels, "sentinels.acl", "sessions", &["+subscribe"]);
    let node = store(config().redis(redis(&deployment))).await;
    deployment.notice_failures_soon();
    // The sentinels lose the master, which keeps its clients and goes on to acknowledge writes.
    let old = &deployment.servers[..1];
    let () = old[0].command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    let () = old[0].command(&["ACL", "SETUSER", "sentinel", "off"]).unwrap();
    disconnect(old, "sentinel");
    let master = deployment.has_switched().await;
    let follows = async || {
        let Ok(created) = node.create(Data::of("ada")).await else { return false };
        let key = format!("session:{}", created.id);
        node.coordinator().is_listening()
            && master.command(&["EXISTS", &key]) == Ok(1)
            && master.info("replication").contains("role:master")
    };
    eventually(follows, "the node uses the new master").await;
}

#[tokio::test]
async fn sentinels_need_each_of_their_permissions_at_the_servers() {
    let deployment = Deployment::start().await;
    let servers = &deployment.servers;
    // A sentinel sends all of them, whatever the replies.
    let failover = ["+multi", "+slaveof", "+config|rewrite", "+client|kill", "+exec"];
    take_away(servers, "servers.acl", "sentinel", &failover);
    let () = deployment.sentinels[0].command(&["SENTINEL", "FAILOVER", SERVICE]).unwrap();
    are_denied(servers, "sentinel", &failover).await;
    let rule = rule("servers.acl", "sentinel");
    for missing in in_two_steps(&rule, &failover) {
        assert!(!missing.is_empty());
        take_away(servers, "servers.acl", "sentinel", &missing);
        disconnect(servers, "sentinel");
        are_denied(servers, "sentinel", &missing).await;
    }
}

#[tokio::test]
async fn sentinels_need_each_of_their_permissions_among_each_other() {
    let mut deployment = Deployment::start().await;
    deployment.notice_failures_soon();
    let rule = rule("sentinels.acl", "sentinel");
    for missing in in_two_steps(&rule, &[]) {
        assert!(!missing.is_empty());
        take_away(&deployment.sentinels, "sentinels.acl", "sentinel", &missing);
        disconnect(&deployment.sentinels, "sentinel");
        // They ask each other about it.
        deployment.servers[0].kill();
        are_denied(&deployment.sentinels, "sentinel", &missing).await;
    }
}

#[tokio::test]
async fn replicas_need_each_of_their_permissions() {
    let deployment = Deployment::start().await;
    let master = &deployment.servers[..1];
    let rule = rule("servers.acl", "replica");
    assert!(permissions(&rule).len() >= 2, "{rule}");
    for permission in permissions(&rule) {
        take_away(master, "servers.acl", "replica", &[permission]);
        disconnect(master, "replica");
        are_denied(master, "replica", &[permission]).await;
    }
}

#[test]
fn the_documentation_lists_the_permissions_at_the_sentinels() {
    let documented = read("src/backend/redis/config/sentinel.rs");
    for word in rule("sentinels.acl", "sessions").split(' ').filter(|word| *word != ">change-me") {
        assert!(documented.contains(word), "the docs of `RedisSentinels` do not mention {word}");
    }
}

/// Returns the lines that say what to run.
fn lines(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.lines().filter(|line| !line.trim_start().starts_with('#'))
}

/// Returns the lines of a text that are not in another one, in the same order.
pub(crate) fn lost<'a>(text: &'a str, other: &'a str) -> Vec<&'a str> {
    let mut rest = lines(other);
    let is_lost = |line: &&str| {
        let mut ahead = rest.clone();
        let found = ahead.any(|other| other == *line);
        if found {
            rest = ahead;
        }
        !found
    };
    lines(text).filter(is_lost).map(str::trim).collect()
}

/// Checks that the files of a variant deploy the same nodes as those for one server.
pub(crate) fn deploys_the_same_nodes(variant: &str) {
    let (file, other) =
        (read("deploy/kubernetes.yaml"), read(&format!("deploy/{variant}/kubernetes.yaml")));
    let nodes = file.split("kind: StatefulSet").next().unwrap();
    assert_eq!(
        lost(nodes, &other),
        ["valueFrom: { secretKeyRef: { name: sessions, key: redis-url } }"]
    );

    let (file, other) =
        (read("deploy/compose.yaml"), read(&format!("deploy/{variant}/compose.yaml")));
    let nodes = file.split("\n  redis:").next().unwrap();
    let expected = [
        "context: ..",
        "REDIS_URL: redis://sessions:change-me@redis:6379",
        "depends_on:",
        "redis:",
        "condition: service_healthy",
        r#"volumes: ["./nginx.conf:/etc/nginx/conf.d/default.conf:ro"]"#,
    ];
    assert_eq!(lost(nodes, &other), expected);
}

#[test]
fn nodes_are_deployed_as_with_one_server() {
    deploys_the_same_nodes("sentinel");
}

/// Stands for `kubectl`: each file that it is given must be there.
const KUBECTL: &str = r#"#!/bin/sh
for argument; do
    case $argument in --from-file=*) test -e "${argument##*=}" || exit 1 ;; esac
done
echo "$@" >> "$LOG"
"#;

/// Runs the two recipes at the top of a manifest, and checks that they leave nothing but the
/// authority, which signs the certificates of both.
pub(crate) fn recipes_leave_the_authority_alone(variant: &str, secrets: &[&str]) {
    let manifest = read(&format!("deploy/{variant}/kubernetes.yaml"));
    let header: Vec<_> = manifest.lines().take_while(|line| line.starts_with('#')).collect();
    let blocks: Vec<String> = header
        .split(|line| *line == "#")
        .filter(|block| block[0].starts_with("#   "))
        .map(|block| block.iter().map(|line| format!("{}\n", &line[1..])).collect())
        .collect();
    let [creation, renewal] = &blocks[..] else { panic!("{blocks:?}") };

    let files = Files::new();
    let [safe, temporary, log] = ["safe", "temporary", "log"].map(|name| files.path(name));
    for directory in [&safe, &temporary] {
        fs::create_dir(directory).unwrap();
    }
    let kubectl = files.write("kubectl", KUBECTL);
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", files.path(""), std::env::var("PATH").unwrap());
    let names = |directory: &str| {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut authority = None;
    for recipe in [creation, renewal] {
        let recipe = recipe.replace("/a/directory/that/is/safe", &safe);
        assert!(recipe.contains(&safe));
        let ran = Command::new("sh")
            .args(["-e", "-c", &recipe])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs([("PATH", &path), ("TMPDIR", &temporary), ("LOG", &log)])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(names(&safe), ["ca-key.pem", "ca.pem"]);
        assert!(names(&temporary).is_empty(), "{:?}", names(&temporary));
        let kept = fs::read(format!("{safe}/ca.pem")).unwrap();
        assert_eq!(*authority.get_or_insert_with(|| kept.clone()), kept);
    }
    let log = fs::read_to_string(&log).unwrap();
    for secret in secrets {
        let patch = log.lines().find(|line| line.starts_with(&format!("patch secret {secret} ")));
        let (_, patch) = patch.unwrap().split_once(" -p ").unwrap();
        let patch: serde_json::Value = serde_json::from_str(patch).unwrap();
        let certificate = patch["data"]["cert.pem"].as_str().unwrap();
        let certificate = BASE64_STANDARD.decode(certificate).unwrap();
        let certificate = files.write("cert.pem", str::from_utf8(&certificate).unwrap());
        let verified = Command::new("openssl")
            .args(["verify", "-CAfile", &format!("{safe}/ca.pem"), &certificate])
            .output()
            .unwrap();
        assert!(verified.status.success(), "the authority has not signed that of {secret}");
    }
}

#[test]
fn the_recipes_leave_no_key_but_that_of_the_authority() {
    recipes_leave_the_authority_alone("sentinel", &["redis", "sentinel"]);
}

#[test]
fn the_variants_use_the_same_url_and_start_the_same_scripts() {
    let [compose, kubernetes] =
        ["compose", "kubernetes"].map(|name| read(&format!("deploy/sentinel/{name}.yaml")));
    let url = |text: &str| {
        let at = text.find("rediss-sentinel://").unwrap();
        text[at..].lines().next().unwrap().to_owned()
    };
    let mut expected = url(&compose).replace("change-me", "$(REDIS_PASSWORD)");
    for number in 1..=3 {
        let pod = format!("sentinel-{}.sentinel:", number - 1);
        expected = expected.replace(&format!("sentinel-{number}:"), &pod);
    }
    assert_eq!(url(&kubernetes), expected);
    for script in ["/etc/redis/server.sh", "/etc/redis/sentinel.sh"] {
        assert!(compose.contains(&format!("command: [\"sh\", \"{script}\"]")), "{script}");
        assert!(kubernetes.contains(&format!("command: [sh, {script}]")), "{script}");
    }
}
