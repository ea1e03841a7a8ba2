//! The session as a handler sees it, and the commit of its changes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clustered_sessions::{ClusterConfig, MemoryBackend, Session, SessionId};
use futures_util::poll;
use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::join;
use tokio::sync::Barrier;
use tokio::task::yield_now;

use crate::web::{
    Browser, COOKIE, Call, Data, Spy, ada, config, eventually, node, only_data, only_id, serve,
    start,
};

#[tokio::test]
async fn a_handler_sees_the_data_the_id_and_the_store() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let id = only_id(&sessions).await;
    let app = serve(&sessions, async move |session: Session<Data>| {
        assert_eq!(*session.data(), ada());
        assert_eq!(session.read(|data| data.user.clone()), ada().user);
        assert_eq!(session.id(), Some(id));
        assert!(!session.is_new());
        assert_eq!(*session.store().get(id).await.unwrap().data(), ada());
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_visitor_whose_session_is_not_changed_costs_no_backend_call() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        assert!(session.is_new() && session.id().is_none());
        assert_eq!(*session.data(), Data::default());
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn a_route_that_does_not_extract_makes_no_backend_call() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    sessions.store().coordinator().local_cache().clear();
    spy.take_calls();
    browser.visit(&serve(&sessions, async || "hello")).await;
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn a_request_loads_its_session_once_and_not_at_all_if_it_is_cached() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(
        &sessions,
        async |one: Session<Data>, two: Option<Session<Data>>, three: Session<Data>| {
            assert_eq!([one.id(), three.id()], [two.unwrap().id(); 2]);
        },
    );
    sessions.store().coordinator().local_cache().clear();
    spy.take_calls();
    browser.visit(&app).await;
    assert_eq!(spy.take_calls(), [Call::Load]);
    browser.visit(&app).await;
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn clones_and_extractions_of_one_request_are_one_session() {
    let sessions = node(&MemoryBackend::new()).await;
    let app = serve(&sessions, async |one: Session<Data>, two: Session<Data>| {
        let three = one.clone();
        one.update(|data| data.visits += 1);
        two.update(|data| data.visits += 1);
        assert_eq!(three.data().visits, 2);
    });
    Browser::new().visit(&app).await;
    assert_eq!(only_data(&sessions).await.visits, 2);
}

#[tokio::test]
async fn an_update_is_committed_with_the_response_whatever_its_status() {
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        let sessions = node(&MemoryBackend::new()).await;
        let mut browser = Browser::with(&sessions, ada()).await;
        let app = serve(&sessions, async move |session: Session<Data>| {
            session.update(|data| data.visits += 1);
            assert_eq!(session.data().visits, 1, "the update is visible at once");
            let stored = session.store().find_fresh(session.id().unwrap()).await.unwrap().unwrap();
            assert_eq!(stored.data().visits, 0, "the update is not committed yet");
            status
        });
        assert_eq!(browser.visit(&app).await.status, status);
        assert_eq!(only_data(&sessions).await.visits, 1);
    }
}

#[tokio::test]
async fn a_session_that_a_handler_asks_for_in_vain_is_not_found() {
    let sessions = node(&MemoryBackend::new()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let unknown = SessionId::from_bytes([1; 16]);
        session.store().get(unknown).await.map(|record| record.data().visits.to_string())
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::NOT_FOUND, ""));
    assert!(!page.headers.contains_key(RETRY_AFTER), "a retry is of no use");
}

#[tokio::test]
async fn a_modification_is_committed_at_once_and_returns_from_the_committed_data() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let others = session.store().clone();
        let id = session.id().unwrap();
        others.modify(id, |data| data.visits += 10).await.unwrap();
        let count = |data: &mut Data| {
            data.visits += 1;
            data.visits
        };
        assert_eq!(session.modify(count).await.unwrap(), 11);
        assert_eq!(others.find_fresh(id).await.unwrap().unwrap().data().visits, 11);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_update_and_then_a_modification_are_committed_together_once() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.modify(|data| data.visits += 10).await.unwrap();
    });
    spy.take_calls();
    browser.visit(&app).await;
    assert_eq!(spy.take_calls(), [Call::Update]);
    assert_eq!(only_data(&sessions).await.visits, 11);
}

#[tokio::test]
async fn saved_changes_are_not_committed_again_with_the_response() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.save().await.unwrap();
        assert!(!session.is_new());
    });
    let page = Browser::new().visit(&app).await;
    assert_eq!(spy.take_calls(), [Call::Create]);
    assert_eq!(page.set_cookies().len(), 1);
}

#[tokio::test]
async fn concurrent_modifications_in_one_request_all_count() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        let count = || {
            session.modify(|data| {
                data.visits += 1;
                data.visits
            })
        };
        let (one, two, three) = join!(count(), count(), count());
        let mut numbers = [one.unwrap(), two.unwrap(), three.unwrap()];
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3]);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(only_data(&sessions).await.visits, 3);
}

