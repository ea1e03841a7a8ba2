//! `SessionStore::find` of a cached session, in random order.
//!
//! Sessions are in a `MemoryBackend`, and the node listens to it: each look-up checks a lease that
//! heartbeats extend, as over Redis. That takes a reading of the clock, as the second anchor does.

use std::hint::black_box;
use std::sync::Arc;
use std::thread::scope;
use std::time::Instant;

use clustered_sessions::{MemoryBackend, SessionId};
use quick_cache::sync::Cache;

use super::Context;
use crate::data::UserSession;
use crate::measure::{interleave, median, nanoseconds, now, shuffle};
use crate::nodes;
use crate::table::{Row, grouped};

/// Look-ups by each thread in a block.
const BLOCK: usize = 100_000;

pub fn rows(context: &Context) -> Vec<Row> {
    let sizes = [(2_000, "≤ 2.0"), (100_000, "≤ 1.7"), (1_000_000, "≤ 1.7")];
    sizes.into_iter().flat_map(|(entries, goal)| of_size(context, entries, goal)).collect()
}

fn of_size(context: &Context, entries: usize, goal: &'static str) -> Vec<Row> {
    // Shards are not filled evenly, and a full one evicts.
    let capacity = entries + entries / 4;
    // One node creates the sessions, and another loads them. So the records of the backend, which
    // would be in another process, are not between those of the cache.
    let (runtime, backend) = (&context.runtime, MemoryBackend::new());
    let creator = nodes::start(runtime, nodes::over(backend.clone(), 1));
    let mut ids = nodes::fill(runtime, &creator, entries);
    let store = nodes::start(runtime, nodes::over::<UserSession>(backend, capacity));
    runtime.block_on(async {
        for id in &ids {
            store.find(*id).await.expect("it is read").expect("it exists");
        }
    });
    let cache = Cache::<SessionId, Arc<UserSession>>::new(capacity);
    for (number, id) in ids.iter().enumerate() {
        cache.insert(*id, Arc::new(UserSession::number(number as u64)));
    }
    // The order is made in advance, so that it costs little to follow.
    shuffle(&mut ids);
    let before = store.cache_stats();
    let rows = [1, 2].map(|threads| {
        let ours = |id| drop(black_box(now(store.find(id)).expect("a hit cannot fail")));
        let anchor = |id| drop(black_box(cache.get(&id)));
        let with_clock = |id| {
            black_box(Instant::now());
            anchor(id);
        };
        let times = interleave(
            context.rounds * 2,
            [
                &mut on(&ids, threads, &ours),
                &mut on(&ids, threads, &anchor),
                &mut on(&ids, threads, &with_clock),
            ],
        );
        let [ours, anchor, with_clock] = times.map(|times| median(&times));
        let row = |anchor_name, anchor, goal| {
            let s = if threads == 1 { "" } else { "s" };
            let entries = grouped(entries as f64);
            Row {
                what: format!("`store.find(id)`, {entries} entries, {threads} thread{s}"),
                ours: format!("{} ns", grouped(ours)),
                anchor: format!("{anchor_name}: {} ns", grouped(anchor)),
                ratio: Some(ours / anchor),
                goal,
            }
        };
        [
            row("quick_cache `get` of an `Arc`", anchor, goal),
            row("the same, and a reading of the clock", with_clock, ""),
        ]
    });
    assert_eq!(store.cache_stats().misses, before.misses, "all look-ups are hits");
    runtime.block_on(store.shutdown());
    rows.into_iter().flatten().collect()
}

/// Returns a function that looks up a block of sessions on each thread, and returns nanoseconds for
/// each look-up. It goes on where it ended, so that a block does not find what the one before has
/// brought into the processor's caches.
fn on(
    ids: &[SessionId],
    threads: usize,
    find: &(impl Fn(SessionId) + Sync),
) -> impl FnMut() -> f64 {
    let mut begun = 0;
    move || {
        let block = begun;
        begun += BLOCK;
        nanoseconds(BLOCK, || {
            scope(|scope| {
                for thread in 0..threads {
                    let start = (block + thread * ids.len() / threads) % ids.len();
                    scope.spawn(move || {
                        ids.iter().cycle().skip(start).take(BLOCK).for_each(|id| find(*id));
                    });
                }
            });
        })
    }
}
