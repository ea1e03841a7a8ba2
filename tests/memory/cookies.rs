//! The session cookie: its attributes and verification, and when it is sent, re-signed and removed.

use std::time::Duration;

use axum::response::AppendHeaders;
use clustered_sessions::{
    Clock, ClusterConfig, CookieConfig, Fresh, MemoryBackend, SameSite, Secret, Session,
    SessionConfig, SessionConfigBuilder, SessionError, SessionLayer, StoreErrorKind,
};
use http::{HeaderValue, Request, StatusCode, header};

use crate::web::{
    self, Browser, COOKIE, Call, Data, HasBackend, Spy, ada, config, node, only_data, only_id,
    send, serve, start,
};

const HOUR: Duration = Duration::from_secs(3600);

async fn read(session: Session<Data>) -> String {
    session.data().user.clone().unwrap_or_default()
}

async fn count(session: Session<Data>) {
    session.update(|data| data.visits += 1);
}

async fn regenerate(session: Session<Data>) {
    session.regenerate();
}

async fn destroy(session: Session<Data>) {
    session.destroy();
}

/// Returns the attributes of the cookie that a new session sends, and the cookie that a logout
/// sends.
async fn attributes(sessions: &SessionLayer<Data>, name: &str) -> (String, String) {
    let mut browser = Browser::new();
    let created = browser.visit(&serve(sessions, count)).await.set_cookies().remove(0);
    let value = browser.cookie(name).unwrap();
    assert_eq!(
        (value.len(), value.as_bytes()[22]),
        (66, b'.'),
        "the cookie is a token and its tag"
    );
    let attributes = created.strip_prefix(&format!("{name}={value}; ")).unwrap().to_owned();
    let removed = browser.visit(&serve(sessions, destroy)).await.set_cookies().remove(0);
    (attributes, removed.split_once("; Expires=").unwrap().0.to_owned())
}

#[tokio::test]
async fn the_default_cookie_is_bound_to_the_host_and_hidden_from_scripts() {
    let sessions = node(&MemoryBackend::new()).await;
    let (created, removed) = attributes(&sessions, "__Host-session").await;
    assert_eq!(created, "HttpOnly; SameSite=Lax; Secure; Path=/");
    assert_eq!(removed, "__Host-session=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0");
}

#[tokio::test]
async fn the_development_cookie_works_over_plain_http() {
    let sessions = start(SessionConfig::development(Secret::insecure_dev("dev"))).await;
    let (created, removed) = attributes(&sessions, "session").await;
    assert_eq!(created, "HttpOnly; SameSite=Lax; Path=/");
    assert_eq!(removed, "session=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0");
}

#[tokio::test]
async fn a_cookie_is_sent_only_for_a_new_session_a_new_token_and_a_logout() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::new();
    let sent = async |browser: &mut Browser, app| browser.visit(&app).await.set_cookies().len();
    for (what, app, expected) in [
        ("a visitor without a session reads", serve(&sessions, read), 0),
        ("a visitor without a session regenerates", serve(&sessions, regenerate), 0),
        ("a session begins", serve(&sessions, count), 1),
        ("its data changes", serve(&sessions, count), 0),
        ("it is read", serve(&sessions, read), 0),
        ("it gets a new token", serve(&sessions, regenerate), 1),
        ("its data changes again", serve(&sessions, count), 0),
        ("it ends", serve(&sessions, destroy), 1),
        ("the visitor reads without a session", serve(&sessions, read), 0),
    ] {
        assert_eq!(sent(&mut browser, app).await, expected, "{what}");
    }
}

#[tokio::test]
async fn only_the_last_cookie_of_a_request_is_sent_and_others_are_left_alone() {
    let sessions = node(&MemoryBackend::new()).await;
    let app = serve(&sessions, async |session: Session<Data>| {
        session.modify(|data| data.visits += 1).await.unwrap();
        session.regenerate();
        session.save().await.unwrap();
        session.destroy();
        session.save().await.unwrap();
        session.overwrite(ada());
        AppendHeaders([(header::SET_COOKIE, "theme=dark"), (header::SET_COOKIE, "lang=en")])
    });
    let mut browser = Browser::new();
    assert_eq!(browser.visit(&app).await.set_cookies().len(), 3);
    assert_eq!([browser.cookie("theme"), browser.cookie("lang")], [Some("dark"), Some("en")]);
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
}

