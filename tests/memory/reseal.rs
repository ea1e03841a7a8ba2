//! Re-encryption of sessions in the background. No request asked for this write, so it must do no
//! harm.

use std::time::Duration;

use clustered_sessions::backend::{Backend as _, Content};
use clustered_sessions::{
    Clock, ClusterConfig, Encryption, Fresh, MemoryBackend, Secret, Session, SessionConfigBuilder,
    SessionId, SessionLayer, StoreErrorKind,
};

use crate::handles::session_after_the_head;
use crate::web::{
    self, Browser, Call, Data, HasBackend as _, Spy, ada, config, eventually, only_id, serve,
    settle, start,
};

fn rotated() -> Secret {
    Secret::new("the secret that came after the first one").unwrap()
}

/// Returns the configuration of a node at the second step of a rotation: it re-encrypts records
/// that are encrypted under the previous secret.
fn after_rotation(backend: &Spy) -> SessionConfigBuilder<Data> {
    clustered_sessions::SessionConfig::builder(rotated())
        .previous_secret(web::secret())
        .backend(backend.backend())
        .cluster(ClusterConfig::new().max_staleness(Duration::from_secs(60)))
        .encrypt_redis_data(Encryption::Required)
}

/// Returns the configuration of a node at the last step of a rotation.
fn without_the_previous_secret(memory: &MemoryBackend) -> SessionConfigBuilder<Data> {
    clustered_sessions::SessionConfig::builder(rotated())
        .backend(memory.clone())
        .encrypt_redis_data(Encryption::Required)
}

/// Returns a browser whose session is encrypted under the previous secret.
async fn logged_in_before(memory: &MemoryBackend) -> (Browser, SessionId) {
    let before = start(config(memory).encrypt_redis_data(Encryption::Required)).await;
    let browser = Browser::with(&before, ada()).await;
    let id = only_id(&before).await;
    before.store().shutdown().await;
    (browser, id)
}

async fn payload(memory: &MemoryBackend, id: SessionId) -> Vec<u8> {
    match memory.load(&id).await.unwrap().unwrap().content {
        Content::Payload(payload) => payload.to_vec(),
        content => panic!("the record is not a payload: {content:?}"),
    }
}

async fn read(session: Session<Data>) -> String {
    session.data().user.clone().unwrap_or_default()
}

async fn count(session: Session<Data>) {
    session.update(|data| data.visits += 1);
}

fn reencrypted(sessions: &SessionLayer<Data>) -> u64 {
    sessions.store().reencrypted_records()
}

#[tokio::test]
async fn a_session_is_reencrypted_once_and_stays_cached() {
    let memory = MemoryBackend::new();
    let (mut browser, id) = logged_in_before(&memory).await;
    let before = payload(&memory, id).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy)).await;
    let app = serve(&sessions, read);
    assert_eq!(browser.visit(&app).await.body, "Ada");
    eventually(async || reencrypted(&sessions) == 1).await;
    assert_ne!(payload(&memory, id).await, before);
    assert_eq!(spy.take_calls(), [Call::Load, Call::Update]);
    for _ in 0..3 {
        assert_eq!(browser.visit(&app).await.body, "Ada");
    }
    settle().await;
    assert_eq!(spy.take_calls(), [], "the node neither loads nor re-encrypts the session again");
}

#[tokio::test]
async fn a_request_that_changes_the_session_causes_no_separate_reencryption() {
    let memory = MemoryBackend::new();
    let (mut browser, _) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy)).await;
    browser.visit(&serve(&sessions, count)).await;
    settle().await;
    assert_eq!((spy.take_calls(), reencrypted(&sessions)), (vec![Call::Load, Call::Update], 0));
}

#[tokio::test]
async fn reads_through_the_store_neither_extend_nor_reencrypt_a_session() {
    let memory = MemoryBackend::new();
    let (_, id) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy)).await;
    sessions.store().find(id).await.unwrap();
    sessions.store().find_fresh(id).await.unwrap();
    settle().await;
    assert_eq!(spy.take_calls(), [Call::Load, Call::Load]);
}

