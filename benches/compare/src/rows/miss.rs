//! Reads of sessions that are not cached, many at a time.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::time::timeout;

use super::redis::{TIMEOUT, connect, json, rate};
use super::{Context, IN_FLIGHT};
use crate::data::UserSession;
use crate::measure::{interleave, median};
use crate::nodes;
use crate::table::{Row, per_second};

/// Many more than the cache holds, so that each has been evicted when its turn comes again.
const SESSIONS: usize = 20_000;
const BLOCK: usize = 12_800;

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, server) = (&context.runtime, context.server());
    let store = nodes::start(runtime, nodes::over_redis(&server.url(), IN_FLIGHT));
    let ids: Arc<[_]> = nodes::fill(runtime, &store, SESSIONS).into();
    let connection = connect(runtime, &server.url());
    runtime.block_on(write_values(connection.clone()));

    let by_hand = {
        let connection = connection.clone();
        move |number| read_by_hand(connection.clone(), number)
    };
    let raw = move |number| {
        let value = get(connection.clone(), number);
        async move { drop(black_box(value.await)) }
    };
    let find = {
        let store = store.clone();
        move |number: usize| {
            let (store, id) = (store.clone(), ids[number % SESSIONS]);
            async move {
                black_box(store.find(id).await.expect("it is read").expect("it exists"));
            }
        }
    };
    let before = store.cache_stats();
    let turns = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let [ours, by_hand, raw] = interleave(
        context.rounds,
        [
            &mut || rate(runtime, BLOCK, &turns[0], find.clone()),
            &mut || rate(runtime, BLOCK, &turns[1], by_hand.clone()),
            &mut || rate(runtime, BLOCK, &turns[2], raw.clone()),
        ],
    );
    let after = store.cache_stats();
    let (hits, misses) = (after.hits - before.hits, after.misses - before.misses);
    assert!(hits * 100 < misses, "{hits} of these reads were hits");

    let [ours, by_hand, raw] = [ours, by_hand, raw].map(|rates| median(&rates));
    let row = |name: &str, anchor: f64, goal| Row {
        what: "a miss, 64 in flight".to_owned(),
        ours: per_second(ours),
        anchor: format!("{name}: {}", per_second(anchor)),
        ratio: Some(ours / anchor),
        goal,
    };
    vec![
        row("`GETEX`, one timeout, JSON into an `Arc<T>`", by_hand, "≥ 0.9"),
        row("`GETEX` alone", raw, ""),
    ]
}

fn key(number: usize) -> String {
    format!("by-hand:{:022}", number % SESSIONS)
}

async fn write_values(mut connection: MultiplexedConnection) {
    for number in 0..SESSIONS {
        let mut set = cmd("SET");
        set.arg(key(number)).arg(json(number)).arg("PX").arg(3_600_000);
        set.exec_async(&mut connection).await.expect("the session is written");
    }
}

async fn get(mut connection: MultiplexedConnection, number: usize) -> Vec<u8> {
    let value = cmd("GETEX").arg(key(number)).query_async(&mut connection).await;
    value.expect("the session is read")
}

async fn read_by_hand(connection: MultiplexedConnection, number: usize) {
    let value = timeout(TIMEOUT, get(connection, number)).await.expect("it is in time");
    let data: UserSession = serde_json::from_slice(&value).expect("the value is JSON");
    black_box(Arc::new(data));
}
