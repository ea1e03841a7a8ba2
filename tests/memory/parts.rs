//! Parts of the session, which libraries ask for without knowing the whole.

use axum::Router;
use axum::routing::get;
use clustered_sessions::{
    MemoryBackend, Part, Session, SessionConfig, SessionData, SessionError, SessionLayer,
};
use futures_util::future::join_all;

use crate::web::{Browser, secret};

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Basket(Vec<u32>);

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct Whole {
    user: String,
    basket: Basket,
}

impl AsRef<Basket> for Whole {
    fn as_ref(&self) -> &Basket {
        &self.basket
    }
}

impl AsMut<Basket> for Whole {
    fn as_mut(&mut self) -> &mut Basket {
        &mut self.basket
    }
}

/// A library's handler, for any whole.
async fn add<T>(part: Part<T, Basket>) -> Result<String, SessionError>
where
    T: SessionData + AsRef<Basket> + AsMut<Basket>,
{
    let items = part.modify(|basket| {
        basket.0.push(7);
        basket.0.len()
    });
    Ok(items.await?.to_string())
}

async fn both(session: Session<Whole>, part: Part<Whole, Basket>) -> String {
    session.update(|whole| whole.user = "Ada".to_owned());
    part.update(|basket| basket.0.clear());
    part.update_with(3, |basket, item| basket.0.push(item));
    part.session().read(|whole| format!("{} {:?}", whole.user, whole.basket.0))
}

async fn take_last(part: Part<Whole, Basket>) -> Result<String, SessionError> {
    let last = part.clone().modify_if(|basket| basket.0.pop()).await?;
    Ok(format!("{last:?} {}", part.read(|basket| basket.0.len())))
}

fn app(memory: &MemoryBackend) -> Router {
    let config = SessionConfig::<Whole>::builder(secret()).backend(memory.clone());
    Router::new()
        .route("/", get(add::<Whole>))
        .route("/both", get(both))
        .route("/last", get(take_last))
        .layer(SessionLayer::new(config.build().unwrap()))
}

#[tokio::test]
async fn a_part_and_the_whole_are_the_same_session() {
    let app = app(&MemoryBackend::new());
    let mut browser = Browser::new();
    assert_eq!(browser.visit(&app).await.body, "1");
    assert_eq!(browser.visit_path(&app, "/both").await.body, "Ada [3]");
    assert_eq!(browser.visit(&app).await.body, "2");
    assert_eq!(browser.visit_path(&app, "/last").await.body, "Some(7) 1");
    assert_eq!(browser.visit_path(&app, "/last").await.body, "Some(3) 0");
    assert_eq!(browser.visit_path(&app, "/last").await.body, "None 0");
}

#[tokio::test]
async fn concurrent_changes_of_a_part_are_all_kept() {
    let memory = MemoryBackend::new();
    let nodes = [app(&memory), app(&memory)];
    let mut browser = Browser::new();
    browser.visit(&nodes[0]).await;
    let requests = (0..10).map(|number| {
        let (mut browser, app) = (browser.clone(), &nodes[number % 2]);
        async move { browser.visit(app).await.body }
    });
    let mut counts: Vec<u32> =
        join_all(requests).await.iter().map(|body| body.parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (2..=11).collect::<Vec<_>>());
}
