//! The default policy, and behaviour that is the same under every policy.

use super::*;

const POLICIES: [fn() -> OutagePolicy; 3] =
    [OutagePolicy::default, || OutagePolicy::Anonymous, || cached_for(60)];

#[tokio::test(start_paused = true)]
async fn by_default_a_request_whose_session_cannot_be_loaded_is_rejected() {
    let site = Site::new(OutagePolicy::default()).await;
    let mut browser = site.visitor().await;
    site.outage().await;
    let page = browser.visit(&site.reading()).await;
    assert_unavailable(&page);
    assert!(
        matches!(error(&page), SessionError::Store(error) if error.kind() == StoreErrorKind::Unavailable)
    );
    assert_eq!(site.store().degraded_reads(), 0);
    site.recovery().await;
    assert_eq!(site.read(&mut browser).await, answered("Ada 0"));
}

#[tokio::test(start_paused = true)]
async fn a_fresh_session_and_a_reload_report_the_error_under_every_policy() {
    for policy in POLICIES {
        let site = Site::new(policy()).await;
        let mut browser = site.visitor().await;
        site.outage().await;
        let fresh = serve(&site.sessions, async |_: Fresh<Session<Data>>| "never");
        assert_unavailable(&browser.visit(&fresh).await);
        assert_eq!(site.store().degraded_reads(), 0);

        let reloading = serve(&site.sessions, async |parts: request::Parts| {
            let Ok(session) = Session::<Data>::from_extensions(&parts.extensions).await else {
                return "rejected";
            };
            let (before, id) = (session.data(), session.id());
            assert!(matches!(session.reload().await.unwrap_err(), SessionError::Store(_)));
            assert_eq!((session.data(), session.id()), (before, id), "the session is unchanged");
            assert!(session.outage().is_some());
            "degraded"
        });
        let expected = if policy() == OutagePolicy::Reject { "rejected" } else { "degraded" };
        assert_eq!(browser.visit(&reloading).await.body, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_stores_own_methods_report_the_error_under_every_policy() {
    for policy in POLICIES {
        let site = Site::new(policy()).await;
        site.visitor().await;
        let id = site.store().all_session_ids().await.unwrap()[0];
        site.outage().await;
        let kind = |error: clustered_sessions::StoreError| error.kind();
        assert_eq!(
            site.store().find(id).await.map_err(kind).unwrap_err(),
            StoreErrorKind::Unavailable
        );
        assert_eq!(
            site.store().get(id).await.map_err(kind).unwrap_err(),
            StoreErrorKind::Unavailable
        );
        let update = site.store().modify(id, |data| data.visits += 1).await;
        assert_eq!(update.map_err(kind).unwrap_err(), StoreErrorKind::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn no_policy_applies_to_a_visitor_without_a_session() {
    for policy in POLICIES {
        let site = Site::new(policy()).await;
        let mut forged = Browser::new();
        forged.set_cookie(web::COOKIE, "forged.forged");
        site.outage().await;
        for mut stranger in [Browser::new(), forged] {
            assert_eq!(
                site.read(&mut stranger).await,
                answered("stranger 0"),
                "without a session there is nothing to load"
            );
            let login = serve(&site.sessions, async |session: Session<Data>| {
                session.overwrite(ada());
                assert!(session.outage().is_none());
            });
            let page = stranger.visit(&login).await;
            assert_unavailable(&page);
            assert!(
                matches!(error(&page), SessionError::Store(_)),
                "the store tried to create the session"
            );
            site.faults.heal();
            assert_eq!(stranger.visit(&login).await.set_cookies().len(), 1);
            site.faults.fail_calls(1.0);
        }
        assert_eq!(site.store().degraded_reads(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_policy_applies_to_errors_that_are_not_outages() {
    for policy in POLICIES {
        let site = Site::new(policy()).await;
        let mut browser = site.visitor().await;
        site.lose_subscription().await;
        for (kind, expected) in [
            (StoreErrorKind::Refused, rejected()),
            (StoreErrorKind::Closed, rejected()),
            (StoreErrorKind::Corrupt, answered("stranger 0")),
        ] {
            site.spy.fail_next(1, kind);
            assert_eq!(site.read(&mut browser).await, expected, "{kind:?}");
        }
        assert_eq!(site.store().degraded_reads(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_logout_is_reported_under_every_policy() {
    for policy in POLICIES {
        let site = Site::new(policy()).await;
        let mut browser = site.visitor().await;
        site.outage().await;
        let logout = serve(&site.sessions, async |session: Session<Data>| session.destroy());
        assert_unavailable(&browser.visit(&logout).await);
        assert!(browser.cookie(web::COOKIE).is_some(), "the visitor can try again");
        assert_eq!(site.elsewhere.store().size().await.unwrap(), 1);
        site.recovery().await;
        assert_eq!(browser.visit(&logout).await.status, StatusCode::OK);
        assert_eq!(browser.cookie(web::COOKIE), None);
        assert_eq!(site.elsewhere.store().size().await.unwrap(), 0);
    }
}
