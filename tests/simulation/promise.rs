//! The promises that the simulations check, each by its name: the test of a guard requires that
//! without the guard, this very promise is broken.

/// A promise that is broken. The message of a failure begins with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A node has served an older version than it may.
    Stale,
    /// A session, or an acknowledged change of it, is gone, or a change was applied twice.
    Lost,
    /// A session that has ended exists again.
    Revived,
    /// A deletion of an owner's sessions has missed one.
    NotRevoked,
    /// A watch has not told a change in time.
    LateWatch,
    /// An owner has more sessions than the limit allows.
    OverLimit,
    /// A node has evicted what it has written itself.
    OwnWriteMissed,
    /// A node has not noticed that its subscription has ended.
    LossUnnoticed,
}

impl Broken {
    /// Returns `true` if this is the message of a failure by which the promise is broken.
    pub(crate) fn is_in(self, message: &str) -> bool {
        message.contains(&format!("{self:?}: "))
    }
}

/// Asserts that a promise is kept.
macro_rules! promise {
    ($broken:ident, $is_kept:expr, $($message:tt)+) => {
        assert!($is_kept, "{:?}: {}", $crate::promise::Broken::$broken, format_args!($($message)+))
    };
}
pub(crate) use promise;
