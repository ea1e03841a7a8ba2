//! The clock: one of the two seams that tests control, beside the backend.

#[cfg(feature = "redis")]
mod server_time;
mod timestamp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

#[cfg(feature = "redis")]
pub(crate) use self::server_time::{ServerTime, parse_info};
pub use self::timestamp::Timestamp;
use crate::random::random_bytes;

/// The source of time of a store.
///
/// Two kinds of time are used. Events within this process, such as leases and the age of a cached
/// entry, follow the monotonic clock. Times that several nodes must agree on, such as when a
/// session was created and when it expires, are wall-clock times. With Redis, they are those of the
/// server's clock, from the first connection on, so the clocks of the nodes need not agree.
///
/// The default is [`Clock::system`]. A test that runs under tokio's paused clock should use
/// [`Clock::tokio`]: its wall clock follows the paused one, so that `tokio::time::advance` advances
/// both.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: Wall,
    /// The time of the backend's server, which replaces that of the machine.
    #[cfg(feature = "redis")]
    server: Option<Arc<ServerTime>>,
}

/// The source of wall-clock time.
#[derive(Clone, Debug)]
enum Wall {
    /// The machine's wall clock.
    System,
    /// The machine's wall clock, wrong by this many milliseconds.
    #[cfg(feature = "_guards")]
    Wrong(i64),
    /// tokio's clock.
    FollowsTokio {
        origin: Instant,
        /// The wall-clock time at `origin`.
        at_origin: Timestamp,
        /// The number of jittered pauses so far. It replaces randomness, so that a repeated test
        /// repeats its pauses.
        pauses: Arc<AtomicU64>,
    },
}

impl Clock {
    /// Returns the machine's clocks.
    pub fn system() -> Self {
        Self::with(Wall::System)
    }

    /// Returns the machine's clocks, with a wall clock that is ahead by this many milliseconds, or
    /// behind.
    #[cfg(feature = "_guards")]
    #[doc(hidden)]
    pub fn wrong_by(millis: i64) -> Self {
        Self::with(Wall::Wrong(millis))
    }

    /// Takes wall-clock times from the backend's server as soon as they are known. A clock that
    /// follows tokio's stays under the control of the test.
    #[cfg(feature = "redis")]
    pub(crate) fn follow(&mut self, server: Arc<ServerTime>) {
        if !matches!(self.wall, Wall::FollowsTokio { .. }) {
            self.server = Some(server);
        }
    }

    /// Creates a wall clock that follows `tokio::time`, which a test can pause and advance.
    /// Until then, it shows the present.
    ///
    /// All such clocks of a runtime agree to the millisecond, whenever they are created.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// use clustered_sessions::{Clock, Secret, SessionConfig};
    ///
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("tests"))
    ///     .clock(Clock::tokio())
    ///     .build();
    /// assert!(config.is_ok());
    /// # }
    /// ```
    pub fn tokio() -> Self {
        let origin = monotonic();
        let at_origin = wall_of_tokio(origin);
        Self::with(Wall::FollowsTokio { origin, at_origin, pauses: Arc::default() })
    }

    fn with(wall: Wall) -> Self {
        Clock {
            wall,
            #[cfg(feature = "redis")]
            server: None,
        }
    }

    /// Returns the present moment on the monotonic clock.
    pub(crate) fn now(&self) -> Millis {
        self.at(monotonic())
    }

    /// Converts an instant, rounding down: a lease that runs from a rounded moment ends early,
    /// never late.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let origin = match &self.wall {
            // An origin per clock, so that a repeated test rounds alike.
            Wall::FollowsTokio { origin, .. } => origin,
            _ => ORIGIN.get_or_init(origin),
        };
        Millis(millis(instant.saturating_duration_since(*origin)))
    }

    /// Returns a random duration between half the pause and all of it, so that nodes that were
    /// disconnected together do not reconnect together.
    pub(crate) fn jitter(&self, pause: Duration) -> Duration {
        let random = match &self.wall {
            // The golden ratio spreads consecutive numbers evenly.
            Wall::FollowsTokio { pauses, .. } => {
                pauses.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            }
            _ => u64::from_be_bytes(random_bytes()),
        };
        pause / 2 + (pause / 2).mul_f64(random as f64 / u64::MAX as f64)
    }

    /// Returns the wall-clock time.
    pub(crate) fn wall(&self) -> Timestamp {
        self.wall_given(|| self.now())
    }

    /// Returns the present moment on both clocks. The clock of the server costs one reading of the
    /// monotonic clock, and no other.
    pub(crate) fn moment(&self) -> Moment {
        let monotonic = self.now();
        Moment { monotonic, wall: self.wall_given(|| monotonic) }
    }

    /// Returns the wall-clock time, given the monotonic time.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "only servers need it"))]
    fn wall_given(&self, now: impl FnOnce() -> Millis) -> Timestamp {
        #[cfg(feature = "redis")]
        if let Some(time) = self.server.as_ref().and_then(|server| server.at(now())) {
            return time;
        }
        self.own_wall()
    }

    /// Returns the time of this machine's wall clock.
    fn own_wall(&self) -> Timestamp {
        match &self.wall {
            Wall::System => SystemTime::now().into(),
            #[cfg(feature = "_guards")]
            Wall::Wrong(millis) => Timestamp::from_millis(
                Timestamp::from(SystemTime::now()).as_millis().saturating_add_signed(*millis),
            ),
            Wall::FollowsTokio { origin, at_origin, .. } => {
                at_origin.saturating_add(monotonic().saturating_duration_since(*origin))
            }
        }
    }

    /// Converts a recent moment to the wall-clock time of this machine, whatever the server's is.
    /// For what is compared with other times of this machine.
    pub(crate) fn own_wall_at(&self, moment: Millis) -> Timestamp {
        let ago = self.now().0.saturating_sub(moment.0);
        self.own_wall().saturating_sub(Duration::from_millis(ago))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// A moment on the monotonic clock, in whole milliseconds since an arbitrary origin.
///
/// It never goes back, and it does not stop with the runtime. Unlike an `Instant`, it fits into the
/// atomic word of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    /// Returns the moment that is this many milliseconds later. Saturates.
    pub(crate) fn plus(self, millis: u64) -> Self {
        Millis(self.0.saturating_add(millis))
    }
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Millis,
    pub(crate) wall: Timestamp,
}

