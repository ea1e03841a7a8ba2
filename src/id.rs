//! The token, which is the credential, and the session id, which is not.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::digest::CtOutput;
use quick_cache::DefaultHashBuilder;
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::random::random_bytes;

/// Length of a [`SessionId`] and of a token as text: 128 bits in base64url without padding.
pub(crate) const TEXT_LEN: usize = 22;

/// The credential in the cookie: 128 random bits. It gives access to the session.
///
/// This crate writes it into the cookie and nowhere else. Stores, keys, messages and logs carry the
/// [`SessionId`], from which the token cannot be computed. 128 bits from the operating system's
/// random generator are what OWASP's Session Management Cheat Sheet asks for.
///
/// `Debug` prints nothing of it, and there is no `Display` and no serialization.
#[derive(Clone, Eq)]
pub struct SessionToken([u8; 16]);

impl SessionToken {
    /// Generates a token with the operating system's random generator.
    pub(crate) fn random() -> Self {
        SessionToken(random_bytes())
    }

    /// Creates the token with these 128 bits, such as that of a session which is taken over from
    /// another library, or one that a client without cookies has sent.
    ///
    /// ```
    /// use clustered_sessions::SessionToken;
    ///
    /// let token = SessionToken::from_bytes(*b"0123456789abcdef");
    /// assert_eq!(token.session_id().to_string(), "n59REfeyengfHx3d5evC3Q");
    /// assert_eq!(format!("{token:?}"), "SessionToken(redacted)");
    /// ```
    ///
    /// # Risk
    ///
    /// The token of a session must come from a random generator made for cryptography: see
    /// [`SessionStore::create_with_token`](crate::SessionStore::create_with_token).
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        SessionToken(bytes)
    }

    /// Returns the 128 bits: the credential itself, to be given to the visitor in another way than
    /// by the cookie, such as to a mobile app.
    ///
    /// # Risk
    ///
    /// Whoever reads them has the session. They belong in no log, no URL and no database; the
    /// [`session_id`](SessionToken::session_id) does.
    pub const fn expose_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the id of the session that this token gives access to.
    pub fn session_id(&self) -> SessionId {
        let digest = Sha256::digest(self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        SessionId(id)
    }

    /// Parses a token. Accepts only its one canonical spelling.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        decode_128(text).map(SessionToken)
    }

    /// Returns the token as 22 characters of base64url.
    pub(crate) fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

/// Compares in constant time: the time tells nothing about the bits that are equal.
impl PartialEq for SessionToken {
    fn eq(&self, other: &Self) -> bool {
        let digest = |token: &Self| CtOutput::<Sha256>::new(Sha256::digest(token.0));
        digest(self) == digest(other)
    }
}

/// Prints no part of the token.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(redacted)")
    }
}

/// The name of a session everywhere but in the cookie: the SHA-256 digest of its token, truncated
/// to 128 bits.
///
/// It is not a credential. It may be logged, shown to administrators and passed to the methods of
/// the store. As text it is 22 characters of base64url, and only this canonical spelling parses.
/// In every format of serde it is that text, so it can be a field of a form or a part of a path.
///
/// ```
/// use clustered_sessions::SessionId;
///
/// let id: SessionId = "AAAAAAAAAAAAAAAAAAAAAA".parse()?;
/// assert_eq!(id.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
/// assert!("not an id".parse::<SessionId>().is_err());
/// assert_eq!(serde_json::to_string(&id)?, "\"AAAAAAAAAAAAAAAAAAAAAA\"");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

/// A map with the hash function of the cache. It is seeded like the standard one, and faster.
pub(crate) type SessionMap<V> = HashMap<SessionId, V, DefaultHashBuilder>;

impl SessionId {
    /// Returns the 128 bits, for a backend that stores ids in binary.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the id that the tombstone of a session names which another session has replaced.
    /// There is never a session under it: that would take a token with this digest.
    pub(crate) fn nowhere(&self) -> Self {
        let digest = Sha256::new().chain_update(b"replaced").chain_update(self.0).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        SessionId(id)
    }

    /// Creates an id from its 128 bits, as returned by [`SessionId::as_bytes`].
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        SessionId(bytes)
    }

    /// Writes the id as text into a buffer and returns the text. For what is written often.
    pub(crate) fn write_text<'a>(&self, buffer: &'a mut [u8; TEXT_LEN]) -> &'a str {
        encode_128(&self.0, buffer)
    }
}

/// An id is a hash of random bits itself, so half of it is enough to tell ids apart.
impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write_text(&mut [0; TEXT_LEN]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        decode_128(text.as_bytes()).map(SessionId).ok_or(InvalidSessionId(()))
    }
}

