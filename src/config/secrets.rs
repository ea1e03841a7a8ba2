//! Secrets beside the one in use, while they are rotated.

use super::SessionConfigBuilder;
use crate::secret::Secret;

impl<T> SessionConfigBuilder<T> {
    /// A secret that does not sign or encrypt yet but already verifies and decrypts; may be given several times.
    ///
    /// To rotate without logging anybody out, roll out three times:
    ///
    /// 1. `builder(old).next_secret(new)`: every node knows the new secret before any uses it.
    /// 2. `builder(new).previous_secret(old)`: the cookies of live sessions are signed anew, and their records encrypted anew, as
    ///    requests come by.
    /// 3. `builder(new)`, when a [`timeout`](Self::timeout) has passed since the last node took the second step; with an
    ///    [`owner`](Self::owner), an hour more.
    ///
    /// ```
    /// # use clustered_sessions::{ConfigError, Secret, SessionConfig};
    /// # fn secrets() -> Result<(Secret, Secret), ConfigError> { Ok((Secret::new([1; 32])?, Secret::new([2; 32])?)) }
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

    /// A secret that no longer signs or encrypts but still verifies and decrypts; may be given several times, newest first.
    ///
    /// It is the second step of a rotation, see [`next_secret`](Self::next_secret). Where all nodes restart at once, or for one
    /// node alone, it is the first.
    ///
    /// # Risk
    ///
    /// Without the first step, nodes that do not have the new secret yet take visitors with new cookies for strangers, and cannot
    /// read the records of the others, until they have been restarted.
    pub fn previous_secret(mut self, secret: Secret) -> Self {
        self.keys.push_previous(secret);
        self
    }
}
