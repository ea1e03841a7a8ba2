//! `SessionStore::find` of a cached session, in random order.
//!
//! Sessions are in a `MemoryBackend`, and the node listens to it: each look-up checks a lease that
//! heartbeats extend, as over Redis.

use std::hint::black_box;
use std::sync::Arc;
use std::thread::scope;

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

fn of_size(context: &Context, entries: usize, goal: &'static str) -> [Row; 2] {
    // Shards are not filled evenly, and a full one evicts.
    let capacity = entries + entries / 4;
    let store = nodes::start(&context.runtime, nodes::over(MemoryBackend::new(), capacity));
    let mut ids = nodes::fill(&context.runtime, &store, entries);
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
        let [ours, anchor] = interleave(
            context.rounds * 2,
            [&mut || look_up(&ids, threads, &ours), &mut || look_up(&ids, threads, &anchor)],
        );
        let (ours, anchor) = (median(&ours), median(&anchor));
        let s = if threads == 1 { "" } else { "s" };
        Row {
            what: format!(
                "`store.find(id)`, {} entries, {threads} thread{s}",
                grouped(entries as f64)
            ),
            ours: format!("{} ns", grouped(ours)),
            anchor: format!("quick_cache `get` of an `Arc`: {} ns", grouped(anchor)),
            ratio: Some(ours / anchor),
            goal,
        }
    });
    assert_eq!(store.cache_stats().misses, before.misses, "all look-ups are hits");
    context.runtime.block_on(store.shutdown());
    rows
}

/// Returns nanoseconds for each look-up of a thread, while all threads look up.
fn look_up(ids: &[SessionId], threads: usize, find: &(impl Fn(SessionId) + Sync)) -> f64 {
    nanoseconds(BLOCK, || {
        scope(|scope| {
            for thread in 0..threads {
                let start = thread * ids.len() / threads;
                scope.spawn(move || {
                    ids.iter().cycle().skip(start).take(BLOCK).for_each(|id| find(*id));
                });
            }
        });
    })
}
