//! Models of shared loads, run under schedules that a model checker chooses. See
//! `cluster/model.rs`.
//!
//! The models do not cover tokio's channel, which sends the result, and the handling of a dropped
//! task. The thread that has started a load carries it out.
#![allow(clippy::unwrap_used, clippy::collapsible_if, reason = "only models run this")]

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::cluster::Lookup;
use crate::cluster::model::{Model, explore, race, version};

struct Node {
    model: Arc<Model>,
    loads: SingleFlight<u32>,
    /// `true` while a load is running.
    loading: AtomicBool,
}

impl Node {
    /// Runs the threads and checks that no load is left behind.
    fn race<const N: usize>(model: Arc<Model>, threads: [fn(&Self); N]) {
        let node =
            Arc::new(Node { model, loads: SingleFlight::new(), loading: AtomicBool::new(false) });
        race(&node, threads);
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
        let outcome = shuttle::future::block_on(self.join(freshness)).unwrap();
        let seen = version(outcome.unwrap().ok().as_ref());
        assert!(seen >= due, "version {seen} was read when {due} was due");
    }

    fn join(&self, freshness: Freshness) -> SharedResult<u32> {
        let (result, mut started) =
            self.loads.join_or_start(&self.model.cache, self.model.id, freshness);
        while let Some(load) = started {
            assert!(!self.loading.swap(true, Ordering::Relaxed), "two loads of one session run");
            let loaded = self.model.stored();
            self.loading.store(false, Ordering::Relaxed);
            started = self.loads.complete(
                &self.model.cache,
                self.model.id,
                load,
                Ok(loaded.ok_or(Absence::Gone)),
            );
        }
        result
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
                |node| drop(node.join(Freshness::Fresh)),
                |node| drop(node.join(Freshness::Fresh)),
                |node| node.read(Freshness::Fresh),
                |node| node.read(Freshness::Cached),
            ],
        );
    });
}
