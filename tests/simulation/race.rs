//! One race: a session is regenerated, or replaced by a login, while other requests increment its
//! counter or log it out. A regenerated session contains all acknowledged increments, and an
//! acknowledged logout ends it under both ids. A login that was acknowledged has ended the session
//! before, and nothing that is done to that one touches the new one.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{Session, SessionId, StoreErrorKind};
use http::{HeaderValue, Request, Response, header};
use tokio::time::sleep;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::promise::promise;
use super::{Counter, Dice, Node, calm, nodes, trouble};

/// The outcomes that were reported to the racers.
#[derive(Default)]
struct Outcomes {
    increments: u64,
    /// Increments of unknown outcome.
    unknown: u64,
    logged_out: bool,
    logout_tried: bool,
    new: Option<SessionId>,
}

/// What gives the session a new id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewId {
    Regeneration,
    Login,
}

/// The count with which the session of a login begins.
const LOGIN: u64 = 1000;

/// Sends a request that gives the session a new id. Returns the new id if it succeeds.
async fn move_on(node: &Node, cookie: HeaderValue, how: NewId) -> Option<SessionId> {
    let service = node.layer.layer(service_fn(move |request: Request<()>| async move {
        let Ok(session) = Session::<Counter>::from_extensions(request.extensions()).await else {
            return Ok::<_, Infallible>(Response::new(None));
        };
        match how {
            NewId::Regeneration => session.regenerate(),
            NewId::Login => session.replace(Counter { count: LOGIN, ..Counter::default() }),
        }
        let saved = session.save().await;
        Ok(Response::new(session.id().filter(|_| saved.is_ok())))
    }));
    let request = Request::builder().header(header::COOKIE, cookie).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    response.into_body()
}

async fn increment(node: &Node, id: SessionId, outcomes: &RefCell<Outcomes>) {
    match node.store().modify(id, |data| data.count += 1).await {
        Ok(()) => outcomes.borrow_mut().increments += 1,
        Err(error) if error.kind() == StoreErrorKind::OutcomeUnknown => {
            outcomes.borrow_mut().unknown += 1;
        }
        Err(_) => {}
    }
}

async fn log_out(node: &Node, id: SessionId, outcomes: &RefCell<Outcomes>) {
    outcomes.borrow_mut().logout_tried = true;
    if node.store().delete(id).await.is_ok() {
        outcomes.borrow_mut().logged_out = true;
    }
}

/// Runs one race and checks its result.
pub(crate) async fn race(seed: u64, how: NewId) {
    // In every fourth race nothing fails, so no unused record may be left behind.
    let fails = !seed.is_multiple_of(4);
    let (dice, nodes) = (Dice::new(seed), nodes(3, seed));
    let cookie = nodes[0].layer.cookie_for(Counter::default()).await.unwrap();
    let old = nodes[0].store().all_session_ids().await.unwrap()[0];
    let outcomes = Rc::new(RefCell::new(Outcomes::default()));
    for node in nodes.iter() {
        node.faults.delay_by(Duration::ZERO..Duration::from_millis(50));
    }
    let rounds = if fails { 3 } else { 0 };
    let mut racers = vec![tokio::task::spawn_local(trouble(nodes.clone(), dice.clone(), rounds))];
    for racer in 0..6 {
        let (nodes, dice, outcomes, cookie) =
            (nodes.clone(), dice.clone(), outcomes.clone(), cookie.clone());
        let logs_out = racer == 5 && dice.roll(2) == 0;
        racers.push(tokio::task::spawn_local(async move {
            sleep(dice.millis(300)).await;
            let node = dice.pick(&nodes);
            match racer {
                0 => {
                    let new = move_on(node, cookie, how).await;
                    outcomes.borrow_mut().new = new;
                }
                _ if logs_out => log_out(node, old, &outcomes).await,
                _ => increment(node, old, &outcomes).await,
            }
        }));
    }
    for racer in racers {
        racer.await.unwrap();
    }
    // Longer than every retry, but not so long that the tombstone expires.
    for node in nodes.iter() {
        node.faults.heal();
    }
    sleep(Duration::from_secs(1)).await;
    let outcomes = outcomes.take();
    judge(&nodes, old, &outcomes, how).await;
    if !fails {
        let left = nodes[0].store().all_session_ids().await.unwrap();
        let known = |id: &SessionId| *id == old || Some(*id) == outcomes.new;
        assert!(left.iter().all(known), "an unused session is left behind");
    }
    calm(&*nodes).await;
}

async fn judge(nodes: &[Node], old: SessionId, outcomes: &Outcomes, how: NewId) {
    for node in nodes {
        let count = async |id: SessionId| {
            node.store().find_fresh(id).await.unwrap().map(|record| record.data().count)
        };
        let (at_old, at_new) = (
            count(old).await,
            match outcomes.new {
                Some(new) => count(new).await,
                None => None,
            },
        );
        if how == NewId::Login {
            let is_gone = at_old.is_none() || !outcomes.logged_out;
            promise!(Revived, is_gone, "a logged-out session still exists");
            if outcomes.new.is_some() {
                promise!(Revived, at_old.is_none(), "the session before the login still exists");
                promise!(Lost, at_new == Some(LOGIN), "the session of the login: {at_new:?}");
            }
            continue;
        }
        if outcomes.logged_out {
            let is_gone = at_old.is_none() && at_new.is_none();
            promise!(Revived, is_gone, "a session that was logged out still exists");
        }
        let Some(count) = at_new.or(at_old) else {
            let excused = outcomes.logout_tried || outcomes.unknown > 0 || outcomes.new.is_none();
            promise!(Lost, excused, "the session is gone, although nothing ended it");
            continue;
        };
        let is_one = at_old.is_none() || at_new.is_none();
        promise!(Revived, is_one, "both the old and the new session exist");
        let expected = outcomes.increments..=outcomes.increments + outcomes.unknown;
        promise!(
            Lost,
            expected.contains(&count),
            "the count is {count}, but {expected:?} increments were made"
        );
    }
}