#[tokio::test]
async fn a_cookie_that_does_not_verify_names_no_session_and_makes_no_backend_call() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let good = Browser::with(&sessions, ada()).await.cookie(COOKIE).unwrap().to_owned();
    let other = Browser::with(&sessions, ada()).await.cookie(COOKIE).unwrap().to_owned();
    let (token, tag) = good.split_once('.').unwrap();
    let (_, other_tag) = other.split_once('.').unwrap();
    sessions.store().coordinator().local_cache().clear();
    spy.take_calls();
    let app = serve(&sessions, read);
    for (what, value) in [
        ("empty", String::new()),
        ("without a tag", token.to_owned()),
        ("with the tag of another token", format!("{token}.{other_tag}")),
        ("truncated", good[..65].to_owned()),
        ("with an extra character", format!("{good}A")),
        ("oversized", "A".repeat(100_000)),
        ("without the dot", format!("{token}A{tag}")),
        ("in another case", good.to_lowercase()),
    ] {
        let mut browser = Browser::new();
        browser.set_cookie(COOKIE, value);
        let page = browser.visit(&app).await;
        assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, ""), "{what}");
        assert_eq!(page.set_cookies().len(), 0, "{what}");
    }
    let not_text = HeaderValue::from_bytes(b"__Host-session=\xff\xfe").unwrap();
    let request =
        Request::get("/").header(header::COOKIE, not_text).body(Default::default()).unwrap();
    assert_eq!(send(&app, request).await.status, StatusCode::OK);
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn the_cookie_is_found_among_other_cookies_and_duplicates() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let good = browser.cookie(COOKIE).unwrap().to_owned();
    browser.set_cookie(COOKIE, format!("{good}; a=b; {COOKIE}={good}; {COOKIE}=junk"));
    assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
}

#[tokio::test]
async fn the_cookie_of_a_deleted_session_stays_until_there_is_a_new_session() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    sessions.store().delete(only_id(&sessions).await).await.unwrap();
    let before = browser.clone();
    for app in [serve(&sessions, read), serve(&sessions, regenerate)] {
        assert_eq!(browser.visit(&app).await.set_cookies().len(), 0);
    }
    browser.visit(&serve(&sessions, count)).await;
    assert_ne!(browser.cookie(COOKIE), before.cookie(COOKIE), "the new session has its own token");
}

#[tokio::test]
async fn a_logout_removes_the_cookie_of_a_session_that_is_gone_or_never_existed() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut gone = Browser::with(&sessions, ada()).await;
    sessions.store().delete(only_id(&sessions).await).await.unwrap();
    let mut forged = Browser::new();
    forged.set_cookie(COOKIE, "forged");
    for browser in [&mut gone, &mut forged] {
        browser.visit(&serve(&sessions, destroy)).await;
        assert_eq!(browser.cookie(COOKIE), None);
    }
}

fn new_secret() -> Secret {
    Secret::new("the new secret, which is just as long").unwrap()
}

/// Returns a configuration with a new secret, and the tests' usual secret as the previous one.
fn rotated(backend: &impl HasBackend) -> SessionConfigBuilder<Data> {
    SessionConfig::builder(new_secret()).previous_secret(web::secret()).backend(backend.backend())
}

#[tokio::test]
async fn a_cookie_under_a_previous_secret_is_resigned_when_its_session_is_used() {
    let memory = MemoryBackend::new();
    let (old, new) = (node(&memory).await, start(rotated(&memory)).await);
    let mut browser = Browser::with(&old, ada()).await;
    let before = browser.clone();

    let unused = browser.visit(&serve(&new, async || "hello")).await;
    assert_eq!(unused.set_cookies().len(), 0);

    let page = browser.visit(&serve(&new, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 1));
    let token = |browser: &Browser| browser.cookie(COOKIE).unwrap()[..22].to_owned();
    assert_eq!(token(&browser), token(&before), "the same session");
    assert_ne!(browser.cookie(COOKIE), before.cookie(COOKIE));

    // A response that was lost: the browser still has the old cookie, and the session is cached.
    let page = before.clone().visit(&serve(&new, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 1));

    let page = browser.visit(&serve(&new, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 0));
    assert_eq!(
        browser.visit(&serve(&old, read)).await.body,
        "",
        "the cookie is signed with the new secret"
    );
}

