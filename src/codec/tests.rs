use std::error::Error as _;

use serde::{Deserialize, Serialize};

use super::*;
use crate::clock::Timestamp;
use crate::record::{Lifespan, Revision};
use crate::secret::Secret;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Data {
    name: String,
    visits: u64,
}

const ID: SessionId = SessionId::from_bytes(*b"IIIIIIIIIIIIIIII");
const SECRET: &str = "first secret";
/// Maximum size of a record in these tests.
const MAX: usize = 64 * 1024;

fn meta() -> Meta {
    Meta {
        revision: Revision::from_bytes(*b"RRRRRRRRRRRRRRRR"),
        created_at: Timestamp::from_millis(0x0102_0304_0506_0708),
        logged_in_at: Timestamp::from_millis(0x1112_1314_1516_1718),
        used_at: Timestamp::from_millis(2),
        deadline: Timestamp::from_millis(1),
        origin: SessionId::from_bytes(*b"OOOOOOOOOOOOOOOO"),
        lifespan: Lifespan::Ordinary,
    }
}

fn ring(current: &str, previous: &[&str]) -> KeyRing {
    let mut ring = KeyRing::new(Secret::insecure_dev(current));
    ring.set_realm("shop".to_owned());
    for secret in previous {
        ring.push_previous(Secret::insecure_dev(secret));
    }
    ring
}

fn codec(encryption: Encryption, ring: &KeyRing) -> Codec {
    Codec::new(&CodecConfig { encryption, max_record_size: MAX, ..CodecConfig::new() }, ring)
}

fn off() -> Codec {
    codec(Encryption::Off, &ring(SECRET, &[]))
}

fn required() -> Codec {
    codec(Encryption::Required, &ring(SECRET, &[]))
}

#[test]
fn data_is_the_same_only_if_every_byte_is() {
    let data = |len: usize, last: &str| Data { name: "x".repeat(len) + last, visits: 3 };
    for len in [0, 1, CHUNK - 30, CHUNK, CHUNK * 2, CHUNK * 3 - 22] {
        let encoded = off().encode(&data(len, "a")).unwrap();
        assert!(encoded.is_same_as(&data(len, "a")), "{len}");
        for other in [data(len, "b"), data(len, ""), data(len, "aa"), data(len + CHUNK, "a")] {
            assert!(!encoded.is_same_as(&other), "{len} {}", other.name.len());
        }
        assert!(!encoded.is_same_as(&Data { visits: 33, ..data(len, "a") }), "{len}");
    }
    let twelve = off().encode(&12).unwrap();
    assert!(twelve.is_same_as(&12) && !twelve.is_same_as(&1) && !twelve.is_same_as(&123));
}

fn compressing(codec: Codec) -> Codec {
    Codec { compress_above: Some(0), ..codec }
}

fn ada() -> Data {
    Data { name: "Ada".into(), visits: 3 }
}

/// Data that compresses well.
#[cfg(feature = "compression")]
fn adas() -> Data {
    Data { name: "Ada ".repeat(20), visits: 3 }
}

fn encode(codec: &Codec, data: &Data) -> Bytes {
    codec.payload(&ID, &meta(), codec.encode(data).unwrap().bytes())
}

fn decode(codec: &Codec, payload: &[u8]) -> Result<Decoded<Data>, StoreError> {
    codec.decode(&ID, &meta(), payload)
}

/// Decodes a payload that must be refused, and returns the reason.
fn refusal(codec: &Codec, payload: &[u8]) -> String {
    let error = decode(codec, payload).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    error.source().unwrap().to_string()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn an_error_of_serialization_says_what_is_wrong_and_does_not_quote_the_data() {
    struct Secretive;
    impl Serialize for Secretive {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("the card 4711 has expired"))
        }
    }
    impl<'de> Deserialize<'de> for Secretive {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Secretive)
        }
    }
    fn reason<T: Serialize + serde::de::DeserializeOwned>(format: DataFormat, data: &T) -> String {
        let error = Codec { format, ..off() }.encode(data).err().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Encode);
        error.source().unwrap().to_string()
    }
    let foreign = "`Serialize` has failed, with a message that is not shown since it may quote \
                   the data";
    let json = |cause| format!("the data cannot be serialized to JSON: {cause}");
    assert_eq!(reason(DataFormat::Json, &Secretive), json(foreign));
    let pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert_eq!(reason(DataFormat::Json, &pairs), json("key must be a string"));
    #[cfg(feature = "messagepack")]
    assert_eq!(
        reason(DataFormat::MessagePack, &Secretive),
        format!("the data cannot be serialized to MessagePack: {foreign}")
    );
}

mod frozen {
    //! If one of these tests fails, every record in production has become unreadable. The encrypted
    //! vectors were made by another implementation, OpenSSL.

