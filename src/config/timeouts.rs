//! Setters for the lifetime of sessions.

use std::time::Duration;

use super::SessionConfigBuilder;
use crate::error::ConfigError;

impl<T> SessionConfigBuilder<T> {
    /// The maximum session timeout: 400 days.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(400 * 24 * 3600);

    /// Sets the idle timeout: how long a session lives after its last use. Defaults to 24 hours; at
    /// least 1 second, at most [`MAX_TIMEOUT`](Self::MAX_TIMEOUT).
    ///
    /// OWASP's Session Management Cheat Sheet recommends 2 to 5 minutes for high-value applications
    /// and 15 to 30 minutes for low-risk ones.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the absolute timeout: how long a session lives after it was created, or last given a
    /// new token by [`regenerate`](crate::Session::regenerate), however much it is used. Unset by
    /// default; at least the [`timeout`](Self::timeout), at most
    /// [`MAX_TIMEOUT`](Self::MAX_TIMEOUT).
    ///
    /// It limits how long a stolen cookie is of use, and makes users log in again. OWASP's Session
    /// Management Cheat Sheet recommends 4 to 8 hours for an office worker's application. NIST SP
    /// 800-63B-4 asks for at most 30 days, 24 hours or 12 hours
    /// ([`aal1`](crate::SessionConfig::aal1), [`aal2`](crate::SessionConfig::aal2),
    /// [`aal3`](crate::SessionConfig::aal3)). Shortening it also ends existing sessions.
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.absolute_timeout = Some(timeout);
        self
    }

    /// Sets the idle and the absolute timeout of sessions for which a login has asked to be
    /// remembered, with [`Session::remember_me`](crate::Session::remember_me). Unset by default,
    /// and then no session can be remembered.
    ///
    /// The cookie of such a session is persistent, and browsers keep it when they are closed. The
    /// limits are those of the other timeouts. Set it on all nodes before the first login uses it:
    /// a node without it gives a remembered session the ordinary timeouts.
    ///
    /// # Risk
    ///
    /// As of [`CookieConfig::persistent`](crate::CookieConfig::persistent): the next user of the
    /// device has the session. Offer it as a choice, for devices that nobody else uses.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use clustered_sessions::{Secret, Session, SessionConfig};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// const DAY: Duration = Duration::from_secs(24 * 3600);
    /// let secret = Secret::new("at least thirty-two bytes of secret")?;
    /// let config = SessionConfig::<UserSession>::builder(secret)
    ///     .timeout(DAY / 48) // half an hour
    ///     .absolute_timeout(DAY / 3)
    ///     .remember_me(14 * DAY, 90 * DAY)
    ///     .build()?;
    ///
    /// fn login(session: &Session<UserSession>, user_id: i64, remember: bool) {
    ///     session.replace(UserSession { user_id: Some(user_id) });
    ///     session.remember_me(remember);
    /// }
    /// # let _ = (config, login);
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn remember_me(mut self, timeout: Duration, absolute_timeout: Duration) -> Self {
        self.remember_me = Some((timeout, absolute_timeout));
        self
    }

    /// Sets the share of the timeout that must have passed before a read extends the session.
    /// Defaults to 0.25; more than 0, less than 1.
    ///
    /// Reads do not write otherwise, except that a record is encrypted again while secrets are
    /// rotated. A session therefore lives between `1 - touch_after` and 1
    /// timeout after its last use. A smaller share is more exact and costs more writes.
    pub fn touch_after(mut self, share: f64) -> Self {
        self.touch_after = share;
        self
    }

    /// Checks the timeouts and the share.
    pub(super) fn check_timeouts(&self) -> Result<(), ConfigError> {
        let ordinary = (self.timeout, self.absolute_timeout);
        let remembered = self.remember_me.map(|(idle, absolute)| (idle, Some(absolute)));
        for (idle, absolute) in [Some(ordinary), remembered].into_iter().flatten() {
            if !(Duration::from_secs(1)..=Self::MAX_TIMEOUT).contains(&idle) {
                return Err(ConfigError::Timeout(idle));
            }
            if let Some(absolute) = absolute
                && !(idle..=Self::MAX_TIMEOUT).contains(&absolute)
            {
                return Err(ConfigError::AbsoluteTimeout { absolute, idle });
            }
        }
        if !(self.touch_after > 0.0 && self.touch_after < 1.0) {
            return Err(ConfigError::TouchAfter);
        }
        Ok(())
    }
}
