//! Requests that give a session a new id.

use std::convert::Infallible;

use clustered_sessions::{Session, SessionId};
use http::{HeaderValue, Request, Response, header};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{Counter, Node};

/// The outcome of a request as the client knows it.
pub(crate) enum Answer {
    /// The session was saved under this id. The cookie is there if the response set one.
    Saved(SessionId, Option<HeaderValue>),
    /// Nothing was changed.
    Refused,
    /// The change may have been made.
    Unknown,
}

/// Sends a request that regenerates the session and may set its owner. Without a cookie, the
/// request creates a session.
pub(crate) async fn request(
    node: &Node,
    cookie: Option<HeaderValue>,
    owner: Option<&'static str>,
) -> Answer {
    let is_new = cookie.is_none();
    let service = node.layer.layer(service_fn(move |request: Request<()>| async move {
        let Ok(session) = Session::<Counter>::from_extensions(request.extensions()).await else {
            return Ok::<_, Infallible>(Response::new(None));
        };
        if session.is_new() != is_new {
            return Ok(Response::new(None));
        }
        if let Some(owner) = owner {
            session.update(move |data| data.owner = Some(owner.to_owned()));
        }
        session.regenerate();
        let saved = session.save().await;
        Ok(Response::new(Some(saved.map(|()| session.id()).map_err(|error| match error {
            clustered_sessions::SessionError::Store(error) => Some(error.kind()),
            _ => None,
        }))))
    }));
    let mut request = Request::builder().body(()).unwrap();
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie);
    }
    let response = service.oneshot(request).await.unwrap();
    // The layer commits a failed save again, and replaces the response if that fails, too.
    if !response.status().is_success() {
        return Answer::Unknown;
    }
    let set = response.headers().get(header::SET_COOKIE).map(cookie_pair);
    match response.into_body() {
        Some(Ok(Some(id))) => Answer::Saved(id, set),
        // A regeneration writes more than once, so a failure may leave the outcome of the last step
        // unknown.
        Some(Err(Some(_)) | Ok(None)) => Answer::Unknown,
        Some(Err(None)) | None => Answer::Refused,
    }
}

/// Returns the `Cookie` that a browser sends after this `Set-Cookie`.
pub(crate) fn cookie_pair(set: &HeaderValue) -> HeaderValue {
    let text = set.to_str().unwrap();
    HeaderValue::from_str(text.split(';').next().unwrap()).unwrap()
}
