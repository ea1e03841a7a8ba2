//! From the beginning of a write on one node to the eviction on another.
//!
//! The node drops the data of a session when it evicts it. The type of the data notices that, on
//! the node's own thread, at that moment: nothing is polled, and nobody waits.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use clustered_sessions::{SessionId, SessionStore};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::by_hand::ByHand;
use super::redis::connect;
use super::{Context, one_thread};
use crate::measure::{interleave, quantile};
use crate::nodes;
use crate::table::{Row, grouped};

/// Writes in a block.
const BLOCK: usize = 300;
/// An announcement that has not arrived by then is lost.
const LOST: Duration = Duration::from_secs(5);
const SESSIONS: usize = 100;

/// Set while a session is cached on the second node and nothing but an eviction can drop it.
static EVICTED: Mutex<Option<Sender<Instant>>> = Mutex::new(None);

thread_local! {
    /// `true` on the thread of the second node.
    static OBSERVED: Cell<bool> = const { Cell::new(false) };
}

/// Data that reports when the second node drops it.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Watched {
    visits: u64,
    name: String,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if OBSERVED.get()
            && let Ok(evicted) = EVICTED.lock()
            && let Some(evicted) = &*evicted
        {
            let _ = evicted.send(Instant::now());
        }
    }
}

pub fn rows(context: &Context) -> Vec<Row> {
    let (runtime, other, server) = (&context.runtime, one_thread(), context.server());
    let writer = nodes::start(runtime, nodes::over_redis(&server.url(), SESSIONS * 2));
    let reader = nodes::start(&other, nodes::over_redis(&server.url(), SESSIONS * 2));
    // The only worker of that runtime.
    other.block_on(async { tokio::spawn(async { OBSERVED.set(true) }).await.expect("it runs") });
    let ids = runtime.block_on(async {
        let mut ids = Vec::new();
        for _ in 0..SESSIONS {
            let data = Watched { visits: 0, name: "n".repeat(200) };
            ids.push(writer.create(data).await.expect("the session is created").id);
        }
        ids
    });
    let (received, arrivals) = channel();
    let by_hand = runtime.block_on(ByHand::new(connect(runtime, &server.url()), "heard", SESSIONS));
    let subscriber = other.block_on(by_hand.subscribe(&server.url(), move |_| {
        let _ = received.send(Instant::now());
    }));

    let (mut ours, mut anchor) = (Vec::new(), Vec::new());
    let (mut turn, mut other_turn) = (0, 0);
    interleave(
        context.rounds,
        [
            &mut || {
                for _ in 0..BLOCK {
                    turn += 1;
                    let id = ids[turn % SESSIONS];
                    ours.push(evict(runtime, &writer, (&other, &reader), id));
                }
                0.0
            },
            &mut || {
                for _ in 0..BLOCK {
                    other_turn += 1;
                    anchor.push(publish(runtime, &by_hand, &arrivals, other_turn));
                }
                0.0
            },
        ],
    );
    subscriber.abort();

    let row = |name: &str, q: f64, goal| {
        let (ours, anchor) = (quantile(&ours, q), quantile(&anchor, q));
        Row {
            what: format!("write begun → evicted on another node, {name}"),
            ours: format!("{} µs", grouped(ours)),
            anchor: format!("bare script → subscriber: {} µs", grouped(anchor)),
            ratio: Some(ours / anchor),
            goal,
        }
    };
    vec![row("median", 0.5, "≤ 1.2"), row("p99", 0.99, "≤ 2")]
}

/// Returns microseconds from the beginning of a write to the eviction.
fn evict(
    runtime: &Runtime,
    writer: &SessionStore<Watched>,
    (other, reader): (&Runtime, &SessionStore<Watched>),
    id: SessionId,
) -> f64 {
    other.block_on(reader.find(id)).expect("it is read").expect("it exists");
    // The task that has loaded the session ends a moment after its reader is answered.
    std::thread::sleep(Duration::from_micros(200));
    let (evicted, evictions) = channel();
    *EVICTED.lock().expect("nobody panics") = Some(evicted);
    let begun = Instant::now();
    runtime.block_on(writer.modify(id, |data| data.visits += 1)).expect("the change is written");
    let at = evictions.recv_timeout(LOST).expect("the session is evicted");
    *EVICTED.lock().expect("nobody panics") = None;
    at.duration_since(begun).as_secs_f64() * 1e6
}

/// Returns microseconds from the beginning of a script to the arrival of what it publishes.
fn publish(
    runtime: &Runtime,
    by_hand: &ByHand,
    arrivals: &Receiver<Instant>,
    number: usize,
) -> f64 {
    // As long a pause as before each of our writes.
    std::thread::sleep(Duration::from_micros(200));
    let begun = Instant::now();
    runtime.block_on(by_hand.run_script(number));
    let at = arrivals.recv_timeout(LOST).expect("the message arrives");
    at.duration_since(begun).as_secs_f64() * 1e6
}
