//! Payloads in MessagePack.

use std::collections::{BTreeMap, HashMap};

use allocation_counter::measure;
use proptest::prelude::*;

use super::properties::{any_codec, any_data};
use super::*;

fn packing(codec: Codec) -> Codec {
    Codec { format: DataFormat::MessagePack, ..codec }
}

#[test]
fn the_payload_is_frozen() {
    let expected = "040082a46e616d65a3416461a676697369747303";
    assert_eq!(encode(&packing(off()), &ada()), hex(expected));
    assert_eq!(decode(&off(), &hex(expected)).unwrap().data, ada());
}

#[test]
fn a_payload_that_is_cut_or_lengthened_is_refused_without_quoting_it() {
    let payload = encode(&packing(off()), &ada());
    for len in 2..payload.len() {
        refusal(&off(), &payload[..len]);
    }
    let reason = refusal(&off(), &[&payload[..], &[0]].concat());
    assert!(reason.contains("does not match the session type at byte"), "{reason}");
    let mut other = payload.to_vec();
    other[4..8].copy_from_slice(b"card");
    let reason = refusal(&off(), &other);
    assert!(!reason.contains("card") && !reason.contains("Ada"), "{reason}");
    // JSON under the flag of MessagePack, and the other way round.
    let mut json = encode(&off(), &ada()).to_vec();
    json[0] = MESSAGE_PACK;
    refusal(&off(), &json);
    let mut packed = payload.to_vec();
    packed[0] = 0;
    refusal(&off(), &packed);
}

#[test]
fn a_payload_that_claims_more_than_it_has_takes_no_memory_for_it() {
    /// As much as serde allocates by what a payload claims, and some more.
    const AT_MOST: u64 = 4 << 20;

    fn refuse<T: serde::de::DeserializeOwned>(payload: &[u8]) {
        let codec = off();
        let measured = measure(|| assert!(codec.decode::<T>(&ID, &meta(), payload).is_err()));
        assert!(measured.bytes_max < AT_MOST, "{} bytes", measured.bytes_max);
    }

    // Each has 4 billion items or bytes.
    refuse::<Vec<u64>>(&hex("0400ddffffffff"));
    refuse::<String>(&hex("0400dbffffffff"));
    refuse::<BTreeMap<u64, u64>>(&hex("0400dfffffffff"));
    refuse::<HashMap<u64, u64>>(&hex("0400dfffffffff"));
    // An array in an array, and so on.
    refuse::<serde_json::Value>(&[&[MESSAGE_PACK, 0], &[0x91; 60_000][..]].concat());
}

#[test]
fn data_that_is_no_json_can_be_stored() {
    let data = BTreeMap::from([((1u8, 2u8), 3u8)]);
    assert_eq!(off().encode(&data).unwrap_err().kind(), StoreErrorKind::Encode);
    let encoded = packing(off()).encode(&data).unwrap();
    assert!(encoded.is_same_as(&data) && !encoded.is_same_as(&BTreeMap::new()));
    let payload = packing(off()).payload(&ID, &meta(), encoded.bytes());
    let decoded = off().decode::<BTreeMap<(u8, u8), u8>>(&ID, &meta(), &payload);
    assert_eq!(decoded.unwrap().data, data);
}

proptest! {
    #[test]
    fn each_node_reads_what_others_write_in_either_format(codec in any_codec(), data in any_data()) {
        let format = codec.format;
        let payload = encode(&codec, &data);
        for other in [DataFormat::Json, DataFormat::MessagePack] {
            let reader = Codec { format: other, ..any_reader() };
            prop_assert_eq!(&decode(&reader, &payload).unwrap().data, &data);
        }
        prop_assert_eq!(payload[0] & MESSAGE_PACK != 0, format == DataFormat::MessagePack);
    }
}

/// A node that reads plain and encrypted records.
fn any_reader() -> Codec {
    codec(Encryption::Off, &ring(SECRET, &[]))
}
