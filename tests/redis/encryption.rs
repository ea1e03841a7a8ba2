//! The records in Redis when sessions are encrypted, and how encryption is enabled, disabled and
//! moved to another secret while visitors are logged in.

use clustered_sessions::{
    Encryption, Secret, Session, SessionConfig, SessionConfigBuilder, SessionId, SessionLayer,
    StoreErrorKind,
};
use http::StatusCode;
use support::redis::RedisServer;
use support::wait;

use crate::nodes::key;
use crate::web::{Browser, COOKIE, Data, RedisAddress as _, only_id, serve, start};

fn secret(name: &str) -> Secret {
    Secret::new(format!("{name}, made up for tests, long enough")).unwrap()
}

fn config(server: &RedisServer, name: &str, encryption: Encryption) -> SessionConfigBuilder<Data> {
    SessionConfig::builder(secret(name)).redis(server.config()).encrypt_redis_data(encryption)
}

async fn node(server: &RedisServer, encryption: Encryption) -> SessionLayer<Data> {
    start(config(server, "the secret", encryption)).await
}

fn ada() -> Data {
    Data { user: Some("Ada Lovelace".to_owned()), visits: 0 }
}

async fn who(session: Session<Data>) -> String {
    session.data().user.clone().unwrap_or_default()
}

async fn visit(session: Session<Data>) -> String {
    session.modify(|data| data.visits += 1).await.unwrap();
    session.data().visits.to_string()
}

/// Returns the user of the browser's session as a node loads it, after clearing the node's cache.
async fn seen(sessions: &SessionLayer<Data>, browser: &mut Browser) -> String {
    sessions.store().coordinator().local_cache().clear();
    let page = browser.visit(&serve(sessions, who)).await;
    assert_eq!(page.status, StatusCode::OK);
    page.body
}

fn value(server: &RedisServer, id: SessionId) -> Vec<u8> {
    server.command(&["GET", &key(id)])
}

/// Returns the flags and the key number of a record, which follow its header of 67 bytes.
fn flags(server: &RedisServer, id: SessionId) -> (u8, u8) {
    let value = value(server, id);
    (value[67], value[68])
}

/// Returns `true` if the record in Redis is encrypted.
fn is_encrypted(server: &RedisServer, id: SessionId) -> bool {
    flags(server, id).0 & 2 != 0
}

#[tokio::test]
async fn no_session_data_is_readable_in_redis() {
    let server = RedisServer::start();
    let sessions = node(&server, Encryption::Required).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let id = only_id(&sessions).await;
    let clean = |value: &[u8]| {
        let words = [&b"Ada"[..], b"Lovelace", b"user", b"visits", b"null"];
        !words.iter().any(|word| value.windows(word.len()).any(|window| window == *word))
    };
    let created = value(&server, id);
    assert_eq!(created.len(), 67 + 2 + 12 + serde_json::to_vec(&ada()).unwrap().len() + 16);
    assert!(clean(&created));

    assert_eq!(browser.visit(&serve(&sessions, visit)).await.body, "1");
    assert!(clean(&value(&server, id)));
    assert_eq!(seen(&sessions, &mut browser).await, "Ada Lovelace");
    assert_eq!(sessions.store().reencrypted_records(), 0);
}