    use super::*;

    const ENCRYPTED: &str = "020f4e4e4e4e4e4e4e4e4e4e4e4ef24ea5e3b447f0f9d65918bdd504d01156f3031226fa3367d67b554d577b7fef035c0b80b534705296";
    const COMPRESSED: &str =
        "010000000066ab56ca4bcc4d55b252724c4954a02656d2512acb2cce2c2956b232ae0500";
    const BOTH: &str = "030f4e4e4e4e4e4e4e4e4e4e4e4eb170836e7d61b7ad4f2ceac1742343ef2810473ef19372a397a2cbb8e6af88f787edf0f3a31c22fbc32540a207beabce1065";

    #[test]
    fn a_plain_payload() {
        let payload = b"\0\0{\"name\":\"Ada\",\"visits\":3}";
        assert_eq!(encode(&off(), &ada()), &payload[..]);
        assert_eq!(decode(&off(), payload).unwrap().data, ada());
    }

    #[test]
    fn an_encrypted_payload() {
        let mut payload = [&[2, 0][..], &[0; 12], b"{\"name\":\"Ada\",\"visits\":3}"].concat();
        required().keys.seal_with(*b"NNNNNNNNNNNN", &ID, &meta(), &mut payload);
        assert_eq!(payload, hex(ENCRYPTED));
        assert_eq!(decode(&required(), &payload).unwrap().data, ada());
    }

    #[cfg(feature = "compression")]
    #[test]
    fn a_compressed_payload() {
        assert_eq!(decode(&off(), &hex(COMPRESSED)).unwrap().data, adas());
    }

    #[cfg(feature = "compression")]
    #[test]
    fn a_payload_that_is_both() {
        assert_eq!(decode(&required(), &hex(BOTH)).unwrap().data, adas());
    }

    #[cfg(not(feature = "compression"))]
    #[test]
    fn a_compressed_payload_is_refused_with_the_reason() {
        for (codec, payload) in [(off(), COMPRESSED), (required(), BOTH)] {
            assert!(refusal(&codec, &hex(payload)).contains("feature `compression`"));
        }
    }
}

#[cfg(not(feature = "messagepack"))]
#[test]
fn a_messagepack_payload_is_refused_with_the_reason() {
    let reason = refusal(&off(), &hex("040082"));
    assert!(reason.contains("built without the feature `messagepack`"), "{reason}");
}

#[cfg(feature = "messagepack")]
mod messagepack;
mod properties;

#[test]
fn nothing_is_accepted_that_was_not_written_like_this() {
    let good = encode(&off(), &Data::default());
    let flagged = |flags: u8| [&[flags, 0], &good[2..]].concat();
    let mut keyed = good.to_vec();
    keyed[1] = 1;
    let trailing = [&good[..], b"x"].concat();
    for bad in [
        &b""[..],
        b"\0",
        b"\0\0",
        &good[..good.len() - 1],
        &flagged(1),
        &flagged(2),
        &flagged(4),
        &flagged(8),
        &keyed,
        &trailing,
    ] {
        assert_eq!(decode(&off(), bad).unwrap_err().kind(), StoreErrorKind::Corrupt, "{bad:?}");
    }
    for len in 0..30 {
        assert!(decode(&required(), &[&[2, 130][..], &vec![0; len]].concat()).is_err(), "{len}");
    }
}

#[test]
fn an_error_does_not_quote_the_data() {
    for codec in [off(), required()] {
        #[derive(Serialize, Deserialize)]
        struct Other {
            name: String,
            visits: String,
        }
        let other = Other { name: "Ada".into(), visits: "secret".into() };
        let payload = codec.payload(&ID, &meta(), codec.encode(&other).unwrap().bytes());
        let error = decode(&codec, &payload).unwrap_err();
        let text = format!("{error} {error:?} {}", error.source().unwrap());
        assert!(!text.contains("secret") && !text.contains("Ada"), "{text}");
    }
}

#[test]
fn data_beyond_the_limit_is_refused_with_numbers() {
    let of = |len: usize| Data { name: "x".repeat(len - 22), visits: 0 };
    for codec in [off(), required(), compressing(off()), compressing(required())] {
        assert_eq!(decode(&codec, &encode(&codec, &of(MAX))).unwrap().data, of(MAX));
        let error = codec.encode(&of(MAX + 1)).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::TooLarge);
        assert_eq!(
            error.source().unwrap().to_string(),
            "the data has 65537 bytes as JSON, but at most 65536 can be stored (max_record_size)"
        );
    }
}

#[test]
fn a_record_of_a_node_with_a_higher_limit_is_read() {
    let data = Data { name: "x".repeat(1025), visits: 0 };
    for codec in [off as fn() -> Codec, required, || compressing(off()), || compressing(required())]
    {
        let lower = Codec { max_len: 1024, ..codec() };
        assert_eq!(decode(&lower, &encode(&codec(), &data)).unwrap().data, data);
    }
}

