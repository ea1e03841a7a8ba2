//! The memory that a cached session takes above its data.

use clustered_sessions::{MemoryBackend, SessionStore};

use super::{Context, one_thread};
use crate::alloc::bytes_of;
use crate::data::UserSession;
use crate::nodes;
use crate::table::{Row, grouped};

const SESSIONS: usize = 1_000_000;

pub fn rows(context: &Context) -> Vec<Row> {
    let json: Vec<_> = (0..1000)
        .map(|it| serde_json::to_vec(&UserSession::number(it)).expect("it is serialized"))
        .collect();
    // As it is cached: decoded, so that its vectors have the capacity that decoding gives them.
    let (data, of_data) = bytes_of(|| {
        let data = json.iter().map(|json| {
            Box::new(serde_json::from_slice::<UserSession>(json).expect("it is deserialized"))
        });
        data.collect::<Vec<_>>().into_boxed_slice()
    });
    // Without the slice that holds them.
    let per_data = (of_data - 8 * data.len() as i64) as f64 / data.len() as f64;

    // One node creates the sessions and caches next to none. Another loads them, so that all that
    // is new in memory is its cache.
    let (runtime, backend) = (&context.runtime, MemoryBackend::new());
    let creator = nodes::start(runtime, nodes::over(backend.clone(), 1));
    let ids = nodes::fill(runtime, &creator, SESSIONS);
    let other = one_thread();
    let (store, bytes) = bytes_of(|| {
        // Shards are not filled evenly, and a full one evicts.
        let store: SessionStore<UserSession> =
            nodes::start(&other, nodes::over(backend.clone(), SESSIONS + SESSIONS / 20));
        other.block_on(async {
            for id in &ids {
                store.find(*id).await.expect("it is read").expect("it exists");
            }
        });
        store
    });
    let cached = store.cache_stats().size;
    let per_session = bytes as f64 / cached as f64;
    vec![Row {
        what: format!(
            "memory for each of {} cached sessions, above its data",
            grouped(cached as f64)
        ),
        ours: format!("{:.0} B", per_session - per_data),
        anchor: format!("struct and strings: {per_data:.0} B, of {per_session:.0} B"),
        ratio: None,
        goal: "≤ 160 B",
    }]
}
