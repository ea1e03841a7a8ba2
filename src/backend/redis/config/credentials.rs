//! The user and password of a connection, fixed or from a provider.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

type Asking =
    Pin<Box<dyn Future<Output = Result<RedisCredentials, Box<dyn Error + Send + Sync>>> + Send>>;

/// A user and password for Redis, from a
/// [provider](crate::RedisConfig::credentials_provider).
///
/// The `Debug` output contains neither of them.
///
/// ```
/// use std::time::Duration;
/// use clustered_sessions::RedisCredentials;
///
/// let token = RedisCredentials::new("app", "a token").valid_for(Duration::from_secs(900));
/// assert!(!format!("{token:?}").contains("token\""));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct RedisCredentials {
    user: String,
    password: String,
    valid_for: Option<Duration>,
}

impl RedisCredentials {
    /// Creates credentials that do not expire. An empty user is Redis' user `default`; an empty
    /// password is none.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        RedisCredentials { user: user.into(), password: password.into(), valid_for: None }
    }

    /// Sets how long the password is valid from now on. After three quarters of this time, the
    /// provider is asked again, and open connections authenticate again.
    pub fn valid_for(mut self, duration: Duration) -> Self {
        self.valid_for = Some(duration);
        self
    }

    pub(crate) fn with_user(mut self, user: String) -> Self {
        self.user = user;
        self
    }

    pub(crate) fn with_password(mut self, password: String) -> Self {
        self.password = password;
        self
    }

    /// Returns `true` if there is nothing to authenticate with.
    pub(crate) fn is_empty(&self) -> bool {
        self.user().is_none() && self.password().is_none()
    }

    /// Returns the user, unless it is Redis' default.
    pub(crate) fn user(&self) -> Option<&str> {
        Some(&*self.user).filter(|user| !user.is_empty())
    }

    pub(crate) fn password(&self) -> Option<&str> {
        Some(&*self.password).filter(|password| !password.is_empty())
    }

    pub(crate) fn validity(&self) -> Option<Duration> {
        self.valid_for
    }
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCredentials")
            .field("valid_for", &self.valid_for)
            .finish_non_exhaustive()
    }
}

/// The source of the credentials of each connection.
#[derive(Clone)]
pub(crate) enum CredentialsSource {
    Fixed(RedisCredentials),
    Provider(Arc<dyn Fn() -> Asking + Send + Sync>),
}

impl CredentialsSource {
    pub(crate) fn provider<P, F, E>(provider: P) -> Self
    where
        P: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<RedisCredentials, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        CredentialsSource::Provider(Arc::new(move || {
            let asking = provider();
            Box::pin(async move { asking.await.map_err(Into::into) })
        }))
    }

    /// Returns the credentials for a connection that is made now.
    pub(crate) async fn get(&self) -> Result<RedisCredentials, Box<dyn Error + Send + Sync>> {
        match self {
            CredentialsSource::Fixed(credentials) => Ok(credentials.clone()),
            CredentialsSource::Provider(provider) => provider().await,
        }
    }
}
