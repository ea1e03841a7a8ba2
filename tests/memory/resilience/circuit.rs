//! The circuit breaker: when it opens, which probes it admits, and what it reports.

use std::time::Duration;

use clustered_sessions::{CircuitBreakerConfig, CircuitState, Session, SessionId, StoreErrorKind};
use futures_util::future::join;
use http::{StatusCode, header};
use support::log::Log;
use tokio::time::{Instant, advance, sleep, timeout};

use super::{MILLI, Nodes, SECOND, kind, visit};
use crate::web::{Browser, Call, Data, ada, serve};

/// Returns nodes whose circuit opens at the third fault, for a minute, and admits two probes.
/// Retries are disabled.
async fn with_breaker() -> Nodes {
    let breaker = CircuitBreakerConfig::new()
        .failure_threshold(3)
        .reset_timeout(SECOND * 60)
        .half_open_probes(2);
    Nodes::with(|config| config.enable_retry(false).circuit_breaker(breaker)).await
}

impl Nodes {
    fn circuit(&self) -> (CircuitState, u64) {
        (self.store().circuit().state(), self.store().circuit().openings())
    }

    async fn open(&self, id: SessionId) {
        self.spy.fail_next(3, StoreErrorKind::Unavailable);
        for _ in 0..3 {
            assert_eq!(kind(self.store().find_fresh(id).await), StoreErrorKind::Unavailable);
        }
        assert_eq!(self.circuit().0, CircuitState::Open);
        self.spy.take_calls();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_backend_is_not_called_until_the_reset_timeout() {
    let nodes = with_breaker().await;
    let (store, id) = (nodes.store(), nodes.session().await);
    nodes.open(id).await;
    let begun = Instant::now();
    assert_eq!(kind(store.find_fresh(id).await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.create(ada()).await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.modify(id, visit).await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.delete(id).await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.touch(id).await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.size().await), StoreErrorKind::CircuitOpen);
    assert_eq!(kind(store.clear().await), StoreErrorKind::CircuitOpen);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(nodes.spy.take_calls(), []);

    sleep(SECOND * 60).await;
    nodes.spy.fail_next(1, StoreErrorKind::Timeout);
    assert_eq!(kind(store.find_fresh(id).await), StoreErrorKind::Timeout, "the probe was made");
    assert_eq!(nodes.circuit(), (CircuitState::Open, 2));
    sleep(SECOND * 60).await;
    assert!(store.find_fresh(id).await.is_ok());
    assert_eq!(nodes.circuit(), (CircuitState::HalfOpen, 2));
    store.modify(id, visit).await.unwrap();
    assert_eq!(nodes.circuit(), (CircuitState::Closed, 2));
    assert_eq!(nodes.visits(id).await, 1);
}

#[tokio::test(start_paused = true)]
async fn loads_that_were_not_sent_say_nothing_about_the_backend() {
    let nodes = with_breaker().await;
    let (store, id) = (nodes.store(), nodes.session().await);
    for (kinds, state) in [
        ([StoreErrorKind::Unavailable, StoreErrorKind::Unavailable], CircuitState::Closed),
        ([StoreErrorKind::Overloaded, StoreErrorKind::Unavailable], CircuitState::Open),
    ] {
        for failure in kinds {
            nodes.spy.fail_next(1, failure);
            assert_eq!(kind(store.find_fresh(id).await), failure);
        }
        assert_eq!(nodes.circuit().0, state);
    }
    sleep(SECOND * 60).await;
    for _ in 0..2 {
        nodes.spy.fail_next(1, StoreErrorKind::Overloaded);
        assert_eq!(kind(store.find_fresh(id).await), StoreErrorKind::Overloaded);
    }
    assert_eq!(nodes.circuit().0, CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn cached_sessions_are_served_while_the_circuit_is_open() {
    let nodes = with_breaker().await;
    let (one, two) = (nodes.session().await, nodes.session().await);
    nodes.store().evict_from_cache(one);
    nodes.open(one).await;
    assert!(nodes.store().find(two).await.unwrap().is_some());
    assert_eq!(kind(nodes.store().find(one).await), StoreErrorKind::CircuitOpen);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_doubt_stays_in_doubt_if_the_circuit_opens_between_two_attempts() {
    let breaker = CircuitBreakerConfig::new().failure_threshold(2);
    let nodes = Nodes::with(|config| config.circuit_breaker(breaker)).await;
    let id = nodes.session().await;
    nodes.faults.lose_answers(1.0);
    assert_eq!(kind(nodes.store().modify(id, visit).await), StoreErrorKind::OutcomeUnknown);
    assert_eq!(nodes.circuit().0, CircuitState::Open);
    assert_eq!(nodes.spy.take_calls(), [Call::Update; 2], "the third attempt was refused");
}

#[tokio::test(start_paused = true)]
async fn no_answer_of_the_backend_opens_the_circuit() {
    let nodes = with_breaker().await;
    let (store, id) = (nodes.store(), nodes.session().await);
    let none = SessionId::from_bytes([0; 16]);
    for _ in 0..5 {
        assert!(store.find_fresh(none).await.unwrap().is_none());
        assert_eq!(kind(store.modify(none, visit).await), StoreErrorKind::NotFound);
        assert!(!store.delete(none).await.unwrap());
    }
    for fault in [StoreErrorKind::Refused, StoreErrorKind::Corrupt, StoreErrorKind::TooLarge] {
        nodes.spy.fail_next(5, fault);
        for _ in 0..5 {
            assert_eq!(kind(store.find_fresh(id).await), fault);
        }
    }
    assert_eq!(nodes.circuit(), (CircuitState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_gives_its_permit_back() {
    let nodes = with_breaker().await;
    let id = nodes.session().await;
    nodes.open(id).await;
    sleep(SECOND * 60).await;
    let unknown = SessionId::from_bytes([0; 16]);
    let held = nodes.spy.hold().await;
    for _ in 0..5 {
        let (one, two) = join(
            timeout(SECOND / 10, nodes.store().delete(unknown)),
            timeout(SECOND / 10, nodes.store().delete(unknown)),
        )
        .await;
        assert!(one.is_err() && two.is_err(), "both probes are made and time out");
    }
    let third = async {
        sleep(MILLI).await;
        assert_eq!(
            kind(nodes.store().delete(unknown).await),
            StoreErrorKind::CircuitOpen,
            "two probes are under way"
        );
        drop(held);
    };
    let ((one, two), ()) =
        join(join(nodes.store().delete(unknown), nodes.store().delete(unknown)), third).await;
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(nodes.circuit(), (CircuitState::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_half_opens_the_circuit_at_once() {
    let nodes = with_breaker().await;
    let id = nodes.session().await;
    nodes.open(id).await;
    assert!(nodes.store().healthy().await, "a health check is made even if the circuit is open");
    assert_eq!(nodes.circuit().0, CircuitState::HalfOpen);
    nodes.spy.fail_next(1, StoreErrorKind::Unavailable);
    assert!(nodes.store().find_fresh(id).await.is_err());
    assert_eq!(nodes.circuit().0, CircuitState::Open);

    nodes.faults.cut_subscriptions();
    sleep(SECOND).await;
    assert!(
        nodes.store().coordinator().is_listening(),
        "the listener subscribes even if the circuit is open"
    );
    assert_eq!(nodes.circuit().0, CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_close_the_circuit() {
    let nodes = with_breaker().await;
    let id = nodes.session().await;
    nodes.open(id).await;
    nodes.store().circuit().reset();
    assert_eq!(nodes.circuit(), (CircuitState::Closed, 1));
    assert!(nodes.store().find_fresh(id).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_visitor_is_not_logged_out_by_an_open_circuit() {
    let nodes = with_breaker().await;
    let mut browser = Browser::with(&nodes.healthy, ada()).await;
    nodes.open(SessionId::from_bytes([0; 16])).await;
    let who = serve(&nodes.layer, async |session: Session<Data>| {
        session.data().user.clone().unwrap_or_default()
    });
    let page = browser.visit(&who).await;
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""));
    assert_eq!((page.all(header::RETRY_AFTER).len(), page.set_cookies().len()), (1, 0));
    advance(SECOND * 60).await;
    assert_eq!(browser.visit(&who).await.body, "Ada");
}

#[tokio::test(start_paused = true)]
async fn each_change_of_the_circuit_is_one_line_in_the_log() {
    let (log, nodes) = (Log::default(), with_breaker().await);
    let id = nodes.session().await;
    let _guard = log.capture("info");
    nodes.open(id).await;
    for _ in 0..100 {
        assert_eq!(kind(nodes.store().find_fresh(id).await), StoreErrorKind::CircuitOpen);
    }
    sleep(SECOND * 60).await;
    for _ in 0..10 {
        nodes.store().find_fresh(id).await.unwrap();
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("circuit")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, expected) in lines.iter().zip(["is open", "is half-open", "is closed"]) {
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_never_takes_the_permit_of_a_probe() {
    let nodes = with_breaker().await;
    let (id, unknown) = (nodes.session().await, SessionId::from_bytes([0; 16]));
    nodes.open(id).await;
    sleep(SECOND * 60).await;
    let held = nodes.spy.hold().await;
    let probes = async {
        sleep(MILLI).await;
        let probe = || timeout(SECOND / 10, nodes.store().delete(unknown));
        let (one, two) = join(probe(), probe()).await;
        assert!(one.is_err() && two.is_err(), "both probes are made and time out");
        drop(held);
    };
    assert_eq!(join(nodes.store().clear(), probes).await.0.unwrap(), 1);
}
