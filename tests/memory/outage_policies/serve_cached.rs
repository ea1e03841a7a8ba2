//! The rules of `ServeCached`: cached sessions are served for a limited time, for reading only.

use super::*;
use crate::cookies::with_both;

const MAX_AGE: u64 = 60;

async fn site() -> Site {
    Site::new(cached_for(MAX_AGE)).await
}

async fn only_id(site: &Site) -> clustered_sessions::SessionId {
    let ids = site.elsewhere.store().all_session_ids().await.unwrap();
    assert_eq!(ids.len(), 1);
    ids[0]
}

#[tokio::test(start_paused = true)]
async fn a_cached_session_is_served_until_its_max_age() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let app =
        serve(&site.sessions, async |optional: Option<Session<Data>>, session: Session<Data>| {
            assert!(optional.is_some() && !session.is_new() && session.id().is_some());
            assert_eq!(session.outage().unwrap().kind(), StoreErrorKind::Unavailable);
            session.save().await.unwrap();
            session.data().user.clone().unwrap()
        });
    let page = browser.visit(&app).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 0));
    assert_eq!(page.all(header::VARY), ["cookie"]);
    assert_eq!(site.store().degraded_reads(), 1);

    // The last proof is a few heartbeats old at most.
    tokio::time::advance(Duration::from_secs(MAX_AGE) - MAX_STALENESS).await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    tokio::time::advance(MAX_STALENESS).await;
    assert_eq!(site.read(&mut browser).await, rejected());
    assert!(browser.cookie(web::COOKIE).is_some());
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
}

