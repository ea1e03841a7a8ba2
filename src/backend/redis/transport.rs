//! Streams to servers, encrypted if the configuration asks for it.

use std::error::Error;
use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
#[cfg(feature = "tls")]
use tokio_rustls::TlsConnector;
#[cfg(feature = "tls")]
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};

use super::config::RedisAddress;
#[cfg(feature = "tls")]
use super::config::RedisTls;
use super::connector::{BoxStream, Connector};
#[cfg(feature = "tls")]
use crate::error::ConfigError;

/// Opens streams to servers.
#[derive(Clone)]
pub(super) struct Transport {
    connector: Connector,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The client of TLS connections.
#[cfg(feature = "tls")]
#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    /// The name that all servers must have, instead of the host of their address.
    fixed_name: Option<ServerName<'static>>,
}

impl Transport {
    #[cfg(not(feature = "tls"))]
    pub(super) fn new(connector: &Connector) -> Self {
        Transport { connector: connector.clone() }
    }

    /// Creates a transport to servers, of which these are known already.
    #[cfg(feature = "tls")]
    pub(super) fn new(
        connector: &Connector,
        options: Option<&RedisTls>,
        known: &[RedisAddress],
    ) -> Result<Self, ConfigError> {
        let tls = options.map(Tls::new).transpose()?;
        if let Some(tls) = &tls
            && known.iter().any(|address| tls.name(address).is_err())
        {
            return Err(ConfigError::RedisServerName);
        }
        Ok(Transport { connector: connector.clone(), tls })
    }

    /// Opens a stream before the deadline.
    pub(super) async fn open(
        &self,
        address: &RedisAddress,
        deadline: Instant,
    ) -> io::Result<BoxStream> {
        let stream = before(deadline, "connect", self.connector.open(address)).await?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let connector = TlsConnector::from(tls.config.clone());
            let connecting = connector.connect(tls.name(address)?, stream);
            // A server without TLS waits for the end of what it takes for a command.
            return Ok(Box::new(before(deadline, "complete the TLS handshake", connecting).await?));
        }
        Ok(stream)
    }
}

async fn before<R>(
    deadline: Instant,
    step: &str,
    work: impl Future<Output = io::Result<R>>,
) -> io::Result<R> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("the server did not {step} in time")))
    })
}

#[cfg(feature = "tls")]
impl Tls {
    fn new(options: &RedisTls) -> Result<Self, ConfigError> {
        Ok(Tls { config: options.client_config()?, fixed_name: options.fixed_name()? })
    }

    /// Returns the name that the certificate of the server must have.
    fn name(&self, address: &RedisAddress) -> io::Result<ServerName<'static>> {
        let name = match (&self.fixed_name, address) {
            (Some(name), _) => Some(name.clone()),
            (None, RedisAddress::Tcp { host, .. }) => ServerName::try_from(host.clone()).ok(),
            (None, RedisAddress::Unix { .. }) => None,
        };
        name.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the address has no name for TLS")
        })
    }
}

/// Returns `true` if an error comes from TLS: the certificate of one side was refused, or the other
/// side does not speak TLS. Another attempt would fail, too.
pub(super) fn is_tls_failure(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| cause(*error)).any(is_from_tls)
}

/// Returns the error that another one wraps or has as its source.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // These two hide the error that they wrap, and only report its source. The client wraps errors
    // of the stream in the second.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|wrapped| wrapped as _);
    }
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    error.source()
}

#[cfg(feature = "tls")]
fn is_from_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<tokio_rustls::rustls::Error>()
}

#[cfg(not(feature = "tls"))]
fn is_from_tls(_: &(dyn Error + 'static)) -> bool {
    false
}
