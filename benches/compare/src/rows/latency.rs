//! One operation at a time, beside a store that asks Redis each time: that of tower-sessions,
//! without its cache.

use std::cell::Cell;
use std::hint::black_box;

use clustered_sessions::SessionId;
use tokio::runtime::Runtime;
use tower_sessions::SessionStore;
use tower_sessions::cookie::time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};

use super::Context;
use crate::app::store_over_redis;
use crate::data::UserSession;
use crate::measure::{interleave, median, nanoseconds};
use crate::nodes;
use crate::table::{Row, grouped};

const SESSIONS: usize = 1_000;
const BLOCK: usize = 1_000;
const DATA: &str = "user";

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, server) = (&context.runtime, context.server());
    let store =
        nodes::start(runtime, nodes::over_redis::<UserSession>(&server.url(), SESSIONS * 2));
    let ids = nodes::fill(runtime, &store, SESSIONS);
    let peer = store_over_redis(runtime, &server.url());
    let records = runtime.block_on(async {
        let mut records = Vec::new();
        for number in 0..SESSIONS {
            records.push(create(&peer, number as u64).await);
        }
        records
    });
    let turn = Turn::default();
    let id = || ids[turn.next() % SESSIONS];

    let [cached, fresh, load] = interleave(
        context.rounds,
        [
            &mut || each(runtime, async || found(store.find(id()).await)),
            &mut || each(runtime, async || found(store.find_fresh(id()).await)),
            &mut || {
                each(runtime, async || {
                    let loaded = peer.load(&records[turn.next() % SESSIONS].id).await;
                    let record = loaded.expect("it is read").expect("it exists");
                    black_box(user(&record));
                })
            },
        ],
    );
    let [modify, save] = interleave(
        context.rounds,
        [
            &mut || {
                each(runtime, async || {
                    store.modify(id(), |data| data.visits += 1).await.expect("it is written");
                })
            },
            &mut || {
                each(runtime, async || {
                    let mut record = records[turn.next() % SESSIONS].clone();
                    let mut data = user(&record);
                    data.visits += 1;
                    set_user(&mut record, &data);
                    peer.save(&record).await.expect("it is written");
                })
            },
        ],
    );
    // A session is there only once, so each block creates what it deletes.
    let [delete, delete_there] = interleave(
        context.rounds,
        [
            &mut || {
                let ids: Vec<SessionId> = nodes::fill(runtime, &store, BLOCK);
                let deleted = Turn::default();
                each(runtime, async || {
                    assert!(store.delete(ids[deleted.next()]).await.expect("it is deleted"));
                })
            },
            &mut || {
                let records: Vec<_> = runtime.block_on(async {
                    let mut records = Vec::new();
                    for number in 0..BLOCK {
                        records.push(create(&peer, number as u64).await);
                    }
                    records
                });
                let deleted = Turn::default();
                each(runtime, async || {
                    peer.delete(&records[deleted.next()].id).await.expect("it is deleted");
                })
            },
        ],
    );
    runtime.block_on(store.shutdown());

    let row = |what: &str, ours: &[f64], method: &str, theirs: &[f64]| {
        let (ours, theirs) = (median(ours), median(theirs));
        Row {
            what: format!("{what}, one at a time"),
            ours: micros(ours),
            anchor: format!("tower-sessions-redis-store `{method}`: {}", micros(theirs)),
            ratio: Some(ours / theirs),
            goal: "",
        }
    };
    vec![
        row("a cached read (`store.find`)", &cached, "load", &load),
        row("a read from Redis (`store.find_fresh`)", &fresh, "load", &load),
        row("a write, announced to all nodes (`store.modify`)", &modify, "save", &save),
        row(
            "a deletion, announced to all nodes (`store.delete`)",
            &delete,
            "delete",
            &delete_there,
        ),
    ]
}

/// Counts operations.
#[derive(Default)]
struct Turn(Cell<usize>);

impl Turn {
    fn next(&self) -> usize {
        let turn = self.0.get();
        self.0.set(turn + 1);
        turn
    }
}

/// Returns nanoseconds for each operation of a block.
fn each(runtime: &Runtime, run: impl AsyncFn()) -> f64 {
    nanoseconds(BLOCK, || {
        runtime.block_on(async {
            for _ in 0..BLOCK {
                run().await;
            }
        });
    })
}

fn found<R>(read: Result<Option<R>, clustered_sessions::StoreError>) {
    black_box(read.expect("it is read").expect("it exists"));
}

async fn create(peer: &impl SessionStore, number: u64) -> Record {
    let expiry_date = OffsetDateTime::now_utc() + Duration::hours(12);
    let mut record = Record { id: Id::default(), data: Default::default(), expiry_date };
    set_user(&mut record, &UserSession::number(number));
    peer.create(&mut record).await.expect("it is created");
    record
}

fn user(record: &Record) -> UserSession {
    serde_json::from_value(record.data[DATA].clone()).expect("the data is JSON")
}

fn set_user(record: &mut Record, user: &UserSession) {
    let value = serde_json::to_value(user).expect("the data is JSON");
    record.data.insert(DATA.to_owned(), value);
}

fn micros(nanoseconds: f64) -> String {
    if nanoseconds < 10_000.0 {
        format!("{:.1} µs", nanoseconds / 1000.0)
    } else {
        format!("{} µs", grouped(nanoseconds / 1000.0))
    }
}
