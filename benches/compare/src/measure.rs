//! Interleaved rounds, and what is made of their figures.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Runs all subjects in turn, for a number of rounds after one to warm up. Returns the figures of
/// each subject, one for each round.
///
/// Every other round goes backwards, so that no subject always follows the same one.
#[expect(clippy::needless_pass_by_value, reason = "callers make the array on the spot")]
pub fn interleave<const N: usize>(
    rounds: usize,
    subjects: [&mut dyn FnMut() -> f64; N],
) -> [Vec<f64>; N] {
    let mut figures = [const { Vec::new() }; N];
    for round in 0..=rounds {
        for index in 0..N {
            let index = if round % 2 == 0 { index } else { N - 1 - index };
            let figure = subjects[index]();
            if round > 0 {
                figures[index].push(figure);
            }
        }
    }
    figures
}

/// Returns nanoseconds for each of a number of calls.
pub fn nanoseconds(calls: usize, run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_nanos() as f64 / calls as f64
}

pub fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

pub fn quantile(figures: &[f64], q: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Returns the median of the differences between two subjects in the same round.
pub fn median_above(figures: &[f64], base: &[f64]) -> f64 {
    let differences: Vec<_> = figures.iter().zip(base).map(|(one, base)| one - base).collect();
    median(&differences)
}

/// Polls a future once, in place: to move it would cost as much as the read itself.
pub fn now<R>(future: impl Future<Output = R>) -> R {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => black_box(result),
        Poll::Pending => panic!("a cached read has waited"),
    }
}

/// Puts ids in a random order, which is the same in each run.
pub fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for index in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(index, (state % (index as u64 + 1)) as usize);
    }
}
