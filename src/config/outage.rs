//! The outage policy: how requests are answered while the backend is unreachable.

use std::time::Duration;

use crate::cluster::ClusterSettings;
use crate::error::ConfigError;

/// The answer to a request whose session cannot be loaded, because the backend is unreachable or
/// does not reply in time.
///
/// Applies only when loading a request's session fails with an
/// [outage](crate::StoreErrorKind::is_outage). Under every policy, sessions are served from the
/// cache while that may be used, and a visitor without a cookie is served as always. The methods of
/// [`SessionStore`](crate::SessionStore), [`Fresh`](crate::Fresh) and
/// [`Session::reload`](crate::Session::reload), which are called for the current state, always
/// report the error.
///
/// | policy | a request that reads | that changes | that logs out | a visitor without a cookie |
/// |---|---|---|---|---|
/// | [`Reject`](OutagePolicy::Reject) | 503 | 503 | 503 | as always: reads are answered, a login is tried |
/// | [`Anonymous`](OutagePolicy::Anonymous) | sees the session of a new visitor | 503 | the deletion is tried, 503 if it fails | the same |
/// | [`ServeCached`](OutagePolicy::ServeCached) | sees the last version this node knows, or 503 | 503 | the deletion is tried, 503 if it fails | the same |
///
/// Under the latter two the session is read-only, and [`Session::outage`](crate::Session::outage)
/// returns the error. A change is refused with
/// [`SessionError::ReadOnly`](crate::SessionError::ReadOnly), the session is not extended, and the
/// visitor's cookie is left as it is, so that an outage logs no user out. The exceptions are a
/// logout and a login by [`Session::replace`](crate::Session::replace), which depend on nothing
/// that was loaded: they are attempted, and change the cookie once the backend has confirmed them.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{OutagePolicy, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let secret = Secret::new("at least thirty-two bytes of secret")?;
/// let config = SessionConfig::<UserSession>::builder(secret)
///     .on_outage(OutagePolicy::ServeCached { max_age: Duration::from_secs(60) })
///     .build()?;
/// # let _ = config;
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutagePolicy {
    /// Answers with an empty 503 and `Retry-After`. The default: no user is treated as a new
    /// visitor, and no stale session is served.
    #[default]
    Reject,
    /// Provides a session with `T::default()`, as for a visitor without a session.
    ///
    /// # Risk
    ///
    /// A handler that takes `T::default()` for "logged out" sends visitors to the login page, where
    /// a login fails for as long as the backend is unreachable. Check
    /// [`Session::outage`](crate::Session::outage) to explain this to them. `Option<Session<T>>` is
    /// `None`, as for any visitor without a session.
    Anonymous,
    /// Provides the last version of the session that this node has cached. If there is none, the
    /// request is rejected. This is the `stale-if-error` of HTTP caching (RFC 5861, section 4),
    /// applied to sessions.
    ///
    /// A cached version is served if it was cached during the last period of unbroken subscription,
    /// no announcement about it has arrived since, and this node has not changed, deleted or
    /// evicted the session, nor tried to. Its `local_cache_ttl` is ignored; the session's own
    /// deadline is not, and is not extended.
    ///
    /// # Risk
    ///
    /// A session that was changed or **revoked on another node** may still be served on this one
    /// while the backend is unreachable, but no longer than `max_age` after the last proof that
    /// this node had received all revocations. OWASP's ASVS requires that all use of a session
    /// stops when it ends (5.0, 7.4.1); this policy trades that for answers during an outage. If a
    /// stolen session could do harm by reading alone, choose [`Reject`](OutagePolicy::Reject), or
    /// read with [`Fresh`](crate::Fresh).
    #[doc(alias = "stale-if-error")]
    ServeCached {
        /// Maximum age of the node's last proof that it receives announcements. More than
        /// [`max_staleness`](crate::ClusterConfig::max_staleness), at most 1 hour.
        ///
        /// It also passes while a load waits for an answer, up to the
        /// [`operation_timeout`](crate::SessionConfigBuilder::operation_timeout) if the backend is
        /// frozen. So `max_age` should exceed the two together, 5 seconds by default; otherwise
        /// only a backend that refuses connections, or an open circuit, leaves time to serve
        /// anything.
        ///
        /// A node that does not listen ([`enabled(false)`](crate::ClusterConfig::enabled)) has no
        /// such proof. There it is the maximum age of the cached version, and must be more than
        /// [`local_cache_ttl`](crate::ClusterConfig::local_cache_ttl).
        max_age: Duration,
    },
}

impl OutagePolicy {
    /// Upper bound of `max_age`.
    const LONGEST: Duration = Duration::from_secs(3600);

    /// Checks `max_age` against the options of the cache.
    pub(super) fn check(self, cluster: &ClusterSettings) -> Result<(), ConfigError> {
        let OutagePolicy::ServeCached { max_age } = self else { return Ok(()) };
        if !cluster.cache_enabled {
            return Err(ConfigError::ServeCachedWithoutCache);
        }
        // Up to this age, a cached version is served without an outage as well.
        let above = if cluster.listens() { cluster.max_staleness } else { cluster.cache_ttl };
        if max_age <= above || max_age > Self::LONGEST {
            return Err(ConfigError::ServeCachedMaxAge { max_age, above });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterConfig;

    #[test]
    fn each_mistake_has_its_error() {
        let (new, second) = (ClusterConfig::new, Duration::from_secs(1));
        let age = |max_age: Duration, above: Duration| {
            Err(ConfigError::ServeCachedMaxAge { max_age, above })
        };
        let check = |policy: OutagePolicy, cluster: ClusterConfig| {
            policy.check(&cluster.check(second * 3600, "session:").unwrap())
        };
        for policy in [OutagePolicy::Reject, OutagePolicy::Anonymous] {
            assert_eq!(check(policy, new().local_cache_enabled(false)), Ok(()));
        }
        for (seconds, cluster, expected) in [
            (60, new(), Ok(())),
            (3600, new(), Ok(())),
            (3601, new(), age(second * 3601, second * 2)),
            (3, new(), Ok(())),
            (2, new(), age(second * 2, second * 2)),
            (0, new(), age(Duration::ZERO, second * 2)),
            (60, new().local_cache_enabled(false), Err(ConfigError::ServeCachedWithoutCache)),
            (11, new().enabled(false).local_cache_ttl(second * 10), Ok(())),
            (10, new().enabled(false).local_cache_ttl(second * 10), age(second * 10, second * 10)),
        ] {
            let policy = OutagePolicy::ServeCached { max_age: second * seconds };
            assert_eq!(check(policy, cluster), expected, "{policy:?}");
        }
    }
}
