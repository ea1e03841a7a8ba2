//! The limit of loads in flight. Pure: time comes from outside.
//!
//! When more loads arrive than the server can answer, a queue grows until each answer comes after
//! its reader has given up. All work is then wasted, and it stays so after the cause has passed,
//! for as long as the load lasts (Bronson et al., "Metastable Failures in Distributed Systems",
//! HotOS 2021). So a load above the limit fails at once, and the others are answered in time.
//!
//! The limit adapts to the server by additive increase and multiplicative decrease, as TCP's
//! congestion window does (RFC 5681): as many answers as the limit raise it by one, and a load that
//! is not answered in time halves it. Loads that are late together halve it once.
//!
//! A late load stays in flight until it is answered, though nobody waits for the answer any more:
//! the server still has it to do.

use tokio::time::Instant;

/// The loads in flight and their limit.
#[derive(Debug)]
pub(super) struct LoadLimiter {
    /// Upper bound of the limit, and its initial value.
    max: f64,
    limit: f64,
    in_flight: u32,
    /// The time at which the limit was last halved.
    halved_at: Option<Instant>,
}

/// A load in flight. Each ends once, in [`answered`](LoadLimiter::answered) or
/// [`ended`](LoadLimiter::ended).
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadTicket {
    began: Instant,
}

impl LoadLimiter {
    pub(super) fn new(max: u32) -> Self {
        let max = f64::from(max);
        LoadLimiter { max, limit: max, in_flight: 0, halved_at: None }
    }

    /// Returns the lower bound of the limit, which lets enough through to notice that the server
    /// has recovered.
    fn min(&self) -> f64 {
        (self.max / 64.0).max(1.0)
    }

    /// Returns a ticket if another load may begin.
    pub(super) fn begin(&mut self, now: Instant) -> Option<LoadTicket> {
        if f64::from(self.in_flight) + 1.0 > self.limit {
            return None;
        }
        self.in_flight += 1;
        Some(LoadTicket { began: now })
    }

    /// Records that a load was not answered in time. It stays in flight.
    pub(super) fn late(&mut self, ticket: LoadTicket, now: Instant) {
        if self.halved_at.is_none_or(|halved_at| ticket.began >= halved_at) {
            self.limit = (self.limit / 2.0).max(self.min());
            self.halved_at = Some(now);
        }
    }

    /// Records that a load was answered in time.
    pub(super) fn answered(&mut self, ticket: LoadTicket) {
        // A limit that is not used says nothing about the server.
        if f64::from(self.in_flight) >= self.limit / 2.0 {
            self.limit = (self.limit + 1.0 / self.limit).min(self.max);
        }
        self.ended(ticket);
    }

    /// Records that a load is no longer in flight: it was answered late, or its connection has
    /// ended.
    pub(super) fn ended(&mut self, _: LoadTicket) {
        self.in_flight -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fill(limiter: &mut LoadLimiter, now: Instant) -> Vec<LoadTicket> {
        std::iter::from_fn(|| limiter.begin(now)).collect()
    }

    #[test]
    fn a_load_above_the_limit_is_refused_until_another_one_ends() {
        let (mut limiter, now) = (LoadLimiter::new(512), Instant::now());
        let tickets = fill(&mut limiter, now);
        assert_eq!(tickets.len(), 512);
        limiter.ended(tickets[0]);
        assert!(limiter.begin(now).is_some() && limiter.begin(now).is_none());
    }

    #[test]
    fn loads_that_are_late_together_halve_the_limit_once_and_stay_in_flight() {
        let (mut limiter, now) = (LoadLimiter::new(512), Instant::now());
        let tickets = fill(&mut limiter, now);
        for ticket in &tickets {
            limiter.late(*ticket, now + SECOND);
        }
        assert!(limiter.begin(now + SECOND).is_none());
        for ticket in tickets {
            limiter.ended(ticket);
        }
        assert_eq!(fill(&mut limiter, now + SECOND).len(), 256);
    }

    #[test]
    fn an_unused_limit_does_not_grow() {
        let (mut limiter, now) = (LoadLimiter::new(512), Instant::now());
        let ticket = limiter.begin(now).unwrap();
        limiter.late(ticket, now + SECOND);
        limiter.ended(ticket);
        for _ in 0..10_000 {
            let ticket = limiter.begin(now + SECOND).unwrap();
            limiter.answered(ticket);
        }
        assert_eq!(fill(&mut limiter, now).len(), 256);
    }

    /// Returns the number of loads that a server answers in time during the last of ten seconds.
    ///
    /// It answers one load after the other. Each takes `service`, and its reader waits for half a
    /// second. There is a new load every 100 microseconds.
    fn answered_in_time(service: Duration) -> u32 {
        let (start, patience) = (Instant::now(), Duration::from_millis(500));
        let (mut limiter, mut answered) = (LoadLimiter::new(512), 0);
        let mut queue: VecDeque<(LoadTicket, Instant)> = VecDeque::new();
        let mut free_at = start;
        for step in 0..100_000 {
            let now = start + Duration::from_micros(100) * step;
            for (ticket, done) in &queue {
                if now >= ticket.began + patience && *done > ticket.began + patience {
                    limiter.late(*ticket, ticket.began + patience);
                }
            }
            while queue.front().is_some_and(|(_, done)| now >= *done) {
                let (ticket, done) = queue.pop_front().unwrap();
                if done <= ticket.began + patience {
                    limiter.answered(ticket);
                    answered += u32::from(step >= 90_000);
                } else {
                    limiter.ended(ticket);
                }
            }
            if let Some(ticket) = limiter.begin(now) {
                free_at = free_at.max(now) + service;
                queue.push_back((ticket, free_at));
            }
        }
        answered
    }

    #[test]
    fn an_overloaded_server_answers_nearly_as_many_loads_as_it_can() {
        for per_second in [100, 300, 1000, 3000] {
            let answered = answered_in_time(SECOND / per_second);
            assert!(answered * 10 > per_second * 7, "{answered} of {per_second} per second");
        }
    }

    proptest! {
        #[test]
        fn the_limit_keeps_its_bounds_and_no_ticket_is_lost(
            actions in prop::collection::vec((0u8..4, 0u64..1000), 0..2000)
        ) {
            let (mut limiter, mut now) = (LoadLimiter::new(512), Instant::now());
            let mut tickets = Vec::new();
            for (action, millis) in actions {
                now += Duration::from_millis(millis);
                match (action, tickets.last().copied()) {
                    (0, Some(ticket)) => limiter.late(ticket, now),
                    (1, Some(ticket)) => {
                        limiter.answered(ticket);
                        tickets.pop();
                    }
                    (2, Some(ticket)) => {
                        limiter.ended(ticket);
                        tickets.pop();
                    }
                    _ => tickets.extend((0..100).map_while(|_| limiter.begin(now))),
                }
                prop_assert!((8.0..=512.0).contains(&limiter.limit));
                prop_assert_eq!(limiter.in_flight as usize, tickets.len());
            }
        }
    }
}
