//! What a request gets while the backend is out of reach.

use std::time::Duration;

use crate::cluster::ClusterConfig;
use crate::error::ConfigError;

/// What a request gets whose session cannot be loaded, because the backend is out of reach or does not answer in time.
///
/// Only the loads of requests are concerned that fail with an [outage](crate::StoreErrorKind::is_outage). Where the cache may be
/// used, it is, whatever the policy; visitors without a cookie need no load. The methods of [`SessionStore`](crate::SessionStore),
/// [`Fresh`](crate::Fresh) and [`Session::reload`](crate::Session::reload) report the error under every policy: who calls them has
/// asked for the truth.
///
/// | policy | a request that reads | that changes | that logs out | a visitor without a cookie |
/// |---|---|---|---|---|
/// | [`Reject`](OutagePolicy::Reject) | 503 | 503 | 503 | as always: reads are answered, a login is tried |
/// | [`Anonymous`](OutagePolicy::Anonymous) | sees a stranger's session | 503 | the deletion is tried, 503 if it fails | the same |
/// | [`ServeCached`](OutagePolicy::ServeCached) | sees what this node knew last, or 503 | 503 | the deletion is tried, 503 if it fails | the same |
///
/// Under the latter two the session is read-only and says so: [`Session::outage`](crate::Session::outage) is the error. A change
/// is refused with [`SessionError::ReadOnly`](crate::SessionError::ReadOnly), the session's life is not extended, and the
/// visitor's cookie stays as it is: nobody is logged out because a server was down. A logout is the exception: it is carried out
/// as soon as the backend says that the session is gone, and then the cookie goes, too.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::{OutagePolicy, Secret, SessionConfig};
///
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession;
/// let config = SessionConfig::<UserSession>::builder(Secret::new("at least thirty-two bytes of secret")?)
///     .on_outage(OutagePolicy::ServeCached { max_age: Duration::from_secs(60) })
///     .build()?;
/// # let _ = config;
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutagePolicy {
    /// An empty 503 with `Retry-After`. The default: nobody is mistaken for a stranger, and nobody sees what may be outdated.
    #[default]
    Reject,
    /// A session with `T::default()`, as a visitor without one has.
    ///
    /// # Risk
    ///
    /// A handler that takes `T::default()` for "logged out" sends visitors to the login page, where they cannot log in: the
    /// session is read-only. Ask [`Session::outage`](crate::Session::outage) to tell them why. `Option<Session<T>>` is `None`, as
    /// for any stranger.
    Anonymous,
    /// The session as this node last knew it, if it is still in its memory. If it is not, the request is rejected.
    ///
    /// It is served if it was cached in the last unbroken stretch of hearing, nothing was heard about it since, and nothing was
    /// done to it on this node: not changed, deleted or evicted, nor was that only tried. `local_cache_ttl` does not count
    /// meanwhile; the session's own deadline does, and is not extended.
    ///
    /// # Risk
    ///
    /// A session that was changed or **revoked on another node** may be answered on this one, for as long as the backend is out
    /// of reach, but not longer than `max_age` after the last proof that this node heard all revocations. OWASP's ASVS wants
    /// all use of a session to stop when it ends (5.0, 7.4.1); this policy trades that for answers during an outage. Where a
    /// stolen session would do harm by reading alone, choose [`Reject`](OutagePolicy::Reject), or read with
    /// [`Fresh`](crate::Fresh).
    ServeCached {
        /// How long ago the node may have had its last proof of hearing; more than
        /// [`max_staleness`](ClusterConfig::max_staleness), at most 1 hour.
        ///
        /// A node that does not listen ([`enabled(false)`](ClusterConfig::enabled)) has no such proof. There it is the age of
        /// what is served, and must be more than [`local_cache_ttl`](ClusterConfig::local_cache_ttl).
        max_age: Duration,
    },
}

impl OutagePolicy {
    const LONGEST: Duration = Duration::from_secs(3600);

    pub(super) fn check(
        self,
        cluster: &ClusterConfig,
        timeout: Duration,
    ) -> Result<(), ConfigError> {
        let OutagePolicy::ServeCached { max_age } = self else { return Ok(()) };
        if !cluster.cache_enabled {
            return Err(ConfigError::ServeCachedWithoutCache);
        }
        // What is no older than this is served without an outage.
        let above = if cluster.listens() {
            cluster.max_staleness
        } else {
            cluster.effective_cache_ttl(timeout)
        };
        if max_age <= above || max_age > Self::LONGEST {
            return Err(ConfigError::ServeCachedMaxAge { max_age, above });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_error() {
        let (new, second) = (ClusterConfig::new, Duration::from_secs(1));
        let age = |max_age: Duration, above: Duration| {
            Err(ConfigError::ServeCachedMaxAge { max_age, above })
        };
        let check =
            |policy: OutagePolicy, cluster: ClusterConfig| policy.check(&cluster, second * 3600);
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
