//! Sends requests to one application, for `valgrind --tool=callgrind`.
//!
//! Everything is in memory. Two runs with different numbers of requests differ by the cost of the
//! requests, and by little else: see `instructions.sh`.

use std::process::exit;

use clustered_sessions::MemoryBackend;
use tokio::runtime;

use crate::app::{self, App, VISITORS};
use crate::nodes;

pub const SCENARIOS: &str = "bare, noop, floor, ours, ours-nothing-extracted, tower-sessions";

pub fn run(scenario: &str, requests: usize) {
    let mut builder = runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime starts");
    let _guard = runtime.enter();
    let ours = || -> (App, App) {
        app::ours(&runtime, nodes::over(MemoryBackend::new(), VISITORS as usize * 2))
    };
    let app = match scenario {
        "bare" => app::bare(),
        "noop" => app::noop(),
        "floor" => app::floor(),
        "ours" => ours().0,
        "ours-nothing-extracted" => ours().1,
        "tower-sessions" => app::tower_sessions_in_memory(&runtime),
        _ => {
            eprintln!("no such scenario; there are: {SCENARIOS}");
            exit(2)
        }
    };
    app.one_at_a_time(requests);
}
