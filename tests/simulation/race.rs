//! One race: a session gets a new token while others count in it, or log it out. What was acknowledged is in the new session, and
//! a logout that was acknowledged ends both.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{Session, SessionId, StoreErrorKind};
use http::{HeaderValue, Request, Response, header};
use tokio::time::sleep;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{Counter, Dice, Node, calm, nodes, trouble};

/// What the racers were told.
#[derive(Default)]
struct Told {
    increments: u64,
    unknown: u64,
    logged_out: bool,
    logout_tried: bool,
    new: Option<SessionId>,
}

/// A request that asks for a new token. The new id, if it succeeds.
async fn regenerate(node: &Node, cookie: HeaderValue) -> Option<SessionId> {
    let service = node.layer.layer(service_fn(|request: Request<()>| async move {
        let Ok(session) = Session::<Counter>::from_extensions(request.extensions()).await else {
            return Ok::<_, Infallible>(Response::new(None));
        };
        session.regenerate();
        let saved = session.save().await;
        Ok(Response::new(session.id().filter(|_| saved.is_ok())))
    }));
    let request = Request::builder().header(header::COOKIE, cookie).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body()
}

async fn increment(node: &Node, id: SessionId, told: &RefCell<Told>) {
    match node.store().modify(id, |data| data.count += 1).await {
        Ok(()) => told.borrow_mut().increments += 1,
        Err(error) if error.kind() == StoreErrorKind::OutcomeUnknown => {
            told.borrow_mut().unknown += 1;
        }
        Err(_) => {}
    }
}

async fn log_out(node: &Node, id: SessionId, told: &RefCell<Told>) {
    told.borrow_mut().logout_tried = true;
    if node.store().delete(id).await.is_ok() {
        told.borrow_mut().logged_out = true;
    }
}

/// One race, and the verdict.
pub(crate) async fn race(seed: u64) {
    // In every fourth race nothing fails, so that nothing may be left behind.
    let fails = !seed.is_multiple_of(4);
    let (dice, nodes) = (Dice::new(seed), nodes(3, seed));
    let cookie = nodes[0].layer.cookie_for(Counter::default()).await.unwrap();
    let old = nodes[0].store().all_session_ids().await.unwrap()[0];
    let told = Rc::new(RefCell::new(Told::default()));
    for node in nodes.iter() {
        node.faults.delay_by(Duration::ZERO..Duration::from_millis(50));
    }
    let rounds = if fails { 3 } else { 0 };
    let mut racers = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone(), rounds))];
    for racer in 0..6 {
        let (nodes, dice, told, cookie) =
            (nodes.clone(), dice.clone(), told.clone(), cookie.clone());
        let logs_out = racer == 5 && dice.roll(2) == 0;
        racers.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(300)).await;
            let node = dice.pick(&nodes);
            match racer {
                0 => {
                    let new = regenerate(node, cookie).await;
                    told.borrow_mut().new = new;
                }
                _ if logs_out => log_out(node, old, &told).await,
                _ => increment(node, old, &told).await,
            }
        }));
    }
    for racer in racers {
        racer.await.unwrap();
    }
    // Not so long that the trail from the old session to the new one is lost, but past every retry.
    for node in nodes.iter() {
        node.faults.heal();
    }
    sleep(Duration::from_secs(1)).await;
    let told = told.take();
    judge(&nodes, old, &told).await;
    if !fails {
        let left = nodes[0].store().all_session_ids().await.unwrap();
        let known = |id: &SessionId| *id == old || Some(*id) == told.new;
        assert!(left.iter().all(known), "a session is left behind that nobody knows of");
    }
    calm(&nodes).await;
}

async fn judge(nodes: &[Node], old: SessionId, told: &Told) {
    for node in nodes {
        let count = async |id: SessionId| {
            node.store().find_fresh(id).await.unwrap().map(|record| record.data().count)
        };
        let (at_old, at_new) = (
            count(old).await,
            match told.new {
                Some(new) => count(new).await,
                None => None,
            },
        );
        if told.logged_out {
            assert_eq!((at_old, at_new), (None, None), "a session that was logged out lives");
        }
        let Some(count) = at_new.or(at_old) else {
            let excused = told.logout_tried || told.unknown > 0 || told.new.is_none();
            assert!(excused, "the session has gone, though nobody ended it");
            continue;
        };
        assert!(at_old.is_none() || at_new.is_none(), "both the old and the new session live");
        let expected = told.increments..=told.increments + told.unknown;
        assert!(expected.contains(&count), "{count} increments are there, {expected:?} were made");
    }
}
