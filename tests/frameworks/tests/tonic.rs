//! A gRPC method of tonic.

use clustered_sessions::{
    Secret, Session, SessionConfig, SessionError, SessionLayer, StoreError, StoreErrorKind,
};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tower::{Layer as _, ServiceExt as _, service_fn};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

// In the guide, word for word:

/// A method of a service: tonic hands the extensions of the HTTP request on.
async fn visit(request: Request<()>) -> Result<Response<u64>, Status> {
    let session =
        Session::<Visitor>::from_extensions(request.extensions()).await.map_err(status)?;
    let visits = session.modify(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    Ok(Response::new(visits.await.map_err(status)?))
}

/// Returns the gRPC status of an error. A client may repeat what is `Unavailable`, so a change that
/// may have been made is `Unknown`.
fn status(error: SessionError) -> Status {
    match error.status() {
        _ if error.is_outcome_unknown() => Status::unknown(error.to_string()),
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(error.to_string()),
        StatusCode::CONFLICT => Status::failed_precondition(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// Answers a commit that has failed after the method: gRPC clients expect a status in a 200.
fn commit_failed(error: &SessionError) -> http::Response<Body> {
    status(error.clone()).into_http()
}

// End of the quotation.

fn sessions() -> SessionLayer<Visitor, fn(&SessionError) -> http::Response<Body>> {
    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("tonic"));
    SessionLayer::new(config.build().unwrap()).on_commit_error(commit_failed)
}

/// Calls the method in the way that a generated server does.
async fn serve(request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let answer = visit(Request::from_http(request.map(drop))).await;
    Ok(answer.map_or_else(Status::into_http, |response| {
        let mut http = http::Response::new(Body::empty());
        http.headers_mut().insert("visits", response.into_inner().into());
        http
    }))
}

#[tokio::test]
async fn a_method_counts_the_visits_of_a_session() {
    let app = sessions().layer(service_fn(serve));
    let mut cookie = None;
    for visits in ["1", "2"] {
        let mut request = http::Request::new(Body::empty());
        if let Some(cookie) = &cookie {
            request.headers_mut().insert(header::COOKIE, http::HeaderValue::clone(cookie));
        }
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["visits"], visits);
        cookie = response.headers().get(header::SET_COOKIE).cloned().or(cookie);
    }
}

#[tokio::test]
async fn an_error_is_a_status_of_grpc() {
    let without_layer = visit(Request::new(())).await.unwrap_err();
    assert_eq!(without_layer.code(), Code::Internal);
    for (kind, code) in [
        (StoreErrorKind::Timeout, Code::Unavailable),
        (StoreErrorKind::OutcomeUnknown, Code::Unknown),
        (StoreErrorKind::Gone, Code::FailedPrecondition),
    ] {
        assert_eq!(status(StoreError::new(kind).into()).code(), code);
    }

    let app = sessions().layer(service_fn(async |request: http::Request<Body>| {
        let session = Session::<Visitor>::from_extensions(request.extensions()).await.unwrap();
        session.update(|visitor| visitor.visits += 1);
        session.store().shutdown().await; // from now on, nothing can be committed
        Ok::<_, Status>(http::Response::new(Body::empty()))
    }));
    let response = app.oneshot(http::Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unavailable);
}