#[tokio::test]
async fn concurrent_updates_on_two_nodes_are_both_kept() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let browser = Browser::with(&a, ada()).await;
    let both_have_read = Arc::new(Barrier::new(2));
    let handler = move |session: Session<Data>| {
        let both_have_read = both_have_read.clone();
        async move {
            session.update(|data| data.visits += 1);
            both_have_read.wait().await;
        }
    };
    let (on_a, on_b) = (serve(&a, handler.clone()), serve(&b, handler));
    let (mut one, mut two) = (browser.clone(), browser);
    let (one, two) = join!(one.visit(&on_a), two.visit(&on_b));
    assert_eq!([one.status, two.status], [StatusCode::OK; 2]);
    assert_eq!(only_data(&a).await, Data { visits: 2, ..ada() });
}

#[tokio::test]
async fn overwriting_wins_over_concurrent_changes() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.overwrite(Data { user: None, visits: 5 });
        session.store().modify(session.id().unwrap(), |data| data.visits += 10).await.unwrap();
    });
    browser.visit(&app).await;
    assert_eq!(only_data(&sessions).await, Data { user: None, visits: 5 });
}

#[tokio::test]
async fn discarded_changes_are_not_committed_but_a_logout_stands() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    spy.take_calls();
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.regenerate();
        session.discard();
        assert_eq!(*session.data(), ada());
    });
    assert_eq!(browser.visit(&app).await.set_cookies().len(), 0);
    assert_eq!(spy.take_calls(), []);
    let app = serve(&sessions, async |session: Session<Data>| {
        session.destroy();
        session.discard();
    });
    browser.visit(&app).await;
    assert_eq!(spy.take_calls(), [Call::Delete]);
}

#[tokio::test]
async fn a_logout_deletes_the_session_on_every_node_and_removes_the_cookie() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let mut browser = Browser::with(&a, ada()).await;
    let mut thief = browser.clone();
    let app = serve(&b, async |session: Option<Session<Data>>| format!("{}", session.is_some()));
    assert_eq!(thief.visit(&app).await.body, "true");
    let logout = serve(&a, async |session: Session<Data>| {
        session.destroy();
        assert!(session.is_new() && session.id().is_none());
        assert_eq!(*session.data(), Data::default());
    });
    browser.visit(&logout).await;
    assert_eq!(browser.cookie(COOKIE), None);
    eventually(async || thief.clone().visit(&app).await.body == "false").await;
}

#[tokio::test]
async fn changes_after_a_logout_belong_to_a_new_session() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let (old, old_id) = (browser.clone(), only_id(&sessions).await);
    let app = serve(&sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 100);
        session.destroy();
        session.update(|data| data.visits += 1);
    });
    assert_eq!(browser.visit(&app).await.set_cookies().len(), 1);
    assert_ne!(browser.cookie(COOKIE), old.cookie(COOKIE));
    assert_ne!(only_id(&sessions).await, old_id);
    assert_eq!(only_data(&sessions).await, Data { user: None, visits: 1 });
}

#[tokio::test]
async fn reloading_does_not_bring_back_a_session_after_its_logout() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.destroy();
        session.reload().await.unwrap();
        assert_eq!(*session.data(), Data::default());
        session.update(|data| data.visits += 1);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(only_data(&sessions).await, Data { user: None, visits: 1 });
}

