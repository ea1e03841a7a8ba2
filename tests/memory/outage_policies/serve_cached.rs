//! Rule by rule: what was known last is served, for a while, for reading alone.

use super::*;

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
async fn what_was_known_last_is_served_until_its_age_is_over() {
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

    // The last proof was made some heartbeats ago at the most.
    tokio::time::advance(Duration::from_secs(MAX_AGE) - MAX_STALENESS).await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    tokio::time::advance(MAX_STALENESS).await;
    assert_eq!(site.read(&mut browser).await, rejected());
    assert!(browser.cookie(web::COOKIE).is_some());
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
}

#[tokio::test(start_paused = true)]
async fn it_is_served_only_when_a_load_has_failed() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.deaf().await;
    let id = only_id(&site).await;
    site.elsewhere.store().modify(id, |data| data.visits = 5).await.unwrap();
    site.spy.take_calls();
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.spy.take_calls(), [Call::Load]);
    assert_eq!(site.store().degraded_reads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_in_memory_is_rejected() {
    let site = site().await;
    let mut browser = Browser::with(&site.elsewhere, ada()).await;
    site.outage().await;
    assert_eq!(site.read(&mut browser).await, rejected());
    assert_eq!(site.store().degraded_reads(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_or_deleted_elsewhere_is_served_no_longer_than_its_age() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    site.elsewhere.store().delete(only_id(&site).await).await.unwrap();
    assert_eq!(
        site.read(&mut browser).await,
        answered("Ada 0 (outage)"),
        "the risk that the policy takes"
    );
    tokio::time::advance(Duration::from_secs(MAX_AGE)).await;
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn it_is_never_served_after_this_node_has_deleted_it_or_has_only_tried() {
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
async fn it_is_never_served_after_a_logout_of_unknown_outcome() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.deaf().await;
    site.faults.lose_answers(1.0);
    let logout = serve(&site.sessions, async |session: Session<Data>| {
        assert_eq!(session.outage().unwrap().kind(), StoreErrorKind::Timeout);
        session.destroy();
        assert_eq!((session.id(), session.data().user.clone()), (None, None));
    });
    unavailable(&browser.visit(&logout).await);
    assert_eq!(site.read(&mut browser).await, rejected());
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0, "it was carried out");
}

#[tokio::test(start_paused = true)]
async fn it_is_never_served_after_an_eviction_or_a_clear_or_a_change() {
    for deed in ["evict", "publish", "clear", "clear all", "update"] {
        let site = site().await;
        let mut browser = site.visitor().await;
        let (id, store) = (only_id(&site).await, site.store());
        site.outage().await;
        match deed {
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
        assert_eq!(site.read(&mut browser).await, rejected(), "{deed}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_never_served_after_this_node_has_read_something_else() {
    for deleted in [true, false] {
        let site = site().await;
        let mut browser = site.visitor().await;
        let id = only_id(&site).await;
        site.deaf().await;
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
async fn it_is_never_served_after_its_record_was_found_to_be_unreadable() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.deaf().await;
    site.spy.fail_next(1, StoreErrorKind::Corrupt);
    assert_eq!(site.read(&mut browser).await, answered("stranger 0"));
    site.faults.fail_calls(1.0);
    assert_eq!(site.read(&mut browser).await, rejected());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_on_top_of_it_even_if_the_backend_is_back_before_the_commit() {
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
                "its caller was told"
            );
        } else {
            unavailable(&page);
            read_only(error(&page));
        }
        assert_eq!(site.spy.take_calls(), [], "{how}");
        site.recovery().await;
        assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_refused_is_made_on_what_a_reload_brings() {
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
async fn a_session_that_turns_out_to_be_gone_does_not_come_back() {
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
    unavailable(&page);
    assert!(matches!(error(&page), SessionError::Gone));
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_admitted_again_when_the_node_hears_again() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0 (outage)"));
    site.elsewhere.store().modify(only_id(&site).await, |data| data.visits = 5).await.unwrap();
    site.recovery().await;
    site.spy.take_calls();
    site.faults.fail_calls(1.0);
    assert_eq!(site.read(&mut browser).await, rejected(), "not even if the next load fails");
    site.faults.fail_calls(0.0);
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.read(&mut browser).await, answered("Ada 5"));
    assert_eq!(site.spy.take_calls(), [Call::Load], "the first read asks, the second need not");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_under_an_older_secret_is_not_signed_anew_in_an_outage() {
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
    // Remembered without a request, which would have signed the cookie anew.
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
async fn a_session_is_not_served_beyond_its_deadline_nor_extended() {
    let site = Site::new(cached_for(3600)).await;
    let mut browser = site.visitor().await;
    // More than a quarter of its life, so that a read would extend it.
    tokio::time::advance(TIMEOUT / 2).await;
    settle().await;
    site.recovery().await;
    site.deaf().await;
    // One load fails; a touch would reach the backend.
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
async fn the_time_to_live_in_the_cache_does_not_count_in_an_outage() {
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
        "the node hears, and cannot load"
    );
}

#[tokio::test(start_paused = true)]
async fn on_a_node_that_does_not_listen_age_is_counted_from_the_read() {
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
async fn all_who_share_a_load_that_fails_are_served() {
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
    // One load that runs, and one for those who came too late to share it.
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
    assert_eq!(site.store().degraded_reads(), 50);
}
