//! The slots of Redis Cluster, over which keys are spread. Pure.
//!
//! Source: the [Redis Cluster specification][spec], "Key distribution model".
//!
//! [spec]: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/

use std::ops::RangeInclusive;

/// Number of slots.
pub(in super::super) const SLOTS: u16 = 16384;

/// Number of hash tags to try in search of one in a slot. Each slot has one among them.
const MAX_TAGS: u32 = 200_000;

/// CRC-16/XMODEM of each byte.
const CRC16: [u16; 256] = crc16_of_bytes();

const fn crc16_of_bytes() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

/// Returns the slot of a key: that of its hash tag if it has one, which is what the first pair of
/// braces with something between them encloses.
pub(in super::super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// Returns a key that begins like this and is in one of these slots, or `None` if there are none.
pub(in super::super) fn key_in(beginning: &str, slots: &[RangeInclusive<u16>]) -> Option<String> {
    if slots.iter().all(RangeInclusive::is_empty) {
        return None;
    }
    let mut keys = (0..MAX_TAGS).map(|tag| format!("{beginning}{{{tag}}}"));
    keys.find(|key| slots.iter().any(|range| range.contains(&slot_of(key))))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // From `CLUSTER KEYSLOT`.
        for (key, slot) in [
            ("somekey", 11058),
            ("foo{hash_tag}", 2515),
            ("bar{hash_tag}", 2515),
            ("", 0),
            ("{}", 15257),
            ("{}foo", 9500),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("foo{bar}{zap}", 5061),
            ("bar", 5061),
        ] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }

    #[test]
    fn a_key_is_found_in_any_slot() {
        for slot in [0, 1, 5461, SLOTS - 1] {
            let key = key_in("session:beat:", &[7..=7, slot..=slot][1..]).unwrap();
            assert_eq!(slot_of(&key), slot);
        }
        assert_eq!(key_in("session:beat:", &[]), None);
    }

    #[test]
    fn every_slot_has_a_tag() {
        let slots: HashSet<_> = (0..MAX_TAGS).map(|tag| slot_of(&tag.to_string())).collect();
        assert_eq!(slots.len(), usize::from(SLOTS));
    }
}
