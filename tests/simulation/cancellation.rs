//! Every operation is given up at every point at which it waits: a client that hangs up, or a timeout outside. What was sent is
//! carried out late all the same. Nothing stale stays in memory, nobody waits for ever, and no session is left in two places.
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

/// Polls a future this often, and then drops it. Whether it came to its end.
async fn give_up_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            // It is given up in this very moment, and not when something happens next.
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Two nodes that hear each other, whose backend takes its time, and a session that both have in memory.
struct Scene {
    nodes: Rc<Vec<Node>>,
    id: SessionId,
    cookie: HeaderValue,
}

impl Scene {
    async fn set() -> Self {
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

    /// A request to the first node.
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

    /// What is left when all that goes on by itself has ended: one number, on both nodes alike, or no session at all.
    async fn outcome(&self) -> Option<u64> {
        for node in self.nodes.iter() {
            node.faults.heal();
        }
        sleep(Duration::from_secs(1)).await;
        let left = self.nodes[0].store().all_session_ids().await.unwrap();
        assert!(left.len() <= 1, "a session lives in two places: {left:?}");
        let id = left.first().copied();
        for (number, node) in self.nodes.iter().enumerate() {
            assert!(node.store().coordinator().is_listening());
            for id in [Some(self.id), id].into_iter().flatten() {
                let in_time = async |read| {
                    timeout(Duration::from_secs(5), read).await.expect("a reader waits for ever")
                };
                let found =
                    in_time(node.store().find(id)).await.unwrap().map(|record| record.data().count);
                let fresh =
                    node.store().find_fresh(id).await.unwrap().map(|record| record.data().count);
                assert_eq!(found, fresh, "node {number} has something stale in memory");
            }
        }
        let count = self.nodes[0].store().find_fresh(id?).await.unwrap().unwrap().data().count;
        // And it can be changed: nobody holds a turn.
        let change = self.nodes[0].store().modify(id?, |data| data.count += 100);
        timeout(Duration::from_secs(5), change).await.expect("a writer waits for ever").unwrap();
        Some(count)
    }
}

/// Gives an operation up after one poll, two polls and so on, until it comes to its end by itself. The outcomes, in that order.
fn outcomes(operation: impl AsyncFn(&Scene)) -> Vec<Option<u64>> {
    let mut outcomes = Vec::new();
    for polls in 1.. {
        let ended = run(async {
            let scene = Scene::set().await;
            let ended = give_up_after(polls, operation(&scene)).await;
            outcomes.push(scene.outcome().await);
            ended
        });
        if ended {
            break;
        }
    }
    assert!(outcomes.len() > 2, "it was given up nowhere");
    outcomes
}

#[test]
fn a_read_can_be_given_up() {
    let all = outcomes(async |scene| {
        scene.nodes[1].store().evict_from_cache(scene.id);
        let _ = scene.nodes[1].store().find(scene.id).await;
    });
    assert!(all.iter().all(|count| *count == Some(0)), "{all:?}");
}

#[test]
fn one_of_two_readers_can_give_up_and_the_other_is_served() {
    let all = outcomes(async |scene| {
        let other = tokio::task::spawn_local({
            let (nodes, id) = (scene.nodes.clone(), scene.id);
            async move { nodes[1].store().find_fresh(id).await.unwrap().unwrap().data().count }
        });
        let given_up = give_up_after(1, scene.nodes[1].store().find_fresh(scene.id)).await;
        assert!(!given_up);
        assert_eq!(timeout(Duration::from_secs(5), other).await.unwrap().unwrap(), 0);
    });
    assert!(all.iter().all(|count| *count == Some(0)), "{all:?}");
}

#[test]
fn a_change_can_be_given_up_and_is_made_once_or_not_at_all() {
    let all = outcomes(async |scene| {
        let _ = scene.nodes[0].store().modify(scene.id, |data| data.count += 1).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}

#[test]
fn a_deletion_can_be_given_up() {
    let all = outcomes(async |scene| {
        let _ = scene.nodes[0].store().delete(scene.id).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0) | None)), "{all:?}");
    assert_eq!(all.last(), Some(&None));
}

#[test]
fn a_request_that_changes_its_session_can_be_given_up() {
    let all = outcomes(async |scene| {
        scene.request(async |session| session.update(|data| data.count += 1)).await;
    });
    assert!(all.iter().all(|count| matches!(count, Some(0 | 1))), "{all:?}");
    assert_eq!(all.last(), Some(&Some(1)));
}

#[test]
fn a_request_that_asks_for_a_new_token_can_be_given_up_and_its_session_is_in_one_place() {
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
fn a_logout_is_carried_out_wherever_its_request_is_given_up() {
    let all = outcomes(async |scene| scene.request(async |session| session.destroy()).await);
    assert!(all.iter().all(Option::is_none), "{all:?}");
}

#[test]
fn a_handler_that_waits_for_its_change_can_be_given_up() {
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
