//! What a session holds: default data, data that cannot be read back, and changes that change
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use clustered_sessions::{
    ClusterConfig, MemoryBackend, Session, SessionConfig, SessionData, SessionLayer, StoreErrorKind,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::web::{
    Browser, Call, Data, HasBackend, Spy, ada, node, only_data, only_id, secret, serve,
};
#[cfg(feature = "messagepack")]
use crate::web::{config, start};

/// Starts a node for sessions with data of any type.
async fn node_for<T: SessionData>(backend: &impl HasBackend) -> SessionLayer<T> {
    let patient = ClusterConfig::new().max_staleness(Duration::from_secs(60));
    let config = SessionConfig::builder(secret()).backend(backend.backend()).cluster(patient);
    let sessions = SessionLayer::new(config.enable_retry(false).build().unwrap());
    sessions.store().wait_until_ready(Duration::from_secs(10)).await.unwrap();
    sessions
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Form {
    csrf_token: u64,
    sent: bool,
}

static DEFAULTS: AtomicU64 = AtomicU64::new(0);

impl Default for Form {
    fn default() -> Self {
        Form { csrf_token: DEFAULTS.fetch_add(1, Ordering::SeqCst), sent: false }
    }
}

/// The only test that makes forms, since it counts them.
#[tokio::test]
async fn each_visitor_without_a_session_has_default_data_of_their_own() {
    let sessions = node_for::<Form>(&MemoryBackend::new()).await;
    let app = Router::new()
        .route("/other", get(async || "no session"))
        .route("/form", get(async |form: Session<Form>| form.data().csrf_token.to_string()))
        .route(
            "/twice",
            get(async |one: Session<Form>, two: Session<Form>| {
                let first = one.data().csrf_token;
                two.update(|form| form.sent = true);
                assert_eq!(one.data().csrf_token, first, "one request sees one value");
                first.to_string()
            }),
        )
        .layer(sessions);
    let (mut one, mut two) = (Browser::new(), Browser::new());
    one.visit_path(&app, "/other").await;
    assert_eq!(DEFAULTS.load(Ordering::SeqCst), 0, "a request that needs none makes none");
    let tokens =
        [one.visit_path(&app, "/form").await.body, two.visit_path(&app, "/form").await.body];
    assert_ne!(tokens[0], tokens[1]);

    let token = one.visit_path(&app, "/twice").await.body;
    let made = DEFAULTS.load(Ordering::SeqCst);
    assert_eq!(one.visit_path(&app, "/form").await.body, token, "the session holds what was seen");
    assert_eq!(DEFAULTS.load(Ordering::SeqCst), made, "a visitor with a session needs none");
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Odd {
    ratio: f64,
    /// `Some(None)` is written as `null`, which is read as `None`.
    choice: Option<Option<u8>>,
    #[serde(skip)]
    scratch: u8,
}

#[tokio::test]
async fn data_that_could_not_be_read_back_is_not_acknowledged() {
    let memory = MemoryBackend::new();
    let sessions = node_for::<Odd>(&memory).await;
    let store = sessions.store();
    let error = store.create(Odd { ratio: f64::NAN, ..Odd::default() }).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Encode);
    assert_eq!(store.size().await.unwrap(), 0);

    let good = store.create(Odd { ratio: 0.5, ..Odd::default() }).await.unwrap().id;
    let error = store.modify(good, |data| data.ratio = (data.ratio - 0.5) / 0.0).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Encode);
    assert_eq!(store.get(good).await.unwrap().data().ratio, 0.5, "the record stays as it was");
    let other = node_for::<Odd>(&memory).await;
    assert_eq!(other.store().get(good).await.unwrap().data().ratio, 0.5);

    let cookie = sessions.cookie_for(Odd::default()).await.unwrap();
    let app = Router::new()
        .route("/", get(async |odd: Session<Odd>| odd.update(|data| data.ratio = f64::NAN)))
        .layer(sessions);
    let mut browser = Browser::new();
    let (name, value) = cookie.to_str().unwrap().split_once('=').unwrap();
    browser.set_cookie(name, value);
    assert_eq!(browser.visit(&app).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn the_node_that_writes_sees_the_same_data_as_the_others() {
    let memory = MemoryBackend::new();
    let (writer, reader) = (node_for::<Odd>(&memory).await, node_for::<Odd>(&memory).await);
    // In plain text that is not exact, the last bit of such a number is lost in one case of ten.
    for ratio in [423.209_170_872_713_23, 0.1 + 0.2, f64::MIN_POSITIVE, 1e300 / 3.0] {
        let odd = Odd { ratio, choice: Some(None), scratch: 7 };
        let created = writer.store().create(odd.clone()).await.unwrap();
        let expected = Odd { ratio, choice: None, scratch: 0 };
        assert_eq!(*created.record.data(), expected);
        writer.store().put(created.id, Odd { ratio: -ratio, ..odd }).await.unwrap();
        for node in [&writer, &reader] {
            let seen = node.store().get(created.id).await.unwrap();
            assert_eq!(*seen.data(), Odd { ratio: -ratio, ..expected.clone() });
        }
    }
}

#[tokio::test]
async fn a_change_that_changes_nothing_is_neither_written_nor_announced() {
    let spy = Spy::new();
    let (sessions, other) = (node(&spy).await, node(&spy).await);
    let mut browser = Browser::with(&sessions, ada()).await;
    let id = only_id(&sessions).await;
    other.store().get(id).await.unwrap();
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.user = Some("Ada".into()));
        let before = session.modify(|data| std::mem::take(&mut data.visits)).await.unwrap();
        before.to_string()
    });
    let received = other.store().coordinator().announcements_received();
    spy.take_calls();
    for _ in 0..3 {
        let page = browser.visit(&app).await;
        assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, "0"));
        assert_eq!(page.set_cookies().len(), 0);
    }
    assert_eq!(sessions.store().modify_if(id, |_| None::<()>).await.unwrap(), None);
    let calls = spy.take_calls();
    assert!(calls.iter().all(|call| *call == Call::Load), "{calls:?}");
    assert_eq!(other.store().coordinator().announcements_received(), received);
}

