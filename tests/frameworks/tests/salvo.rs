//! A handler of salvo.

use clustered_sessions::{Secret, Session, SessionConfig, SessionError, SessionLayer};
use http::{StatusCode, header};
use salvo::http::{ReqBody, ResBody};
use salvo::prelude::*;
use salvo::test::{ResponseExt as _, TestClient};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

// In the guide, word for word:

#[handler]
async fn visit(request: &mut Request, response: &mut Response) {
    match count(request).await {
        Ok(visits) => response.render(visits.to_string()),
        Err(error) => {
            response.status_code(error.status());
        }
    }
}

async fn count(request: &Request) -> Result<u64, SessionError> {
    let session = Session::<Visitor>::from_extensions(request.extensions()).await?;
    session
        .modify(|visitor| {
            visitor.visits += 1;
            visitor.visits
        })
        .await
}

fn router(sessions: SessionLayer<Visitor>) -> Router {
    Router::new().hoop(TowerLayerCompat::compat::<ReqBody>(sessions)).get(visit)
}

// End of the quotation.

#[tokio::test]
async fn a_handler_counts_the_visits_of_a_session() {
    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("salvo"));
    let app = Service::new(router(SessionLayer::new(config.build().unwrap())));
    let mut cookie = String::new();
    for visits in ["1", "2"] {
        let mut response = TestClient::get("http://localhost/")
            .add_header(header::COOKIE, &cookie, true)
            .send(&app)
            .await;
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            cookie = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        }
        assert_eq!(response.take_string().await.unwrap(), visits);
    }
}

#[tokio::test]
async fn without_the_layer_the_answer_is_a_500() {
    let app = Service::new(Router::new().get(visit));
    let response = TestClient::get("http://localhost/").send(&app).await;
    assert_eq!(response.status_code, Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(matches!(response.body, ResBody::None | ResBody::Once(_) | ResBody::Error(_)));
}
