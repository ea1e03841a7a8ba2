//! Tests of the states of the circuit breaker, and a property test of its probes.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a breaker that opens at the third fault, for one second, and needs two probes.
fn breaker() -> Breaker {
    Breaker::new(
        CircuitBreakerConfig::new().failure_threshold(3).reset_timeout(SECOND).half_open_probes(2),
    )
}

fn call(breaker: &mut Breaker, outcome: CallOutcome, now: Instant) {
    let ticket = breaker.admit(now).unwrap();
    breaker.settle(&ticket, outcome, now);
}

fn open(now: Instant) -> Breaker {
    let mut breaker = breaker();
    for _ in 0..3 {
        call(&mut breaker, CallOutcome::Fault, now);
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker
}

#[test]
fn consecutive_faults_open_the_circuit_and_an_answer_in_between_resets_the_count() {
    let now = Instant::now();
    let mut breaker = breaker();
    for outcome in [
        CallOutcome::Fault,
        CallOutcome::Fault,
        CallOutcome::Answer,
        CallOutcome::Fault,
        CallOutcome::Dropped,
    ] {
        call(&mut breaker, outcome, now);
    }
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Closed);
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[test]
fn calls_that_fail_together_count_as_one() {
    let now = Instant::now();
    let mut breaker = breaker();
    let together: Vec<_> = (0..100).map(|_| breaker.admit(now).unwrap()).collect();
    for ticket in &together {
        breaker.settle(ticket, CallOutcome::Fault, now);
    }
    assert_eq!(breaker.state(), CircuitState::Closed);
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Closed);
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Open);
}

#[test]
fn it_opens_when_half_of_the_calls_fail_for_some_seconds() {
    let start = Instant::now();
    let mut breaker = breaker();
    for step in 0..40 {
        assert_eq!(breaker.state(), CircuitState::Closed, "after {step} steps");
        let now = start + Duration::from_millis(50) * step;
        let outcome = if step % 2 == 0 { CallOutcome::Answer } else { CallOutcome::Fault };
        call(&mut breaker, outcome, now);
    }
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker.reset();
    call(&mut breaker, CallOutcome::Fault, start + SECOND * 2);
    assert_eq!(breaker.state(), CircuitState::Closed, "earlier failures are forgotten");
}

#[test]
fn an_open_circuit_refuses_calls_until_the_reset_timeout_has_passed() {
    let now = Instant::now();
    let mut breaker = open(now);
    let last = now + SECOND - Duration::from_nanos(1);
    assert!(breaker.admit(now).is_none() && breaker.admit(last).is_none());
    assert!(breaker.admit(now + SECOND).is_some());
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
}

#[test]
fn the_circuit_closes_when_all_probes_are_answered() {
    let now = Instant::now();
    let mut breaker = open(now);
    let now = now + SECOND;
    let (one, two) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    assert!(breaker.admit(now).is_none(), "two are enough");
    breaker.settle(&one, CallOutcome::Answer, now);
    assert!(breaker.admit(now).is_none(), "one has answered, and the other may");
    breaker.settle(&two, CallOutcome::Answer, now);
    assert_eq!(breaker.state(), CircuitState::Closed);
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Closed, "earlier faults are forgotten");
}

#[test]
fn a_probe_that_does_not_end_loses_its_place() {
    let now = Instant::now();
    let mut breaker = open(now);
    let now = now + SECOND;
    let (stuck, answered) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    breaker.settle(&answered, CallOutcome::Answer, now);
    assert!(breaker.admit(now + SECOND / 2).is_none(), "it may still be answered");
    let later = now + SECOND;
    let another = breaker.admit(later).expect("the place of the one that does not end");
    breaker.settle(&stuck, CallOutcome::Fault, later);
    assert_eq!(breaker.state(), CircuitState::HalfOpen, "it no longer counts");
    breaker.settle(&another, CallOutcome::Answer, later);
    assert_eq!(breaker.state(), CircuitState::Closed, "the answer before still counts");
}

