//! The tag of a cookie that was verified, remembered with the session that the cookie names.

use hmac::Hmac;
use hmac::digest::CtOutput;
use sha2::Sha256;

/// The tag of a cookie, and the signer that has verified it or is to verify it.
///
/// Two are equal if the same signer would compute the same tag, so a tag that was verified under
/// another name, or with another secret, is never taken for one of this signer. Tags are compared
/// in constant time, and `Debug` does not print them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedTag {
    /// Identifies the signer within this process.
    signer: u32,
    tag: CtOutput<Hmac<Sha256>>,
}

impl VerifiedTag {
    pub(crate) fn new(signer: u32, tag: [u8; 32]) -> Self {
        VerifiedTag { signer, tag: CtOutput::new(tag.into()) }
    }
}