/// Serializes the text form, in binary formats too: an id then looks the same everywhere.
impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.write_text(&mut [0; TEXT_LEN]))
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextForm)
    }
}

/// Reads an id from text, whether borrowed or owned.
struct TextForm;

impl de::Visitor<'_> for TextForm {
    type Value = SessionId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session id as text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SessionId, E> {
        // Not `invalid_value`, which would repeat the text: by mistake it may be a credential.
        text.parse().map_err(E::custom)
    }
}

/// The error for a text that is not a [`SessionId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSessionId(());

impl fmt::Display for InvalidSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a session id is {TEXT_LEN} characters of base64url without padding")
    }
}

impl std::error::Error for InvalidSessionId {}

/// Writes 128 bits as 22 characters of base64url into a buffer, and returns them.
#[expect(clippy::expect_used, reason = "16 bytes are 22 characters of ASCII")]
pub(crate) fn encode_128<'a>(bits: &[u8; 16], buffer: &'a mut [u8; TEXT_LEN]) -> &'a str {
    let written = URL_SAFE_NO_PAD.encode_slice(bits, buffer).expect("the buffer is long enough");
    std::str::from_utf8(&buffer[..written]).expect("base64 is ASCII")
}

/// Decodes 22 characters of base64url.
fn decode_128(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut bytes = [0; 16];
    // The engine refuses stray trailing bits, so each value has exactly one spelling.
    let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (written == bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_id_of_a_token_is_frozen() {
        let token = SessionToken(*b"0123456789abcdef");
        assert_eq!(token.to_text(), "MDEyMzQ1Njc4OWFiY2RlZg");
        assert_eq!(token.session_id().to_string(), "n59REfeyengfHx3d5evC3Q");
    }

    #[test]
    fn a_token_has_128_bits_and_is_never_the_same() {
        let tokens: Vec<u128> =
            (0..1000).map(|_| u128::from_be_bytes(SessionToken::random().0)).collect();
        assert_eq!(tokens.iter().collect::<std::collections::HashSet<_>>().len(), tokens.len());
        for bit in 0..128 {
            let ones = tokens.iter().filter(|token| *token >> bit & 1 == 1).count();
            assert!((350..650).contains(&ones), "bit {bit} is one in {ones} of 1000 tokens");
        }
    }

    #[test]
    fn tokens_are_equal_if_all_their_bits_are() {
        let token = SessionToken::random();
        assert_eq!(token, SessionToken::from_bytes(*token.expose_bytes()));
        for bit in 0..128 {
            let other = u128::from_be_bytes(token.0) ^ 1 << bit;
            assert_ne!(token, SessionToken(other.to_be_bytes()), "bit {bit}");
        }
    }

    #[test]
    fn a_token_does_not_print_itself() {
        assert_eq!(format!("{:?}", SessionToken::random()), "SessionToken(redacted)");
    }

    #[test]
    fn an_id_is_its_text_in_json_as_a_value_and_as_a_key() {
        let text = "n59REfeyengfHx3d5evC3Q";
        let id: SessionId = text.parse().unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
        assert_eq!(serde_json::from_value::<SessionId>(text.into()).unwrap(), id);
        let map: HashMap<_, _> = [(id, 1)].into();
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, format!("{{\"{text}\":1}}"));
        assert_eq!(serde_json::from_str::<HashMap<SessionId, u8>>(&json).unwrap(), map);
    }

    #[cfg(feature = "messagepack")]
    #[test]
    fn an_id_is_its_text_in_a_binary_format() {
        let id: SessionId = "n59REfeyengfHx3d5evC3Q".parse().unwrap();
        let bytes = rmp_serde::to_vec(&id).unwrap();
        assert_eq!(bytes, [&[0xb6], "n59REfeyengfHx3d5evC3Q".as_bytes()].concat());
        assert_eq!(rmp_serde::from_slice::<SessionId>(&bytes).unwrap(), id);
    }

    #[test]
    fn a_malformed_id_is_refused_and_not_repeated_in_the_error() {
        for text in ["", "secret", "n59REfeyengfHx3d5evC3R", "n59REfeyengfHx3d5evC3Q=="] {
            let error = serde_json::from_value::<SessionId>(text.into()).unwrap_err().to_string();
            assert_eq!(error, InvalidSessionId(()).to_string());
        }
        assert!(serde_json::from_str::<SessionId>("[1, 2]").is_err());
    }

    proptest! {
        #[test]
        fn ids_round_trip(bytes: [u8; 16]) {
            let id = SessionId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<SessionId>().unwrap(), id);
        }

        #[test]
        fn a_text_that_parses_is_the_canonical_one(text in "[A-Za-z0-9_+/=.-]{20,24}") {
            if let Ok(id) = text.parse::<SessionId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