#[test]
fn a_failed_probe_opens_the_circuit_again() {
    let now = Instant::now();
    let mut breaker = open(now);
    let now = now + SECOND;
    let (one, two) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
    breaker.settle(&one, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker.settle(&two, CallOutcome::Answer, now);
    assert_eq!(breaker.state(), CircuitState::Open, "a call from before is no evidence");
    assert!(breaker.admit(now + SECOND / 2).is_none() && breaker.admit(now + SECOND).is_some());
}

#[test]
fn a_dropped_probe_makes_room_for_another() {
    let now = Instant::now();
    let mut breaker = open(now);
    let now = now + SECOND;
    for _ in 0..10 {
        let (one, two) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        breaker.settle(&one, CallOutcome::Dropped, now);
        breaker.settle(&two, CallOutcome::Dropped, now);
    }
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
}

#[test]
fn a_call_that_began_before_the_circuit_opened_is_no_probe() {
    let now = Instant::now();
    let mut breaker = breaker();
    let early: Vec<_> = (0..3).map(|_| breaker.admit(now).unwrap()).collect();
    for _ in 0..3 {
        call(&mut breaker, CallOutcome::Fault, now);
    }
    let now = now + SECOND;
    let _probe = breaker.admit(now).unwrap();
    breaker.settle(&early[0], CallOutcome::Dropped, now);
    breaker.settle(&early[1], CallOutcome::Answer, now);
    breaker.settle(&early[2], CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    assert!(breaker.admit(now).is_some() && breaker.admit(now).is_none());
}

#[test]
fn a_sign_of_life_half_opens_the_circuit_and_a_reset_closes_it() {
    let now = Instant::now();
    let mut breaker = open(now);
    breaker.seen_alive(now);
    assert_eq!(breaker.state(), CircuitState::HalfOpen);
    call(&mut breaker, CallOutcome::Fault, now);
    assert_eq!(breaker.state(), CircuitState::Open);
    breaker.reset();
    assert_eq!(breaker.state(), CircuitState::Closed);
    breaker.seen_alive(now);
    assert_eq!(breaker.state(), CircuitState::Closed);
}

#[derive(Clone, Debug)]
enum TestEvent {
    Begin,
    End(usize, CallOutcome),
    Wait(u64),
    SeenAlive,
}

fn events() -> impl Strategy<Value = Vec<TestEvent>> {
    let outcome = prop_oneof![
        Just(CallOutcome::Answer),
        Just(CallOutcome::Fault),
        Just(CallOutcome::Dropped)
    ];
    let event = prop_oneof![
        4 => Just(TestEvent::Begin),
        3 => (any::<usize>(), outcome).prop_map(|(which, outcome)| TestEvent::End(which, outcome)),
        1 => (0u64..1500).prop_map(TestEvent::Wait),
        1 => Just(TestEvent::SeenAlive),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn a_half_open_circuit_admits_no_more_calls_than_probes(threshold in 1u32..4, probes in 1u32..4, events in events()) {
        let config = CircuitBreakerConfig::new()
            .failure_threshold(threshold)
            .reset_timeout(SECOND)
            .half_open_probes(probes);
        let (mut breaker, mut now) = (Breaker::new(config), Instant::now());
        // Calls under way, and `true` for probes of the current half-open state.
        let mut under_way: Vec<(ProbeTicket, bool)> = Vec::new();
        let mut opened: Option<Instant> = None;
        let mut probed_at = now;
        for event in events {
            let before = breaker.state();
            match event {
                TestEvent::Begin => {
                    let ticket = breaker.admit(now);
                    prop_assert!(before != CircuitState::Closed || ticket.is_some());
                    let is_probe = breaker.state() == CircuitState::HalfOpen;
                    if ticket.is_some() && is_probe {
                        if probed_at + SECOND <= now {
                            // They have lost their places.
                            under_way.iter_mut().for_each(|(_, probe)| *probe = false);
                        }
                        probed_at = now;
                    }
                    under_way.extend(ticket.map(|ticket| (ticket, is_probe)));
                }
                TestEvent::End(which, outcome) if !under_way.is_empty() => {
                    let (ticket, _) = under_way.swap_remove(which % under_way.len());
                    breaker.settle(&ticket, outcome, now);
                }
                TestEvent::End(..) => {}
                TestEvent::Wait(millis) => now += Duration::from_millis(millis),
                TestEvent::SeenAlive => {
                    breaker.seen_alive(now);
                    opened = opened.filter(|_| breaker.state() == CircuitState::Open);
                }
            }
            match (before, breaker.state()) {
                (CircuitState::Open, CircuitState::HalfOpen) => {
                    if let Some(opened) = opened.take() {
                        prop_assert!(now >= opened + SECOND, "it was tried too early");
                    }
                }
                (before, CircuitState::Open) if before != CircuitState::Open => {
                    opened = Some(now);
                    under_way.iter_mut().for_each(|(_, probe)| *probe = false);
                }
                (CircuitState::HalfOpen, CircuitState::Closed) => {
                    under_way.iter_mut().for_each(|(_, probe)| *probe = false);
                }
                _ => {}
            }
            let probing = under_way.iter().filter(|(_, probe)| *probe).count();
            prop_assert!(probing <= probes as usize, "{probing} probes are under way");
        }
    }
}