impl Moment {
    /// Returns the wall-clock time minus the monotonic time, in milliseconds, modulo 2⁶⁴.
    pub(crate) fn wall_offset(self) -> u64 {
        self.wall.as_millis().wrapping_sub(self.monotonic.0)
    }
}

/// Returns the whole milliseconds of a duration. Saturates at `u64::MAX`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a moment before all that the clock is asked for in this process.
///
/// It is not tokio's present: the first caller may be a test that has paused that clock and
/// advanced it. It is an hour earlier, because another test may have paused it before this call.
fn origin() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
}

/// Returns the wall-clock time at a moment of tokio's clock.
///
/// The wall clock is read once in a process. If each [`Clock`] read it when it is created, then two
/// of them would differ by the real time between, which a paused clock does not show.
fn wall_of_tokio(moment: Instant) -> Timestamp {
    static PAIR: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (origin, at_origin) = PAIR.get_or_init(|| {
        let (origin, now) = (origin(), Instant::now());
        (origin, Timestamp::from(SystemTime::now()).saturating_sub(now - origin))
    });
    at_origin.saturating_add(moment.saturating_duration_since(*origin))
}

/// Returns the monotonic time. tokio's clock is the machine's, unless a test has paused it.
#[cfg(not(all(test, shuttle)))]
fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(all(test, shuttle))]
use self::model::monotonic;

/// The model checker's time. It stands still until a model advances it, so that a schedule can be
/// replayed.
#[cfg(all(test, shuttle))]
pub(crate) mod model {
    use std::cell::Cell;

    use super::{Duration, Instant};

    thread_local! {
        // All threads of a model are coroutines of one thread.
        static NOW: Cell<Instant> = Cell::new(Instant::now());
    }

    pub(super) fn monotonic() -> Instant {
        NOW.get()
    }

    /// Advances the time of the model.
    pub(crate) fn advance(time: Duration) {
        NOW.set(NOW.get() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_test_that_pauses_the_clock_does_not_stop_that_of_others() {
        tokio::time::advance(Duration::from_secs(7200)).await;
        assert!(origin() < Instant::now());
        assert!(Clock::system().at(Instant::now()) > Millis(0));
    }

    #[test]
    fn jitter_stays_within_the_pause() {
        let pause = Duration::from_secs(5);
        for clock in [Clock::system(), Clock::tokio()] {
            for _ in 0..1000 {
                let jittered = clock.jitter(pause);
                assert!(jittered >= pause / 2 && jittered <= pause);
            }
        }
    }

    #[cfg(feature = "redis")]
    #[test]
    fn the_time_of_this_machine_is_not_that_of_the_server() {
        let (mut clock, server) = (Clock::system(), Arc::new(ServerTime::default()));
        clock.follow(server.clone());
        let asked = std::time::Instant::now();
        let hour = Duration::from_secs(3600);
        server.observe(
            asked,
            asked,
            Timestamp::from(std::time::SystemTime::now()).saturating_add(hour),
        );
        let (of_server, own) = (clock.wall(), clock.own_wall_at(clock.now()));
        let ahead = of_server.saturating_duration_since(own);
        assert!(ahead > hour / 2 && ahead < hour * 2, "{ahead:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn all_tokio_clocks_of_a_runtime_agree() {
        let before = Clock::tokio();
        let real = Instant::now();
        while real.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert_eq!(Clock::tokio().wall(), before.wall());
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(Clock::tokio().wall(), before.wall());
    }

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_moves_only_when_advanced() {
        let clock = Clock::tokio();
        let (wall, now) = (clock.wall(), clock.now());
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(clock.wall().as_millis() - wall.as_millis(), 86_400_000);
        assert_eq!(clock.now().0 - now.0, 86_400_000);
        let offset = clock.wall().as_millis().wrapping_sub(clock.now().0);
        assert_eq!(clock.moment().wall_offset(), offset);
    }
}
