//! The options about the owners of sessions.

use std::fmt;
use std::sync::Arc;

use super::SessionConfigBuilder;
use crate::error::ConfigError;

/// Extracts the owner of a session from its data.
pub(crate) type OwnerOf<T> = Arc<dyn Fn(&T) -> Option<String> + Send + Sync>;

/// What happens to a login that exceeds the limit of
/// [`max_sessions_of_owner`](SessionConfigBuilder::max_sessions_of_owner).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitPolicy {
    /// The owner's oldest session ends, that of the earliest login. Watches of it end with
    /// [`Ended::LimitReached`](crate::Ended::LimitReached).
    EndOldest,
    /// The login is refused with [`LimitReached`](crate::StoreErrorKind::LimitReached).
    ///
    /// # Risk
    ///
    /// Somebody who has lost a device, or has deleted its cookies, cannot log in until the session
    /// there expires. Offer to end the others at the login page, with
    /// [`delete_all_of`](crate::SessionStore::delete_all_of), once the password was right. A login
    /// whose reply was lost on the way from the backend may also take a place until it expires.
    RefuseNew,
}

/// The greatest number of sessions of one owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerLimit {
    pub(crate) max: usize,
    pub(crate) policy: LimitPolicy,
}

impl<T> SessionConfigBuilder<T> {
    /// Sets the closure that extracts a session's owner, such as a user id. By default, sessions
    /// have no owner.
    ///
    /// An owner is what [`SessionStore::sessions_of`](crate::SessionStore::sessions_of) and
    /// [`SessionStore::delete_all_of`](crate::SessionStore::delete_all_of) ("log out everywhere")
    /// look up, by the owner's text. Texts are compared byte for byte. The closure must be
    /// deterministic and fast, and must not panic. It returns `None` for a session without an
    /// owner.
    ///
    /// A request whose change gives the loaded session another owner has logged somebody in. The
    /// session gets a new token then, as by [`regenerate`](crate::Session::regenerate), so that an
    /// attacker who had planted the old one is not logged in as well (OWASP Session Management
    /// Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"). Use
    /// [`replace`](crate::Session::replace) at login nevertheless: as after any regeneration,
    /// streams that were opened with the old token go on, and other requests that are in flight
    /// with it fail with [`Gone`](crate::SessionError::Gone). A change after the response has
    /// begun, or by [`SessionStore::modify`](crate::SessionStore::modify), keeps the token. So does
    /// a change by tower-sessions over a `TowerSessionsStore`: call `cycle_id` at each login there.
    ///
    /// For each owner the backend keeps an index of sessions, under a keyed hash of the owner. A
    /// session with an owner costs one more round trip when it is created, when its owner changes,
    /// and when it is extended for the first time in an hour. A session without an owner costs
    /// nothing. An entry takes 40 to 140 bytes in Redis, until its session is deleted or, at the
    /// latest, three hours after it has expired.
    ///
    /// # Risk
    ///
    /// Sessions that were created before all nodes had this setting are found once they have been
    /// extended: all of them an hour after each session has been used or has expired. Until then,
    /// [`bulk_delete`](crate::SessionStore::bulk_delete) finds them. The same applies if the
    /// closure is changed.
    ///
    /// Redis must not evict keys (`maxmemory-policy noeviction`), or an index may be lost before
    /// its sessions are. A node whose clock is more than an hour behind the server's may lose
    /// entries, too.
    ///
    /// ```
    /// use clustered_sessions::{Secret, SessionConfig};
    ///
    /// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// struct UserSession { user_id: Option<i64> }
    ///
    /// let secret = Secret::new("at least thirty-two bytes of secret")?;
    /// let config = SessionConfig::<UserSession>::builder(secret)
    ///     .owner(|session: &UserSession| session.user_id)
    ///     .build()?;
    /// # let _ = config;
    /// # Ok::<(), clustered_sessions::ConfigError>(())
    /// ```
    pub fn owner<O: fmt::Display>(
        mut self,
        owner: impl Fn(&T) -> Option<O> + Send + Sync + 'static,
    ) -> Self {
        self.owner = Some(Arc::new(move |data| owner(data).map(|owner| owner.to_string())));
        self
    }

    /// Limits the number of sessions that one [`owner`](SessionConfigBuilder::owner) may have at
    /// the same time, on all nodes together, to `max`, 1 or more. By default there is no limit.
    ///
    /// It is applied whenever a session comes to an owner: when it is created with one, replaced,
    /// or changed so that it has another one. Once all logins that run at the same time have been
    /// answered, the owner has no more than `max` sessions that anybody was given a token for,
    /// however many nodes they were on. A change whose reply is lost counts as not answered: it may
    /// have given a session to an owner who has `max` others. A session keeps its place when it is
    /// regenerated. Logins are ordered by their milliseconds; the order of two in the same
    /// millisecond is arbitrary.
    ///
    /// Each login reads the owner's index and then the sessions that it names, all at once: two
    /// round trips more, and under [`RefuseNew`](crate::LimitPolicy::RefuseNew) four if a session
    /// goes on or is replaced. If sessions are ended, it takes three more.
    ///
    /// ```
    /// use clustered_sessions::{LimitPolicy, Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .owner(|session: &UserSession| session.user_id)
    ///     .max_sessions_of_owner(2, LimitPolicy::EndOldest)
    ///     .build()?;
    /// let store = SessionStore::new(config);
    /// for _ in 0..3 {
    ///     let _ = store.create(UserSession { user_id: Some(42) }).await?;
    /// }
    /// assert_eq!(store.sessions_of(42).await?.len(), 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A login whose owner's sessions cannot be read, or ended, fails with the backend's error, and
    /// its session is deleted again.
    ///
    /// # Risk
    ///
    /// All nodes need the same setting. The limit counts what the owner's index names, with the
    /// risks of [`owner`](SessionConfigBuilder::owner): a Redis that evicts keys may have lost
    /// entries, and sessions that are older than the setting of an owner are not counted.
    pub fn max_sessions_of_owner(mut self, max: usize, policy: LimitPolicy) -> Self {
        self.owner_limit = Some(OwnerLimit { max, policy });
        self
    }

    /// Checks the limit.
    pub(super) fn check_owner_limit(&self) -> Result<(), ConfigError> {
        match self.owner_limit {
            Some(OwnerLimit { max: 0, .. }) => Err(ConfigError::OwnerLimitZero),
            Some(_) if self.owner.is_none() => Err(ConfigError::OwnerLimitWithoutOwner),
            _ => Ok(()),
        }
    }
}
