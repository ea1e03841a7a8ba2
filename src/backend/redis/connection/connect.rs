//! Makes the connection. One attempt is under way at a time, and all callers share its result.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::super::endpoint::Link;
use super::super::own_task::in_own_task;
use super::{Connected, ConnectionState, RECONNECT_AFTER, SharedConnection};
use crate::error::{StoreError, StoreErrorKind};

/// An attempt that has failed.
pub(super) struct Failure {
    error: StoreError,
    at: Instant,
    /// The number of moves when the attempt began.
    moves: u64,
}

impl ConnectionState {
    /// Returns the connection in use, unless the server has closed it, or commands have moved on
    /// since. Fails if there will be no other.
    fn usable(&self, moves: u64) -> Result<Option<Connected>, StoreError> {
        if self.closed {
            return Err(StoreErrorKind::Closed.into());
        }
        let usable = |it: &&Connected| it.moves == moves && !it.link.wire.is_closed();
        Ok(self.current.as_ref().filter(usable).cloned())
    }

    /// Returns the error of the last attempt if another one would fail, too, until an operator has
    /// corrected a password or a certificate. Each attempt would only cost both sides a handshake.
    fn recent_refusal(&self) -> Option<StoreError> {
        let failure = self.failure.as_ref()?;
        let is_recent = failure.at.elapsed() < RECONNECT_AFTER;
        let is_refusal = failure.error.kind() == StoreErrorKind::Refused;
        (is_recent && is_refusal).then(|| failure.error.clone())
    }
}

impl SharedConnection {
    /// Returns the connection in use, or makes a new one.
    pub(in super::super) async fn connected(self: &Arc<Self>) -> Result<Connected, StoreError> {
        let attempts_before = {
            let state = self.lock();
            if let Some(connected) = state.usable(*self.moves.borrow())? {
                return Ok(connected);
            }
            if let Some(refusal) = state.recent_refusal() {
                return Err(refusal);
            }
            state.attempts
        };
        // A task of its own: everybody waits for the attempt, and the caller that has begun it may
        // not be polled meanwhile.
        let this = self.clone();
        in_own_task(async move { this.connect(attempts_before).await }).await
    }

    /// Makes a new connection, unless another caller does, or has since this number of attempts.
    async fn connect(&self, attempts_before: u64) -> Result<Connected, StoreError> {
        let _connecting = self.connecting.lock().await;
        let last = {
            let state = self.lock();
            if let Some(connected) = state.usable(*self.moves.borrow())? {
                return Ok(connected);
            }
            // Another caller's attempt failed while this one waited. If each waiting caller tried
            // in turn, the last would wait too long.
            if let Some(failure) =
                state.failure.as_ref().filter(|_| state.attempts != attempts_before)
            {
                return Err(failure.error.clone());
            }
            state.failure.as_ref().map(|failure| (failure.at, failure.moves))
        };
        if let Some((at, moves)) = last {
            // A master that refuses writes, or a server that cannot take another connection, fails
            // an attempt at once. Without a pause, the commands of a busy node would cost both
            // sides, and the sentinels, hundreds of handshakes a second.
            tokio::select! {
                () = sleep_until(at + RECONNECT_AFTER) => {}
                () = self.moves_on_from(moves) => {}
            }
        }
        let (attempt, mut moves) = self.attempt().await;
        let mut state = self.lock();
        state.attempts += 1;
        if state.closed {
            // The attempt may have opened connections to sentinels since.
            self.endpoint.close();
            return Err(StoreErrorKind::Closed.into());
        }
        match attempt {
            Ok(link) => {
                state.failure = None;
                // Before any command is sent to it. The subscription to another server ends a
                // moment later, and at the latest with its lease.
                if state.server.as_ref() != Some(&link.server) {
                    state.server = Some(link.server.clone());
                    self.moves.send_modify(|moves| *moves += 1);
                    moves += 1;
                }
                let (generation, since) = (state.attempts, Instant::now());
                let link = Arc::new(link);
                let connected = Connected { link, generation, since, moves, asking: false };
                state.current = Some(connected.clone());
                Ok(connected)
            }
            Err(error) => {
                state.failure = Some(Failure { error: error.clone(), at: Instant::now(), moves });
                Err(error)
            }
        }
    }

    /// Tries to connect. Starts again if commands must move on meanwhile: what is waited for may be
    /// a server that has just been replaced. Returns the number of moves from before the attempt.
    async fn attempt(&self) -> (Result<Link, StoreError>, u64) {
        loop {
            let moves = *self.moves.borrow();
            tokio::select! {
                attempt = self.endpoint.connect() => return (attempt, moves),
                () = self.moves_on_from(moves) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::DuplexStream;
    use tokio::sync::watch;
    use tokio::time::{sleep, timeout};

    use super::super::super::config::{RedisConfig, RedisSentinels};
    use super::super::super::endpoint::Target;
    use super::super::super::sentinel::Sentinels;
    use super::super::tests::{connection, fixed};
    use super::*;

    /// Returns the configuration of a server that cannot be reached, which takes this long to
    /// notice, and the number of streams that were to be opened.
    fn unreachable(after: Duration) -> (RedisConfig, Arc<AtomicUsize>) {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = opened.clone();
        let config = RedisConfig::new("localhost", 6379).connector(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                sleep(after).await;
                Err::<DuplexStream, _>(io::Error::other("unreachable"))
            }
        });
        (config, opened)
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_pause_after_an_attempt_that_has_failed() {
        let (config, opened) = unreachable(Duration::ZERO);
        let connection = connection(&config, fixed());
        let begun = Instant::now();
        for _ in 0..5 {
            assert!(connection.connected().await.is_err());
        }
        assert_eq!(opened.load(Ordering::Relaxed), 5);
        let spent = begun.elapsed();
        assert!(spent >= 4 * RECONNECT_AFTER, "after {spent:?}");
        connection.moves.send_modify(|moves| *moves += 1);
        assert!(connection.connected().await.is_err());
        assert_eq!(begun.elapsed(), spent, "commands go elsewhere by now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_not_polled_holds_up_no_other() {
        let (config, _) = unreachable(Duration::from_millis(10));
        let connection = connection(&config, fixed());
        let mut unpolled = Box::pin(connection.connected());
        assert!(futures_util::poll!(&mut unpolled).is_pending());
        let other = timeout(Duration::from_secs(10), connection.connected()).await;
        assert!(other.expect("it need not wait for the first").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_is_under_way_at_the_shutdown_leaves_nothing_behind() {
        let (config, opened) = unreachable(Duration::from_millis(10));
        let service = RedisSentinels::new("mymaster", [("localhost", 26379)]);
        let (dialer, moves) = (config.sentinel_dialer(&service).unwrap(), watch::Sender::new(0));
        let sentinels = Arc::new(Sentinels::new(&service, &dialer, Duration::from_secs(1), moves));
        let connection = connection(&config, Target::Sentinel(sentinels.clone()));
        let mut callers = [(); 5].map(|()| Box::pin(connection.connected()));
        for caller in &mut callers {
            assert!(futures_util::poll!(caller).is_pending());
        }
        tokio::task::yield_now().await;
        assert!(sentinels.are_watched());
        connection.close();
        for caller in callers {
            assert_eq!(caller.await.map(drop).unwrap_err().kind(), StoreErrorKind::Closed);
        }
        assert!(!sentinels.are_watched());
        // The one under way may have started again. Those that waited have made none.
        assert!(opened.load(Ordering::Relaxed) <= 2, "{opened:?}");
    }
}
