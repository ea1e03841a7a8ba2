//! A filter of warp.

use clustered_sessions::{Secret, Session, SessionConfig, SessionLayer};
use http::header;
use http_body_util::{BodyExt as _, Empty};
use serde::{Deserialize, Serialize};
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};
use warp::{Filter as _, Reply as _};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

type Body = Empty<bytes::Bytes>;

// In the guide, word for word:

async fn visit(session: Session<Visitor>) -> warp::reply::Response {
    let visits = session.modify(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    match visits.await {
        Ok(visits) => visits.to_string().into_response(),
        Err(error) => error.to_response(),
    }
}

/// Puts the session where filters can take it from.
async fn extract<S>(
    mut filters: S,
    mut request: http::Request<Body>,
) -> Result<warp::reply::Response, S::Error>
where
    S: Service<http::Request<Body>, Response = warp::reply::Response>,
{
    match Session::<Visitor>::from_extensions(request.extensions()).await {
        Ok(session) => {
            request.extensions_mut().insert(session);
            filters.call(request).await
        }
        Err(error) => Ok(error.to_response()),
    }
}

// End of the quotation.

#[tokio::test]
async fn a_filter_counts_the_visits_of_a_session() {
    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("warp"));
    let sessions = SessionLayer::new(config.build().unwrap());
    // In the guide:
    let filters = warp::service(warp::any().and(warp::ext::get::<Session<Visitor>>()).then(visit));
    let app = ServiceBuilder::new()
        .layer(sessions)
        .service(service_fn(move |request| extract(filters.clone(), request)));
    // End.
    let mut cookie = None;
    for visits in ["1", "2"] {
        let mut request = http::Request::new(Body::new());
        if let Some(cookie) = &cookie {
            request.headers_mut().insert(header::COOKIE, http::HeaderValue::clone(cookie));
        }
        let response = app.clone().oneshot(request).await.unwrap();
        cookie = response.headers().get(header::SET_COOKIE).cloned().or(cookie);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, visits);
    }
}

#[tokio::test]
async fn without_the_layer_the_answer_is_an_empty_500() {
    let filters = warp::service(warp::any().map(|| "not called"));
    let response = extract(filters, http::Request::new(Body::new())).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}
