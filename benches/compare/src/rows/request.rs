//! Requests with a cached session, without a network: what each layer adds to a layer that does
//! nothing.

use super::{Context, IN_FLIGHT};
use crate::app::{self, App, VISITORS};
use crate::measure::{interleave, median, median_above, nanoseconds};
use crate::nodes;
use crate::table::{Row, above, grouped};

/// Requests in a block, which takes some milliseconds: short, so that another process on the
/// machine meets all subjects alike.
const BLOCK: usize = 1024;
/// Blocks of each subject in a round.
const BLOCKS: usize = 16;

struct Costs {
    bare: f64,
    noop: f64,
    floor: f64,
    read: f64,
    unused: f64,
    peer: f64,
    adapter: f64,
}

pub fn rows(context: &Context) -> Vec<Row> {
    let runtime = &context.runtime;
    let _guard = runtime.enter();
    let server = context.server();
    let (read, unused) =
        app::ours(runtime, nodes::over_redis(&server.url(), VISITORS as usize * 2));
    let peer = app::tower_sessions_over_redis(runtime, &server.url());
    let adapter = app::tower_sessions_over_ours(
        runtime,
        nodes::over_redis(&server.url(), VISITORS as usize * 2),
    );
    let apps = [&app::bare(), &app::noop(), &app::floor(), &read, &unused, &peer, &adapter];
    let alone = costs(context, apps, |app| app.one_at_a_time(BLOCK));
    let together = costs(context, apps, |app| app.in_flight(BLOCK, IN_FLIGHT));

    let row = |what: &str, ours: f64, name: &str, anchor: f64, goal| Row {
        what: what.to_owned(),
        ours: above(ours),
        anchor: format!("{name}: {}", above(anchor)),
        ratio: Some(ours / anchor),
        goal,
    };
    let peer = "tower-sessions 0.14, signed, moka over Redis";
    let floor = "floor";
    let one = "one at a time";
    let many = "64 in flight";
    let read = "cached read through layer and `Session<T>`";
    let adapter = "the same by tower-sessions 0.14, signed, over `TowerSessionsStore`";
    let unused = "a route that extracts nothing";
    vec![
        row(&format!("{read}, {one}"), alone.read, peer, alone.peer, "≤ 0.16"),
        row(&format!("{read}, {many}"), together.read, peer, together.peer, "≤ 0.16"),
        row(&format!("{adapter}, {one}"), alone.adapter, peer, alone.peer, ""),
        row(&format!("{adapter}, {many}"), together.adapter, peer, together.peer, ""),
        row(&format!("{read}, {one}"), alone.read, floor, alone.floor, "≤ 1.7"),
        row(&format!("{read}, {many}"), together.read, floor, together.floor, "≤ 1.7"),
        row(&format!("{unused}, {one}"), alone.unused, "the read", alone.read, "≤ 0.35"),
        row(&format!("{unused}, {many}"), together.unused, "the read", together.read, "≤ 0.35"),
        Row {
            what: "for scale: a whole request below a no-op layer, one at a time / 64 in flight"
                .to_owned(),
            ours: String::new(),
            anchor: format!(
                "{} / {} ns; without a layer {} / {} ns",
                grouped(alone.noop),
                grouped(together.noop),
                grouped(alone.bare),
                grouped(together.bare)
            ),
            ratio: None,
            goal: "",
        },
    ]
}

/// Measures all applications in turn. The costs of layers are above those of the no-op layer in the
/// same round.
fn costs(context: &Context, apps: [&App; 7], send: fn(&App)) -> Costs {
    let mut subjects = apps.map(|app| move || nanoseconds(BLOCK, || send(app)));
    let subjects = subjects.each_mut().map(|it| it as &mut dyn FnMut() -> f64);
    let [bare, noop, floor, read, unused, peer, adapter] =
        interleave(context.rounds * BLOCKS, subjects);
    Costs {
        bare: median(&bare),
        floor: median_above(&floor, &noop),
        read: median_above(&read, &noop),
        unused: median_above(&unused, &noop),
        peer: median_above(&peer, &noop),
        adapter: median_above(&adapter, &noop),
        noop: median(&noop),
    }
}