#[tokio::test]
async fn a_stranger_whose_change_changes_nothing_gets_no_session() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.user = None);
        session.regenerate();
        let flash = session.modify(|data| data.user.take()).await.unwrap();
        let declined = session.modify_if(|data| {
            data.visits += 1;
            None::<()>
        });
        assert_eq!((flash, declined.await.unwrap()), (None, None));
        assert_eq!(*session.data(), Data::default());
    });
    for _ in 0..10 {
        let page = Browser::new().visit(&app).await;
        assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    }
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn a_change_that_changes_nothing_on_a_stale_version_is_made_to_the_present_one() {
    let spy = Spy::new();
    let (deaf, other) = (node(&spy).await, node(&spy).await);
    let id = deaf.store().create(ada()).await.unwrap().id;
    deaf.store().get(id).await.unwrap();
    // From now on, the first node does not hear that its cached version is outdated.
    spy.drop_messages();
    other.store().modify(id, |data| data.user = None).await.unwrap();
    assert_eq!(deaf.store().get(id).await.unwrap().data().user, ada().user, "it is stale");
    deaf.store().modify(id, |data| data.user = ada().user).await.unwrap();
    assert_eq!(only_data(&other).await.user, ada().user, "the last change wins");

    other.store().modify(id, |data| data.visits = 1).await.unwrap();
    let taken = deaf.store().modify_if(id, |data| (data.visits == 1).then_some("taken"));
    assert_eq!(taken.await.unwrap(), Some("taken"), "it does not decline on a stale version");
}

#[tokio::test]
#[should_panic(expected = "a closure must not change the session that it is called for")]
async fn an_update_inside_an_update_panics() {
    let session = Session::detached(ada());
    let inner = session.clone();
    session.update(move |_| inner.update(|data| data.visits += 1));
}

#[tokio::test]
async fn a_closure_may_read_its_session_and_change_another() {
    let (one, two) = (Session::detached(ada()), Session::detached(ada()));
    let (read, changed) = (one.clone(), two.clone());
    one.update(move |data| {
        data.visits = read.data().visits + 1;
        changed.update(|data| data.visits += 10);
    });
    assert_eq!((one.data().visits, two.data().visits), (1, 10));
    let again = one.clone();
    let panics = std::panic::AssertUnwindSafe(|| one.update(move |_| again.destroy()));
    assert!(std::panic::catch_unwind(panics).is_err());
    one.update(|data| data.visits += 1);
    assert_eq!(one.data().visits, 2, "the session can be used after a panic");
}

/// The type of a build that does not know `visits`, and keeps what it does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Older {
    user: Option<String>,
    #[serde(flatten)]
    unknown: std::collections::BTreeMap<String, serde_json::Value>,
}

#[tokio::test]
async fn an_older_build_keeps_fields_that_it_does_not_know_in_a_flattened_map() {
    let memory = MemoryBackend::new();
    let (old, new) = (node_for::<Older>(&memory).await, node_for::<Data>(&memory).await);
    let id = new.store().create(Data { visits: 7, ..ada() }).await.unwrap().id;
    old.store().modify(id, |data| data.user = Some("Grace".into())).await.unwrap();
    let expected = Data { user: Some("Grace".into()), visits: 7 };
    assert_eq!(*new.store().find_fresh(id).await.unwrap().unwrap().data(), expected);
}

#[cfg(feature = "messagepack")]
#[tokio::test]
async fn nodes_that_write_different_formats_share_sessions() {
    use clustered_sessions::DataFormat;

    let memory = MemoryBackend::new();
    let json = node(&memory).await;
    let packing = start(config(&memory).data_format(DataFormat::MessagePack)).await;
    let id = json.store().create(ada()).await.unwrap().id;
    for (node, visits) in [(&packing, 1), (&json, 2), (&packing, 3)] {
        assert_eq!(
            node.store()
                .modify(id, |data| {
                    data.visits += 1;
                    data.visits
                })
                .await
                .unwrap(),
            visits
        );
        for reader in [&json, &packing] {
            let record = reader.store().find_fresh(id).await.unwrap().unwrap();
            assert_eq!(*record.data(), Data { visits, ..ada() });
        }
    }
}
