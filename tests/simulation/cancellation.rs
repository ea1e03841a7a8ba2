//! Cancels each operation at every point at which it waits, as a client that disconnects or an
//! outer timeout would. The backend still executes, late, the calls that it has received. No stale
//! entry stays in the cache, no task waits for ever, and no session is left under two ids.
#![allow(clippy::needless_pass_by_value, reason = "closures read better")]

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use clustered_sessions::{Session, SessionId};
use http::{HeaderValue, Request, Response, header};
use tokio::time::{sleep, timeout};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{Counter, Node, nodes, run};

/// Polls a future this many times and then drops it. Returns `true` if it completed.
async fn cancel_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            // The future is dropped now, and not at the next wake-up.
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Two nodes that receive each other's announcements over a slow backend, and a session that both
/// have cached.
struct Scene {
    nodes: Rc<Vec<Node>>,
    id: SessionId,
    cookie: HeaderValue,
}

impl Scene {
    async fn start() -> Self {
        let nodes = nodes(2, 1);
        sleep(Duration::from_secs(1)).await;
        let cookie = nodes[0].layer.cookie_for(Counter::default()).await.unwrap();
        let id = nodes[0].store().all_session_ids().await.unwrap()[0];
        for node in nodes.iter() {
            node.store().get(id).await.unwrap();
            node.faults.delay_by(Duration::from_millis(20)..Duration::from_millis(30));
        }
        Scene { nodes, id, cookie }
    }

    /// Sends a request to the first node.
    async fn request(&self, handler: impl AsyncFn(Session<Counter>) + 'static) {
        let handler = Rc::new(handler);
        let service = self.nodes[0].layer.layer(service_fn(move |request: Request<()>| {
            let handler = handler.clone();
            async move {
                if let Ok(session) = Session::<Counter>::from_extensions(request.extensions()).await
                {
                    handler(session).await;
                }
                Ok::<_, Infallible>(Response::new(()))
            }
        }));
        let request =
            Request::builder().header(header::COOKIE, self.cookie.clone()).body(()).unwrap();
        service.oneshot(request).await.unwrap();
    }

    /// Waits for the background work to end and checks that both nodes agree. Returns the count of
    /// the session, or `None` if no session is left.
    async fn outcome(&self) -> Option<u64> {
        for node in self.nodes.iter() {
            node.faults.heal();
        }
        sleep(Duration::from_secs(1)).await;
        let left = self.nodes[0].store().all_session_ids().await.unwrap();
        assert!(left.len() <= 1, "a session is stored under two ids: {left:?}");
        let id = left.first().copied();
        for (number, node) in self.nodes.iter().enumerate() {
            assert!(node.store().coordinator().is_listening());
            for id in [Some(self.id), id].into_iter().flatten() {
                let in_time = async |read| {
                    timeout(Duration::from_secs(5), read).await.expect("a read never completes")
                };
                let found =
                    in_time(node.store().find(id)).await.unwrap().map(|record| record.data().count);
                let fresh =
                    node.store().find_fresh(id).await.unwrap().map(|record| record.data().count);
                assert_eq!(found, fresh, "node {number} has a stale entry in its cache");
            }
        }
        let count = self.nodes[0].store().find_fresh(id?).await.unwrap().unwrap().data().count;
        // The session can be changed: no cancelled writer still holds its lock.
        let change = self.nodes[0].store().modify(id?, |data| data.count += 100);
        timeout(Duration::from_secs(5), change).await.expect("a write never completes").unwrap();
        Some(count)
    }
}

/// Cancels an operation after one poll, after two polls and so on, until it completes. Returns the
/// outcomes in that order.
fn outcomes(operation: impl AsyncFn(&Scene)) -> Vec<Option<u64>> {
    let mut outcomes = Vec::new();
    for polls in 1.. {
        let ended = run(async {
            let scene = Scene::start().await;
            let ended = cancel_after(polls, operation(&scene)).await;
            outcomes.push(scene.outcome().await);
            ended
        });
        if ended {
            break;
        }
    }
    assert!(outcomes.len() > 1, "the operation was never cancelled");
    outcomes
}

#[test]
fn a_cancelled_read_leaves_nothing_stale() {
    let all = outcomes(async |scene| {
        scene.nodes[1].store().evict_from_cache(scene.id);
        let _ = scene.nodes[1].store().find(scene.id).await;
    });
    assert!(all.iter().all(|count| *count == Some(0)), "{all:?}");
}

#[test]
fn a_reader_is_served_if_another_reader_of_the_session_is_cancelled() {
    let all = outcomes(async |scene| {
        let other = tokio::task::spawn_local({
            let (nodes, id) = (scene.nodes.clone(), scene.id);
            async move { nodes[1].store().find_fresh(id).await.unwrap().unwrap().data().count }
        });
        let completed = cancel_after(1, scene.nodes[1].store().find_fresh(scene.id)).await;
        assert!(!completed);
        assert_eq!(timeout(Duration::from_secs(5), other).await.unwrap().unwrap(), 0);
    });
    assert!(all.iter().all(|count| *count == Some(0)), "{all:?}");
}

#[test]
fn a_cancelled_change_is_made_once_or_not_at_all() {
    let all = outcomes(async |scene| {
        let _ = scene.nodes[0].store().modify(scene.id, |data| data.count += 1).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}

#[test]
fn a_cancelled_deletion_is_made_or_has_no_effect() {
    let all = outcomes(async |scene| {
        let _ = scene.nodes[0].store().delete(scene.id).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0) | None)), "{all:?}");
    assert_eq!(all.last(), Some(&None));
}

#[test]
fn a_cancelled_request_makes_its_change_once_or_not_at_all() {
    let all = outcomes(async |scene| {
        scene.request(async |session| session.update(|data| data.count += 1)).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}

#[test]
fn a_cancelled_regeneration_leaves_one_session() {
    let all = outcomes(async |scene| {
        scene
            .request(async |session| {
                session.update(|data| data.count += 1);
                session.regenerate();
            })
            .await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}

#[test]
fn a_cancelled_login_leaves_one_session() {
    let all = outcomes(async |scene| {
        scene
            .request(async |session| session.replace(Counter { count: 7, ..Counter::default() }))
            .await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 7))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(7)));
}

#[test]
fn a_logout_is_carried_out_even_if_its_request_is_cancelled() {
    let all = outcomes(async |scene| scene.request(async |session| session.destroy()).await);
    assert!(all.iter().all(Option::is_none), "{all:?}");
}

#[test]
fn a_cancelled_handler_makes_its_change_once_or_not_at_all() {
    let all = outcomes(async |scene| {
        scene
            .request(async |session| {
                let _ = session.modify(|data| data.count += 1).await;
                let _ = session.reload().await;
            })
            .await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}