#[tokio::test]
async fn a_cookie_that_the_handler_sets_is_not_replaced_by_the_old_one_that_is_resigned() {
    let memory = MemoryBackend::new();
    let (old, new) = (node(&memory).await, start(rotated(&memory)).await);
    let mut browser = Browser::with(&old, ada()).await;
    let sessions = new.clone();
    let app = serve(&new, async move |_: Session<Data>| {
        let grace = Data { user: Some("Grace".to_owned()), visits: 0 };
        let session = sessions.store().create(grace).await.unwrap();
        [(header::SET_COOKIE, sessions.set_cookie(&session))]
    });
    assert_eq!(browser.visit(&app).await.set_cookies().len(), 1);
    assert_eq!(browser.visit(&serve(&new, read)).await.body, "Grace");
}

/// Serves a slow page that reads the session, while the visitor's other tab regenerates it on a
/// node that may be another one. Returns the number of cookies that the slow response sets.
async fn cookies_of_a_response_that_outlives_a_login(
    memory: &MemoryBackend,
    sessions: &SessionLayer<Data>,
    elsewhere: &SessionLayer<Data>,
) -> usize {
    let before_the_rotation = node(memory).await;
    let mut slow = Browser::with(&before_the_rotation, ada()).await;
    let tab = slow.clone();
    let app = serve(elsewhere, regenerate);
    let page = slow
        .visit(&serve(sessions, async move |session: Session<Data>| {
            let name = read(session).await;
            tab.clone().visit(&app).await;
            name
        }))
        .await;
    assert_eq!(page.body, "Ada");
    page.set_cookies().len()
}

#[tokio::test]
async fn a_response_that_outlives_a_login_does_not_undo_it_by_resigning_the_old_cookie() {
    let memory = MemoryBackend::new();
    let cookies = cookies_of_a_response_that_outlives_a_login;
    let cached = start(rotated(&memory)).await;
    assert_eq!(cookies(&memory, &cached, &cached).await, 0);
    let uncached = ClusterConfig::new().local_cache_enabled(false);
    let uncached = start(rotated(&memory).cluster(uncached)).await;
    assert_eq!(cookies(&memory, &uncached, &uncached).await, 0);
    // Nothing tells this one that its cached session has moved.
    let silent = ClusterConfig::new().enabled(false);
    let silent = start(rotated(&memory).cluster(silent)).await;
    assert_eq!(cookies(&memory, &silent, &cached).await, 0);
}

#[tokio::test]
async fn a_cookie_that_cannot_be_confirmed_is_not_resigned() {
    let spy = Spy::new();
    let old = node(&spy).await;
    let mut browser = Browser::with(&old, ada()).await;
    let new = rotated(&spy);
    let silent = ClusterConfig::new().enabled(false);
    let silent = start(new.cluster(silent).enable_retry(false)).await;
    let fails = spy.clone();
    let app = serve(&silent, async move |session: Session<Data>| {
        fails.fail_next(1, StoreErrorKind::Unavailable);
        read(session).await
    });
    let page = browser.visit(&app).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 0));
    assert_eq!(browser.visit(&serve(&silent, read)).await.set_cookies().len(), 1);
}

#[tokio::test]
async fn a_node_without_a_cache_resigns_cookies_after_looking_the_session_up() {
    let spy = Spy::new();
    let old = node(&spy).await;
    let mut browser = Browser::with(&old, ada()).await;
    let uncached = ClusterConfig::new().local_cache_enabled(false);
    let new = rotated(&spy);
    let new = start(new.cluster(uncached).enable_retry(false)).await;
    spy.take_calls();
    let page = browser.visit(&serve(&new, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 1));
    assert_eq!(spy.take_calls(), [Call::Load, Call::Load]);
    let page = browser.visit(&serve(&new, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 0));
    assert_eq!(spy.take_calls(), [Call::Load]);
}

