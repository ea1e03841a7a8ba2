//! Models of shared loads, run under schedules that a model checker chooses. See
//! `cluster/model.rs`.
//!
//! The models do not cover the channel through which readers get a result, and the handling of a
//! dropped task. The thread that carries a load out also carries out the next one, in place of a
//! task.
#![allow(clippy::unwrap_used, clippy::collapsible_if, reason = "only models run this")]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::cluster::Lookup;
use crate::cluster::model::{Model, explore, race, version};

#[derive(Clone)]
struct Node {
    model: Arc<Model>,
    loads: Arc<SingleFlight<u32>>,
    /// `true` while a load is running.
    loading: Arc<AtomicBool>,
    /// Loads whose reader is not polled until all others have their results.
    stalled: Arc<Mutex<Vec<SharedLoad<u32>>>>,
}

impl Node {
    /// Runs the threads and checks that no load is left behind.
    fn race<const N: usize>(model: Arc<Model>, threads: [fn(&Self); N]) {
        let node = Arc::new(Node {
            model,
            loads: Arc::new(SingleFlight::new()),
            loading: Arc::default(),
            stalled: Arc::default(),
        });
        race(&node, threads);
        for load in node.stalled.lock().unwrap().drain(..) {
            shuttle::future::block_on(load).unwrap().ok();
        }
        assert!(node.loads.flights().is_empty());
        node.model.settle();
    }

    /// Reads as the store does, and checks that the result is not too old.
    fn read(&self, freshness: Freshness) {
        let due = match freshness {
            Freshness::Cached => self.model.due(),
            Freshness::Fresh => self.model.acknowledged(),
        };
        if freshness == Freshness::Cached {
            if let Lookup::Hit(_) | Lookup::Absent(_) = self.model.cache.get(&self.model.id) {
                return;
            }
        }
        let (Joined::Started(load) | Joined::Shared(load)) = self.join(freshness);
        let outcome = shuttle::future::block_on(load).unwrap();
        let seen = version(outcome.ok().as_ref());
        assert!(seen >= due, "version {seen} was read when {due} was due");
    }

    /// Begins to read, and is cancelled. If the reader has started a load, this thread takes its
    /// place, as a task does.
    fn cancelled(&self) {
        if let Joined::Started(load) = self.join(Freshness::Fresh) {
            shuttle::future::block_on(load).unwrap().ok();
        }
    }

    /// Begins to read, and is not polled again until all others have their results.
    fn stalls(&self) {
        let (Joined::Started(load) | Joined::Shared(load)) = self.join(Freshness::Cached);
        self.stalled.lock().unwrap().push(load);
    }

    fn join(&self, freshness: Freshness) -> Joined<u32> {
        let node = self.clone();
        let start = |call| -> Load<u32> { Box::pin(async move { node.carry_out(call) }) };
        self.loads.join_or_start(&self.model.cache, self.model.id, freshness, start)
    }

    fn carry_out(&self, call: PendingFill<u32>) -> LoadResult<u32> {
        let outcome = self.load();
        let mut next = self.complete(call, &outcome);
        while let Some((call, waiters)) = next {
            let outcome = self.load();
            next = self.complete(call, &outcome);
            let _ = waiters.readers.send(outcome);
        }
        outcome
    }

    fn load(&self) -> LoadResult<u32> {
        assert!(!self.loading.swap(true, Ordering::Relaxed), "two loads of one session run");
        let loaded = self.model.stored();
        self.loading.store(false, Ordering::Relaxed);
        Ok(loaded.ok_or(Absence::Gone))
    }

    fn complete(
        &self,
        call: PendingFill<u32>,
        outcome: &LoadResult<u32>,
    ) -> Option<(PendingFill<u32>, Waiters<u32>)> {
        self.loads.complete(&self.model.cache, self.model.id, call, outcome)
    }
}

#[test]
fn readers_share_no_load_that_is_too_old_for_one_of_them() {
    explore(|| {
        Node::race(
            Model::cold(),
            [
                |node| node.read(Freshness::Cached),
                |node| node.read(Freshness::Cached),
                |node| node.model.receive(),
                |node| {
                    assert!(node.model.change());
                    node.read(Freshness::Cached);
                },
            ],
        );
    });
    explore(|| {
        Node::race(
            Model::cold(),
            [
                |node| node.read(Freshness::Cached),
                |node| node.read(Freshness::Cached),
                |node| {
                    node.model.cut();
                    node.model.change_elsewhere();
                    node.model.disconnect();
                    node.read(Freshness::Cached);
                    node.model.subscribe();
                    node.model.receive();
                    node.read(Freshness::Cached);
                },
            ],
        );
    });
}

#[test]
fn a_fresh_read_is_not_older_than_its_call() {
    explore(|| {
        Node::race(
            Model::cold(),
            [
                |node| node.read(Freshness::Cached),
                |node| node.read(Freshness::Fresh),
                |node| {
                    node.model.change_elsewhere();
                    node.read(Freshness::Fresh);
                },
            ],
        );
    });
}

#[test]
fn a_cancelled_reader_does_not_affect_the_others() {
    explore(|| {
        Node::race(
            Model::cold(),
            [
                |node| node.cancelled(),
                |node| node.cancelled(),
                |node| node.read(Freshness::Fresh),
                |node| node.read(Freshness::Cached),
            ],
        );
    });
}

#[test]
fn a_reader_that_is_not_polled_holds_up_no_other() {
    explore(|| {
        Node::race(
            Model::cold(),
            [
                |node| node.stalls(),
                |node| node.read(Freshness::Cached),
                |node| node.read(Freshness::Fresh),
            ],
        );
    });
}
