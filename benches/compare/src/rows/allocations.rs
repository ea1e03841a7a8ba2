//! Allocations of a cached read.

use clustered_sessions::MemoryBackend;

use super::Context;
use crate::alloc::allocations;
use crate::app::{self, App, VISITORS};
use crate::measure::now;
use crate::nodes;
use crate::table::Row;

const REQUESTS: usize = 1000;

pub fn rows(context: &Context) -> Vec<Row> {
    let runtime = &context.runtime;
    let _guard = runtime.enter();
    let capacity = VISITORS as usize * 2;
    let (read, unused) = app::ours(runtime, nodes::over(MemoryBackend::new(), capacity));
    let noop = of(&app::noop());
    let floor = of(&app::floor()) - noop;
    let peer = of(&app::tower_sessions_in_memory(runtime)) - noop;

    let store = nodes::start(runtime, nodes::over(MemoryBackend::new(), capacity));
    let id = nodes::fill(runtime, &store, 1)[0];
    let find = allocations(|| {
        for _ in 0..REQUESTS {
            now(store.find(id)).expect("a hit cannot fail");
        }
    });
    let row = |what: &str, ours: f64, anchor: String, goal| Row {
        what: format!("allocations: {what}"),
        ours: format!("{ours:.1}"),
        anchor,
        ratio: None,
        goal,
    };
    let above = "above the no-op layer's";
    let peers = format!("floor: {floor:.1}; tower-sessions: {peer:.1}");
    vec![
        row(&format!("cached read through the layer, {above}"), of(&read) - noop, peers, "≤ 3"),
        row(&format!("nothing extracted, {above}"), of(&unused) - noop, String::new(), ""),
        row("`store.find(id)`, cached", find as f64 / REQUESTS as f64, String::new(), "0"),
    ]
}

/// Returns the allocations for each request.
fn of(app: &App) -> f64 {
    app.one_at_a_time(REQUESTS);
    allocations(|| app.one_at_a_time(REQUESTS)) as f64 / REQUESTS as f64
}