#[tokio::test]
async fn a_write_through_the_store_that_changes_nothing_reencrypts_the_session() {
    for how in ["modify", "put"] {
        let memory = MemoryBackend::new();
        let (_, id) = logged_in_before(&memory).await;
        let spy = Spy::over(&memory);
        let sessions = start(after_rotation(&spy).enable_retry(false)).await;
        let store = sessions.store();
        let write = async || match how {
            "modify" => store.modify(id, |_| ()).await,
            _ => store.put(id, ada()).await,
        };
        let (failed, ()) = tokio::join!(write(), async {
            eventually(async || spy.take_calls().contains(&Call::Update)).await;
            spy.fail_next(1, StoreErrorKind::Unavailable);
        });
        assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Unavailable, "{how}");
        write().await.unwrap();
        assert_eq!(reencrypted(&sessions), 1, "{how}");
        let after = start(without_the_previous_secret(&memory)).await;
        let found = after.store().find(id).await.unwrap().unwrap();
        assert_eq!(found.data(), &ada(), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_share_a_loaded_session_reencrypt_it_once() {
    let memory = MemoryBackend::new();
    let (mut browser, id) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy)).await;
    sessions.store().find(id).await.unwrap();
    spy.take_calls();
    let held = spy.hold().await;
    for _ in 0..3 {
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    }
    // No writer waits this long for the write lock.
    settle().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    settle().await;
    drop(held);
    settle().await;
    assert_eq!((spy.take_calls(), reencrypted(&sessions)), (vec![Call::Update], 1));
}

#[tokio::test]
async fn a_failed_reencryption_is_harmless_and_retried_after_the_next_load() {
    let memory = MemoryBackend::new();
    let (mut browser, id) = logged_in_before(&memory).await;
    let before = payload(&memory, id).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy)).await;
    let app = serve(&sessions, async |session: Session<Data>, _: Fresh<Session<Data>>| {
        read(session).await
    });
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::OutcomeUnknown] {
        let read = serve(&sessions, read);
        sessions.store().find_fresh(id).await.unwrap();
        spy.take_calls();
        spy.fail_next(1, kind);
        assert_eq!(browser.visit(&read).await.body, "Ada");
        eventually(async || spy.take_calls() == [Call::Update]).await;
        settle().await;
        assert_eq!(payload(&memory, id).await, before);
        assert_eq!(spy.take_calls(), [], "re-encryption is attempted once per load");
    }
    assert_eq!(browser.visit(&app).await.body, "Ada");
    eventually(async || reencrypted(&sessions) == 1).await;
}

#[tokio::test]
async fn a_concurrent_change_wins_over_the_reencryption() {
    let memory = MemoryBackend::new();
    let (mut browser, id) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let (sessions, other) =
        (start(after_rotation(&spy)).await, start(after_rotation(&Spy::over(&memory))).await);
    sessions.store().find(id).await.unwrap();
    let held = spy.hold().await;
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    eventually(async || spy.take_calls().contains(&Call::Update)).await;
    other.store().modify(id, |data| data.visits += 1).await.unwrap();
    drop(held);
    sessions.store().shutdown().await;
    assert_eq!(reencrypted(&sessions), 0);
    assert_eq!(other.store().find_fresh(id).await.unwrap().unwrap().data().visits, 1);
}

#[tokio::test]
async fn a_concurrent_deletion_is_not_undone_by_the_reencryption() {
    let memory = MemoryBackend::new();
    let (mut browser, id) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let (sessions, other) =
        (start(after_rotation(&spy)).await, start(after_rotation(&Spy::over(&memory))).await);
    sessions.store().find(id).await.unwrap();
    let held = spy.hold().await;
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    eventually(async || spy.take_calls().contains(&Call::Update)).await;
    assert!(other.store().delete(id).await.unwrap());
    drop(held);
    sessions.store().shutdown().await;
    assert!(other.store().find_fresh(id).await.unwrap().is_none());
}

