//! Properties that must hold for any bytes from outside. Visible only to the fuzzers (see `fuzz/`)
//! and to the tests below.
#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "public to fuzzers"))]

use http::{HeaderMap, HeaderValue, header};
use serde::de::IgnoredAny;

use crate::clock::Timestamp;
use crate::cluster::{Action, Announcement, MAX_LEN, interpret};
use crate::codec::{Codec, CodecConfig, Decoded, Encryption};
use crate::cookie::{CookieConfig, CookieHeaders, CookieSigner, VerifiedCookies};
use crate::id::{SessionId, SessionToken};
use crate::record::{Meta, Revision, Stored};
use crate::secret::{KeyRing, Secret};

/// Verifies a `Cookie` header, and checks that a token is returned only if it is the only one that
/// verifies under our name.
///
/// A fuzzer cannot guess a signature. So the bytes 1 and 2 stand for two signed cookies, and 3 and
/// 4 for their values alone.
pub fn cookie(bytes: &[u8]) {
    let signer = signer();
    let cookies = [
        SessionToken::parse(b"AQEBAQEBAQEBAQEBAQEBAQ"),
        SessionToken::parse(b"AgICAgICAgICAgICAgICAg"),
    ]
    .map(|token| token.map(|token| (signer.pair(&token), token)));
    let [Some((one, first)), Some((two, second))] = cookies else {
        unreachable!("both are tokens")
    };
    let value = |pair: &HeaderValue| pair.as_bytes()[OUR_NAME.len()..].to_vec();
    let mut header = Vec::new();
    for byte in bytes {
        match byte {
            1 => header.extend_from_slice(one.as_bytes()),
            2 => header.extend_from_slice(two.as_bytes()),
            3 => header.extend(value(&one)),
            4 => header.extend(value(&two)),
            byte => header.push(*byte),
        }
    }
    let values = header
        .split(|&byte| byte == b';')
        .filter_map(|pair| pair.trim_ascii().strip_prefix(OUR_NAME));
    let unquoted = |value: &'_ [u8]| match value {
        [b'"', value @ .., b'"'] => value.to_vec(),
        _ => value.to_vec(),
    };
    let values: Vec<_> = values.map(unquoted).collect();
    let (has_one, has_two) = (values.contains(&value(&one)), values.contains(&value(&two)));
    let expected = match (has_one, has_two) {
        (true, false) => Some(first),
        (false, true) => Some(second),
        _ => None,
    };
    let Ok(header_value) = HeaderValue::from_bytes(&header) else { return };
    let headers: HeaderMap = [(header::COOKIE, header_value)].into_iter().collect();
    let verified = match signer.verify(&CookieHeaders::of(&headers), |_| ()) {
        VerifiedCookies::One(cookie) => Some(cookie.token),
        _ => None,
    };
    assert_eq!(verified, expected);
}

/// The default name of the cookie, with its `=`.
const OUR_NAME: &[u8] = b"__Host-session=";

fn signer() -> CookieSigner {
    CookieSigner::new(CookieConfig::new(), &ring())
}

/// A ring that fuzzers and seeds agree on.
fn ring() -> KeyRing {
    KeyRing::new(Secret::insecure_dev("fuzzing"))
}

/// Interprets an announcement, and checks that it evicts only a session that it names, and that its
/// own encoding has the same effect, and so has the same JSON in another layout.
pub fn announcement(bytes: &[u8]) {
    let action = interpret(bytes);
    if bytes.len() < MAX_LEN {
        assert_eq!(interpret(&[b" ", bytes].concat()), action);
    }
    let again = match action {
        Action::Evict(id, revision) => {
            assert!(names(bytes, &id.to_string()));
            Announcement::SessionInvalidated(id, revision)
        }
        Action::Delete(id, reason) => {
            assert!(names(bytes, &id.to_string()));
            Announcement::SessionDeleted(id, reason)
        }
        Action::Clear => Announcement::CacheClear,
        Action::Unreadable => return,
    };
    assert_eq!(interpret(&again.encode("", 0)), action);
}

/// Returns `true` if the message names this session.
fn names(json: &[u8], text: &str) -> bool {
    serde_json::from_slice::<Named>(json).is_ok_and(|named| named.session_id == text)
}

/// A message, or an array of its fields. Only the session id is decoded: the other fields may hold
/// invalid Unicode or numbers out of range.
#[derive(serde::Deserialize)]
struct Named {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    session_id: String,
    #[serde(default, rename = "revision")]
    _revision: IgnoredAny,
    #[serde(default, rename = "node_id")]
    _node_id: IgnoredAny,
    #[serde(default, rename = "timestamp")]
    _timestamp: IgnoredAny,
}

/// Decodes the binary form of a record, and checks that it is encoded to the same bytes again.
pub fn envelope(bytes: &[u8]) {
    if let Ok(stored) = Stored::from_bytes(bytes.to_vec()) {
        assert_eq!(stored.to_bytes(), bytes);
    }
}

