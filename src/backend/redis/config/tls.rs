//! The options of TLS.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::ConfigError;

/// TLS for connections to Redis: TLS 1.2 or 1.3, by [rustls](https://docs.rs/rustls).
///
/// The server must have a certificate for the name or IP address to which the node connects, signed
/// by a root certificate that the node trusts. There is no option to skip this: the password and
/// all sessions would be open to whoever answers in the server's place.
///
/// The cryptography comes with this crate. The application need not install a provider for rustls.
///
/// ```
/// use clustered_sessions::{RedisConfig, RedisTls};
///
/// // The same: the root certificates of the system.
/// let by_url = RedisConfig::from_url("rediss://app:password@redis.example.com:6380")?;
/// let by_parts = RedisConfig::new("redis.example.com", 6380)
///     .user("app")
///     .password("password")
///     .tls(RedisTls::new());
/// # let _ = (by_url, by_parts);
/// # Ok::<(), clustered_sessions::ConfigError>(())
/// ```
///
/// An authority of one's own, and a client certificate:
///
/// ```no_run
/// use clustered_sessions::{RedisConfig, RedisTls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = RedisTls::new()
///     .root_certificates(std::fs::read("/etc/redis/ca.pem")?)
///     .client_certificate(std::fs::read("client.pem")?, std::fs::read("client-key.pem")?);
/// let redis = RedisConfig::new("redis.internal", 6379).tls(tls);
/// # let _ = redis;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct RedisTls {
    /// PEM. Without them, the root certificates of the system.
    roots: Option<Vec<u8>>,
    /// PEM: the certificate with its chain, and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl RedisTls {
    /// Creates options that trust the root certificates of the system and present no certificate.
    ///
    /// The environment variables `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's root
    /// certificates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts only these root certificates, in PEM, instead of the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Presents a client certificate, for a server with `tls-auth-clients yes`. Both arguments are
    /// PEM: the certificate, followed by those that lead to its root certificate, and its private
    /// key (PKCS#8, PKCS#1 or SEC1, not encrypted).
    pub fn client_certificate(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self
    }

    /// Expects a certificate for this DNS name or IP address, and asks for it (SNI), instead of the
    /// host to which the node connects. Use it for a tunnel, or for servers that are announced by
    /// IP address and have certificates for a name.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Returns the name that all servers must have, if one is configured.
    pub(crate) fn fixed_name(&self) -> Result<Option<ServerName<'static>>, ConfigError> {
        let name = self.server_name.clone().map(ServerName::try_from);
        name.transpose().map_err(|_| ConfigError::RedisServerName)
    }

    pub(crate) fn client_config(&self) -> Result<Arc<ClientConfig>, ConfigError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions();
        let Ok(builder) = builder else { unreachable!("the provider supports these versions") };
        let builder = builder.with_root_certificates(self.root_store()?);
        let Some((chain, key)) = &self.identity else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(key)) else {
            return Err(ConfigError::RedisClientCertificate);
        };
        let config = builder.with_client_auth_cert(chain, key);
        Ok(Arc::new(config.map_err(|_| ConfigError::RedisClientCertificate)?))
    }

    fn root_store(&self) -> Result<RootCertStore, ConfigError> {
        let mut store = RootCertStore::empty();
        let Some(pem) = &self.roots else {
            // Some systems have certificates that cannot be parsed beside good ones.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return if store.is_empty() { Err(ConfigError::RedisSystemRoots) } else { Ok(store) };
        };
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let added = certificate.ok().and_then(|certificate| store.add(certificate).ok());
            added.ok_or(ConfigError::RedisRootCertificates)?;
        }
        if store.is_empty() { Err(ConfigError::RedisRootCertificates) } else { Ok(store) }
    }
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("system_roots", &self.roots.is_none())
            .field("client_certificate", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
