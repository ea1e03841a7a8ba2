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
//! the server still has it to do. But whoever waits for a load may never look if it is answered, as
//! one does who holds a future and polls it no more. Such a load is forgotten after a while.

use std::time::Duration;

use tokio::time::Instant;

/// The loads in flight and their limit.
#[derive(Debug)]
pub(super) struct LoadLimiter {
    /// Upper bound of the limit, and its initial value.
    max: f64,
    limit: f64,
    /// Number of loads that may still be answered in time: those of the present generation, and of
    /// the one before. Older ones are forgotten.
    waiting: [u32; 2],
    /// Number of loads that are late.
    late: u32,
    /// How long a generation lasts at least: longer than any load takes that is not late.
    lifetime: Duration,
    generation: u64,
    /// The beginning of the present generation. `None` before the first load.
    since: Option<Instant>,
    /// The time at which the limit was last halved.
    halved_at: Option<Instant>,
}

/// A load in flight. Each ends once, in [`answered`](LoadLimiter::answered) or
/// [`ended`](LoadLimiter::ended).
#[derive(Debug)]
pub(super) struct LoadTicket {
    began: Instant,
    generation: u64,
    is_late: bool,
}

impl LoadLimiter {
    pub(super) fn new(max: u32, lifetime: Duration) -> Self {
        let max = f64::from(max);
        LoadLimiter {
            max,
            limit: max,
            waiting: [0; 2],
            late: 0,
            lifetime,
            generation: 0,
            since: None,
            halved_at: None,
        }
    }

    /// Returns the lower bound of the limit, which lets enough through to notice that the server
    /// has recovered.
    fn min(&self) -> f64 {
        (self.max / 64.0).max(1.0)
    }

    /// Returns a ticket if another load may begin.
    pub(super) fn begin(&mut self, now: Instant) -> Option<LoadTicket> {
        self.begin_generation(now);
        if f64::from(self.in_flight()) + 1.0 > self.limit {
            return None;
        }
        self.waiting[0] += 1;
        Some(LoadTicket { began: now, generation: self.generation, is_late: false })
    }

    /// Begins another generation if the present one has lasted long enough.
    fn begin_generation(&mut self, now: Instant) {
        let lasted = now.duration_since(*self.since.get_or_insert(now));
        if lasted < self.lifetime {
            return;
        }
        let [present, _] = self.waiting;
        let (passed, before) = if lasted < self.lifetime * 2 { (1, present) } else { (2, 0) };
        self.generation += passed;
        self.waiting = [0, before];
        self.since = Some(now);
    }

    fn in_flight(&self) -> u32 {
        let [present, before] = self.waiting;
        present + before + self.late
    }

    /// Records that a load was not answered in time. It stays in flight.
    pub(super) fn late(&mut self, ticket: &mut LoadTicket, now: Instant) {
        if !ticket.is_late {
            self.end(ticket);
            ticket.is_late = true;
            self.late += 1;
        }
        if self.halved_at.is_none_or(|halved_at| ticket.began >= halved_at) {
            self.limit = (self.limit / 2.0).max(self.min());
            self.halved_at = Some(now);
        }
    }

    /// Records that a load was answered in time.
    #[expect(clippy::needless_pass_by_value, reason = "a load ends once")]
    pub(super) fn answered(&mut self, ticket: LoadTicket) {
        // A limit that is not used says nothing about the server.
        if f64::from(self.in_flight()) >= self.limit / 2.0 {
            self.limit = (self.limit + 1.0 / self.limit).min(self.max);
        }
        self.end(&ticket);
    }

    /// Records that a load is no longer in flight: it was answered late, or its connection has
    /// ended.
    #[expect(clippy::needless_pass_by_value, reason = "a load ends once")]
    pub(super) fn ended(&mut self, ticket: LoadTicket) {
        self.end(&ticket);
    }

    fn end(&mut self, ticket: &LoadTicket) {
        match self.generation - ticket.generation {
            _ if ticket.is_late => self.late -= 1,
            0 => self.waiting[0] -= 1,
            1 => self.waiting[1] -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter() -> LoadLimiter {
        LoadLimiter::new(512, SECOND)
    }

    fn fill(limiter: &mut LoadLimiter, now: Instant) -> Vec<LoadTicket> {
        std::iter::from_fn(|| limiter.begin(now)).collect()
    }

    #[test]
    fn a_load_above_the_limit_is_refused_until_another_one_ends() {
        let (mut limiter, now) = (limiter(), Instant::now());
        let mut tickets = fill(&mut limiter, now);
        assert_eq!(tickets.len(), 512);
        limiter.ended(tickets.remove(0));
        assert!(limiter.begin(now).is_some() && limiter.begin(now).is_none());
    }

    #[test]
    fn loads_that_are_late_together_halve_the_limit_once_and_stay_in_flight() {
        let (mut limiter, now) = (limiter(), Instant::now());
        let mut tickets = fill(&mut limiter, now);
        for ticket in &mut tickets {
            limiter.late(ticket, now + SECOND / 2);
        }
        assert!(limiter.begin(now + SECOND * 10).is_none());
        assert!(limiter.begin(now + SECOND).is_none());
        for ticket in tickets {
            limiter.ended(ticket);
        }
        assert_eq!(fill(&mut limiter, now + SECOND).len(), 256);
    }

    #[test]
    fn loads_whose_ends_nobody_looks_for_are_forgotten() {
        let (mut limiter, now) = (limiter(), Instant::now());
        let tickets = fill(&mut limiter, now);
        assert!(limiter.begin(now + SECOND).is_none(), "they may be answered");
        assert_eq!(fill(&mut limiter, now + SECOND * 2).len(), 512);
        for ticket in tickets {
            limiter.ended(ticket);
        }
        assert!(limiter.begin(now + SECOND * 2).is_none(), "they count no more");
    }

    #[test]
    fn an_unused_limit_does_not_grow() {
        let (mut limiter, now) = (limiter(), Instant::now());
        let mut ticket = limiter.begin(now).unwrap();
        limiter.late(&mut ticket, now + SECOND);
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
        let (mut limiter, mut answered) = (limiter(), 0);
        let mut queue: VecDeque<(LoadTicket, Instant)> = VecDeque::new();
        let mut free_at = start;
        for step in 0..100_000 {
            let now = start + Duration::from_micros(100) * step;
            for (ticket, done) in &mut queue {
                let end = ticket.began + patience;
                if now >= end && *done > end {
                    limiter.late(ticket, end);
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
            let (mut limiter, mut now) = (limiter(), Instant::now());
            let mut tickets = Vec::new();
            for (action, millis) in actions {
                now += Duration::from_millis(millis);
                match (action, tickets.pop()) {
                    (0, Some(mut ticket)) => {
                        limiter.late(&mut ticket, now);
                        tickets.push(ticket);
                    }
                    (1, Some(ticket)) => limiter.answered(ticket),
                    (2, Some(ticket)) => limiter.ended(ticket),
                    (_, ticket) => {
                        tickets.extend(ticket);
                        tickets.extend((0..100).map_while(|_| limiter.begin(now)));
                    }
                }
                let counts = |ticket: &&LoadTicket| {
                    ticket.is_late || ticket.generation + 1 >= limiter.generation
                };
                prop_assert!((8.0..=512.0).contains(&limiter.limit));
                prop_assert_eq!(
                    limiter.in_flight() as usize,
                    tickets.iter().filter(counts).count()
                );
                let all_young = |ticket: &LoadTicket| counts(&ticket) || now - ticket.began >= SECOND;
                prop_assert!(tickets.iter().all(all_young), "only old ones are forgotten");
            }
        }
    }
}
