//! A browser as small as can be: it keeps one cookie.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::wait::DEADLINE;

/// A clone is the same browser at that moment, cookie included, and goes its own way from then on.
#[derive(Clone)]
pub(crate) struct Browser {
    client: Client<HttpConnector, Empty<Bytes>>,
    pub(crate) cookie: Option<String>,
}

/// What a server has answered. A body that is no JSON is null.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Browser {
    pub(crate) fn new() -> Self {
        Browser { client: Client::builder(TokioExecutor::new()).build_http(), cookie: None }
    }

    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        self.send("GET", url).await
    }

    pub(crate) async fn post(&mut self, url: &str) -> Answer {
        self.send("POST", url).await
    }

    async fn send(&mut self, method: &str, url: &str) -> Answer {
        self.try_send(method, url).await.expect("the server answers")
    }

    /// `None` if there is no whole answer.
    pub(crate) async fn try_send(&mut self, method: &str, url: &str) -> Option<Answer> {
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
