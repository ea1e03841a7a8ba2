//! A visitor who visits nodes all the time, and whose visits are counted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::StatusCode;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::node::Node;
use crate::trial::PAUSE;

/// A visitor's continuous visits, one after the other on each node. They end on drop.
pub(crate) struct Visits {
    visitor: Visitor,
    stopping: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A visitor whose session counts the visits.
#[derive(Clone)]
struct Visitor {
    browser: Client,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    tried: u64,
    /// The number that each acknowledged visit got, and how many had been tried by then.
    acknowledged: Vec<(u64, u64)>,
    last_failure: Option<Instant>,
}

impl Visitor {
    async fn visit(&self, url: &str) -> StatusCode {
        self.seen.lock().unwrap().tried += 1;
        let answer = self.browser.clone().post(url).await;
        let mut seen = self.seen.lock().unwrap();
        if answer.status == StatusCode::OK {
            let (number, tried) = (answer.body["visits"].as_u64().unwrap(), seen.tried);
            seen.acknowledged.push((number, tried));
        } else {
            seen.last_failure = Some(Instant::now());
        }
        answer.status
    }
}

impl Visits {
    pub(crate) fn start<'a>(browser: Client, nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let visitor = Visitor { browser, seen: Arc::default() };
        let stopping = Arc::new(AtomicBool::new(false));
        let visit = |node: &Node| {
            let (url, visitor) = (node.url("/visit"), visitor.clone());
            let stopping = stopping.clone();
            tokio::spawn(async move {
                while !stopping.load(Ordering::SeqCst) {
                    visitor.visit(&url).await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        let tasks = nodes.into_iter().map(visit).collect();
        Visits { visitor, stopping, tasks }
    }

    pub(crate) fn browser(&self) -> &Client {
        &self.visitor.browser
    }

    /// Visits a node once, which must succeed.
    pub(crate) async fn visit(&self, node: &Node) {
        assert_eq!(self.visitor.visit(&node.url("/visit")).await, StatusCode::OK);
    }

    /// Stops the visits and waits for those in progress.
    pub(crate) async fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Returns the time of the last visit that failed.
    pub(crate) fn last_failure(&self) -> Option<Instant> {
        self.visitor.seen.lock().unwrap().last_failure
    }

    /// Returns the number of acknowledged visits that the servers have forgotten. Checks that there
    /// were acknowledged ones, and that no visit was counted twice.
    pub(crate) fn forgotten(&self) -> usize {
        let seen = self.visitor.seen.lock().unwrap();
        assert!(!seen.acknowledged.is_empty(), "none of {} visits was acknowledged", seen.tried);
        for (number, tried) in &seen.acknowledged {
            assert!(number <= tried, "{number} visits were counted when {tried} had been tried");
        }
        // A visit that was forgotten shares its number with a later one.
        let numbers: BTreeSet<_> = seen.acknowledged.iter().map(|(number, _)| number).collect();
        seen.acknowledged.len() - numbers.len()
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
