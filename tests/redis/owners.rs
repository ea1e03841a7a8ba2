//! The sessions of one owner: finding, extending, regenerating, transferring and ending them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clustered_sessions::{
    Clock, ClusterConfig, MemoryBackend, Secret, Session, SessionConfig, SessionConfigBuilder,
    SessionId, SessionLayer, SessionStore, StoreErrorKind,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use support::log::Log;
use support::redis::{Calls, RedisServer};
use support::wait::{DEADLINE, eventually};
use tokio::time::sleep;

use crate::nodes::{Data, config, key, store};
use crate::web::{self, Browser, Call, RedisAddress as _, Spy, ada, serve};

const HOUR: Duration = Duration::from_secs(3600);

/// Returns an owner's name. It differs from the name in the record, so that a test can search for
/// it elsewhere.
fn name(user: &str) -> String {
    format!("owner-of-{user}")
}

fn owned(server: &RedisServer) -> SessionConfigBuilder<Data> {
    config().redis(server.config()).owner(|data: &Data| data.user.as_deref().map(name))
}

/// Disables the listener, whose heartbeats would be counted, too.
fn silent() -> ClusterConfig {
    ClusterConfig::new().enabled(false)
}

/// Returns a configuration over a backend in memory, where a test controls the time.
fn in_memory(backend: &impl web::HasBackend, clock: &Clock) -> SessionConfigBuilder<web::Data> {
    let owner = |data: &web::Data| data.user.clone();
    web::config(backend).cluster(silent()).clock(clock.clone()).timeout(HOUR).owner(owner)
}

fn paused() -> (Clock, MemoryBackend) {
    let clock = Clock::tokio();
    (clock.clone(), MemoryBackend::with_clock(clock))
}

/// Sleeps until shortly before a full hour. The paused clock must not have been advanced before.
async fn seconds_before_the_hour(seconds: u64) {
    let into_the_hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 3600;
    sleep(2 * HOUR - Duration::from_secs(into_the_hour + seconds)).await;
}

async fn create(store: &SessionStore<Data>, user: &str) -> SessionId {
    store.create(Data::of(user)).await.unwrap().id
}

/// Returns the ids of an owner's sessions.
async fn ids_of<T: clustered_sessions::SessionData>(
    store: &SessionStore<T>,
    owner: &str,
) -> BTreeSet<SessionId> {
    store.sessions_of(owner).await.unwrap().iter().map(|record| record.id()).collect()
}

