//! Scans that the backend makes start again, because its server has changed.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clustered_sessions::backend::Page;
use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{MemoryBackend, SessionStore, StoreError, StoreErrorKind};

use crate::web::{Data, ada, config, node, start};

/// Number of sessions. They fit on two pages.
const SESSIONS: u64 = 300;
/// Number of times that a scan may start.
const MAX_STARTS: u32 = 8;

/// Makes a scan start again at its second page, this many times.
#[derive(Clone)]
struct Restarts {
    left: u32,
    scans: Arc<AtomicU32>,
}

impl Interposer for Restarts {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::Scan {
            let earlier = self.scans.fetch_add(1, Ordering::SeqCst);
            let is_second = !earlier.is_multiple_of(2);
            if is_second && earlier / 2 < self.left {
                let page: Box<dyn Any> = Box::new(Page::Restart);
                return Ok(*page.downcast().expect("a scan returns a page"));
            }
        }
        call.await
    }
}

/// Returns a store whose scans start again this many times, and the number of its scans.
async fn store_that_restarts(times: u32) -> (SessionStore<Data>, Arc<AtomicU32>) {
    let memory = MemoryBackend::new();
    let other = node(&memory).await;
    for _ in 0..SESSIONS {
        let _ = other.store().create(ada()).await.unwrap();
    }
    let restarts = Restarts { left: times, scans: Arc::default() };
    let scans = restarts.scans.clone();
    let backend = Interposed::with_interposer(memory.clone(), restarts);
    let sessions = start(config(&memory).backend(backend)).await;
    (sessions.store().clone(), scans)
}

#[tokio::test]
async fn a_scan_that_starts_again_counts_each_session_once() {
    for times in [0, 1, MAX_STARTS - 1] {
        let (store, scans) = store_that_restarts(times).await;
        assert_eq!(store.size().await.unwrap(), SESSIONS, "after {times} restarts");
        assert_eq!(scans.load(Ordering::SeqCst), 2 * (times + 1));
        let (store, _) = store_that_restarts(times).await;
        assert_eq!(store.all_session_ids().await.unwrap().len() as u64, SESSIONS);
    }
}

#[tokio::test]
async fn a_scan_that_has_started_eight_times_fails() {
    let (store, scans) = store_that_restarts(MAX_STARTS).await;
    assert_eq!(store.size().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(scans.load(Ordering::SeqCst), 2 * MAX_STARTS);
}