/// The type of the fuzzers' sessions: a value of each kind.
type Data = (String, Option<u64>, Vec<(i32, bool)>);

/// Decodes a payload, and checks that data that decodes survives another round trip, encrypted or
/// not, however it is written.
///
/// A fuzzer cannot guess a valid tag. So a payload with the flag for encryption is also encrypted
/// under the right secret, and checked in that form.
pub fn payload(bytes: &[u8]) {
    let (id, meta) = (
        SessionId::from_bytes([1; 16]),
        Meta::new(
            Revision::from_bytes([2; 16]),
            Timestamp::from_millis(3),
            Timestamp::from_millis(4),
            SessionId::from_bytes([1; 16]),
        ),
    );
    let codecs = [Encryption::Off, Encryption::Migrating, Encryption::Required].map(codec);
    let mut decoded: Vec<_> =
        codecs.iter().map(|codec| codec.decode::<Data>(&id, &meta, bytes)).collect();
    if let Some((&[flags, _], body)) = bytes.split_first_chunk() {
        let sealed = codecs[2].seal_body(&id, &meta, flags, body);
        let opened = codecs
            .iter()
            .map(|codec| codec.decode::<Data>(&id, &meta, &sealed))
            .collect::<Vec<_>>();
        let plain = codecs[0].decode::<Data>(&id, &meta, &[&[flags & 5, 0], body].concat());
        for opened in &opened {
            assert_eq!(
                opened.is_ok(),
                plain.is_ok() && flags & !7 == 0,
                "an encrypted payload decodes exactly if the same plain one does"
            );
        }
        decoded.extend(opened);
    }
    for Decoded { data, .. } in decoded.into_iter().flatten() {
        for codec in &codecs {
            // Escapes may make the JSON longer than it was, and so too long.
            if let Ok(encoded) = codec.encode(&data) {
                let payload = codec.payload(&id, &meta, encoded.bytes());
                let again = codec.decode::<Data>(&id, &meta, &payload);
                assert!(again.is_ok_and(|again| again.data == data));
            }
        }
    }
}

/// A codec that compresses, if it can, what is longer than 64 bytes.
fn codec(encryption: Encryption) -> Codec {
    let config = CodecConfig {
        encryption,
        compress: cfg!(feature = "compression"),
        compression_threshold: 64,
        ..CodecConfig::new()
    };
    Codec::new(&config, &ring())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates arbitrary bytes, and valid ones with a part replaced, often by nothing.
    fn bytes_like(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let part =
            (any::<prop::sample::Index>(), 0usize..4, prop::collection::vec(any::<u8>(), 0..4));
        let mutated = part.prop_map(move |(at, removed, inserted)| {
            let mut bytes = valid.clone();
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + removed);
            bytes.splice(at..end, inserted);
            bytes
        });
        prop_oneof![any::<Vec<u8>>(), mutated]
    }

    /// A header in which placeholders stand for signed cookies.
    fn cookies() -> Vec<u8> {
        b"a=b; \x01; __Host-session=\x03".to_vec()
    }

    fn change_announced() -> Vec<u8> {
        let id = SessionId::from_bytes([1; 16]);
        Announcement::SessionInvalidated(id, Some(Revision::first())).encode("web-1", 7)
    }

    fn encoded() -> Vec<u8> {
        let data: Data = ("Ada".to_owned(), Some(3), vec![(-1, true)]);
        serde_json::to_vec(&data).map(|json| [&b"\x02\0"[..], &json].concat()).unwrap()
    }

    #[test]
    fn the_valid_bytes_are_valid() {
        assert!(matches!(interpret(&change_announced()), Action::Evict(_, Some(_))));
        assert!(serde_json::from_slice::<Data>(&encoded()[2..]).is_ok());
    }

    #[test]
    fn a_message_with_a_malformed_unknown_field_is_interpreted() {
        for field in [&b"\"\xff\""[..], b"9e999"] {
            let begin = b"{\"type\":\"New\",\"session_id\":\"AQEBAQEBAQEBAQEBAQEBAQ\",\"new\":";
            let message = [begin, field, b"}"].concat();
            assert_eq!(interpret(&message), Action::Evict(SessionId::from_bytes([1; 16]), None));
            announcement(&message);
        }
    }

    proptest! {
        #[test]
        fn any_cookie_header_is_verified_or_a_strangers(bytes in bytes_like(cookies())) {
            cookie(&bytes);
        }

        #[test]
        fn any_announcement_is_interpreted_or_unreadable(bytes in bytes_like(change_announced())) {
            announcement(&bytes);
        }

        #[test]
        fn any_payload_is_decoded_or_refused(bytes in bytes_like(encoded())) {
            payload(&bytes);
        }

        #[test]
        fn any_value_is_decoded_or_refused(bytes in bytes_like([&[1, 0][..], &[7; 40]].concat())) {
            envelope(&bytes);
        }
    }
}
