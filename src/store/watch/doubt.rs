//! Reads of a watched session while it is in doubt that it exists.

use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{Look, SessionWatch};
use crate::clock::{Millis, millis};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Ended, Record, SessionData};
use crate::task::join_result;

/// The time in which it is in doubt that a session exists.
#[derive(Clone, Copy)]
pub(super) struct Doubt {
    /// The moment up to which the session is known to have existed.
    since: Millis,
    /// The last moment at which somebody asked the watch, and the watch tried to read the session.
    asked_at: Millis,
    /// `true` if a read has had more time than the grace, because nobody had asked before.
    extended: bool,
}

/// A read of a session by a task of its own.
///
/// A watch may not be polled while its client is slow, and it must not keep its turn from the
/// others then, nor a load. The task outlives a call that is dropped: a client that sends so often
/// that each call is dropped must not keep the watch from its answer.
pub(super) struct Reading<T> {
    began: Millis,
    found: AbortOnDropHandle<Found<T>>,
}

/// What a read has found. `None` if it took too long.
type Found<T> = Option<Result<Option<Record<T>>, StoreError>>;

impl<T: SessionData> SessionWatch<T> {
    /// Reads the session, as long as its existence may stay in doubt. Returns what was found, and
    /// when the read began. Fails with the result of the look.
    pub(super) async fn read(
        &mut self,
        id: SessionId,
        now: Millis,
    ) -> Result<(Option<Record<T>>, Millis), Look<T>> {
        let since = self.store.certain_until(self.seen_at, now);
        let doubt = self.doubt.get_or_insert(Doubt { since, asked_at: since, extended: false });
        let watching = &self.store.inner.watching;
        let end = doubt.since.plus(millis(watching.grace));
        // Nobody has asked the watch for a while. The last read may have failed long ago.
        let is_neglected = doubt.asked_at.plus(2 * millis(watching.pulse)) < now;
        doubt.asked_at = now;
        let (found, began) = match &mut self.reading {
            Some(reading) if !is_neglected => (reading.finish().await, reading.began),
            _ => {
                let left = match end.0.saturating_sub(now.0) {
                    0 if is_neglected && !doubt.extended => {
                        doubt.extended = true;
                        self.store.inner.backend.deadline().left()
                    }
                    left => Duration::from_millis(left),
                };
                (self.read_within(left, id, now).await, now)
            }
        };
        self.reading = None;
        if let Some(doubt) = &mut self.doubt {
            doubt.asked_at = self.store.now();
        }
        match found {
            Some(Ok(found)) => Ok((found, began)),
            // A read that fails at once does not time out.
            Some(Err(error))
                if error.kind() != StoreErrorKind::Closed && self.store.now() < end =>
            {
                Err(Look::Unreadable)
            }
            Some(Err(_)) | None => Err(Look::Answer(Err(Ended::Unknown))),
        }
    }

    /// Reads the session when it is this watch's turn.
    async fn read_within(&mut self, limit: Duration, id: SessionId, now: Millis) -> Found<T> {
        let (store, origin) = (self.store.clone(), self.origin);
        let read = async move {
            // The semaphore is never closed.
            let _turn = store.inner.cache.watches().looks().acquire().await;
            store.operation(store.read_where_it_is(id, origin)).await
        };
        let mut read = Box::pin(async move { timeout(limit, read).await.ok() }.in_current_span());
        if let Some(found) = poll_immediate(&mut read).await {
            return found;
        }
        let found = AbortOnDropHandle::new(tokio::spawn(read));
        self.reading.insert(Reading { began: now, found }).finish().await
    }
}

impl<T> Reading<T> {
    async fn finish(&mut self) -> Found<T> {
        join_result((&mut self.found).await)?
    }
}