#[tokio::test(start_paused = true)]
async fn a_cached_session_is_served_only_if_its_load_has_failed() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.lose_subscription().await;
    let id = only_id(&site).await;
    site.elsewhere.store().modify(id, |data| data.visits = 5).await.unwrap();
    site.spy.take_calls();
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.spy.take_calls(), [Call::Load]);
    assert_eq!(site.store().degraded_reads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_cached_is_rejected() {
    let site = site().await;
    let mut browser = Browser::with(&site.elsewhere, ada()).await;
    site.outage().await;
    assert_eq!(site.read(&mut browser).await, rejected());
    assert_eq!(site.store().degraded_reads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_for_one_of_two_cookies_is_not_counted_as_degraded() {
    let site = site().await;
    let (cached, unknown) = (site.visitor().await, Browser::with(&site.elsewhere, ada()).await);
    site.outage().await;
    assert_eq!(site.read(&mut with_both(&cached, &unknown)).await, rejected());
    assert_eq!(site.store().degraded_reads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_elsewhere_is_served_no_longer_than_max_age() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    site.elsewhere.store().delete(only_id(&site).await).await.unwrap();
    assert_eq!(
        site.read(&mut browser).await,
        answered("Ada 0 (outage)"),
        "the policy accepts this risk"
    );
    tokio::time::advance(Duration::from_secs(MAX_AGE)).await;
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_served_after_this_node_has_deleted_it_or_tried_to() {
    for deleted in [true, false] {
        let site = site().await;
        let mut browser = site.visitor().await;
        let id = only_id(&site).await;
        site.outage().await;
        assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
        if deleted {
            site.faults.fail_calls(0.0);
            site.store().delete(id).await.unwrap();
            site.faults.fail_calls(1.0);
        } else {
            site.store().delete(id).await.unwrap_err();
        }
        assert_eq!(site.read(&mut browser).await, rejected());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_served_after_a_logout_of_unknown_outcome() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.lose_subscription().await;
    site.faults.lose_answers(1.0);
    let logout = serve(&site.sessions, async |session: Session<Data>| {
        assert_eq!(session.outage().unwrap().kind(), StoreErrorKind::Timeout);
        session.destroy();
        assert_eq!((session.id(), session.data().user.clone()), (None, None));
    });
    let page = browser.visit(&logout).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    assert_eq!(page.all(header::RETRY_AFTER).len(), 0, "the outcome is unknown");
    assert_eq!(site.read(&mut browser).await, rejected());
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0, "the logout was carried out");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_served_after_an_eviction_a_clear_or_a_change() {
    for action in ["evict", "publish", "clear", "clear all", "update"] {
        let site = site().await;
        let mut browser = site.visitor().await;
        let (id, store) = (only_id(&site).await, site.store());
        site.outage().await;
        match action {
            "evict" => store.evict_from_cache(id),
            "publish" => assert!(store.coordinator().publish_invalidation(id).await.is_err()),
            "clear" => store.coordinator().local_cache().clear(),
            "clear all" => assert!(store.clear().await.is_err()),
            _ => {
                site.faults.fail_calls(0.0);
                store.modify(id, |data| data.visits += 1).await.unwrap();
                site.faults.fail_calls(1.0);
            }
        }
        assert_eq!(site.read(&mut browser).await, rejected(), "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_served_after_this_node_has_read_a_newer_state() {
    for deleted in [true, false] {
        let site = site().await;
        let mut browser = site.visitor().await;
        let id = only_id(&site).await;
        site.lose_subscription().await;
        if deleted {
            site.elsewhere.store().delete(id).await.unwrap();
            assert_eq!(site.read(&mut browser).await, answered("stranger 0"));
        } else {
            site.elsewhere.store().modify(id, |data| data.visits = 5).await.unwrap();
            assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
        }
        site.faults.fail_calls(1.0);
        assert_eq!(site.read(&mut browser).await, rejected());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_served_after_its_record_was_unreadable() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.lose_subscription().await;
    site.spy.fail_next(1, StoreErrorKind::Corrupt);
    assert_eq!(site.read(&mut browser).await, answered("stranger 0"));
    site.faults.fail_calls(1.0);
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn no_change_is_written_even_if_the_backend_is_back_before_the_commit() {
    let site = site().await;
    let mut browser = site.visitor().await;
    for how in CHANGES {
        site.outage().await;
        let faults = site.faults.clone();
        let app = serve(&site.sessions, async move |session: Session<Data>| {
            assert!(session.outage().is_some());
            faults.heal();
            change(&session, how).await;
        });
        site.spy.take_calls();
        let page = browser.visit(&app).await;
        if how == "modify" {
            assert_eq!(
                (page.status, page.set_cookies().len()),
                (StatusCode::OK, 0),
                "the handler got the error"
            );
        } else {
            assert_unavailable(&page);
            assert_read_only(error(&page));
        }
        assert_eq!(site.spy.take_calls(), [], "{how}");
        site.recovery().await;
        assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_reapplies_a_change_made_during_the_outage() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    site.elsewhere.store().modify(only_id(&site).await, |data| data.visits = 5).await.unwrap();
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        assert_eq!(session.data().visits, 1);
        faults.heal();
        session.reload().await.unwrap();
        assert_eq!((session.data().visits, session.outage().is_none()), (6, true));
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(site.elsewhere.store().get(only_id(&site).await).await.unwrap().data().visits, 6);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_a_reload_finds_gone_is_not_recreated() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    site.elsewhere.store().delete(only_id(&site).await).await.unwrap();
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        faults.heal();
        session.reload().await.unwrap();
        assert!(session.is_new());
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::CONFLICT, ""));
    assert!(matches!(error(&page), SessionError::Gone));
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_served_in_an_outage_is_not_used_after_the_recovery() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    site.elsewhere.store().modify(only_id(&site).await, |data| data.visits = 5).await.unwrap();
    site.recovery().await;
    site.spy.take_calls();
    site.faults.fail_calls(1.0);
    assert_eq!(
        site.read(&mut browser).await,
        rejected(),
        "the old entry is not used even if the next load fails"
    );
    site.faults.fail_calls(0.0);
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.spy.take_calls(), [Call::Load], "the first read loads and the second is a hit");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_under_a_previous_secret_is_not_resigned_in_an_outage() {
    let memory = MemoryBackend::new();
    let old = web::node(&memory).await;
    let mut browser = Browser::with(&old, ada()).await;
    let (backend, faults) = FaultyBackend::new(memory, 1);
    let config = SessionConfig::builder(
        clustered_sessions::Secret::new("another secret, and the present one").unwrap(),
    )
    .previous_secret(secret())
    .cluster(ClusterConfig::new().enabled(false).local_cache_ttl(Duration::from_secs(1)))
    .on_outage(cached_for(MAX_AGE));
    let sessions = web::start(config.backend(backend)).await;
    // The session is cached without a request, which would have re-signed the cookie.
    let id = web::only_id(&sessions).await;
    assert!(sessions.store().find(id).await.unwrap().is_some());
    tokio::time::advance(Duration::from_secs(1)).await;
    faults.fail_calls(1.0);
    let app = serve(&sessions, async |session: Session<Data>| session.data().user.clone().unwrap());
    let page = browser.visit(&app).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 0));
    faults.heal();
    assert_eq!(browser.visit(&app).await.set_cookies().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_neither_served_past_its_deadline_nor_extended() {
    let site = Site::new(cached_for(3600)).await;
    let mut browser = site.visitor().await;
    // More than a quarter of the timeout has passed, so a read would extend the session.
    tokio::time::advance(TIMEOUT / 2).await;
    settle().await;
    site.recovery().await;
    site.lose_subscription().await;
    // Only the load fails, so a touch would reach the backend.
    site.spy.fail_next(1, StoreErrorKind::Unavailable);
    site.spy.take_calls();
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    settle().await;
    assert_eq!(site.spy.take_calls(), [Call::Load]);
    site.faults.fail_calls(1.0);
    tokio::time::advance(TIMEOUT / 2 - Duration::from_secs(1)).await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn the_local_cache_ttl_does_not_apply_in_an_outage() {
    let brief =
        ClusterConfig::new().max_staleness(MAX_STALENESS).local_cache_ttl(Duration::from_secs(5));
    let site = Site::with(cached_for(MAX_AGE), brief).await;
    let mut browser = site.visitor().await;
    site.faults.fail_calls(1.0);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(site.store().coordinator().is_listening());
    assert_eq!(
        site.read(&mut browser).await,
        answered("Ada 0 (outage)"),
        "the node holds the lease but cannot load"
    );
}

#[tokio::test(start_paused = true)]
async fn the_age_on_a_node_without_a_listener_counts_from_the_load() {
    let alone = ClusterConfig::new().enabled(false).local_cache_ttl(Duration::from_secs(5));
    let site = Site::with(cached_for(MAX_AGE), alone).await;
    let mut browser = site.visitor().await;
    site.faults.fail_calls(1.0);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    tokio::time::advance(Duration::from_secs(MAX_AGE - 5)).await;
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn all_requests_that_share_a_failed_load_are_served() {
    let site = site().await;
    let browser = site.visitor().await;
    site.outage().await;
    site.faults.delay_calls_by(Duration::from_millis(100)..Duration::from_millis(101));
    let visits = (0..50).map(|_| async {
        let mut browser = browser.clone();
        assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    });
    let begun = tokio::time::Instant::now();
    futures_util::future::join_all(visits).await;
    // One load runs, and one more may serve the requests that came too late to share it.
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    assert_eq!(site.store().degraded_reads(), 50);
}
