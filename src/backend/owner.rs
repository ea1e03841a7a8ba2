//! The pseudonym of an owner, for the owner index.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A pseudonym for an owner: HMAC-SHA256 of the owner's name under a key that only the application
/// has.
///
/// A backend can distinguish owners by it. A reader of the backend can neither identify them nor
/// test guesses. `Display` prints 43 characters of base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerTag([u8; 32]);

impl OwnerTag {
    /// Returns the 256 bits, for a backend that keeps tags in binary form.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Creates the tag with these 256 bits.
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