#[tokio::test]
async fn an_encrypted_record_under_another_id_or_revision_is_refused() {
    let server = RedisServer::start();
    let sessions = node(&server, Encryption::Required).await;
    let store = sessions.store();
    let mut mallory =
        Browser::with(&sessions, Data { user: Some("Mallory".into()), visits: 0 }).await;
    let own = only_id(&sessions).await;
    let victim = store.create(ada()).await.unwrap().id;

    // The victim's record under the attacker's id, with the victim's header or the attacker's own.
    let (mine, theirs) = (value(&server, own), value(&server, victim));
    for forged in [theirs.clone(), [&mine[..67], &theirs[67..]].concat()] {
        set(&server, own, &forged);
        assert_eq!(seen(&sessions, &mut mallory).await, "", "the visitor has no session");
        assert_eq!(store.find_fresh(own).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    set(&server, own, &mine);
    assert_eq!(seen(&sessions, &mut mallory).await, "Mallory");

    // An older version of the data under the current revision. The creation time is the same.
    store.modify(own, |data| data.visits += 1).await.unwrap();
    let today = value(&server, own);
    set(&server, own, &[&today[..67], &mine[67..]].concat());
    assert_eq!(store.find_fresh(own).await.unwrap_err().kind(), StoreErrorKind::Corrupt);

    // A changed time of creation or login is refused. A changed deadline or last use is not, since
    // an extension changes them.
    let with_byte = |at: usize| {
        let mut value = today.clone();
        value[at] ^= 1;
        value
    };
    for at in [18 + 7, 42 + 7] {
        set(&server, own, &with_byte(at));
        assert_eq!(store.find_fresh(own).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    for at in [26 + 7, 34 + 7] {
        set(&server, own, &with_byte(at));
        assert_eq!(store.find_fresh(own).await.unwrap().unwrap().data().visits, 1);
    }
}

fn set(server: &RedisServer, id: SessionId, value: &[u8]) {
    // A script with escaped bytes, since arguments of a command must be text.
    let hex: String = value.iter().map(|byte| format!("\\{byte:03}")).collect();
    let script = format!("return redis.call('SET', KEYS[1], '{hex}', 'KEEPTTL')");
    let () = server.command(&["EVAL", &script, "1", &key(id)]);
}

#[tokio::test]
async fn a_plain_record_is_refused_once_encryption_is_required() {
    let server = RedisServer::start();
    let (plain, strict) =
        (node(&server, Encryption::Off).await, node(&server, Encryption::Required).await);
    let mut browser = Browser::with(&plain, ada()).await;
    let id = only_id(&plain).await;
    assert_eq!(seen(&strict, &mut browser).await, "");
    assert_eq!(strict.store().find_fresh(id).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let page = browser
        .visit(&serve(&strict, async |session: Session<Data>| {
            session.update(|data| data.visits += 1);
        }))
        .await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR, "the record is not overwritten");
    assert_eq!(seen(&plain, &mut browser).await, "Ada Lovelace", "the record is unchanged");
}

#[tokio::test]
async fn encryption_can_be_enabled_and_disabled_step_by_step_without_logging_anyone_out() {
    use Encryption::{Migrating, Off, Required};
    let server = RedisServer::start();
    let before = node(&server, Off).await;
    let mut browser = Browser::with(&before, ada()).await;
    let id = only_id(&before).await;
    let mut visits = 0;

    // In a rolling deployment, nodes of two consecutive steps run at the same time.
    for [old, new] in
        [[Off, Migrating], [Migrating, Required], [Required, Migrating], [Migrating, Off]]
    {
        let nodes = [node(&server, old).await, node(&server, new).await];
        for turn in 0..6 {
            let sessions = &nodes[turn % 2];
            assert_eq!(seen(sessions, &mut browser).await, "Ada Lovelace", "{old:?} {new:?}");
            let page = browser.visit(&serve(sessions, visit)).await;
            visits += 1;
            assert_eq!(page.body, visits.to_string(), "{old:?} {new:?}");
        }
        // All nodes have taken the step.
        let last = &nodes[1];
        assert_eq!(seen(last, &mut browser).await, "Ada Lovelace");
        if new == Migrating && old == Off {
            wait::eventually(
                async || is_encrypted(&server, id),
                "a record that was read is encrypted",
            )
            .await;
        }
        for sessions in &nodes {
            sessions.store().shutdown().await;
        }
    }
    browser.visit(&serve(&before, visit)).await;
    assert!(!is_encrypted(&server, id));
    assert_eq!(seen(&before, &mut browser).await, "Ada Lovelace");
}

#[tokio::test]
async fn a_session_that_is_only_read_is_encrypted_when_it_is_loaded_and_this_is_announced() {
    let server = RedisServer::start();
    let (plain, migrating) =
        (node(&server, Encryption::Off).await, node(&server, Encryption::Migrating).await);
    let mut browser = Browser::with(&plain, ada()).await;
    let id = only_id(&plain).await;
    let mut channel = server.listen("session:invalidate").await;
    let before = value(&server, id);

    assert_eq!(seen(&migrating, &mut browser).await, "Ada Lovelace");
    wait::eventually(async || is_encrypted(&server, id), "the record is encrypted").await;
    let after = value(&server, id);
    assert_ne!(after[2..18], before[2..18], "the record has a new revision");
    assert_eq!(after[18..26], before[18..26], "the creation time is unchanged");
    let announced = channel.next().await;
    let announced = String::from_utf8(announced.to_vec()).unwrap();
    assert!(
        announced.contains("SessionInvalidated") && announced.contains(&id.to_string()),
        "{announced}"
    );
    wait::eventually(
        async || migrating.store().reencrypted_records() == 1,
        "the re-encryption is counted",
    )
    .await;

    // A node that writes plain records leaves the record encrypted. Otherwise the two nodes would
    // overwrite each other's records for ever.
    assert_eq!(seen(&plain, &mut browser).await, "Ada Lovelace");
    assert_eq!(seen(&migrating, &mut browser).await, "Ada Lovelace");
    assert_eq!((value(&server, id), plain.store().reencrypted_records()), (after, 0));
}

#[tokio::test]
async fn the_secret_can_be_rotated_step_by_step_without_logging_anyone_out() {
    let server = RedisServer::start();
    let of = |name: &str| config(&server, name, Encryption::Required);
    let steps: [&dyn Fn() -> SessionConfigBuilder<Data>; 4] = [
        &|| of("old"),
        &|| of("old").next_secret(secret("new")),
        &|| of("new").previous_secret(secret("old")),
        &|| of("new"),
    ];
    let first = start(steps[0]()).await;
    let mut browsers = [Browser::with(&first, ada()).await, Browser::with(&first, ada()).await];
    let mut cookies = browsers.each_ref().map(|browser| browser.cookie(COOKIE).unwrap().to_owned());
    let ids = first.store().all_session_ids().await.unwrap();
    let number = |id| flags(&server, id).1;
    let old = number(ids[0]);

    let mut visits = 0;
    for pair in steps.windows(2) {
        let nodes = [start(pair[0]()).await, start(pair[1]()).await];
        for turn in 0..6 {
            let sessions = &nodes[turn % 2];
            for browser in &mut browsers {
                assert_eq!(seen(sessions, browser).await, "Ada Lovelace");
            }
            visits += 1;
            // One session is changed, and the other one is only read.
            assert_eq!(browsers[0].visit(&serve(sessions, visit)).await.body, visits.to_string());
        }
        for browser in &mut browsers {
            assert_eq!(seen(&nodes[1], browser).await, "Ada Lovelace");
        }
        for sessions in &nodes {
            sessions.store().shutdown().await;
        }
    }
    assert!(
        ids.iter().all(|&id| is_encrypted(&server, id) && number(id) != old),
        "all records are encrypted under the new secret"
    );
    for (browser, cookie) in browsers.iter().zip(&mut cookies) {
        assert_ne!(
            browser.cookie(COOKIE).unwrap(),
            cookie,
            "the cookie is signed with the new secret"
        );
    }
    // The old secret cannot decrypt the records any more.
    let stolen = start(of("old")).await;
    assert_eq!(
        stolen.store().find_fresh(ids[0]).await.unwrap_err().kind(),
        StoreErrorKind::Corrupt
    );
}

#[tokio::test]
async fn nodes_that_accept_the_next_secret_and_nodes_that_use_it_do_not_overwrite_each_other() {
    let server = RedisServer::start();
    let early =
        start(config(&server, "old", Encryption::Required).next_secret(secret("new"))).await;
    let late =
        start(config(&server, "new", Encryption::Required).previous_secret(secret("old"))).await;
    let mut browser = Browser::with(&early, ada()).await;
    let id = only_id(&early).await;
    assert_eq!(seen(&late, &mut browser).await, "Ada Lovelace");
    wait::eventually(
        async || late.store().reencrypted_records() == 1,
        "the record is re-encrypted",
    )
    .await;
    let (settled, cookie) = (value(&server, id), browser.cookie(COOKIE).map(str::to_owned));
    for _ in 0..5 {
        for sessions in [&early, &late] {
            assert_eq!(seen(sessions, &mut browser).await, "Ada Lovelace");
        }
    }
    // Waits for the writes in progress.
    early.store().shutdown().await;
    late.store().shutdown().await;
    assert_eq!((early.store().reencrypted_records(), late.store().reencrypted_records()), (0, 1));
    assert_eq!((value(&server, id), browser.cookie(COOKIE)), (settled, cookie.as_deref()));
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn large_sessions_are_compressed_before_they_are_encrypted() {
    let server = RedisServer::start();
    let packing =
        start(config(&server, "the secret", Encryption::Required).compress_data(true)).await;
    let other = node(&server, Encryption::Required).await;
    let large = Data { user: Some("Ada Lovelace ".repeat(1000)), visits: 0 };
    let mut browser = Browser::with(&packing, large.clone()).await;
    let id = only_id(&packing).await;
    assert_eq!(flags(&server, id).0, 3);
    assert!(value(&server, id).len() < 300, "{}", value(&server, id).len());
    assert_eq!(
        Some(seen(&other, &mut browser).await),
        large.user,
        "a node that does not compress reads it"
    );

    let small = packing.store().create(ada()).await.unwrap().id;
    assert_eq!(flags(&server, small).0, 2, "a small record is not compressed");
}

#[tokio::test]
async fn a_session_beyond_the_size_limit_is_refused_and_left_unchanged() {
    let server = RedisServer::start();
    let sessions =
        start(config(&server, "the secret", Encryption::Required).max_record_size(1024)).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let large = Data { user: Some("x".repeat(2000)), visits: 0 };
    let len = serde_json::to_vec(&large).unwrap().len();
    let error = sessions.store().modify(id, |data| *data = large.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.session_id()), (StoreErrorKind::TooLarge, Some(id)));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("1024") && cause.contains(&len.to_string()), "{cause}");
    assert_eq!(*sessions.store().find_fresh(id).await.unwrap().unwrap().data(), ada());
}