#[tokio::test]
async fn regenerating_keeps_the_data_and_kills_the_old_cookie_on_every_node() {
    let memory = MemoryBackend::new();
    let (a, b) = (node(&memory).await, node(&memory).await);
    let mut browser = Browser::with(&a, ada()).await;
    let mut thief = browser.clone();
    let login = serve(&a, async |session: Session<Data>| {
        session.regenerate();
        session.update(|data| data.visits += 1);
    });
    let who = async |session: Session<Data>| {
        format!("{:?} {}", session.data().user, session.data().visits)
    };
    let (who_a, who_b) = (serve(&a, who), serve(&b, who));
    for who in [&who_a, &who_b] {
        assert_eq!(thief.visit(who).await.body, r#"Some("Ada") 0"#);
    }
    assert_eq!(browser.visit(&login).await.set_cookies().len(), 1);
    for who in [&who_a, &who_b] {
        assert_eq!(browser.visit(who).await.body, r#"Some("Ada") 1"#);
        eventually(async || thief.clone().visit(who).await.body == "None 0").await;
    }
}

#[tokio::test]
async fn a_session_regenerated_during_a_bulk_deletion_does_not_escape_it() {
    /// The number of other sessions, enough for two pages of a scan.
    const OTHERS: u64 = 500;
    let memory = MemoryBackend::new();
    let (a, b) = (node(&Spy::over(&memory)).await, node(&memory).await);
    for visits in 0..OTHERS {
        let _ = b.store().create(Data { user: None, visits }).await.unwrap();
    }
    let app = serve(&b, async |session: Session<Data>| session.regenerate());
    // The scan has three steps. The new id is random and may lie before or after the cursor, so
    // each step is tried several times.
    for polls in (0..10).flat_map(|polls| [polls; 10]) {
        let mut browser = Browser::with(&b, ada()).await;
        let mut deletion = pin!(a.store().bulk_delete(|session| session.data().user.is_some()));
        let mut running = true;
        for _ in 0..polls {
            running = running && poll!(deletion.as_mut()).is_pending();
            yield_now().await;
        }
        browser.visit(&app).await;
        if running {
            let _ = deletion.await.unwrap();
            assert_eq!(
                b.store().size().await.unwrap(),
                OTHERS,
                "the session was regenerated after {polls} polls"
            );
        }
    }
}

#[tokio::test]
async fn a_regeneration_that_is_followed_by_a_logout_is_a_logout() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.regenerate();
        session.destroy();
    });
    browser.visit(&app).await;
    assert_eq!(browser.cookie(COOKIE), None);
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_detached_session_needs_neither_a_request_nor_axum() {
    let detached = Session::detached(ada());
    detached.update(|data| data.visits += 1);
    assert_eq!(detached.modify(|data| data.visits).await.unwrap(), 1);
    assert!(!detached.is_new());
    detached.destroy();
    detached.save().await.unwrap();
    assert!(detached.is_new());
}

#[tokio::test]
async fn a_type_can_hold_a_session_without_repeating_its_bounds() {
    #[derive(Clone, Debug)]
    struct Visitor<T> {
        session: Session<T>,
    }
    let visitor = Visitor { session: Session::detached(ada()) };
    assert_eq!(*visitor.clone().session.data(), ada());
    assert!(!format!("{visitor:?}").contains("Ada"), "the data may be private");
}

#[tokio::test]
async fn the_cache_is_limited_in_bytes_and_in_sessions() {
    let cached = async |cluster: ClusterConfig, length: usize| {
        let cluster = cluster.max_staleness(Duration::from_secs(60));
        let sessions = start(config(&MemoryBackend::new()).cluster(cluster)).await;
        for _ in 0..200 {
            let data = Data { user: Some("x".repeat(length)), visits: 0 };
            let id = sessions.store().create(data).await.unwrap().id;
            sessions.store().get(id).await.unwrap();
        }
        let stats = sessions.store().cache_stats();
        assert_eq!(stats.size as u64 + stats.evictions, 200);
        stats.size
    };
    let limited = || ClusterConfig::new().local_cache_max_bytes(1 << 20);
    let large = cached(limited(), 50_000).await;
    assert!((1..=20).contains(&large), "{large} sessions of 50 kB fit into 1 MiB");
    assert_eq!(cached(limited(), 500).await, 200, "small sessions all fit");
    let few = cached(limited().local_cache_max_size(50), 5).await;
    assert!((1..=50).contains(&few), "{few} of at most 50 sessions are cached");
}

#[tokio::test]
async fn a_change_with_a_value_is_applied_again_to_what_another_request_has_written() {
    let memory = MemoryBackend::new();
    let (here, there) = (node(&memory).await, node(&memory).await);
    let mut browser = Browser::with(&here, ada()).await;
    let id = only_id(&here).await;
    let app = serve(&here, async move |session: Session<Data>| {
        session.update_with("Eve".to_owned(), |data, name| data.user = Some(name));
        there.store().modify(id, |data| data.visits += 1).await.unwrap();
        session
            .modify_with(vec![1, 2], |data, more| {
                data.visits += more.iter().sum::<u64>();
                data.visits.to_string()
            })
            .await
    });
    assert_eq!(browser.visit(&app).await.body, "4");
    assert_eq!(only_data(&here).await, Data { user: Some("Eve".to_owned()), visits: 4 });
}

#[tokio::test]
async fn a_request_sees_the_record_of_its_session_unless_it_ends_or_replaces_it() {
    let node = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&node, ada()).await;
    let id = only_id(&node).await;
    let app = serve(&node, async move |session: Session<Data>| {
        let record = session.record().unwrap();
        assert_eq!((record.id(), record.origin(), record.data()), (id, id, &ada()));
        session.replace(ada());
        assert!(session.record().is_none());
        session.save().await.unwrap();
        assert_ne!(session.record().unwrap().id(), id);
        session.destroy();
        assert!(session.record().is_none());
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    let app = serve(&node, async |session: Session<Data>| assert!(session.record().is_none()));
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}
