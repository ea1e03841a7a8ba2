//! The files in `deploy/cluster/` run as they are, but for addresses, ports and paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clustered_sessions::{RedisConfig, RedisTls, SessionId, SessionStore, StoreErrorKind};
use http::StatusCode;
use support::cluster::RedisCluster;
use support::deployment::cluster::{DeployedCluster, FORMATION, rule};
use support::node::Node;
use support::trial::{hits, login, me, stats};
use support::wait::{eventually, eventually_within};
use yaml_rust2::{Yaml, YamlLoader};

use crate::deployment::with_sources;
use crate::deployment_sentinel::{
    deploys_the_same_nodes, permissions, read, recipes_leave_the_authority_alone,
};
use crate::nodes::{Data, config, is_cached, key, store};

/// A node waits for 45 seconds if an election may have an unknown winner: three times the
/// `cluster-node-timeout` that it assumes for a URL. Servers that start together may hold one.
const READY: Duration = Duration::from_secs(60);

/// Returns what the URL in the Compose file says, with the authority of a deployment.
fn redis(deployment: &DeployedCluster) -> RedisConfig {
    let authority = fs::read(deployment.authority()).unwrap();
    RedisConfig::from_url(&deployment.url())
        .unwrap()
        .tls(RedisTls::new().root_certificates(authority))
}

async fn start_store(deployment: &DeployedCluster) -> SessionStore<Data> {
    let config = config().redis(redis(deployment)).enable_retry(false);
    let started = SessionStore::new(config.owner(|data: &Data| data.user.clone()).build().unwrap());
    started.wait_until_ready(READY).await.unwrap();
    started
}

/// Creates a session for each of the three masters, in their order.
async fn create_on_each(
    store: &SessionStore<Data>,
    deployment: &DeployedCluster,
) -> Vec<SessionId> {
    let mut ids = BTreeMap::new();
    while ids.len() < 3 {
        let id = store.create(Data::of("ada")).await.unwrap().id;
        ids.insert(deployment.owner(&key(id)), id);
    }
    ids.into_values().collect()
}

fn nobody_lacks_a_permission(deployment: &DeployedCluster) {
    for user in ["default", "sessions", "server"] {
        let denied = deployment.denied(user);
        assert!(denied.is_empty(), "{user} lacks {denied:?}");
    }
}

#[tokio::test]
async fn the_deployed_user_may_do_everything_on_the_deployed_cluster() {
    let deployment = DeployedCluster::start().await;
    let (one, other) = (start_store(&deployment).await, start_store(&deployment).await);
    for id in create_on_each(&one, &deployment).await {
        is_cached(&other, id).await;
        one.modify(id, |data| data.visits += 1).await.unwrap();
        let seen = async || other.find(id).await.unwrap().unwrap().data().visits == 1;
        eventually(seen, "the change is seen").await;
        assert!(one.find_fresh(id).await.unwrap().is_some());
        one.touch(id).await.unwrap();
        is_cached(&other, id).await;
        one.coordinator().publish_invalidation(id).await.unwrap();
        assert!(one.delete(id).await.unwrap());
        eventually(async || other.find(id).await.unwrap().is_none(), "it is revoked").await;
    }
    let _ = one.delete_all_of("ada").await.unwrap();
    let ids = create_on_each(&one, &deployment).await;
    let all: BTreeSet<_> = one.all_session_ids().await.unwrap().into_iter().collect();
    assert!(ids.iter().all(|id| all.contains(id)));
    assert_eq!(one.sessions_of("ada").await.unwrap().len(), all.len());
    assert_eq!(one.bulk_delete(|record| record.id() == ids[0]).await.unwrap().deleted, 1);
    assert_eq!(usize::try_from(one.clear().await.unwrap()).unwrap(), all.len() - 1);
    assert_eq!(one.size().await.unwrap(), 0);
    for store in [&one, &other] {
        assert!(store.coordinator().is_listening());
        assert_eq!(store.coordinator().disconnects(), 0);
        assert!(store.backend_info().servers.iter().all(|server| server.refused.is_empty()));
    }
    let policy: Vec<String> =
        deployment.servers[0].command(&["CONFIG", "GET", "maxmemory-policy"]).unwrap();
    assert_eq!(policy[1], "noeviction", "the servers have read the common settings");
    nobody_lacks_a_permission(&deployment);
}

