//! How long sessions live.

use std::time::Duration;

use super::SessionConfigBuilder;
use crate::error::ConfigError;

impl<T> SessionConfigBuilder<T> {
    /// The longest session timeout: 400 days.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(400 * 24 * 3600);

    /// How long a session lives after it was last used; default 24 hours, at least 1 second, at most
    /// [`MAX_TIMEOUT`](Self::MAX_TIMEOUT).
    ///
    /// OWASP's Session Management Cheat Sheet recommends 2 to 5 minutes for high-value applications and 15 to 30 minutes for
    /// low-risk ones.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a session lives after it was created, or last given a new token by
    /// [`regenerate`](crate::Session::regenerate), however much it is used; default none. At least the [`timeout`](Self::timeout),
    /// at most [`MAX_TIMEOUT`](Self::MAX_TIMEOUT).
    ///
    /// It bounds for how long a stolen cookie is of use, and makes people log in again: OWASP's Session Management Cheat Sheet
    /// recommends 4 to 8 hours for an office worker's application; NIST SP 800-63B-4 asks for at most 30 days, 24 hours or 12 hours
    /// ([`aal1`](crate::SessionConfig::aal1), [`aal2`](crate::SessionConfig::aal2), [`aal3`](crate::SessionConfig::aal3)). Made shorter, it also ends the
    /// sessions that exist.
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.absolute_timeout = Some(timeout);
        self
    }

    /// The share of the timeout that must have passed before reading a session extends it; default 0.25.
    ///
    /// Reading does not write otherwise. A session in use lives between `1 - touch_after` and 1 timeout after its last use; a
    /// smaller share makes that exact and costs more writes.
    pub fn touch_after(mut self, share: f64) -> Self {
        self.touch_after = share;
        self
    }

    pub(super) fn check_timeouts(&self) -> Result<(), ConfigError> {
        if !(Duration::from_secs(1)..=Self::MAX_TIMEOUT).contains(&self.timeout) {
            return Err(ConfigError::Timeout(self.timeout));
        }
        if let Some(absolute) = self.absolute_timeout
            && !(self.timeout..=Self::MAX_TIMEOUT).contains(&absolute)
        {
            return Err(ConfigError::AbsoluteTimeout { absolute, idle: self.timeout });
        }
        if !(self.touch_after > 0.0 && self.touch_after <= 1.0) {
            return Err(ConfigError::TouchAfter);
        }
        Ok(())
    }
}
