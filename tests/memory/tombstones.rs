//! Deletions under the old id of a session that was regenerated.

use std::time::Duration;

use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{Clock, MemoryBackend, Session, SessionLayer, StoreError, StoreErrorKind};
use tokio::time::advance;

use crate::web::{Browser, Data, ada, config, node, only_id, serve, start};

const TOMBSTONE_TTL: Duration = Duration::from_secs(60);

async fn regenerate(sessions: &SessionLayer<Data>, browser: &mut Browser) {
    let handler = async |session: Session<Data>| session.regenerate();
    browser.visit(&serve(sessions, handler)).await;
}

#[tokio::test]
async fn a_deletion_follows_several_tombstones_to_the_session() {
    let sessions = node(&MemoryBackend::new()).await;
    let mut browser = Browser::with(&sessions, ada()).await;
    let first = only_id(&sessions).await;
    for _ in 0..3 {
        regenerate(&sessions, &mut browser).await;
    }
    assert_ne!(only_id(&sessions).await, first);
    assert!(sessions.store().delete(first).await.unwrap());
    assert_eq!(sessions.store().size().await.unwrap(), 0);
}

/// Takes this long for each deletion.
struct SlowDeletion(Duration);

impl Interposer for SlowDeletion {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == BackendMethod::Delete {
            // The call ends at once by the clock of its own timeout, which is polled after it.
            advance(self.0).await;
        }
        call.await
    }
}

/// Meanwhile, the session may have moved, and the tombstone that says so may have expired.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_takes_as_long_as_a_tombstone_lives_has_an_unknown_outcome() {
    for takes in [TOMBSTONE_TTL - Duration::from_secs(1), TOMBSTONE_TTL] {
        let clock = Clock::tokio();
        let memory = MemoryBackend::with_clock(clock.clone());
        let backend = Interposed::with_interposer(memory.clone(), SlowDeletion(takes));
        let sessions = start(config(&memory).clock(clock).backend(backend)).await;
        let id = sessions.store().create(ada()).await.unwrap().id;
        let deleted = sessions.store().delete(id).await.map_err(|error| error.kind());
        if takes < TOMBSTONE_TTL {
            assert_eq!(deleted, Ok(true));
        } else {
            assert_eq!(deleted, Err(StoreErrorKind::OutcomeUnknown));
        }
    }
}