#[tokio::test]
async fn nodes_follow_the_deployed_cluster_when_a_master_is_killed() {
    let mut deployment = DeployedCluster::start().await;
    let (url, authority) = (deployment.url(), deployment.authority());
    let start = || Node::start(&[("REDIS_URL", url.as_str()), ("SSL_CERT_FILE", &authority)]);
    let nodes = [start(), start()];
    let mut visitors = Vec::new();
    // Each master has the sessions of some.
    for number in 0..12 {
        visitors.push(login(&nodes[0], &format!("visitor-{number}")).await);
    }
    // A login renews the token.
    let old = visitors[0].clone();
    visitors[0].post(&nodes[1].url("/login?user=ada")).await;
    assert_ne!(visitors[0].cookie, old.cookie);
    let is_out = async || me(&nodes[0], &old).await == StatusCode::UNAUTHORIZED;
    eventually(is_out, "the old token is revoked").await;
    for visitor in &visitors {
        hits(&nodes[1], visitor).await;
    }

    let replica = deployment.replica(0);
    deployment.servers[0].kill();
    deployment.is_master(replica).await;
    // Until then, the new master has no replica, and so refuses writes.
    deployment.servers[0].restart();
    deployment.is_complete().await;
    // It has all data only once its link is up, and is counted as a replica from then on.
    let is_replica = async || {
        let replication = deployment.servers[0].info("replication");
        replication.contains("role:slave") && replication.contains("master_link_status:up")
    };
    eventually_within(FORMATION, is_replica, "the old master is a replica").await;
    for node in &nodes {
        eventually(async || stats(node).await["listening"] == true, "the node listens").await;
    }
    for visitor in &mut visitors {
        let visit = async || visitor.post(&nodes[1].url("/visit")).await.status == StatusCode::OK;
        eventually(visit, "the session is changed").await;
        hits(&nodes[0], visitor).await;
        // On a machine that is busy with other tests, a server may answer too late.
        let logout = async || {
            visitor.clone().post(&nodes[1].url("/logout")).await.status == StatusCode::NO_CONTENT
        };
        eventually(logout, "the visitor is logged out").await;
        let is_out = async || me(&nodes[0], visitor).await == StatusCode::UNAUTHORIZED;
        eventually(is_out, "the session is revoked").await;
    }
    nobody_lacks_a_permission(&deployment);
}

#[tokio::test]
async fn a_master_without_its_replica_refuses_writes_and_the_others_do_not() {
    let mut deployment = DeployedCluster::start().await;
    let node = start_store(&deployment).await;
    let ids = create_on_each(&node, &deployment).await;
    let replica = deployment.replica(0);
    deployment.servers[replica].kill();
    let refused = async || node.modify(ids[0], |data| data.visits += 1).await.err();
    let error = eventually(refused, "a write is refused").await;
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(with_sources(&error).contains("NOREPLICAS"), "{}", with_sources(&error));
    for id in &ids[1..] {
        node.modify(*id, |data| data.visits += 1).await.unwrap();
    }
    assert!(!deployment.is_ready(replica));
    deployment.servers[replica].restart();
    let written = async || node.modify(ids[0], |data| data.visits += 1).await.is_ok();
    eventually(written, "the replica is back").await;
}