#[tokio::test]
async fn a_node_that_hears_nothing_resigns_cookies_after_looking_the_session_up() {
    let spy = Spy::new();
    let old = node(&spy).await;
    let mut browser = Browser::with(&old, ada()).await;
    let new = rotated(&spy);
    // It is configured to listen, and may never have been able to, as under an ACL without
    // channels.
    let deaf = SessionLayer::new(new.build().unwrap());
    assert!(!deaf.store().coordinator().is_listening());
    let page = browser.visit(&serve(&deaf, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("Ada", 1));
}

#[tokio::test]
async fn a_change_resigns_the_cookie_also_without_a_cache() {
    let memory = MemoryBackend::new();
    let old = node(&memory).await;
    let mut browser = Browser::with(&old, ada()).await;
    let uncached = ClusterConfig::new().local_cache_enabled(false);
    let new = start(rotated(&memory).cluster(uncached)).await;
    assert_eq!(browser.visit(&serve(&new, count)).await.set_cookies().len(), 1);
    assert_eq!(browser.visit(&serve(&new, count)).await.set_cookies().len(), 0);
}

#[tokio::test]
async fn the_cookie_of_a_deleted_session_is_not_resigned() {
    let memory = MemoryBackend::new();
    let (old, new) = (node(&memory).await, start(rotated(&memory)).await);
    let mut browser = Browser::with(&old, ada()).await;
    old.store().clear().await.unwrap();
    assert_eq!(browser.visit(&serve(&new, read)).await.set_cookies().len(), 0);
}

#[tokio::test]
async fn a_secret_that_was_removed_verifies_no_cookie() {
    let spy = Spy::new();
    let old = node(&spy).await;
    let mut browser = Browser::with(&old, ada()).await;
    let new = start(SessionConfig::builder(new_secret()).backend(spy.backend())).await;
    spy.take_calls();
    assert_eq!(browser.visit(&serve(&new, read)).await.body, "");
    assert_eq!(spy.take_calls(), []);
}

#[tokio::test]
async fn a_response_whose_handler_used_the_session_varies_with_the_cookie() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let varies =
        async |session: Session<Data>| ([(header::VARY, "accept-encoding")], read(session).await);
    let any = async |session: Session<Data>| ([(header::VARY, "*")], read(session).await);
    for (app, expected) in [
        (serve(&sessions, async || "hello"), &[][..]),
        (serve(&sessions, read), &["cookie"]),
        (serve(&sessions, varies), &["accept-encoding", "cookie"]),
        (serve(&sessions, any), &["*"]),
    ] {
        let page = browser.visit(&app).await;
        assert_eq!(page.all(header::VARY), expected);
        assert!(
            page.all(header::CACHE_CONTROL).is_empty(),
            "a response without a cookie keeps the handler's header"
        );
    }
    let new_visitor = Browser::new().visit(&serve(&sessions, read)).await;
    assert_eq!(new_visitor.all(header::VARY), ["cookie"]);
}

#[tokio::test]
async fn a_response_whose_handler_could_not_get_the_session_varies_with_the_cookie() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    sessions.store().coordinator().local_cache().clear();
    let app = serve(
        &sessions,
        async |session: Result<Session<Data>, SessionError>| {
            if session.is_ok() { "hello again" } else { "hello stranger" }
        },
    );
    let fresh = serve(
        &sessions,
        async |session: Result<Fresh<Session<Data>>, SessionError>| {
            if session.is_ok() { "hello again" } else { "hello stranger" }
        },
    );
    for app in [app, fresh] {
        spy.fail_next(1, StoreErrorKind::Unavailable);
        let page = browser.visit(&app).await;
        assert_eq!(page.body, "hello stranger");
        assert_eq!(page.all(header::VARY), ["cookie"]);
    }
}

