//! An HTTP client that keeps one cookie.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::wait::DEADLINE;

/// An HTTP client that keeps one cookie. A clone starts with the same cookie and is independent
/// from then on.
#[derive(Clone)]
pub struct Client {
    client: legacy::Client<HttpConnector, Empty<Bytes>>,
    pub cookie: Option<String>,
}

/// A server's response. The body is null if it is not JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Client {
    #[allow(clippy::new_without_default, reason = "tests do not need it")]
    pub fn new() -> Self {
        Client { client: legacy::Client::builder(TokioExecutor::new()).build_http(), cookie: None }
    }

    pub async fn get(&mut self, url: &str) -> Answer {
        self.send("GET", url).await
    }

    pub async fn post(&mut self, url: &str) -> Answer {
        self.send("POST", url).await
    }

    async fn send(&mut self, method: &str, url: &str) -> Answer {
        self.try_send(method, url).await.expect("the server responds")
    }

    /// Sends a request. Returns `None` if there is no complete response.
    pub async fn try_send(&mut self, method: &str, url: &str) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let exchange = async {
            let response = self.client.request(request.body(Empty::new()).unwrap()).await.ok()?;
            let (head, body) = response.into_parts();
            Some((head, body.collect().await.ok()?.to_bytes()))
        };
        let (head, body) = tokio::time::timeout(DEADLINE, exchange).await.unwrap()?;
        if let Some(cookie) = head.headers.get(header::SET_COOKIE) {
            self.accept(cookie.to_str().unwrap());
        }
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Some(Answer { status: head.status, headers: head.headers, body })
    }

    fn accept(&mut self, cookie: &str) {
        let pair = cookie.split(';').next().map(str::to_owned);
        self.cookie = pair.filter(|_| !cookie.contains("Max-Age=0"));
    }
}