#[tokio::test]
async fn sessions_are_served_while_another_master_and_its_replica_are_down() {
    let mut deployment = DeployedCluster::start().await;
    let node = start_store(&deployment).await;
    let ids = create_on_each(&node, &deployment).await;
    let replica = deployment.replica(0);
    deployment.servers[replica].kill();
    deployment.servers[0].kill();
    let is_known = async || {
        let info: String = deployment.servers[1].command(&["CLUSTER", "INFO"]).unwrap();
        !info.contains("cluster_slots_fail:0\r")
    };
    eventually(is_known, "the others know").await;
    for id in &ids[1..] {
        node.modify(*id, |data| data.visits += 1).await.unwrap();
    }
    let error = node.find_fresh(ids[0]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(deployment.is_ready(1), "the probes of the others succeed");
}

#[tokio::test]
async fn servers_find_each_other_when_all_have_got_other_addresses() {
    let mut deployment = DeployedCluster::start().await;
    let id = start_store(&deployment).await.create(Data::of("ada")).await.unwrap().id;
    deployment.restart_elsewhere().await;
    deployment.is_complete().await;
    assert!(start_store(&deployment).await.find(id).await.unwrap().is_some());
    nobody_lacks_a_permission(&deployment);
}

#[tokio::test]
async fn a_cluster_is_created_once() {
    let deployment = DeployedCluster::start().await;
    let id = start_store(&deployment).await.create(Data::of("ada")).await.unwrap().id;
    assert!(deployment.create().wait().unwrap().success());
    assert!(start_store(&deployment).await.find(id).await.unwrap().is_some());
}

/// The permissions are found by trying: whatever is denied is granted, and no others.
#[tokio::test]
async fn servers_and_scripts_need_each_of_the_deployed_permissions() {
    let deployment = DeployedCluster::before_creation();
    let rule = rule("server");
    let replication = ["+psync", "+replconf"];
    let mut missing = permissions(&rule);
    missing.retain(|permission| !replication.contains(permission));
    deployment.set_user("server", &missing);
    loop {
        let mut creation = deployment.create();
        let ends_or_is_denied = async || {
            let ended = creation.try_wait().unwrap();
            (ended.is_some() || !deployment.denied("server").is_empty()).then_some(ended)
        };
        let ended = eventually(ends_or_is_denied, "it works or lacks a permission").await;
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        // Unless it has failed already, it would wait.
        let _ = creation.kill();
        creation.wait().unwrap();
        let denied = deployment.denied("server");
        let before = missing.len();
        missing.retain(|permission| !denied.iter().any(|command| permission[1..] == *command));
        assert!(missing.len() < before, "{denied:?} is denied, and not among {missing:?}");
        deployment.set_user("server", &missing);
        for server in &deployment.servers {
            let () = server.command(&["CLUSTER", "RESET", "HARD"]).unwrap();
            let () = server.command(&["ACL", "LOG", "RESET"]).unwrap();
        }
    }
    assert_eq!(missing, [""; 0], "is not needed");
    for permission in replication {
        deployment.set_user("server", &[permission]);
        let denied = async || deployment.denied("server").contains(&permission[1..].to_owned());
        for server in &deployment.servers {
            let _: u64 = server.command(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
        }
        eventually(denied, "replicas ask for it").await;
    }
    deployment.set_user("server", &[]);
    deployment.is_complete().await;
}

#[tokio::test]
async fn without_a_permission_to_ask_about_the_cluster_the_error_names_it() {
    let deployment = DeployedCluster::start().await;
    for permission in ["+cluster|nodes", "+cluster|info", "+cluster|slots"] {
        deployment.set_user("sessions", &[permission]);
        let config = config().redis(redis(&deployment)).enable_retry(false);
        let node: SessionStore<Data> = SessionStore::new(config.build().unwrap());
        let error = node.create(Data::of("ada")).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "without {permission}");
        let text = with_sources(&error);
        assert!(text.contains(&permission[1..]), "without {permission}: {text}");
    }
}

#[tokio::test]
async fn without_a_permission_for_heartbeats_the_error_names_it_and_nothing_is_cached() {
    let deployment = DeployedCluster::start().await;
    for permission in ["+ssubscribe", "+spublish"] {
        deployment.set_user("sessions", &[permission]);
        let node: SessionStore<Data> =
            SessionStore::new(config().redis(redis(&deployment)).build().unwrap());
        let error = node.wait_until_ready(Duration::from_secs(2)).await.unwrap_err();
        let text = with_sources(&error).to_lowercase();
        assert!(text.contains(&permission[1..]), "without {permission}: {text}");
        let id = node.create(Data::of("ada")).await.unwrap().id;
        assert!(node.find(id).await.unwrap().is_some());
        assert_eq!(node.cache_stats().hits, 0, "without {permission}");
    }
}

#[tokio::test]
async fn without_the_permission_for_asking_a_session_that_is_migrating_cannot_be_read() {
    let cluster = RedisCluster::start(3, 0).await;
    let rule = rule("sessions");
    let set_user = |missing: &str| {
        let permissions = rule.split(' ').filter(|permission| *permission != missing);
        let user: Vec<_> = ["ACL", "SETUSER", "sessions", "reset"].into_iter().collect();
        let user = [user, permissions.collect()].concat();
        for (_, server) in cluster.servers() {
            let () = server.command(&user);
        }
    };
    set_user("");
    let redis = RedisConfig::from_url(&cluster.url()).unwrap();
    let redis = redis.user("sessions").password("change-me");
    let node = store(config().redis(redis).enable_retry(false)).await;
    let id = node.create(Data::of("ada")).await.unwrap().id;
    let slot = cluster.slot(&key(id));
    let from = cluster.owner(slot).await;
    let to = (from + 1) % 3;
    cluster.begin_migration([slot], from, to).await;
    cluster.move_keys([slot], from, to).await;
    assert!(node.find_fresh(id).await.unwrap().is_some());
    set_user("+asking");
    let error = node.find_fresh(id).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(with_sources(&error).contains("asking"), "{}", with_sources(&error));
    cluster.end_migration([slot], from, to).await;
    let found = async || node.find_fresh(id).await.is_ok_and(|found| found.is_some());
    eventually(found, "the slot has moved").await;
}

#[test]
fn the_permissions_are_those_that_the_documentation_lists() {
    let documented =
        ["", "/cluster"].map(|name| read(&format!("src/backend/redis/config{name}.rs")));
    let listed = documented.iter().flat_map(|text| text.lines());
    let listed = listed.filter_map(|line| line.strip_prefix("///   +"));
    let listed: BTreeSet<_> = listed.flat_map(|line| line.split(" +")).collect();
    let rule = rule("sessions");
    let (commands, others): (Vec<_>, Vec<_>) =
        rule.split(' ').partition(|word| word.starts_with('+'));
    assert_eq!(commands.iter().map(|word| &word[1..]).collect::<BTreeSet<_>>(), listed);
    assert_eq!(others, ["on", ">change-me", "~session:*", "&session:invalidate*"]);
    assert!(read("deploy/cluster/users.acl").starts_with("user default off ~* +@write\n"));
}

#[test]
fn nodes_are_deployed_as_with_one_server() {
    deploys_the_same_nodes("cluster");
}

#[test]
fn the_recipes_leave_no_key_but_that_of_the_authority() {
    recipes_leave_the_authority_alone("cluster", &["redis"]);
}

/// Returns the documents of a file.
fn documents(path: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the paths of the manifests and Compose files, from the root.
fn all_yaml_files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    yaml_files(&root.join("deploy"), &mut found);
    let path = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(path).collect()
}

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn all_manifests_are_valid_yaml() {
    let found = all_yaml_files();
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        for document in documents(&path) {
            let is_object = document["kind"].as_str().is_some()
                && document["apiVersion"].as_str().is_some()
                && document["metadata"]["name"].as_str().is_some();
            assert!(is_object || document["services"].as_hash().is_some(), "{path}: {document:?}");
        }
    }
}

