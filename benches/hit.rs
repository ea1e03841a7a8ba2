//! The cost of a cached read, and what exporting it to a recorder adds.
//!
//! Run it with `cargo bench --bench hit --features metrics`, and without the feature to compare.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use clustered_sessions::{ClusterConfig, Secret, SessionConfig, SessionStore};
use divan::{Bencher, bench};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    user_id: u64,
}

/// A store that answers from its cache, without heartbeats in the background.
fn store() -> SessionStore<Visitor> {
    let secret = Secret::new([7; 32]).unwrap();
    let config = SessionConfig::builder(secret)
        .cluster(ClusterConfig::new().enabled(false))
        .build()
        .unwrap();
    SessionStore::new(config)
}

/// Measures cached reads of one session, which all threads share.
fn hit(bencher: Bencher<'_, '_>, store: &SessionStore<Visitor>) {
    let runtime = Runtime::new().unwrap();
    let id = runtime.block_on(store.create(Visitor { user_id: 1 })).unwrap().id;
    bencher.bench(|| {
        let mut context = Context::from_waker(Waker::noop());
        // Polled in place, because moving the future would cost more than the read itself.
        let Poll::Ready(found) = pin!(store.find(id)).poll(&mut context) else {
            unreachable!("the session is cached")
        };
        found.unwrap()
    });
}

#[bench(threads = [1, 2], sample_size = 20000, sample_count = 200)]
fn without_a_recorder(bencher: Bencher<'_, '_>) {
    hit(bencher, &store());
}

#[cfg(feature = "metrics")]
#[bench(threads = [1, 2], sample_size = 20000, sample_count = 200)]
fn with_prometheus(bencher: Bencher<'_, '_>) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    hit(bencher, &metrics::with_local_recorder(&recorder, store));
}
