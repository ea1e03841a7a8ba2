//! Whose a session is, as far as a backend knows.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Stands for an owner: HMAC-SHA256 of a name under a key that only the application has.
///
/// So a backend can tell owners apart, and whoever reads it cannot tell who they are, nor try out names. Its text is 43 characters of
/// base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerTag([u8; 32]);

impl OwnerTag {
    /// The 256 bits, for a backend that keeps tags in binary.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The tag with these 256 bits.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        OwnerTag(bytes)
    }
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerTag({self})")
    }
}