#[test]
fn no_pod_has_more_rights_than_it_needs() {
    let mut count = 0;
    for path in all_yaml_files() {
        for document in documents(&path) {
            let pod = &document["spec"]["template"]["spec"];
            let Some(containers) = pod["containers"].as_vec() else { continue };
            count += 1;
            let place = format!("{path}: {:?}", document["metadata"]["name"]);
            assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false), "{place}");
            let common = &pod["securityContext"];
            assert_eq!(
                common["seccompProfile"]["type"].as_str(),
                Some("RuntimeDefault"),
                "{place}"
            );
            for container in containers {
                let own = &container["securityContext"];
                let is = |name: &str| {
                    own[name].as_bool().or_else(|| common[name].as_bool()).expect(&place)
                };
                assert!(is("runAsNonRoot"), "{place}");
                assert!(is("readOnlyRootFilesystem"), "{place}");
                assert!(!is("allowPrivilegeEscalation"), "{place}");
                assert_eq!(texts(&own["capabilities"]["drop"]), ["ALL"], "{place}");
            }
        }
    }
    assert_eq!(count, 8, "each kind of pod is checked");
}

/// Each directory with keys that a Compose file says how to make, for a build in the repository.
#[test]
fn neither_git_nor_an_image_has_the_keys_of_a_deployment() {
    let matches = |pattern: &str, directory: &str| {
        let (pattern, parts) = (pattern.trim_start_matches('/').split('/'), directory.split('/'));
        pattern.clone().count() == parts.clone().count()
            && pattern.zip(parts).all(|(pattern, part)| pattern == "*" || pattern == part)
    };
    let mut count = 0;
    for path in all_yaml_files().iter().filter(|path| path.ends_with("compose.yaml")) {
        let text = read(path);
        let calls = text.split("certificates.sh ").skip(1);
        for directory in calls.filter_map(|arguments| arguments.split(' ').next()) {
            count += 1;
            for list in [".dockerignore", ".gitignore"] {
                let is_left_out = read(list).lines().any(|pattern| matches(pattern, directory));
                assert!(is_left_out, "{list} does not leave out {directory}");
            }
        }
    }
    assert!(count >= 3, "{count}");
}

