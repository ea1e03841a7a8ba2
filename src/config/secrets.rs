//! Setters for the secrets beside the current one during a rotation.

use super::SessionConfigBuilder;
use crate::secret::Secret;

impl<T> SessionConfigBuilder<T> {
    /// Sets a name that tells this application from others with the same secret.
    ///
    /// The keys that sign cookies, encrypt records and hash owners are derived from the secret and
    /// the realm. So a login in one realm is no login in another, even if the applications share a
    /// secret, a Redis, the cookie's name and the key prefix. Defaults to the cookie's name and,
    /// with Redis, the [key prefix](crate::RedisConfig::key_prefix). All nodes of an application
    /// must have the same realm. Changing it logs all users out.
    ///
    /// # Risk
    ///
    /// Two applications with the same secret, cookie name and key prefix accept each other's
    /// sessions unless they have different realms: a user of one may be an administrator of the
    /// other ("session puzzling", OWASP Web Security Testing Guide, WSTG-SESS-08).
    ///
    /// A realm does not separate keys. [`clear`](crate::SessionStore::clear),
    /// [`bulk_delete`](crate::SessionStore::bulk_delete), [`size`](crate::SessionStore::size) and
    /// the other methods for all sessions reach those of every realm with the same key prefix.
    ///
    /// ```
    /// # use clustered_sessions::{ConfigError, Secret, SessionConfig};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct Admin;
    /// # fn build(secret: Secret) -> Result<(), ConfigError> {
    /// let config = SessionConfig::<Admin>::builder(secret).realm("admin").build()?;
    /// # let _ = config;
    /// # Ok(()) }
    /// ```
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Adds a secret that does not sign or encrypt yet but already verifies and decrypts. May be
    /// called several times.
    ///
    /// To rotate without logging users out, deploy three times:
    ///
    /// 1. `builder(old).next_secret(new)`: every node knows the new secret before any node uses it.
    /// 2. `builder(new).previous_secret(old)`: the cookies of live sessions are signed again, and
    ///    their records encrypted again, as they are used.
    /// 3. `builder(new)`, once every session has been used or has expired since the last node took
    ///    the second step. That takes as long as a session may stay unused: a
    ///    [`timeout`](Self::timeout), or longer if that of [`remember_me`](Self::remember_me), or
    ///    an expiry that a `TowerSessionsStore` was given, is longer. With an
    ///    [`owner`](Self::owner), wait an hour more.
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
