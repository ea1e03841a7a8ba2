//! What must hold for any bytes that come from outside. Only fuzzers (see `fuzz/`) and the tests below see this.
#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "it is public to fuzzers"))]

#[cfg(feature = "redis")]
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use crate::cluster::{Action, Announcement, interpret};
use crate::codec;
use crate::config::CookieConfig;
use crate::cookie::CookieJar;
use crate::secret::{KeyRing, Secret};

/// A `Cookie` header: a token that verifies stands there as we sign and spell it.
pub fn cookie(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers: HeaderMap = [(header::COOKIE, value)].into_iter().collect();
    let jar = jar();
    if let Some(presented) = jar.verify(&headers) {
        let ours = jar.pair(&presented.token);
        assert!(bytes.split(|&byte| byte == b';').any(|pair| pair.trim_ascii() == ours.as_bytes()));
    }
}

fn jar() -> CookieJar {
    CookieJar::new(CookieConfig::new(), &KeyRing::new(Secret::insecure_dev("fuzzing")))
}

/// An announcement: the session that it evicts is one that it names, and saying the same in our words has the same effect.
pub fn announcement(bytes: &[u8]) {
    let action = interpret(bytes);
    let again = match action {
        Action::Evict(id, revision) => {
            assert!(names(bytes, &id.to_string()));
            Announcement::SessionInvalidated(id, revision)
        }
        Action::Clear => Announcement::CacheClear,
        Action::Unreadable => return,
    };
    assert_eq!(interpret(&again.encode("", 0)), action);
}

fn names(json: &[u8], text: &str) -> bool {
    match serde_json::from_slice(json) {
        Ok(serde_json::Value::Object(fields)) => fields.values().any(|value| value == text),
        Ok(serde_json::Value::Array(values)) => values.iter().any(|value| value == text),
        _ => false,
    }
}

/// A value in Redis: what opens is sealed to the same bytes.
#[cfg(feature = "redis")]
pub fn envelope(bytes: &[u8]) {
    let value = Bytes::copy_from_slice(bytes);
    if let Ok(stored) = crate::backend::open_envelope(&value) {
        assert_eq!(crate::backend::seal_envelope(&stored), value);
    }
}

/// What the payloads of fuzzers hold: a bit of each kind.
type Data = (String, Option<u64>, Vec<(i32, bool)>);

/// A payload: what decodes is the same after another round trip.
pub fn payload(bytes: &[u8]) {
    let Ok(data) = codec::decode::<Data>(bytes) else { return };
    // Escapes may make it longer than it came, and so too long.
    if let Ok(encoded) = codec::encode(&*data) {
        assert!(codec::decode::<Data>(&encoded).is_ok_and(|again| again == data));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Revision;
    use crate::id::{SessionId, SessionToken};

    /// Bytes of any kind; and valid ones with a part replaced, often by nothing.
    fn bytes_like(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let part = (any::<prop::sample::Index>(), 0usize..4, prop::collection::vec(any::<u8>(), 0..4));
        let spoilt = part.prop_map(move |(at, removed, inserted)| {
            let mut bytes = valid.clone();
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + removed);
            bytes.splice(at..end, inserted);
            bytes
        });
        prop_oneof![any::<Vec<u8>>(), spoilt]
    }

    fn signed_cookie() -> Vec<u8> {
        jar().pair(&SessionToken::random()).as_bytes().to_vec()
    }

    fn change_announced() -> Vec<u8> {
        let id = SessionId::from_bytes([1; 16]);
        Announcement::SessionInvalidated(id, Some(Revision::first())).encode("web-1", 7)
    }

    fn encoded() -> Vec<u8> {
        let data: Data = ("Ada".to_owned(), Some(3), vec![(-1, true)]);
        codec::encode(&data).unwrap().to_vec()
    }

    #[test]
    fn what_the_bytes_are_like_is_valid() {
        let headers: HeaderMap =
            [(header::COOKIE, HeaderValue::from_bytes(&signed_cookie()).unwrap())].into_iter().collect();
        assert!(jar().verify(&headers).is_some());
        assert!(matches!(interpret(&change_announced()), Action::Evict(_, Some(_))));
        assert!(codec::decode::<Data>(&encoded()).is_ok());
    }

    proptest! {
        #[test]
        fn any_cookie_header_is_verified_or_a_strangers(bytes in bytes_like(signed_cookie())) {
            cookie(&bytes);
        }

        #[test]
        fn any_announcement_is_understood_or_unreadable(bytes in bytes_like(change_announced())) {
            announcement(&bytes);
        }

        #[test]
        fn any_payload_is_decoded_or_refused(bytes in bytes_like(encoded())) {
            payload(&bytes);
        }

        #[test]
        #[cfg(feature = "redis")]
        fn any_value_is_opened_or_refused(bytes in bytes_like([&[1, 0][..], &[7; 40]].concat())) {
            envelope(&bytes);
        }
    }
}
