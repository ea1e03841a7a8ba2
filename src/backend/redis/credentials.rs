//! Authenticates open connections anew before their credentials expire.

use std::error::Error;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value, cmd};
use tokio::time::{Instant, sleep};

use super::config::{CredentialsSource, RedisCredentials};
use super::error::unreachable;
use crate::error::{StoreError, StoreErrorKind};

/// Share of the validity after which the credentials are renewed.
const RENEW_AFTER: f64 = 0.75;
/// Shortest pause before credentials are renewed again.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Asks for new credentials before the old ones expire, and authenticates the connection anew. Ends
/// when credentials do not expire.
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
        match authenticate(&source, &mut commands).await {
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
                pause = expiry.saturating_duration_since(Instant::now()) / 4;
            }
        }
    }
}

async fn authenticate(
    source: &CredentialsSource,
    commands: &mut MultiplexedConnection,
) -> Result<RedisCredentials, StoreError> {
    let credentials = source.get().await.map_err(not_authenticated)?;
    let reply: RedisResult<Value> = commands.send_packed_command(&auth(&credentials)).await;
    reply.and_then(Value::extract_error).map_err(unreachable)?;
    Ok(credentials)
}

fn auth(credentials: &RedisCredentials) -> Cmd {
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