#[tokio::test]
async fn one_of_many_nodes_reencrypts_a_session_that_all_have_loaded() {
    let memory = MemoryBackend::new();
    let (browser, id) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let mut nodes = Vec::new();
    for _ in 0..8 {
        nodes.push(start(after_rotation(&spy)).await);
    }
    for sessions in &nodes {
        sessions.store().find(id).await.unwrap();
    }
    let held = spy.hold().await;
    for sessions in &nodes {
        assert_eq!(browser.clone().visit(&serve(sessions, read)).await.body, "Ada");
    }
    spy.take_calls();
    settle().await;
    assert_eq!(spy.take_calls(), [Call::Update; 8], "all nodes try at once");
    drop(held);
    eventually(async || nodes.iter().map(reencrypted).sum::<u64>() == 1).await;
    settle().await;
    for sessions in &nodes {
        assert_eq!(browser.clone().visit(&serve(sessions, read)).await.body, "Ada");
    }
    settle().await;
    assert_eq!(nodes.iter().map(reencrypted).sum::<u64>(), 1);
    assert!(!spy.take_calls().contains(&Call::Update), "no node tries again");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_no_use_of_a_session_neither_reencrypts_nor_extends_it() {
    let hour = Duration::from_secs(3600);
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let timed = |config: SessionConfigBuilder<Data>| config.timeout(hour).clock(Clock::tokio());
    let before = start(timed(config(&memory).encrypt_redis_data(Encryption::Required))).await;
    let mut browser = Browser::with(&before, ada()).await;
    let spy = Spy::over(&memory);
    let sessions = start(timed(after_rotation(&spy))).await;
    let poll = serve(&sessions, async |session: Session<Data>| {
        session.do_not_extend();
        session.modify(|_| ()).await.unwrap();
        read(session).await
    });
    tokio::time::advance(hour - Duration::from_secs(1)).await;
    assert_eq!(browser.visit(&poll).await.body, "Ada");
    settle().await;
    assert!(!spy.take_calls().contains(&Call::Update));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(before.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_session_that_polls_have_loaded_is_reencrypted_when_it_is_used() {
    let memory = MemoryBackend::new();
    let (mut browser, _) = logged_in_before(&memory).await;
    let sessions = start(after_rotation(&Spy::over(&memory))).await;
    let poll = serve(&sessions, async |session: Session<Data>| session.do_not_extend());
    // The first gets a new cookie, and that is verified for the second.
    for _ in 0..2 {
        browser.visit(&poll).await;
    }
    settle().await;
    assert_eq!(reencrypted(&sessions), 0);
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    eventually(async || reencrypted(&sessions) == 1).await;
}

#[tokio::test]
async fn a_change_over_an_open_stream_that_changes_nothing_reencrypts_the_session() {
    let memory = MemoryBackend::new();
    let (browser, _) = logged_in_before(&memory).await;
    let spy = Spy::over(&memory);
    let sessions = start(after_rotation(&spy).enable_retry(false)).await;
    let socket = session_after_the_head(&sessions, &browser).await;
    eventually(async || spy.take_calls().contains(&Call::Update)).await;
    spy.fail_next(1, StoreErrorKind::Unavailable);
    settle().await;
    assert_eq!(reencrypted(&sessions), 0);
    socket.modify(|_| ()).await.unwrap();
    eventually(async || reencrypted(&sessions) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_reencrypted_session_is_extended_like_one_that_was_used() {
    let hour = Duration::from_secs(3600);
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let timed = |config: SessionConfigBuilder<Data>| config.timeout(hour).clock(Clock::tokio());
    let before = start(timed(config(&memory).encrypt_redis_data(Encryption::Required))).await;
    let mut browser = Browser::with(&before, ada()).await;
    let sessions = start(timed(after_rotation(&Spy::over(&memory)))).await;
    for _ in 0..3 {
        tokio::time::advance(hour - Duration::from_secs(1)).await;
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
        settle().await;
    }
    assert_eq!(reencrypted(&sessions), 1);
}
