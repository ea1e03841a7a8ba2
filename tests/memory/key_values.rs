//! Values under keys, changed by several requests at the same time.

use clustered_sessions::{KeyValues, MemoryBackend, Session, SessionLayer, ValueError};
use futures_util::future::join_all;
use http::{Request, StatusCode, header};
use tower::ServiceExt as _;

use crate::web::secret;

async fn node(memory: &MemoryBackend) -> SessionLayer<KeyValues> {
    let config = clustered_sessions::SessionConfig::builder(secret()).backend(memory.clone());
    SessionLayer::new(config.build().unwrap())
}

/// Sends a request whose handler does this with the session.
async fn visit<R: axum::response::IntoResponse>(
    node: &SessionLayer<KeyValues>,
    cookie: &http::HeaderValue,
    handler: impl AsyncFn(Session<KeyValues>) -> R,
) -> (StatusCode, Vec<u8>) {
    let service = tower::service_fn(async |request: Request<()>| {
        let session = Session::from_extensions(request.extensions()).await.unwrap();
        Ok::<_, std::convert::Infallible>(handler(session).await.into_response())
    });
    let request = Request::builder().header(header::COOKIE, cookie).body(()).unwrap();
    let response = tower::Layer::layer(node, service).oneshot(request).await.unwrap();
    let status = response.status();
    (status, axum::body::to_bytes(response.into_body(), 1000).await.unwrap().into())
}

#[tokio::test]
async fn requests_that_change_different_keys_at_once_keep_both() {
    let memory = MemoryBackend::new();
    let (one, other) = (node(&memory).await, node(&memory).await);
    let cookie = one.cookie_for(KeyValues::new()).await.unwrap();
    let (status, _) = visit(&one, &cookie, async |session| {
        session.insert("one", 1)?;
        visit(&other, &cookie, async |session| {
            session.insert("other", 2)?;
            Ok::<_, ValueError>(())
        })
        .await;
        assert_eq!(session.get::<u64>("other")?, None, "a request sees what it has loaded");
        Ok::<_, ValueError>(())
    })
    .await;
    assert_eq!(status, StatusCode::OK);
    visit(&other, &cookie, async |session| {
        let values = session.data();
        assert_eq!(values.keys().collect::<Vec<_>>(), ["one", "other"]);
        assert_eq!(values.get::<u64>("other").unwrap(), Some(2));
        session.remove("one");
        assert_eq!(session.get::<u64>("one").unwrap(), None);
    })
    .await;
    visit(&one, &cookie, async |session| {
        assert_eq!(session.data().keys().collect::<Vec<_>>(), ["other"]);
    })
    .await;
}

#[tokio::test]
async fn of_requests_that_take_a_value_one_gets_it() {
    let memory = MemoryBackend::new();
    let nodes = [node(&memory).await, node(&memory).await];
    let cookie = nodes[0].cookie_for(KeyValues::new()).await.unwrap();
    visit(&nodes[0], &cookie, async |session| session.insert("state", "secret").unwrap()).await;
    let takes = (0..10).map(|at| {
        visit(&nodes[at % 2], &cookie, async |session| {
            Ok::<_, ValueError>(session.take::<String>("state").await?.unwrap_or_default())
        })
    });
    let taken = join_all(takes).await;
    assert_eq!(taken.iter().filter(|(_, body)| body == b"secret").count(), 1);
    assert!(taken.iter().all(|(status, _)| *status == StatusCode::OK));
}

#[tokio::test]
async fn a_value_of_another_type_is_an_empty_500() {
    let node = node(&MemoryBackend::new()).await;
    let cookie = node.cookie_for(KeyValues::new()).await.unwrap();
    visit(&node, &cookie, async |session| session.insert("name", "Ada").unwrap()).await;
    let read = async |session: Session<KeyValues>| {
        session.get::<u64>("name").map(|name| format!("{name:?}"))
    };
    assert_eq!(visit(&node, &cookie, read).await, (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()));
}
