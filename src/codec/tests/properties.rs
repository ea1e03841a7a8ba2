//! What holds for all codecs and all data.

use proptest::prelude::*;

use super::*;

pub(super) fn any_codec() -> impl Strategy<Value = Codec> {
    let encryption =
        prop_oneof![Just(Encryption::Off), Just(Encryption::Migrating), Just(Encryption::Required)];
    (encryption, any_format(), prop::option::of(0usize..100)).prop_map(
        |(encryption, format, compress_above)| Codec {
            format,
            compress_above: compress_above.filter(|_| cfg!(feature = "compression")),
            ..codec(encryption, &ring(SECRET, &[]))
        },
    )
}

#[cfg(not(feature = "messagepack"))]
fn any_format() -> impl Strategy<Value = DataFormat> {
    Just(DataFormat::Json)
}

#[cfg(feature = "messagepack")]
fn any_format() -> impl Strategy<Value = DataFormat> {
    prop_oneof![Just(DataFormat::Json), Just(DataFormat::MessagePack)]
}

pub(super) fn any_data() -> impl Strategy<Value = Data> {
    let name = prop_oneof![any::<String>(), "(Ada|StaleIfError){0,100}"];
    (name, any::<u64>()).prop_map(|(name, visits)| Data { name, visits })
}

proptest! {
    #[test]
    fn data_round_trips(codec in any_codec(), data in any_data(), id: [u8; 16], revision: [u8; 16], created_at: u64) {
        let id = SessionId::from_bytes(id);
        let [created_at, deadline] = [created_at, 0].map(Timestamp::from_millis);
        let meta = Meta::new(Revision::from_bytes(revision), created_at, deadline, id);
        let decoded = codec.decode::<Data>(&id, &meta, &codec.payload(&id, &meta, codec.encode(&data).unwrap().bytes())).unwrap();
        prop_assert_eq!(&decoded.data, &data);
        prop_assert!(!decoded.needs_reencryption || codec.encryption == Encryption::Migrating);
    }

    #[test]
    fn each_node_reads_what_the_others_write_unless_it_must_not(one in any_codec(), other in any_codec(), data in any_data()) {
        let decoded = decode(&other, &encode(&one, &data));
        if one.encryption == Encryption::Off && other.encryption == Encryption::Required {
            prop_assert!(decoded.is_err());
        } else {
            prop_assert_eq!(&decoded.unwrap().data, &data);
        }
    }

    #[test]
    fn an_encrypted_payload_with_any_bit_changed_is_refused(data in any_data(), compress: bool, at: prop::sample::Index, bit in 0..8) {
        let codec = if compress && cfg!(feature = "compression") { compressing(required()) } else { required() };
        let mut payload = encode(&codec, &data).to_vec();
        let at = at.index(payload.len());
        payload[at] ^= 1u8 << bit;
        // A node that reads plain records must refuse it, too, even if the changed bit says plain.
        for reader in [codec, off()] {
            prop_assert!(decode(&reader, &payload).is_err());
        }
    }

    #[test]
    fn an_encrypted_payload_that_was_cut_or_lengthened_is_refused(data in any_data(), at: prop::sample::Index, more in prop::collection::vec(any::<u8>(), 1..40)) {
        let payload = encode(&required(), &data);
        prop_assert!(decode(&required(), &payload[..at.index(payload.len())]).is_err());
        prop_assert!(decode(&required(), &[&payload[..], &more].concat()).is_err());
    }

    #[test]
    fn an_encrypted_payload_is_good_in_its_own_place_alone(data in any_data(), at in 0usize..65, bit in 0..8) {
        let payload = encode(&required(), &data);
        let mut place = [ID.as_bytes(), &meta().revision.as_bytes()[..], &meta().created_at.as_millis().to_be_bytes(), &meta().logged_in_at.as_millis().to_be_bytes(), meta().origin.as_bytes()].concat();
        place.push(0);
        if at == 64 {
            place[64] = 1 + (bit % 2) as u8;
        } else {
            place[at] ^= 1u8 << bit;
        }
        let id = SessionId::from_bytes(place[..16].try_into().unwrap());
        let revision = Revision::from_bytes(place[16..32].try_into().unwrap());
        let time = |at: usize| u64::from_be_bytes(place[at..at + 8].try_into().unwrap());
        let [created_at, logged_in_at] = [time(32), time(40)].map(Timestamp::from_millis);
        let origin = SessionId::from_bytes(place[48..64].try_into().unwrap());
        let moved = Meta { revision, created_at, logged_in_at, origin, lifespan: Lifespan::from_code(place[64]).unwrap(), ..meta() };
        prop_assert!(required().decode::<Data>(&id, &moved, &payload).is_err());
    }
}