#[test]
fn a_record_longer_than_any_node_may_write_is_refused() {
    let plain = vec![b'x'; LONGEST + 1];
    for codec in [off(), compressing(off()), compressing(required())] {
        let refusal = refusal(&codec, &codec.payload(&ID, &meta(), &plain));
        assert!(refusal.contains("read"), "{refusal}");
    }
}

#[test]
fn nothing_of_the_data_shows_in_an_encrypted_payload() {
    let payload = encode(&required(), &Data { name: "Ada Lovelace".into(), visits: 3 });
    for word in [&b"Ada"[..], b"name", b"visits", b"\":\""] {
        assert!(!payload.windows(word.len()).any(|window| window == word));
    }
    assert_ne!(
        payload,
        encode(&required(), &Data { name: "Ada Lovelace".into(), visits: 3 }),
        "the nonce is random"
    );
}

#[test]
fn a_plain_record_is_refused_where_encryption_is_required() {
    let plain = encode(&off(), &ada());
    assert_eq!(refusal(&required(), &plain), NOT_ENCRYPTED);
    #[cfg(feature = "compression")]
    assert!(refusal(&required(), &encode(&compressing(off()), &adas())).contains("not encrypted"));
}

#[test]
fn which_records_are_read_and_which_need_reencryption() {
    use Encryption::{Migrating, Off, Required};
    let old = ring("old", &[]);
    let (mut before, after) = (ring("old", &[]), ring("new", &["old"]));
    before.push_next(Secret::insecure_dev("new"));
    let new = ring("new", &[]);

    // The writer; the reader; whether the record then needs to be encrypted again (`None`: it is
    // refused).
    for (written, read, expected) in [
        (codec(Off, &old), codec(Off, &after), Some(false)),
        (codec(Off, &old), codec(Migrating, &after), Some(true)),
        (codec(Off, &old), codec(Required, &after), None),
        (codec(Required, &old), codec(Off, &old), Some(false)),
        (codec(Required, &old), codec(Migrating, &old), Some(false)),
        (codec(Required, &old), codec(Required, &old), Some(false)),
        (codec(Migrating, &old), codec(Required, &old), Some(false)),
        // During a rotation the next secret counts as current, like the one in use. Otherwise two
        // nodes would overwrite each other forever.
        (codec(Required, &old), codec(Required, &before), Some(false)),
        (codec(Required, &new), codec(Required, &before), Some(false)),
        (codec(Required, &new), codec(Required, &after), Some(false)),
        (codec(Required, &old), codec(Required, &after), Some(true)),
        (codec(Required, &old), codec(Migrating, &after), Some(true)),
        (codec(Required, &old), codec(Off, &after), Some(true)),
        (codec(Required, &old), codec(Required, &new), None),
        (codec(Required, &new), codec(Off, &old), None),
    ] {
        let needs_reencryption =
            decode(&read, &encode(&written, &ada())).ok().map(|decoded| decoded.needs_reencryption);
        assert_eq!(needs_reencryption, expected, "{written:?} {read:?}");
    }
}

#[test]
fn a_record_under_an_unknown_secret_says_so() {
    let other = codec(Encryption::Required, &ring("another secret", &[]));
    assert_eq!(
        refusal(&required(), &encode(&other, &ada())),
        "the record is encrypted under a secret that this node does not have"
    );
}

#[test]
fn secrets_whose_key_ids_collide_are_all_tried() {
    let of = |current, previous: &[&str]| codec(Encryption::Required, &ring(current, previous));
    let (one, other) = (of("secret 5", &[]), of("secret 9", &[]));
    let payload = encode(&other, &ada());
    assert_eq!(
        payload[1],
        encode(&one, &ada())[1],
        "these secrets were chosen because their ids collide"
    );
    let decoded = decode(&of("secret 5", &["secret 9"]), &payload).unwrap();
    assert_eq!((&decoded.data, decoded.needs_reencryption), (&ada(), true));
    assert_eq!(
        refusal(&one, &payload),
        "the encrypted record was altered, or was written for another session or revision"
    );
}

#[test]
fn the_deadline_and_the_time_of_the_last_use_may_move() {
    let payload = encode(&required(), &ada());
    let later = Timestamp::from_millis(u64::MAX);
    let extended = Meta { deadline: later, used_at: later, ..meta() };
    assert!(required().decode::<Data>(&ID, &extended, &payload).is_ok());
}

#[test]
fn keys_do_not_print() {
    let text = format!("{:?}", required());
    assert_eq!(text, "Codec { encryption: Required, .. }");
}
