//! Models of a shared future, run under schedules that a model checker chooses. See
//! `cluster/model.rs`.
#![allow(clippy::unwrap_used, reason = "only models run this")]

use std::future::poll_fn;

use futures_util::FutureExt as _;

use super::*;
use crate::cluster::model::{explore, explore_all, race};

/// A shared future that another thread ends.
struct Scene {
    shared: Shared<u32>,
    gate: Arc<Gate>,
}

/// What the future waits for: `true` once it is open, and the waker of the future until then.
#[derive(Default)]
struct Gate(Mutex<(bool, Option<Waker>)>);

impl Gate {
    fn open(&self) {
        let waker = {
            let mut gate = self.0.lock().unwrap();
            gate.0 = true;
            gate.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<u32> {
        let mut gate = self.0.lock().unwrap();
        if gate.0 {
            return Poll::Ready(7);
        }
        gate.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Scene {
    fn race<const N: usize>(threads: [fn(&Self); N]) {
        let gate = Arc::new(Gate::default());
        let work = {
            let gate = gate.clone();
            poll_fn(move |cx| gate.poll(cx))
        };
        let scene = Arc::new(Scene { shared: Shared::new(Box::pin(work)), gate });
        race(&scene, threads);
        assert!(scene.shared.has_ended());
        assert_eq!(scene.shared.inner.readers.wakers().len(), 0);
    }

    fn read(&self) {
        assert_eq!(shuttle::future::block_on(self.shared.clone()), 7);
    }

    /// Polls the future once, and is cancelled.
    fn cancelled(&self) {
        let _ = self.shared.clone().now_or_never();
    }
}

#[test]
fn each_reader_gets_the_result() {
    explore_all(|| Scene::race([Scene::read, |scene| scene.gate.open()]));
    explore(|| Scene::race([Scene::read, Scene::read, Scene::read, |scene| scene.gate.open()]));
}

#[test]
fn a_cancelled_reader_holds_up_no_other() {
    explore(|| {
        Scene::race([Scene::cancelled, Scene::cancelled, Scene::read, |scene| scene.gate.open()]);
    });
}
