//! Many readers of one session that is not cached.

use clustered_sessions::SessionStore;
use tokio::task::JoinSet;

use super::Context;
use crate::data::UserSession;
use crate::nodes;
use crate::table::Row;

const READERS: usize = 10_000;

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, server) = (&context.runtime, context.server());
    let store: SessionStore<UserSession> =
        nodes::start(runtime, nodes::over_redis(&server.url(), 1000));
    let ids = nodes::fill(runtime, &store, context.rounds);
    let loads = ids.into_iter().map(|id| {
        store.evict_from_cache(id);
        let (_, calls) = runtime.block_on(server.calls_of(async {
            let mut readers = JoinSet::new();
            for _ in 0..READERS {
                let store = store.clone();
                readers.spawn(async move { store.find(id).await });
            }
            while let Some(found) = readers.join_next().await {
                found.expect("no reader panics").expect("it is read").expect("it exists");
            }
        }));
        calls.get("getex").copied().unwrap_or_default()
    });
    let loads: Vec<_> = loads.collect();
    let (least, most) = (loads.iter().min(), loads.iter().max());
    vec![Row {
        what: "loads by 10,000 readers of one uncached session".to_owned(),
        ours: match (least, most) {
            (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
            (Some(least), _) => least.to_string(),
            _ => String::new(),
        },
        anchor: "`INFO commandstats`".to_owned(),
        ratio: None,
        goal: "1 or 2",
    }]
}
