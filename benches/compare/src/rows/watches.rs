//! From the deletion of sessions to the last of those who watch them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clustered_sessions::{Ended, SessionId, SessionStore};
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;

use super::Context;
use crate::data::UserSession;
use crate::measure::{interleave, median};
use crate::nodes;
use crate::table::{Row, grouped};

const WATCHES: usize = 10_000;
/// Time in which those who have begun to watch have looked at their sessions.
const SETTLE: Duration = Duration::from_millis(100);

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, server) = (&context.runtime, context.server());
    let store = nodes::start(runtime, nodes::over_redis(&server.url(), WATCHES * 2));
    let [ours, anchor] = interleave(
        context.rounds,
        [
            &mut || {
                let ids = nodes::fill(runtime, &store, 1);
                let ids = ids.repeat(WATCHES);
                let delete = async { assert!(store.delete(ids[0]).await.expect("it is deleted")) };
                ended(runtime, &store, &ids, delete)
            },
            &mut || told(runtime),
        ],
    );
    let [with, without] = interleave(
        context.rounds,
        [
            &mut || {
                let ids = nodes::fill(runtime, &store, WATCHES);
                ended(runtime, &store, &ids, clear(&store))
            },
            &mut || {
                nodes::fill(runtime, &store, WATCHES);
                milliseconds(|| runtime.block_on(clear(&store)))
            },
        ],
    );
    runtime.block_on(store.shutdown());
    let row = |what: &str, ours: &[f64], anchor: &str, other: &[f64]| Row {
        what: what.into(),
        ours: format!("{} ms", grouped(median(ours))),
        anchor: format!("{anchor}: {} ms", grouped(median(other))),
        ratio: Some(median(ours) / median(other)),
        goal: "",
    };
    vec![
        row(
            "deletion begun → 10,000 watches of the session told",
            &ours,
            "tokio's `watch`, 10,000 tasks",
            &anchor,
        ),
        row(
            "`clear` begun → the watches of 10,000 sessions told",
            &with,
            "`clear`, nobody watches",
            &without,
        ),
    ]
}

async fn clear(store: &SessionStore<UserSession>) {
    store.clear().await.expect("all are deleted");
}

fn milliseconds(run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    begun.elapsed().as_secs_f64() * 1e3
}

/// Returns milliseconds from the beginning of a deletion until a task for each of the sessions
/// knows of it.
fn ended(
    runtime: &Runtime,
    store: &SessionStore<UserSession>,
    ids: &[SessionId],
    delete: impl Future<Output = ()>,
) -> f64 {
    let mut watching = JoinSet::new();
    let all = Arc::new(Barrier::new(ids.len() + 1));
    for id in ids {
        let (mut watch, all) = (store.watch(*id), all.clone());
        let task = async move {
            watch.changed().await.expect("the session is there");
            all.wait().await;
            assert!(matches!(watch.ended().await, Ended::Revoked | Ended::Deleted));
        };
        watching.spawn_on(task, runtime.handle());
    }
    runtime.block_on(async {
        all.wait().await;
        tokio::time::sleep(SETTLE).await;
    });
    milliseconds(|| {
        runtime.block_on(async {
            delete.await;
            watching.join_all().await;
        });
    })
}

/// Returns milliseconds from a message until each of as many tasks has received it.
fn told(runtime: &Runtime) -> f64 {
    let (sender, receiver) = watch::channel(());
    let mut waiting = JoinSet::new();
    for _ in 0..WATCHES {
        let mut receiver = receiver.clone();
        let task = async move { receiver.changed().await.expect("the sender is there") };
        waiting.spawn_on(task, runtime.handle());
    }
    std::thread::sleep(SETTLE);
    milliseconds(|| {
        sender.send(()).expect("there are receivers");
        runtime.block_on(waiting.join_all());
    })
}