fn calls<const N: usize>(expected: [(&str, u64); N]) -> Calls {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

fn index_keys(server: &RedisServer) -> Vec<String> {
    server.command(&["KEYS", "session:owner:*"])
}

#[tokio::test]
async fn an_owner_is_logged_out_on_every_node_and_nobody_else_is() {
    let server = RedisServer::start();
    let nodes = [store(owned(&server)).await, store(owned(&server)).await];
    let mut ada = BTreeSet::new();
    for node in nodes.iter().chain(&nodes) {
        ada.insert(create(node, "ada").await);
    }
    let bob = create(&nodes[0], "bob").await;
    for node in &nodes {
        assert_eq!(ids_of(node, "owner-of-ada").await, ada);
        for id in ada.iter().chain([&bob]) {
            assert!(node.find(*id).await.unwrap().is_some());
        }
    }
    let done = nodes[0].delete_all_of("owner-of-ada").await.unwrap();
    assert_eq!((done.deleted, done.unreadable), (4, 0));
    for node in &nodes {
        for id in &ada {
            eventually(
                async || node.find(*id).await.unwrap().is_none(),
                "the node receives the announcement",
            )
            .await;
        }
        assert!(node.find(bob).await.unwrap().is_some());
        assert_eq!(ids_of(node, "owner-of-ada").await, BTreeSet::new());
        assert_eq!(ids_of(node, "owner-of-bob").await, [bob].into());
    }
}

#[tokio::test]
async fn the_commands_for_an_owner_do_not_depend_on_other_owners() {
    let server = RedisServer::start();
    let store = store(owned(&server).cluster(silent())).await;
    let new = async |user: String| store.create(Data::of(&user)).await.map(|new| new.id);
    let others = stream::iter(0..3000).map(|number| new(format!("visitor {number}")));
    let _: Vec<_> = others.buffer_unordered(64).try_collect().await.unwrap();
    for _ in 0..5 {
        create(&store, "ada").await;
    }
    // One round, so that the server has cached the scripts.
    let bob = create(&store, "bob").await;
    assert_eq!(ids_of(&store, "owner-of-bob").await, [bob].into());
    assert_eq!(store.delete_all_of("owner-of-bob").await.unwrap().deleted, 1);

    let (found, made) = server.calls_of(store.sessions_of("owner-of-ada")).await;
    assert_eq!(found.unwrap().len(), 5);
    assert_eq!(
        made,
        calls([("evalsha", 1), ("time", 1), ("zscan", 1), ("getex", 5)]),
        "sessions_of"
    );

    // Each session is loaded and deleted individually.
    let (done, made) = server.calls_of(store.delete_all_of("owner-of-ada")).await;
    assert_eq!(done.unwrap().deleted, 5);
    let scripts = [("evalsha", 1 + 5), ("zscan", 1), ("getrange", 5), ("publish", 5), ("del", 5)];
    let expected: Calls =
        calls(scripts).into_iter().chain(calls([("time", 1), ("getex", 5), ("zrem", 5)])).collect();
    assert_eq!(made, expected, "delete_all_of");
    assert_eq!(store.size().await.unwrap(), 3000);
}

#[tokio::test]
async fn an_owner_is_logged_out_of_thousands_of_sessions() {
    let server = RedisServer::start();
    let store = store(owned(&server)).await;
    let new = async |_| store.create(Data::of("ada")).await.map(|new| new.id);
    let created: BTreeSet<_> =
        stream::iter(0..2000).map(new).buffer_unordered(64).try_collect().await.unwrap();
    assert_eq!(ids_of(&store, "owner-of-ada").await, created);
    assert_eq!(store.delete_all_of("owner-of-ada").await.unwrap().deleted, 2000);
    assert_eq!(
        (store.size().await.unwrap(), index_keys(&server).len()),
        (0, 0),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn creating_a_session_with_an_owner_costs_one_more_command() {
    let server = RedisServer::start();
    let store = store(owned(&server).cluster(silent())).await;
    create(&store, "bob").await;

    let (new, made) = server.calls_of(store.create(Data::default())).await;
    assert_eq!(made, calls([("set", 1)]));
    let id = new.unwrap().id;
    store.touch(id).await.unwrap();
    // Within the same millisecond, the deadline would not change.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let (_, made) = server.calls_of(store.touch(id)).await;
    assert_eq!(made, calls([("evalsha", 1), ("getrange", 1), ("pexpire", 1), ("setrange", 1)]));

    let (new, made) = server.calls_of(store.create(Data::of("ada"))).await;
    let index = [("evalsha", 1), ("time", 1), ("zrange", 1), ("zadd", 1), ("pexpireat", 2)];
    assert_eq!(made, calls([("set", 1)]).into_iter().chain(calls(index)).collect::<Calls>());

    let id = new.unwrap().id;
    let (deleted, made) = server
        .calls_of(async {
            let deleted = store.delete(id).await.unwrap();
            eventually(async || index_keys(&server).len() == 1, "the entry is removed").await;
            deleted
        })
        .await;
    assert!(deleted);
    assert_eq!((made["del"], made["zrem"]), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_index_entry_is_rewritten_once_an_hour_and_when_the_owner_changes() {
    let (clock, memory) = paused();
    let spy = Spy::over(&memory);
    let store = SessionStore::new(in_memory(&spy, &clock).build().unwrap());
    seconds_before_the_hour(10).await;
    let id = store.create(ada()).await.unwrap().id;
    assert_eq!(spy.take_calls(), [Call::AddToOwner, Call::Create]);
    sleep(Duration::from_secs(40)).await;

    let visit = async |minutes: u64, expected: &[Call]| {
        sleep(Duration::from_secs(60 * minutes)).await;
        store.modify(id, |data| data.visits += 1).await.unwrap();
        let update: Vec<_> =
            spy.take_calls().into_iter().filter(|call| *call != Call::Load).collect();
        assert_eq!(update, [expected, &[Call::Update]].concat());
        assert!(store.touch(id).await.unwrap());
        let touch: Vec<_> =
            spy.take_calls().into_iter().filter(|call| *call != Call::Load).collect();
        assert_eq!(touch, [Call::Touch], "the entry exists already");
    };
    visit(0, &[Call::AddToOwner]).await;
    visit(20, &[]).await;
    visit(20, &[]).await;
    visit(20, &[Call::AddToOwner]).await;
    visit(20, &[]).await;

    for owner in [Some("bob"), None, Some("ada")] {
        store.modify(id, |data| data.user = owner.map(str::to_owned)).await.unwrap();
        let index: &[Call] = if owner.is_some() { &[Call::AddToOwner] } else { &[] };
        assert_eq!(spy.take_calls(), [index, &[Call::Update]].concat(), "{owner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_for_days_stays_in_the_index_and_an_idle_one_is_removed() {
    let (clock, memory) = paused();
    let store = SessionStore::new(in_memory(&memory, &clock).build().unwrap());
    let used = store.create(ada()).await.unwrap().id;
    let idle = store.create(ada()).await.unwrap().id;
    assert_eq!(ids_of(&store, "Ada").await, [used, idle].into());
    for round in 0..200 {
        sleep(Duration::from_secs(60 * 25)).await;
        match round % 3 {
            0 => store.modify(used, |data| data.visits += 1).await.unwrap(),
            _ => assert!(store.touch(used).await.unwrap()),
        }
        if round > 2 {
            assert_eq!(ids_of(&store, "Ada").await, [used].into(), "after {round} rounds");
        }
    }
    assert_eq!(store.delete_all_of("Ada").await.unwrap().deleted, 1);
}

#[tokio::test(start_paused = true)]
async fn an_extension_by_a_node_with_a_stale_owner_keeps_the_new_owners_index_entry() {
    let (clock, memory) = paused();
    let [current, stale] =
        [(); 2].map(|()| SessionStore::new(in_memory(&memory, &clock).build().unwrap()));
    seconds_before_the_hour(5).await;
    let id = current.create(ada()).await.unwrap().id;
    assert!(stale.find(id).await.unwrap().is_some());
    current.modify(id, |data| data.user = Some("Bob".to_owned())).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert!(stale.touch(id).await.unwrap());
    // While the extended deadlines are within the same hour, the node does not rewrite the entry.
    for _ in 0..5 {
        sleep(HOUR / 6).await;
        assert!(current.touch(id).await.unwrap());
    }
    for _ in 0..5 {
        sleep(HOUR / 6).await;
        assert_eq!(ids_of(&current, "Bob").await, [id].into());
        assert_eq!(ids_of(&stale, "Bob").await, [id].into());
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_by_a_node_that_does_not_listen_extends_the_entry_of_the_present_owner() {
    let (clock, memory) = paused();
    let config = || in_memory(&memory, &clock).timeout(24 * HOUR);
    let current = SessionStore::new(config().build().unwrap());
    let deaf = ClusterConfig::new().enabled(false).local_cache_ttl(6 * HOUR);
    let deaf = SessionStore::new(config().cluster(deaf).build().unwrap());
    let id = current.create(ada()).await.unwrap().id;
    assert!(deaf.find(id).await.unwrap().is_some());
    current.modify(id, |data| data.user = Some("Bob".to_owned())).await.unwrap();
    sleep(5 * HOUR).await;
    assert!(deaf.touch(id).await.unwrap());
    sleep(23 * HOUR).await;
    assert_eq!(ids_of(&current, "Bob").await, [id].into());
}

#[tokio::test]
async fn a_session_belongs_to_the_owner_in_its_data() {
    let memory = MemoryBackend::new();
    let sessions = web::start(in_memory(&memory, &Clock::system())).await;
    let store = sessions.store();
    let id = store.create(ada()).await.unwrap().id;
    for owner in [Some("Bob"), Some("Ada"), None, Some("Bob"), None] {
        store.modify(id, |data| data.user = owner.map(str::to_owned)).await.unwrap();
        for other in ["Ada", "Bob"] {
            let expected = if owner == Some(other) { [id].into() } else { BTreeSet::new() };
            assert_eq!(ids_of(store, other).await, expected, "{owner:?}");
        }
    }
    assert_eq!(store.delete_all_of("Ada").await.unwrap().deleted, 0);
    assert_eq!(store.delete_all_of("Bob").await.unwrap().deleted, 0);
    assert!(store.find(id).await.unwrap().is_some(), "the session has no owner");
}

#[tokio::test]
async fn a_session_keeps_its_owner_when_it_gets_a_new_id() {
    let memory = MemoryBackend::new();
    let sessions = web::start(in_memory(&memory, &Clock::system())).await;
    let app = serve(&sessions, async |session: Session<web::Data>| {
        session.update(|data| data.user = Some("Ada".to_owned()));
        session.regenerate();
    });
    let (mut desktop, mut phone) = (Browser::new(), Browser::new());
    for browser in [&mut desktop, &mut phone] {
        for _ in 0..3 {
            browser.visit(&app).await;
        }
    }
    let found = ids_of(sessions.store(), "Ada").await;
    assert_eq!(found, sessions.store().all_session_ids().await.unwrap().into_iter().collect());
    assert_eq!(found.len(), 2);
    assert_eq!(sessions.store().delete_all_of("Ada").await.unwrap().deleted, 2);
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_password_change_spares_the_session_that_made_it() {
    let memory = MemoryBackend::new();
    let sessions = web::start(in_memory(&memory, &Clock::system())).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    for _ in 0..3 {
        let _ = sessions.store().create(ada()).await.unwrap();
    }
    let app = serve(&sessions, async |session: Session<web::Data>| {
        session.regenerate();
        session.save().await.unwrap();
        let done =
            session.store().delete_all_of_except("Ada", session.id().unwrap()).await.unwrap();
        done.deleted.to_string()
    });
    assert_eq!(browser.visit(&app).await.body, "3");
    let who =
        serve(&sessions, async |session: Session<web::Data>| session.data().user.clone().unwrap());
    assert_eq!(
        browser.visit(&who).await.body,
        "Ada",
        "the browser is logged in with its new cookie"
    );
    assert_eq!(sessions.store().size().await.unwrap(), 1);
}

#[tokio::test]
async fn logins_during_a_logout_everywhere_do_not_save_earlier_sessions() {
    let server = RedisServer::start();
    let nodes = [store(owned(&server)).await, store(owned(&server)).await];
    let logins = nodes.clone().map(|node| {
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..100 {
                ids.push(create(&node, "ada").await);
            }
            ids
        })
    });
    let before = create(&nodes[0], "ada").await;
    // Concurrent logins do not keep `delete_all_of` from completing.
    let done = nodes[1].delete_all_of("owner-of-ada").await.unwrap();
    assert!(done.deleted > 0);
    assert!(nodes[1].find_fresh(before).await.unwrap().is_none());
    let mut left = BTreeSet::new();
    for task in logins {
        for id in task.await.unwrap() {
            left.extend(nodes[0].find_fresh(id).await.unwrap().map(|record| record.id()));
        }
    }
    assert_eq!(ids_of(&nodes[0], "owner-of-ada").await, left);
    assert_eq!(nodes[0].delete_all_of("owner-of-ada").await.unwrap().deleted, left.len() as u64);
}

/// Creates a layer with its own store over the server, as another process would.
async fn node(server: &RedisServer) -> SessionLayer<web::Data> {
    let config = SessionConfig::development(Secret::insecure_dev("tests"))
        .redis(server.config())
        .owner(|data: &web::Data| data.user.clone());
    let layer = SessionLayer::new(config.build().unwrap());
    layer.store().wait_until_ready(DEADLINE).await.unwrap();
    layer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_who_regenerates_as_fast_as_redis_answers_is_logged_out() {
    let server = RedisServer::start();
    let (near, far) = (node(&server).await, node(&server).await);
    for _ in 0..3 {
        let _ = far.store().create(ada()).await.unwrap();
    }
    let mut thief = Browser::with(&near, ada()).await;
    let moves = Arc::new(AtomicU64::new(0));
    let stolen = tokio::spawn({
        let moves = moves.clone();
        let app = serve(&near, async |session: Session<web::Data>| {
            let is_alive = !session.is_new();
            if is_alive {
                session.regenerate();
            }
            is_alive.to_string()
        });
        // A regeneration that a revocation has overtaken is answered with 409.
        async move {
            loop {
                let page = thief.visit(&app).await;
                if page.status == StatusCode::OK && page.body == "false" {
                    return;
                }
                moves.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    eventually(
        async || moves.load(Ordering::Relaxed) >= 300,
        "the thief has regenerated the session often",
    )
    .await;
    let before = server.calls();
    let done = far.store().delete_all_of("Ada").await.unwrap();
    assert_eq!(done.deleted, 4);
    tokio::time::timeout(DEADLINE, stolen).await.expect("the thief is logged out").unwrap();
    let moves = moves.load(Ordering::Relaxed);
    let loads = server.calls()["getex"] - before["getex"];
    assert!(loads < 20 * moves, "{loads} loads for {moves} regenerations");
    assert_eq!(far.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_command_removes_at_most_a_thousand_expired_index_entries() {
    let server = RedisServer::start();
    let store = store(owned(&server).cluster(silent())).await;
    create(&store, "ada").await;
    let [index]: [String; 1] = index_keys(&server).try_into().unwrap();
    let ghosts = "for i = 1, 100000 do \
                  redis.call('ZADD', KEYS[1], 1, string.format('%022d', i)) end";
    let () = server.command(&["EVAL", ghosts, "1", &index]);
    for logins in 1..=3u64 {
        create(&store, "ada").await;
        let left: u64 = server.command(&["ZCARD", &index]);
        assert_eq!(left, 100_000 - 1000 * logins + logins + 1, "after {logins} more logins");
    }
}

#[tokio::test]
async fn a_logout_on_a_node_without_a_cache_removes_the_index_entry() {
    let server = RedisServer::start();
    let elsewhere = node(&server).await;
    let uncached = SessionConfig::development(Secret::insecure_dev("tests"))
        .redis(server.config())
        .cluster(ClusterConfig::new().local_cache_enabled(false))
        .owner(|data: &web::Data| data.user.clone());
    let layer = SessionLayer::new(uncached.build().unwrap());
    for how in ["destroy", "replace"] {
        let mut browser = Browser::with(&elsewhere, ada()).await;
        assert_eq!(index_keys(&server).len(), 1);
        let app = serve(&layer, async move |session: Session<web::Data>| match how {
            "destroy" => session.destroy(),
            _ => session.replace(web::Data::default()),
        });
        assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
        eventually(async || index_keys(&server).is_empty(), "the entry is removed").await;
    }
}

#[tokio::test]
async fn the_index_entry_of_a_regenerated_id_expires_soon() {
    let server = RedisServer::start();
    let layer = node(&server).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let old = web::only_id(&layer).await;
    let app = serve(&layer, async |session: Session<web::Data>| session.regenerate());
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    let new = layer.store().sessions_of("Ada").await.unwrap()[0].id();
    let [key]: [String; 1] = index_keys(&server).try_into().unwrap();
    let left = |id: SessionId| {
        let score: u64 = server.command(&["ZSCORE", &key, &id.to_string()]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Duration::from_millis(score).saturating_sub(now)
    };
    let soon = Duration::from_secs(60)..Duration::from_secs(121);
    eventually(
        async || soon.contains(&left(old)),
        "the entry of the old id expires soon after its tombstone",
    )
    .await;
    assert!(left(new) > HOUR, "{:?}", left(new));
}

#[tokio::test(start_paused = true)]
async fn a_secret_can_be_rotated_without_losing_index_entries() {
    let (clock, memory) = paused();
    let [old, new] =
        ["the old secret, which is long enough", "the new secret, which is long enough"];
    let node = |current: &str, previous: Option<&str>| {
        let mut config = SessionConfig::builder(Secret::new(current).unwrap())
            .backend(memory.clone())
            .cluster(silent())
            .clock(clock.clone())
            .timeout(HOUR)
            .owner(|data: &web::Data| data.user.clone());
        if let Some(previous) = previous {
            config = config.previous_secret(Secret::new(previous).unwrap());
        }
        SessionStore::new(config.build().unwrap())
    };
    let (before, during, after) = (node(old, None), node(new, Some(old)), node(new, None));
    let (used, idle) =
        (before.create(ada()).await.unwrap().id, before.create(ada()).await.unwrap().id);
    let young = during.create(ada()).await.unwrap().id;
    assert_eq!(ids_of(&during, "Ada").await, [used, idle, young].into());
    assert_eq!(
        ids_of(&before, "Ada").await,
        [used, idle].into(),
        "this node does not know the new secret"
    );

    // One session timeout plus one hour.
    for _ in 0..8 {
        sleep(HOUR / 4).await;
        assert!(during.touch(used).await.unwrap() && during.touch(young).await.unwrap());
        assert!(ids_of(&during, "Ada").await.is_superset(&[used, young].into()));
    }
    assert_eq!(
        ids_of(&after, "Ada").await,
        [used, young].into(),
        "the index under the new secret is complete"
    );
    assert_eq!(during.delete_all_of("Ada").await.unwrap().deleted, 2);
}

#[tokio::test(start_paused = true)]
async fn sessions_created_without_owners_are_indexed_after_a_timeout_and_an_hour() {
    let (clock, memory) = paused();
    let without = SessionStore::new(
        web::config(&memory).cluster(silent()).clock(clock.clone()).timeout(HOUR).build().unwrap(),
    );
    let with = SessionStore::new(in_memory(&memory, &clock).build().unwrap());
    let id = without.create(ada()).await.unwrap().id;
    for _ in 0..8 {
        sleep(HOUR / 4).await;
        assert!(with.touch(id).await.unwrap());
    }
    assert_eq!(ids_of(&with, "Ada").await, [id].into());
}

#[tokio::test]
async fn a_session_is_not_written_if_its_index_entry_cannot_be_written() {
    let spy = Spy::new();
    let sessions = web::start(in_memory(&spy, &Clock::system())).await;
    let store = sessions.store();
    let fails = || spy.fail_next(1, StoreErrorKind::Unavailable);
    fails();
    assert_eq!(store.create(ada()).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.size().await.unwrap(), 0);

    let id = store.create(ada()).await.unwrap().id;
    fails();
    let bob = |data: &mut web::Data| data.user = Some("Bob".to_owned());
    assert_eq!(store.modify(id, bob).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(web::only_data(&sessions).await, ada());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_extended_if_its_index_entry_cannot_be_extended() {
    let (clock, memory) = paused();
    let spy = Spy::over(&memory);
    let store = SessionStore::new(in_memory(&spy, &clock).build().unwrap());
    let id = store.create(ada()).await.unwrap().id;
    let before = store.get(id).await.unwrap().expires_at();
    sleep(HOUR - Duration::from_secs(60)).await;
    assert!(store.find_fresh(id).await.unwrap().is_some());
    spy.fail_next(1, StoreErrorKind::Unavailable);
    assert_eq!(store.touch(id).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.find_fresh(id).await.unwrap().unwrap().expires_at(), before);
}

#[tokio::test]
async fn the_name_of_an_owner_is_nowhere_in_redis() {
    let server = RedisServer::start();
    let mut channel = server.listen("session:invalidate").await;
    let store = store(owned(&server)).await;
    let id = create(&store, "ada").await;
    store.modify(id, |data| data.visits += 1).await.unwrap();
    let message = channel.next().await;
    let [index]: [String; 1] = index_keys(&server).try_into().unwrap();
    assert_eq!(index.len(), "session:owner:".len() + 43);
    let entries: Vec<String> = server.command(&["ZRANGE", &index, "0", "-1"]);
    assert_eq!(entries, [id.to_string()]);
    let record: Vec<u8> = server.command(&["GET", &key(id)]);
    for place in [index.as_bytes(), &record, &message] {
        assert!(
            !String::from_utf8_lossy(place).contains("owner-of"),
            "the owner's name is in {place:?}"
        );
    }
    assert!(!format!("{store:?}").contains("owner-of"));
}

#[tokio::test]
async fn expired_entries_leave_the_index_and_it_expires_with_its_last_entry() {
    let server = RedisServer::start();
    let store = store(owned(&server).timeout(HOUR)).await;
    let id = create(&store, "ada").await;
    let [key]: [String; 1] = index_keys(&server).try_into().unwrap();
    // Entries of sessions that expired yesterday.
    let yesterday =
        (SystemTime::now() - 24 * HOUR).duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
    let ghosts: Vec<String> = (0..500).map(|number| format!("{number:022}")).collect();
    let add: Vec<&str> = ghosts.iter().flat_map(|ghost| [yesterday.as_str(), ghost]).collect();
    let () = server.command(&[&["ZADD", key.as_str()], add.as_slice()].concat());

    let other = create(&store, "ada").await;
    let entries: BTreeSet<String> = server.command(&["ZRANGE", &key, "0", "-1"]);
    assert_eq!(entries, [id.to_string(), other.to_string()].into());
    let left = Duration::from_millis(server.command(&["PTTL", &key]));
    assert!((HOUR..=4 * HOUR).contains(&left), "{left:?}");
    assert_eq!(store.size().await.unwrap(), 2, "the index is not a session");
    assert_eq!(store.clear().await.unwrap(), 2);
    assert_eq!(
        ids_of(&store, "owner-of-ada").await,
        BTreeSet::new(),
        "entries without a record are ignored"
    );
}

#[tokio::test]
async fn unreadable_records_are_not_listed_and_are_deleted_with_the_rest() {
    let server = RedisServer::start();
    let store = store(owned(&server).cluster(silent())).await;
    let (good, spoilt, foreign) =
        (create(&store, "ada").await, create(&store, "ada").await, create(&store, "ada").await);
    let () = server.command(&["SETRANGE", &key(spoilt), "70", "not the JSON of a session"]);
    let () = server.command(&["DEL", &key(foreign)]);
    let () = server.command(&["SADD", &key(foreign), "a set"]);
    assert_eq!(ids_of(&store, "owner-of-ada").await, [good].into());

    let done = store.bulk_delete_of("owner-of-ada", |_| true).await.unwrap();
    assert_eq!((done.deleted, done.unreadable), (1, 2), "what cannot be judged stays");
    let _ = create(&store, "ada").await;

    let done = store.delete_all_of("owner-of-ada").await.unwrap();
    assert_eq!((done.deleted, done.unreadable), (2, 1));
    assert_eq!(
        store.all_session_ids().await.unwrap(),
        [foreign],
        "a key of another type is not deleted"
    );
}

#[tokio::test]
async fn owner_operations_fail_if_no_owner_is_configured() {
    let server = RedisServer::start();
    let store = store(config().redis(server.config())).await;
    let _ = store.create(Data::of("ada")).await.unwrap();
    assert_eq!(store.sessions_of("ada").await.unwrap_err().kind(), StoreErrorKind::NotConfigured);
    assert_eq!(store.delete_all_of("ada").await.unwrap_err().kind(), StoreErrorKind::NotConfigured);
    let deleted = store.bulk_delete_of("ada", |_| true).await;
    assert_eq!(deleted.unwrap_err().kind(), StoreErrorKind::NotConfigured);
    assert_eq!(index_keys(&server), [""; 0]);
}

#[tokio::test]
async fn a_logout_everywhere_finds_sessions_whose_index_was_evicted() {
    let log = Log::default();
    let _guard = log.capture("clustered_sessions=warn");
    let server =
        RedisServer::with_args(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]);
    let node = store(owned(&server)).await;
    for user in ["ada", "ada", "bob"] {
        let _ = node.create(Data::of(user)).await.unwrap();
    }
    assert!(log.text().contains("allkeys-lru"));
    delete_indexes(&server);
    assert_eq!(node.delete_all_of(&name("ada")).await.unwrap().deleted, 2);
    assert_eq!(node.size().await.unwrap(), 1);
}

fn delete_indexes(server: &RedisServer) {
    for index in server.command::<Vec<String>>(&["KEYS", "session:owner:*"]) {
        let () = server.command(&["DEL", &index]);
    }
}

fn set_memory(server: &RedisServer, limit: &str, policy: &str) {
    let () = server.command(&["CONFIG", "SET", "maxmemory", limit, "maxmemory-policy", policy]);
}

#[tokio::test]
async fn a_logout_everywhere_finds_sessions_if_the_policy_was_set_after_the_node_connected() {
    let server = RedisServer::start();
    let node = store(owned(&server)).await;
    for _ in 0..2 {
        let _ = node.create(Data::of("ada")).await.unwrap();
    }
    set_memory(&server, "1gb", "allkeys-lru");
    delete_indexes(&server);
    assert_eq!(node.delete_all_of(&name("ada")).await.unwrap().deleted, 2);
}

#[tokio::test]
async fn a_logout_everywhere_finds_sessions_if_the_server_evicted_before_the_policy_was_corrected()
{
    let server = RedisServer::start();
    let () = server.command(&["SET", "other", "application", "EX", "1000"]);
    set_memory(&server, "1", "volatile-lru");
    let _: redis::RedisResult<()> = server.try_command(&["SET", "other", "again", "EX", "1000"]);
    set_memory(&server, "0", "noeviction");
    let node = store(owned(&server)).await;
    for _ in 0..2 {
        let _ = node.create(Data::of("ada")).await.unwrap();
    }
    delete_indexes(&server);
    assert_eq!(node.delete_all_of(&name("ada")).await.unwrap().deleted, 2);
}
