//! Changes of different sessions, many at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::by_hand::ByHand;
use super::redis::{connect, rate};
use super::{Context, IN_FLIGHT};
use crate::measure::{interleave, median};
use crate::nodes;
use crate::table::{Row, per_second};

/// No two changes in flight are of the same session.
const SESSIONS: usize = 100 * IN_FLIGHT;
const BLOCK: usize = 2 * SESSIONS;

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, server) = (&context.runtime, context.server());
    let store = nodes::start(runtime, nodes::over_redis(&server.url(), SESSIONS * 2));
    let ids: Arc<[_]> = nodes::fill(runtime, &store, SESSIONS).into();
    let connection = connect(runtime, &server.url());
    let heard = runtime.block_on(ByHand::new(connection.clone(), "heard", SESSIONS));
    let unheard = runtime.block_on(ByHand::new(connection, "unheard", SESSIONS));
    let subscriber = runtime.block_on(heard.subscribe(&server.url(), |_| {}));

    let modify = {
        let store = store.clone();
        move |number: usize| {
            let (store, id) = (store.clone(), ids[number % SESSIONS]);
            async move {
                store.modify(id, |data| data.visits += 1).await.expect("the change is written");
            }
        }
    };
    let by_hand = move |number| {
        let heard = heard.clone();
        async move { heard.change(number).await }
    };
    let bare = move |number| {
        let unheard = unheard.clone();
        async move { unheard.run_script(number).await }
    };
    let turns = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let [ours, by_hand, bare] = interleave(
        context.rounds,
        [
            &mut || rate(runtime, BLOCK, &turns[0], modify.clone()),
            &mut || rate(runtime, BLOCK, &turns[1], by_hand.clone()),
            &mut || rate(runtime, BLOCK, &turns[2], bare.clone()),
        ],
    );
    subscriber.abort();

    let [ours, by_hand, bare] = [ours, by_hand, bare].map(|rates| median(&rates));
    let row = |name: &str, anchor: f64, goal| Row {
        what: "a write (`store.modify`), 64 in flight".to_owned(),
        ours: per_second(ours),
        anchor: format!("{name}: {}", per_second(anchor)),
        ratio: Some(ours / anchor),
        goal,
    };
    vec![
        row("the same script, clone, JSON both ways, one timeout, a subscriber", by_hand, "≥ 0.9"),
        row("the script alone, nobody subscribed", bare, ""),
    ]
}
