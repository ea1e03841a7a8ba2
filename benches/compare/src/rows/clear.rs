//! `CacheClear`, received by a node with a million cached sessions.
//!
//! The node has a runtime of one thread, on which a task does nothing but note the time. Its
//! longest pause while the announcement is handled is the time for which the listener has kept the
//! thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clustered_sessions::{MemoryBackend, SessionStore};
use tokio::runtime::Runtime;

use super::{Context, one_thread};
use crate::data::UserSession;
use crate::measure::median;
use crate::nodes;
use crate::table::Row;

const SESSIONS: usize = 1_000_000;
/// Each round fills the cache again.
const ROUNDS: usize = 3;
const HANDLED: Duration = Duration::from_secs(2);

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, other, backend) = (&context.runtime, one_thread(), MemoryBackend::new());
    let creator = nodes::start(runtime, nodes::over(backend.clone(), 1));
    let ids = nodes::fill(runtime, &creator, SESSIONS);
    let capacity = SESSIONS + SESSIONS / 4;
    let store: SessionStore<UserSession> = nodes::start(&other, nodes::over(backend, capacity));
    let (mut full, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS.min(context.rounds) {
        other.block_on(async {
            for id in &ids {
                store.find(*id).await.expect("it is read").expect("it exists");
            }
        });
        let clear = || {
            let clear = creator.coordinator().publish_cache_clear();
            runtime.block_on(clear).expect("it is announced");
        };
        let received = store.coordinator().announcements_received();
        full.push(longest_pause(&other, clear));
        empty.push(longest_pause(&other, clear));
        assert_eq!(store.coordinator().announcements_received(), received + 2);
    }
    vec![Row {
        what: "`CacheClear` with 1,000,000 entries: longest pause of the listener's thread"
            .to_owned(),
        ours: milliseconds(&full),
        anchor: format!("with none: {}", milliseconds(&empty)),
        ratio: None,
        goal: "≤ 1 ms",
    }]
}

fn milliseconds(seconds: &[f64]) -> String {
    format!("{:.1} ms", median(seconds) * 1e3)
}

/// Returns the longest pause, in seconds, of a task that runs beside an action's effects.
fn longest_pause(runtime: &Runtime, action: impl FnOnce()) -> f64 {
    let (longest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let task = runtime.spawn({
        let (longest, stop) = (longest.clone(), stop.clone());
        async move {
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
                let now = Instant::now();
                let pause = now.duration_since(last).as_nanos();
                longest.fetch_max(u64::try_from(pause).unwrap_or(u64::MAX), Ordering::Relaxed);
                last = now;
            }
        }
    });
    std::thread::sleep(Duration::from_millis(100));
    action();
    std::thread::sleep(HANDLED);
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(task).expect("the task ends");
    longest.load(Ordering::Relaxed) as f64 / 1e9
}
