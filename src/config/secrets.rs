//! Setters for the secrets beside the current one during a rotation.

use super::SessionConfigBuilder;
use crate::secret::Secret;

impl<T> SessionConfigBuilder<T> {
    /// Adds a secret that does not sign or encrypt yet but already verifies and decrypts. May be
    /// called several times.
    ///
    /// To rotate without logging users out, deploy three times:
    ///
    /// 1. `builder(old).next_secret(new)`: every node knows the new secret before any node uses it.
    /// 2. `builder(new).previous_secret(old)`: the cookies of live sessions are signed again, and
    ///    their records encrypted again, as they are used.
    /// 3. `builder(new)`, once a [`timeout`](Self::timeout) has passed since the last node took the
    ///    second step; with an [`owner`](Self::owner), an hour more.
    ///
    /// ```
    /// # use clustered_sessions::{ConfigError, Secret, SessionConfig};
    /// # fn secrets() -> Result<(Secret, Secret), ConfigError> {
    /// #     Ok((Secret::new([1; 32])?, Secret::new([2; 32])?))
    /// # }
    /// # let (old, new) = secrets()?;
    /// let first = SessionConfig::<()>::builder(old).next_secret(new).build()?;
    /// # let (old, new) = secrets()?;
    /// let then = SessionConfig::<()>::builder(new).previous_secret(old).build()?;
    /// # let _ = (first, then);
    /// # Ok::<(), ConfigError>(())
    /// ```
    pub fn next_secret(mut self, secret: Secret) -> Self {
        self.keys.push_next(secret);
        self
    }

    /// Adds a secret that no longer signs or encrypts but still verifies and decrypts. May be
    /// called several times, newest first.
    ///
    /// It is the second step of a rotation, see [`next_secret`](Self::next_secret). If all nodes
    /// restart at the same time, or there is only one node, it is the first.
    ///
    /// # Risk
    ///
    /// Without the first step, nodes that do not have the new secret yet treat visitors with new
    /// cookies as new visitors, and cannot read the records of other nodes, until they have been
    /// restarted.
    pub fn previous_secret(mut self, secret: Secret) -> Self {
        self.keys.push_previous(secret);
        self
    }
}
