//! The rules of `Anonymous`: a visitor whose session cannot be loaded is served without one, and
//! cannot change anything.

use super::*;
use crate::cookies::with_both;
use crate::failing::hanging;

async fn site() -> Site {
    Site::new(OutagePolicy::Anonymous).await
}

#[tokio::test(start_paused = true)]
async fn a_visitor_whose_session_cannot_be_loaded_is_anonymous_and_keeps_the_cookie() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let app =
        serve(&site.sessions, async |optional: Option<Session<Data>>, session: Session<Data>| {
            assert!(optional.is_none(), "an optional session is absent");
            assert!(session.is_new() && session.id().is_none());
            assert_eq!(session.outage().unwrap().kind(), StoreErrorKind::Unavailable);
            session.save().await.unwrap();
            session.data().user.clone().unwrap_or_default()
        });
    let page = browser.visit(&app).await;
    assert_eq!(
        (page.status, page.body.as_str(), page.set_cookies().len()),
        (StatusCode::OK, "", 0)
    );
    assert_eq!(page.all(header::VARY), ["cookie"]);
    assert_eq!(site.store().degraded_reads(), 1, "all extractions of a request share one load");
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
}

#[tokio::test(start_paused = true)]
async fn a_request_with_two_cookies_is_counted_once() {
    let site = site().await;
    let [one, other] =
        [Browser::with(&site.elsewhere, ada()).await, Browser::with(&site.elsewhere, ada()).await];
    site.outage().await;
    assert_eq!(site.read(&mut with_both(&one, &other)).await, answered("stranger 0 (outage)"));
    assert_eq!(site.store().degraded_reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_takes_too_long_is_an_outage() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.lose_subscription().await;
    site.faults.lose_answers(1.0);
    let app = serve(&site.sessions, async |session: Session<Data>| {
        assert_eq!(session.outage().unwrap().kind(), StoreErrorKind::Timeout);
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_and_no_cookie_is_set_even_if_the_backend_is_back_before_the_commit() {
    let site = site().await;
    let mut browser = site.visitor().await;
    for how in CHANGES {
        site.outage().await;
        let faults = site.faults.clone();
        let app = serve(&site.sessions, async move |session: Session<Data>| {
            assert!(session.is_new());
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
    }
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 1);
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_if_one_of_two_cookies_leads_to_what_cannot_be_loaded() {
    let site = site().await;
    let (cached, left_over) = (site.visitor().await, Browser::with(&site.elsewhere, ada()).await);
    site.faults.fail_calls(1.0);
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        assert!(session.is_new() && session.outage().is_some());
        faults.heal();
        session.update(|data| data.visits += 1);
    });
    let page = with_both(&cached, &left_over).visit(&app).await;
    assert_unavailable(&page);
    assert_read_only(error(&page));
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 2);

    // Once both can be loaded, it is unknown which of the sessions the visitor means to use.
    site.store().evict_from_cache(site.elsewhere.store().all_session_ids().await.unwrap()[0]);
    site.faults.fail_calls(1.0);
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        faults.heal();
        session.reload().await.unwrap();
        assert!(session.is_new() && session.outage().is_none());
        session.data().user.clone().unwrap_or_default()
    });
    assert_eq!(with_both(&cached, &left_over).visit(&app).await.body, "");
}

/// What it writes depends on nothing that could not be loaded.
#[tokio::test(start_paused = true)]
async fn a_login_that_replaces_the_session_is_attempted() {
    let site = site().await;
    let mut browser = site.visitor().await;
    let old = browser.clone();
    site.outage().await;
    let login = async |session: Session<Data>| session.replace(ada());
    let page = browser.visit(&serve(&site.sessions, login)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));

    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        assert!(session.outage().is_some());
        faults.heal();
        session.replace(Data { visits: 9, ..ada() });
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 9"));
    let mut late = old.clone();
    assert_eq!(site.read(&mut late).await, answered("stranger 0"));
    let count = async |session: Session<Data>| session.update(|data| data.visits += 1);
    let page = late.visit(&serve(&site.sessions, count)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::CONFLICT, 0));
}

