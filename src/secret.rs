//! The application's secret, the ring of secrets that allows rotation, and the keys derived from
//! them.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::error::ConfigError;

/// Minimum length of a secret in bytes: that of the keys derived from it.
pub(crate) const MIN_LEN: usize = 32;

/// A secret of the application. The keys that sign cookies and encrypt records are derived from it
/// by HKDF-SHA256 (RFC 5869).
///
/// All nodes of a cluster must have the same secret. Generate it randomly, for instance with
/// `openssl rand -base64 48`, keep it out of the source code, and rotate it with
/// [`SessionConfigBuilder::next_secret`](crate::SessionConfigBuilder::next_secret) and
/// [`previous_secret`](crate::SessionConfigBuilder::previous_secret).
///
/// `Debug` prints nothing of it. There is neither a `Display` nor a default.
///
/// ```
/// use clustered_sessions::Secret;
///
/// assert!(Secret::new("at least thirty-two bytes of secret").is_ok());
/// assert!(Secret::new("too short").is_err());
/// ```
#[derive(Clone)]
pub struct Secret {
    bytes: Box<[u8]>,
    /// `true` if it was created by [`insecure_dev`](Secret::insecure_dev), whatever its length.
    insecure: bool,
}

impl Secret {
    /// Creates a secret from at least 32 bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError::SecretTooShort`] if there are fewer.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let bytes = secret.as_ref();
        if bytes.len() < MIN_LEN {
            return Err(ConfigError::SecretTooShort { found: bytes.len(), minimum: MIN_LEN });
        }
        Ok(Secret { bytes: bytes.into(), insecure: false })
    }

    /// Reads a secret from an environment variable. Its text is used as it is, without decoding.
    ///
    /// # Errors
    ///
    /// [`ConfigError::MissingVariable`] if it is unset or not Unicode,
    /// [`ConfigError::SecretTooShort`] if it has fewer than 32 bytes.
    pub fn from_env(variable: &str) -> Result<Self, ConfigError> {
        let text = std::env::var(variable)
            .map_err(|_| ConfigError::MissingVariable { variable: variable.to_owned() })?;
        Self::new(text)
    }

    /// Creates a secret of any length, which only
    /// [`SessionConfig::development`](crate::SessionConfig::development) accepts.
    ///
    /// # Risk
    ///
    /// Anyone who can read your source code can sign cookies with it.
    pub fn insecure_dev(secret: impl AsRef<[u8]>) -> Self {
        Secret { bytes: secret.as_ref().into(), insecure: true }
    }

    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// Returns `true` if the secret is meant for development or obviously not random.
    #[cfg(feature = "redis")]
    pub(crate) fn is_weak(&self) -> bool {
        let mut distinct = [false; 256];
        for &byte in &self.bytes {
            distinct[usize::from(byte)] = true;
        }
        // Random secrets of 32 bytes have some 30 distinct bytes, or 16 in hexadecimal.
        self.insecure || distinct.into_iter().filter(|&seen| seen).count() < 8
    }

    /// Derives the 32-byte key for a purpose in a realm. Keys for different purposes or realms
    /// reveal nothing about each other.
    #[expect(
        clippy::expect_used,
        reason = "HKDF-SHA256 yields up to 8160 bytes, and this takes 32"
    )]
    fn derive(&self, purpose: &str, realm: &str) -> [u8; 32] {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(b"clustered-sessions"), &self.bytes)
            // No purpose contains a zero byte, so the pair is unambiguous.
            .expand_multi_info(&[purpose.as_bytes(), &[0], realm.as_bytes()], &mut key)
            .expect("32 bytes are a valid length for HKDF-SHA256");
        key
    }
}

/// Prints no part of the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The secrets in use. The current one signs and encrypts; all of them verify and decrypt.
#[derive(Clone, Debug)]
pub(crate) struct KeyRing {
    /// Separates applications that share a secret. Part of what every key is derived from.
    realm: String,
    current: Secret,
    /// Secrets that other nodes may already sign and encrypt with.
    next: Vec<Secret>,
    /// Secrets that no longer sign or encrypt.
    previous: Vec<Secret>,
}

/// A key derived from one secret of the ring.
pub(crate) struct RingKey {
    pub(crate) bytes: [u8; 32],
    /// `true` if its secret is a previous one, so that what was made with it should be made again
    /// with the current one.
    pub(crate) retiring: bool,
}

impl KeyRing {
    pub(crate) fn new(current: Secret) -> Self {
        KeyRing { realm: String::new(), current, next: Vec::new(), previous: Vec::new() }
    }

    pub(crate) fn set_realm(&mut self, realm: String) {
        self.realm = realm;
    }

    pub(crate) fn push_next(&mut self, secret: Secret) {
        self.next.push(secret);
    }

    pub(crate) fn push_previous(&mut self, secret: Secret) {
        self.previous.push(secret);
    }

    /// Returns `true` if any of the secrets was created by [`Secret::insecure_dev`].
    pub(crate) fn has_insecure(&self) -> bool {
        self.secrets().any(|(secret, _)| secret.is_insecure())
    }

    /// Derives the keys for a purpose, the current one first.
    pub(crate) fn derive<'a>(&'a self, purpose: &'a str) -> impl Iterator<Item = RingKey> + 'a {
        self.secrets().map(move |(secret, retiring)| RingKey {
            bytes: secret.derive(purpose, &self.realm),
            retiring,
        })
    }

    /// Returns `true` if any of the secrets is meant for development or obviously not random.
    #[cfg(feature = "redis")]
    pub(crate) fn has_weak(&self) -> bool {
        self.secrets().any(|(secret, _)| secret.is_weak())
    }

    /// Returns each secret, and whether it is retiring.
    fn secrets(&self) -> impl Iterator<Item = (&Secret, bool)> {
        let in_use = std::iter::once(&self.current).chain(&self.next).map(|secret| (secret, false));
        in_use.chain(self.previous.iter().map(|secret| (secret, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_secrets_are_refused_with_numbers() {
        let error = Secret::new("x".repeat(31)).unwrap_err();
        assert!(matches!(error, ConfigError::SecretTooShort { found: 31, minimum: 32 }));
        assert!(Secret::new("x".repeat(32)).is_ok());
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("super secret, thirty-two bytes long").unwrap();
        let ring = KeyRing::new(secret.clone());
        assert!(!format!("{secret:?} {ring:?}").contains("super"));
    }

    #[test]
    fn the_current_secret_comes_first_and_only_previous_ones_are_retiring() {
        let secrets = ["current", "next", "previous"].map(Secret::insecure_dev);
        let mut ring = KeyRing::new(secrets[0].clone());
        ring.push_previous(secrets[2].clone());
        ring.push_next(secrets[1].clone());
        let keys: Vec<_> = ring.derive("purpose").map(|key| (key.bytes, key.retiring)).collect();
        let expected = [false, false, true].into_iter().zip(&secrets);
        assert_eq!(
            keys,
            expected
                .map(|(retiring, secret)| (secret.derive("purpose", ""), retiring))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn purposes_give_unrelated_keys() {
        let secret = Secret::insecure_dev("dev");
        assert_ne!(secret.derive("a", ""), secret.derive("b", ""));
        assert_ne!(secret.derive("a", "x"), secret.derive("a", "y"));
        assert_ne!(secret.derive("a", "x"), secret.derive("ax", ""));
        assert_eq!(secret.derive("a", "x"), secret.derive("a", "x"));
    }
}
