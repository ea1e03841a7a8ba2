//! The example `sse`, run as a process.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use support::client::Client;
use support::node::Node;
use tokio::time::timeout;

/// Opens a stream of the example.
async fn open(node: &Node, path: &str, visitor: &Client) -> Response<Incoming> {
    let mut request = Request::get(node.url(path));
    if let Some(cookie) = &visitor.cookie {
        request = request.header(header::COOKIE, cookie);
    }
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    client.request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

/// Returns the next event of a stream, or `None` if it has ended.
async fn next(stream: &mut Response<Incoming>) -> Option<Bytes> {
    let frame = timeout(support::wait::DEADLINE, stream.frame()).await.unwrap();
    frame.map(|frame| frame.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn a_stream_tells_of_changes_and_ends_with_the_session() {
    let node = Node::start_example("sse", &[]);
    let mut ada = Client::new();
    ada.post(&node.url("/login?user=ada")).await;
    let mut events = open(&node, "/events", &ada).await;
    let mut clock = open(&node, "/clock", &ada).await;
    for visits in 1..=2 {
        ada.post(&node.url("/visit")).await;
        assert_eq!(next(&mut events).await.unwrap(), format!("data: visits {visits}\n\n"));
    }
    assert_eq!(next(&mut clock).await.unwrap(), "data: tick\n\n");
    ada.post(&node.url("/logout")).await;
    assert_eq!(next(&mut events).await, None);
    while next(&mut clock).await.is_some() {}
}

#[tokio::test]
async fn a_stream_is_refused_to_a_visitor_whose_session_has_no_login() {
    let node = Node::start_example("sse", &[]);
    let mut visitor = Client::new();
    for path in ["/events", "/clock"] {
        assert_eq!(open(&node, path, &visitor).await.status(), StatusCode::UNAUTHORIZED);
    }
    visitor.post(&node.url("/visit")).await;
    assert!(visitor.cookie.is_some(), "the visit has made a session");
    for path in ["/events", "/clock"] {
        assert_eq!(open(&node, path, &visitor).await.status(), StatusCode::UNAUTHORIZED);
    }
}