/// Returns the texts of a list.
fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Returns the value of an environment variable of a container of a pod.
fn variable<'a>(container: &'a Yaml, name: &str) -> &'a str {
    let variables = container["env"].as_vec().unwrap();
    let variable = variables.iter().find(|variable| variable["name"].as_str() == Some(name));
    variable.unwrap()["value"].as_str().unwrap()
}

#[test]
fn both_variants_start_the_same_scripts_with_the_same_servers_and_the_same_url() {
    let compose = &documents("deploy/cluster/compose.yaml")[0];
    let manifests = documents("deploy/cluster/kubernetes.yaml");
    let container = |kind: &str, name: &str| {
        let is_it = |it: &&Yaml| {
            it["kind"].as_str() == Some(kind) && it["metadata"]["name"].as_str() == Some(name)
        };
        let manifest = manifests.iter().find(is_it).unwrap();
        &manifest["spec"]["template"]["spec"]["containers"][0]
    };
    let pods: Vec<_> = (0..6).map(|number| format!("redis-{number}.redis")).collect();
    let hosts: Vec<_> = (1..=6).map(|number| format!("redis-{number}")).collect();
    let list =
        |hosts: &[String]| hosts.iter().map(|host| format!("{host}:6379 ")).collect::<String>();
    let (server, creation) = (container("StatefulSet", "redis"), container("Job", "create"));
    for container in [server, creation] {
        assert_eq!(variable(container, "SERVERS"), list(&pods).trim_end());
    }
    let servers = &compose["x-server"]["environment"]["SERVERS"];
    assert_eq!(servers.as_str(), Some(list(&hosts).trim_end()));
    let names: Vec<_> = hosts
        .iter()
        .map(|host| compose["services"][&**host]["environment"]["NAME"].as_str().unwrap())
        .collect();
    assert_eq!(names, hosts);

    let services = &compose["services"];
    for (container, service, script) in [
        (&server["command"], &compose["x-server"]["command"], "server"),
        (&creation["command"], &services["create"]["command"], "create"),
    ] {
        let command = ["sh".to_owned(), format!("/etc/redis/{script}.sh")];
        assert_eq!(texts(container), command);
        assert_eq!(texts(service), command);
    }
    let probe = texts(&server["readinessProbe"]["exec"]["command"]);
    assert_eq!(probe, texts(&compose["x-server"]["healthcheck"]["test"])[1..]);

    let mut url = compose["x-node"]["environment"]["REDIS_URL"].as_str().unwrap().to_owned();
    assert!(url.starts_with("rediss-cluster://sessions:change-me@"), "{url}");
    url = url.replace("change-me", "$(REDIS_PASSWORD)");
    for (host, pod) in hosts.iter().zip(&pods) {
        url = url.replace(&format!("{host}:"), &format!("{pod}:"));
    }
    assert_eq!(variable(container("Deployment", "app"), "REDIS_URL"), url);
}

/// Each file that a script or the configuration names is there.
#[test]
fn both_variants_give_servers_all_files() {
    let compose = &documents("deploy/cluster/compose.yaml")[0];
    let mut mounted = BTreeSet::new();
    for kind in ["configs", "secrets"] {
        for mount in compose["x-server"][kind].as_vec().unwrap() {
            let source = &compose[kind][mount["source"].as_str().unwrap()]["file"];
            let source = Path::new("deploy/cluster").join(source.as_str().unwrap());
            let is_made = source.iter().any(|part| part == "certificates");
            assert!(is_made || Path::new(env!("CARGO_MANIFEST_DIR")).join(&source).exists());
            mounted.insert(mount["target"].as_str().unwrap());
        }
    }
    let manifests = read("deploy/cluster/kubernetes.yaml");
    for file in &mounted {
        let name = file.rsplit('/').next().unwrap();
        let given = [format!("--from-file=$made/{name} "), format!("--from-file={name}=$made/")];
        let is_given = given.iter().any(|option| manifests.contains(option));
        assert!(is_given, "the secret `redis` lacks {name}");
    }
    let files = ["server.conf", "cli.sh", "server.sh", "create.sh", "ready.sh"];
    for text in files.map(|name| read(&format!("deploy/cluster/{name}"))) {
        let named = text.split("/etc/redis/").skip(1);
        for name in named.map(|rest| rest.split([' ', '\n', ')', '"']).next().unwrap()) {
            assert!(mounted.contains(&*format!("/etc/redis/{name}")), "{name}");
        }
    }
}