#[tokio::test]
async fn a_response_with_a_cookie_is_kept_from_caches() {
    let sessions = node(&MemoryBackend::new()).await;
    for (cache_control, expected) in [
        ("", r#"private, no-cache="set-cookie""#),
        ("public, max-age=60", r#"max-age=60, private, no-cache="set-cookie""#),
        ("no-store", "no-store"),
    ] {
        let app = serve(&sessions, async move |session: Session<Data>| {
            count(session).await;
            [(header::CACHE_CONTROL, cache_control)]
        });
        let page = Browser::new().visit(&app).await;
        assert_eq!(
            (page.set_cookies().len(), page.all(header::CACHE_CONTROL)),
            (1, vec![expected.to_owned()])
        );
    }
}

/// The clock is paused, so a persistent cookie has the same `Max-Age` each time.
#[tokio::test(start_paused = true)]
async fn a_session_created_by_the_store_gets_the_same_cookie_as_through_the_middleware() {
    let persistent = CookieConfig::new().persistent(true).same_site(SameSite::Strict);
    for (cookie, expected) in [
        (CookieConfig::new(), "HttpOnly; SameSite=Lax; Secure; Path=/"),
        (persistent, "HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=7200"),
    ] {
        let config = config(&MemoryBackend::new()).clock(Clock::tokio()).cookie(cookie);
        let config = config.timeout(HOUR).absolute_timeout(2 * HOUR);
        let sessions = SessionLayer::new(config.build().unwrap());
        let (through_the_middleware, _) = attributes(&sessions, COOKIE).await;
        assert_eq!(through_the_middleware, expected);

        let new = sessions.store().create(ada()).await.unwrap();
        let set_cookie = sessions.set_cookie(&new);
        let (pair, attributes) = set_cookie.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, expected);

        let mut browser = Browser::new();
        let (name, value) = pair.split_once('=').unwrap();
        browser.set_cookie(name, value);
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    }
}

#[tokio::test]
async fn cookie_headers_are_marked_as_sensitive() {
    let sessions = node(&MemoryBackend::new()).await;
    let sent = Browser::new().visit(&serve(&sessions, count)).await;
    assert!(sent.headers[header::SET_COOKIE].is_sensitive());
    assert!(sessions.cookie_for(ada()).await.unwrap().is_sensitive());
    let new = sessions.store().create(ada()).await.unwrap();
    assert!(sessions.set_cookie(&new).is_sensitive());
}

#[tokio::test]
async fn a_cookie_made_for_a_test_is_accepted_like_a_browsers() {
    let spy = Spy::new();
    let sessions = SessionLayer::new(config(&spy).build().unwrap());
    let pair = sessions.cookie_for(ada()).await.unwrap();
    assert_eq!(spy.take_calls(), [Call::Create]);
    let request = Request::get("/").header(header::COOKIE, pair).body(Default::default()).unwrap();
    assert_eq!(send(&serve(&sessions, read), request).await.body, "Ada");
}

/// A sibling domain has planted the cookie of its own session next to the visitor's cookie.
#[tokio::test(start_paused = true)]
async fn a_logout_with_several_cookies_ends_each_session_that_they_name() {
    let (spy, planted) = (Spy::new(), Data { user: Some("planted".into()), visits: 0 });
    let layer = start(config(&spy)).await;
    let victim = Browser::with(&layer, ada()).await;
    let planted = Browser::with(&layer, planted).await;
    let both = |mut request: Request<axum::body::Body>| {
        let pairs = [&planted, &victim].map(|browser| format!("{COOKIE}={}", cookie(browser)));
        request.headers_mut().insert(header::COOKIE, pairs.join("; ").parse().unwrap());
        request
    };
    let app = serve(&layer, read);
    assert_eq!(
        send(&app, both(Browser::new().request())).await.body,
        "",
        "the request has no session"
    );

    let logout = serve(&layer, async |session: Session<Data>| session.destroy());
    assert_eq!(send(&logout, both(Browser::new().request())).await.status, StatusCode::OK);
    assert_eq!(layer.store().size().await.unwrap(), 0, "both sessions have ended");
}

#[tokio::test]
async fn a_logout_in_a_flood_of_forged_cookies_ends_the_session() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let forged = format!("junk; {COOKIE}={}.{}; {COOKIE}=", "A".repeat(22), "A".repeat(43));
    let flood = forged.repeat(50) + cookie(&browser);
    browser.set_cookie(COOKIE, flood);
    assert_eq!(browser.clone().visit(&serve(&sessions, read)).await.body, "Ada");
    browser.visit(&serve(&sessions, destroy)).await;
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

/// Here the client hangs up before the logout is committed.
#[tokio::test(start_paused = true)]
async fn a_logout_with_several_cookies_ends_each_session_even_if_the_request_is_dropped() {
    let layer = start(config(&MemoryBackend::new())).await;
    let (one, two) = (Browser::with(&layer, ada()).await, Browser::with(&layer, ada()).await);
    let app = serve(&layer, async |session: Session<Data>| {
        session.destroy();
        std::future::pending::<()>().await;
    });
    let mut request = Browser::new().request();
    let pairs = [&one, &two].map(|browser| format!("{COOKIE}={}", cookie(browser)));
    request.headers_mut().insert(header::COOKIE, pairs.join("; ").parse().unwrap());
    let cut = tokio::time::timeout(Duration::from_secs(1), send(&app, request)).await;
    assert!(cut.is_err());
    web::settle().await;
    assert_eq!(layer.store().size().await.unwrap(), 0, "both sessions have ended");
}

fn cookie(browser: &Browser) -> &str {
    browser.cookie(COOKIE).unwrap()
}

/// Returns a browser that sends both cookies under one name, as after a change of the path.
pub(crate) fn with_both(one: &Browser, two: &Browser) -> Browser {
    let mut both = one.clone();
    let [one, two] = [one, two].map(|browser| browser.cookie(COOKIE).unwrap());
    both.set_cookie(COOKIE, format!("{one}; {COOKIE}={two}"));
    both
}

#[tokio::test]
async fn of_several_cookies_the_one_whose_session_exists_is_used() {
    let sessions = node(&MemoryBackend::new()).await;
    let left_over = Browser::with(&sessions, Data::default()).await;
    sessions.store().delete(only_id(&sessions).await).await.unwrap();
    let own = Browser::with(&sessions, ada()).await;
    for mut browser in [with_both(&left_over, &own), with_both(&own, &left_over)] {
        let page = browser.visit(&serve(&sessions, count)).await;
        assert_eq!((page.status, page.set_cookies().len()), (StatusCode::OK, 0));
        assert_eq!(browser.visit(&serve(&sessions, read)).await.body, "Ada");
    }
    assert_eq!(only_data(&sessions).await.visits, 2);
    let mut browser = with_both(&left_over, &own);
    browser.visit(&serve(&sessions, destroy)).await;
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

#[tokio::test]
async fn cookies_of_several_sessions_are_a_strangers_until_a_login_which_ends_all_of_them() {
    let sessions = node(&MemoryBackend::new()).await;
    let (own, planted) =
        (Browser::with(&sessions, ada()).await, Browser::with(&sessions, ada()).await);
    let mut browser = with_both(&own, &planted);
    let page = browser.visit(&serve(&sessions, read)).await;
    assert_eq!((page.body.as_str(), page.set_cookies().len()), ("", 0));

    let login = serve(&sessions, async |session: Session<Data>| session.replace(ada()));
    let page = browser.clone().visit(&login).await;
    assert_eq!(page.set_cookies().len(), 1);
    let id = only_id(&sessions).await;
    // The browser still sends the other cookie, whose session has ended.
    let mut logged_in = Browser::new();
    let new = page.set_cookies()[0].split(';').next().unwrap().to_owned();
    let new = new.split_once('=').unwrap().1;
    logged_in.set_cookie(COOKIE, format!("{}; {COOKIE}={new}", planted.cookie(COOKIE).unwrap()));
    assert_eq!(logged_in.visit(&serve(&sessions, read)).await.body, "Ada");
    assert_eq!(only_id(&sessions).await, id);
}

#[tokio::test]
async fn sessions_that_cannot_be_looked_up_do_not_make_another_one_the_visitors() {
    let spy = Spy::new();
    let sessions = node(&spy).await;
    let (one, two) = (Browser::with(&sessions, ada()).await, Browser::with(&sessions, ada()).await);
    sessions.store().coordinator().local_cache().clear();
    spy.fail_next(1, StoreErrorKind::Unavailable);
    let page = with_both(&one, &two).visit(&serve(&sessions, read)).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn former_cookies_are_removed_with_each_cookie_that_is_set_or_removed() {
    let cookie = CookieConfig::new()
        .name("id")
        .domain("example.com")
        .partitioned(true)
        .former("/app", None)
        .former("/", Some("www.example.com"));
    let sessions = start(config(&MemoryBackend::new()).cookie(cookie)).await;
    let mut browser = Browser::new();
    // It may not have been partitioned then.
    let removals = [
        "id=; HttpOnly; SameSite=Lax; Partitioned; Secure; Path=/app; Max-Age=0",
        "id=; HttpOnly; SameSite=Lax; Secure; Path=/app; Max-Age=0",
        "id=; HttpOnly; SameSite=Lax; Partitioned; Secure; Path=/; Domain=www.example.com; Max-Age=0",
        "id=; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=www.example.com; Max-Age=0",
    ];
    let sent = browser.visit(&serve(&sessions, count)).await.set_cookies();
    for (sent, expected) in sent.iter().zip(removals) {
        assert!(sent.starts_with(expected), "{sent}");
    }
    let last = sent.last().unwrap();
    assert!(last.starts_with("id=") && !last.contains("Max-Age"), "the cookie comes last");
    assert!(last.ends_with("Partitioned; Secure; Path=/; Domain=example.com"), "{last}");
    assert_eq!(browser.visit(&serve(&sessions, read)).await.set_cookies().len(), 0);

    let sent = browser.visit(&serve(&sessions, destroy)).await.set_cookies();
    assert_eq!(sent.len(), 5);
    assert!(sent[4].contains("Partitioned; Secure; Path=/; Domain=example.com; Max-Age=0"));
}
