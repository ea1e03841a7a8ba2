//! The example `login`, run as a process.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::node::Node;

const PASSWORD: &str = "correct horse battery staple";

pub(crate) struct Browser<'a> {
    node: &'a Node,
    client: Client<HttpConnector, Full<Bytes>>,
    cookie: Option<String>,
    agent: &'static str,
}

pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl<'a> Browser<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Browser { node, client, cookie: None, agent: "a test" }
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        site: &str,
    ) -> Page {
        let form: Vec<_> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", value.replace(' ', "+")))
            .collect();
        let mut request = Request::builder()
            .method(method)
            .uri(self.node.url(path))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, self.agent)
            .header("sec-fetch-site", site);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response =
            self.client.request(request.body(form.join("&").into()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        if let Some(cookie) = head.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let pair = cookie.split(';').next().map(str::to_owned);
            self.cookie = pair.filter(|_| !cookie.contains("Max-Age=0"));
        }
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        Page { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Page {
        self.send("GET", path, &[], "same-origin").await
    }

    pub(crate) async fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        self.send("POST", path, form, "same-origin").await
    }

    async fn login(&mut self, name: &str, password: &str) -> Page {
        self.post("/login", &[("name", name), ("password", password)]).await
    }

    async fn is_logged_in(&mut self) -> bool {
        let page = self.get("/").await;
        let redirected =
            page.headers.get(header::LOCATION).is_some_and(|location| location == "/login");
        assert_eq!(
            redirected,
            page.status == StatusCode::SEE_OTHER,
            "the response is a page for members or a redirect to the login"
        );
        !redirected && page.body.contains("Hello ada")
    }
}

fn start() -> Node {
    Node::start_example("login", &[])
}

#[tokio::test]
async fn a_member_logs_in_only_with_the_right_password() {
    let node = start();
    let mut browser = Browser::new(&node);
    assert!(!browser.is_logged_in().await);
    let (wrong, unknown) =
        (browser.login("ada", "a wrong password").await, browser.login("eve", PASSWORD).await);
    for page in [&wrong, &unknown] {
        assert_eq!(page.status, StatusCode::UNAUTHORIZED);
        assert!(!page.headers.contains_key(header::SET_COOKIE));
    }
    assert_eq!(wrong.body, unknown.body, "the response does not reveal which names exist");
    assert_eq!(browser.login("ada", PASSWORD).await.status, StatusCode::SEE_OTHER);
    assert!(browser.is_logged_in().await);
    let first = browser.cookie.clone();
    browser.login("ada", PASSWORD).await;
    assert_ne!(browser.cookie, first, "each login has its own token");
    let mut planted = Browser { cookie: first, ..Browser::new(&node) };
    assert!(!planted.is_logged_in().await);
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions_and_gives_this_one_a_new_token() {
    let node = start();
    let (mut here, mut elsewhere) = (Browser::new(&node), Browser::new(&node));
    here.login("ada", PASSWORD).await;
    elsewhere.login("ada", PASSWORD).await;
    let before = here.cookie.clone();

    let wrong =
        here.post("/password", &[("old", "wrong"), ("new", "a password of some length")]).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let short = here.post("/password", &[("old", PASSWORD), ("new", "short")]).await;
    assert_eq!(short.status, StatusCode::BAD_REQUEST);
    assert!(elsewhere.is_logged_in().await);

    let changed =
        here.post("/password", &[("old", PASSWORD), ("new", "a password of some length")]).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    assert!(here.is_logged_in().await);
    assert_ne!(here.cookie, before);
    assert!(!elsewhere.is_logged_in().await);
    assert_eq!(elsewhere.login("ada", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        elsewhere.login("ada", "a password of some length").await.status,
        StatusCode::SEE_OTHER
    );
}

#[tokio::test]
async fn a_member_logs_out_here_or_everywhere() {
    let node = start();
    let (mut here, mut elsewhere) = (Browser::new(&node), Browser::new(&node));
    here.login("ada", PASSWORD).await;
    elsewhere.login("ada", PASSWORD).await;
    here.post("/logout", &[]).await;
    assert!(here.cookie.is_none() && !here.is_logged_in().await && elsewhere.is_logged_in().await);
    here.login("ada", PASSWORD).await;
    here.post("/logout-everywhere", &[]).await;
    assert!(here.cookie.is_none() && !here.is_logged_in().await && !elsewhere.is_logged_in().await);
}

#[tokio::test]
async fn a_member_sees_where_the_account_is_logged_in_and_ends_one_of_the_sessions() {
    let node = start();
    let (mut here, mut elsewhere) = (Browser::new(&node), Browser::new(&node));
    elsewhere.agent = "<Phone>";
    elsewhere.login("ada", PASSWORD).await;
    here.login("ada", PASSWORD).await;
    let page = here.get("/devices").await.body;
    let devices: Vec<_> =
        page.split("<label>").filter(|part| part.contains("name=\"origin\"")).collect();
    let [this, other] = devices[..] else { panic!("two devices: {page}") };
    assert!(this.contains("a test") && this.contains("logged in just now"), "{this}");
    assert!(this.contains("this one") && !other.contains("this one"), "{page}");
    assert!(other.contains("&lt;Phone>"), "what a client sends is escaped: {other}");

    let origin = other.split("value=\"").nth(1).unwrap().split('"').next().unwrap();
    let wrong = here.post("/devices", &[("origin", origin), ("password", "wrong")]).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    assert!(elsewhere.is_logged_in().await);
    let ended = here.post("/devices", &[("origin", origin), ("password", PASSWORD)]).await;
    assert!(ended.body.contains("That device is logged out."), "{}", ended.body);
    assert!(!elsewhere.is_logged_in().await && here.is_logged_in().await);
    let again = here.post("/devices", &[("origin", origin), ("password", PASSWORD)]).await;
    assert!(again.body.contains("had ended already"), "{}", again.body);
}

#[tokio::test]
async fn a_sixth_login_ends_the_oldest() {
    let node = start();
    let mut browsers: Vec<_> = (0..6).map(|_| Browser::new(&node)).collect();
    for browser in &mut browsers {
        assert_eq!(browser.login("ada", PASSWORD).await.status, StatusCode::SEE_OTHER);
    }
    for (number, browser) in browsers.iter_mut().enumerate() {
        assert_eq!(browser.is_logged_in().await, number > 0, "{number}");
    }
}

#[tokio::test]
async fn form_posts_from_another_site_are_refused() {
    let node = start();
    let mut ada = Browser::new(&node);
    ada.login("ada", PASSWORD).await;
    for path in ["/logout", "/logout-everywhere", "/password", "/devices", "/login"] {
        let answer = ada.send("POST", path, &[], "cross-site").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert!(ada.is_logged_in().await);
}