#[tokio::test(start_paused = true)]
async fn a_login_that_replaces_the_session_does_not_wait_for_it_all_the_time() {
    let memory = MemoryBackend::with_clock(Clock::tokio());
    let config = || web::config(&memory).clock(Clock::tokio()).on_outage(OutagePolicy::Anonymous);
    let elsewhere = web::start(config()).await;
    let node = config().enable_retry(true).backend(hanging(&memory, Call::Load));
    let node = web::start(node).await;
    let mut browser = Browser::with(&elsewhere, Data { visits: 3, ..ada() }).await;
    let login = async |session: Session<Data>| session.replace(ada());
    let page = browser.visit(&serve(&node, login)).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(web::only_data(&elsewhere).await, ada());
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_can_be_discarded() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let app = serve(&site.sessions, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        assert_eq!(session.data().visits, 1);
        assert_read_only(&session.save().await.unwrap_err());
        session.discard();
        assert_eq!(*session.data(), Data::default());
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    assert_eq!(site.store().dropped_changes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_carried_out_when_the_backend_is_back() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        assert!(session.is_new());
        session.destroy();
        faults.heal();
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(browser.cookie(web::COOKIE), None);
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_fails_with_the_response_is_retried_once() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.lose_subscription().await;
    // The load and the first deletion fail.
    site.spy.fail_next(2, StoreErrorKind::Unavailable);
    site.spy.take_calls();
    let logout = serve(&site.sessions, async |session: Session<Data>| session.destroy());
    assert_unavailable(&browser.visit(&logout).await);
    settle().await;
    assert_eq!(site.spy.take_calls(), [Call::Load, Call::Delete, Call::Delete]);
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_after_a_logout_begins_only_when_the_old_one_is_gone() {
    let site = site().await;
    let mut browser = site.visitor().await;
    let replace = serve(&site.sessions, async |session: Session<Data>| {
        session.destroy();
        session.overwrite(Data { user: Some("Bob".into()), visits: 0 });
    });
    site.lose_subscription().await;
    site.spy.fail_next(2, StoreErrorKind::Unavailable);
    site.spy.take_calls();
    assert_unavailable(&browser.visit(&replace).await);
    settle().await;
    assert_eq!(
        site.spy.take_calls(),
        [Call::Load, Call::Delete, Call::Delete],
        "nothing is created"
    );

    let mut browser = site.visitor().await;
    site.spy.fail_next(1, StoreErrorKind::Unavailable);
    site.spy.take_calls();
    let page = browser.visit(&replace).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(site.spy.take_calls(), [Call::Load, Call::Delete, Call::Create]);
    assert_eq!(site.elsewhere.store().size().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_successful_reload_restores_the_session() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        assert_read_only(&session.save().await.unwrap_err());
        faults.heal();
        session.reload().await.unwrap();
        assert!(session.outage().is_none() && !session.is_new());
        assert_eq!((session.data().user.as_deref(), session.data().visits), (Some("Ada"), 1));
    });
    assert_eq!(browser.visit(&app).await.status, StatusCode::OK);
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 1"));
}

#[tokio::test(start_paused = true)]
async fn a_visitor_whose_session_turns_out_to_be_gone_may_begin_a_new_one() {
    let site = site().await;
    let mut browser = site.visitor().await;
    let id = site.store().all_session_ids().await.unwrap()[0];
    site.outage().await;
    site.elsewhere.store().delete(id).await.unwrap();
    let faults = site.faults.clone();
    let app = serve(&site.sessions, async move |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        faults.heal();
        session.reload().await.unwrap();
        assert!(session.outage().is_none() && session.is_new());
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 1));
    assert_ne!(site.elsewhere.store().all_session_ids().await.unwrap(), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_cached_session_is_read_while_the_lease_is_held() {
    let site = site().await;
    let mut browser = site.visitor().await;
    site.faults.fail_calls(1.0);
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"), "the node still holds the lease");
}
