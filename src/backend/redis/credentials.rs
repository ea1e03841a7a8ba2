//! Authenticates open connections again before their credentials expire.

use std::error::Error;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::commands::run;
use super::config::{CredentialsSource, RedisCredentials};
use super::error::unreachable;
use crate::error::{StoreError, StoreErrorKind};

/// Share of the validity after which the credentials are renewed.
const RENEW_AFTER: f64 = 0.75;
/// Shortest pause before credentials are renewed again.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a renewal is given up, unless the credentials remain valid for more than four
/// times as long.
const MIN_LIMIT: Duration = Duration::from_secs(10);

/// Asks for new credentials before the old ones expire, and authenticates the connection again.
/// Ends when credentials do not expire.
///
/// The server carries `AUTH` out between two other commands, so that none of them waits or fails,
/// and subscriptions go on.
pub(super) async fn renew(
    source: CredentialsSource,
    validity: Duration,
    mut commands: MultiplexedConnection,
) {
    let mut expiry = Instant::now() + validity;
    let mut pause = validity.mul_f64(RENEW_AFTER);
    let mut is_failing = false;
    loop {
        sleep(pause.max(MIN_PAUSE)).await;
        let limit = quarter_of_time_until(expiry).max(MIN_LIMIT);
        // A provider that hangs once must be asked again.
        let renewed = timeout(limit, authenticate(&source, &mut commands)).await;
        match renewed.unwrap_or_else(|elapsed| Err(not_authenticated(elapsed.into()))) {
            Ok(credentials) => {
                let Some(validity) = credentials.validity() else { return };
                expiry = Instant::now() + validity;
                pause = validity.mul_f64(RENEW_AFTER);
                is_failing = false;
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "a connection to Redis could not authenticate with new credentials"
                    );
                }
                is_failing = true;
                // Ever sooner, until the credentials expire.
                pause = quarter_of_time_until(expiry);
            }
        }
    }
}

fn quarter_of_time_until(moment: Instant) -> Duration {
    moment.saturating_duration_since(Instant::now()) / 4
}

async fn authenticate(
    source: &CredentialsSource,
    commands: &mut MultiplexedConnection,
) -> Result<RedisCredentials, StoreError> {
    let credentials = source.get().await.map_err(not_authenticated)?;
    run(commands, &auth(&credentials)).await.map_err(unreachable)?;
    Ok(credentials)
}

pub(super) fn auth(credentials: &RedisCredentials) -> Cmd {
    let mut command = cmd("AUTH");
    if let Some(user) = credentials.user() {
        command.arg(user);
    }
    command.arg(credentials.password().unwrap_or_default());
    command
}

/// Returns the error of a provider of credentials.
pub(super) fn not_authenticated(error: Box<dyn Error + Send + Sync>) -> StoreError {
    StoreError::from(StoreErrorKind::Unavailable).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use redis::{AsyncConnectionConfig, RedisConnectionInfo};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Returns the seconds until a connection has authenticated again, if the provider hangs when
    /// it is asked for the first time.
    async fn seconds_of_renewal(validity: u64) -> u64 {
        let asked = Arc::new(AtomicUsize::new(0));
        let source = CredentialsSource::provider({
            let asked = asked.clone();
            move || {
                let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
                async move {
                    if is_first {
                        pending::<()>().await;
                    }
                    Ok::<_, StoreError>(RedisCredentials::new("app", "a token"))
                }
            }
        });
        let (stream, mut server) = duplex(1024);
        tokio::spawn(async move {
            while server.read(&mut [0; 1024]).await.unwrap() > 0 {
                server.write_all(b"+OK\r\n").await.unwrap();
            }
        });
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = MultiplexedConnection::new_with_config(&settings, stream, config).await;
        let (commands, driver) = connection.unwrap();
        tokio::spawn(driver);

        let begun = Instant::now();
        let renewal = renew(source, Duration::from_secs(validity), commands);
        timeout(Duration::from_secs(1000), renewal).await.expect("it ends");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_hangs_is_asked_again() {
        // Asked after three quarters, given up after a quarter of the rest, and asked again after a
        // quarter of what is left then.
        assert_eq!(seconds_of_renewal(900).await, 675 + 56 + 42);
        // Given up after the shortest limit, and asked again after the shortest pause.
        assert_eq!(seconds_of_renewal(8).await, 6 + 10 + 1);
    }
}
