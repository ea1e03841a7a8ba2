//! The layout in which this version writes messages: fields in one order, without spaces.
//!
//! Every node reads every message, so this is worth a reader of its own. It takes half as many
//! instructions as parsing the message as any JSON, which is done with all others.

use super::{Text, Wire};

/// Length of a message without its node id, as a rule.
const USUAL_LEN: usize = 176;

// What comes before the value of each field.
const KIND: &str = r#"{"type":"#;
const SESSION_ID: &str = r#","session_id":"#;
const REVISION: &str = r#","revision":"#;
const REASON: &str = r#","reason":"#;
const NODE_ID: &str = r#","node_id":"#;
const TIMESTAMP: &str = r#","timestamp":"#;

/// Writes a message. Texts other than the node id must need no escapes.
pub(super) fn write(wire: &Wire<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(USUAL_LEN + wire.node_id.len());
    let mut push = |begin: &str, text: &str| {
        for part in [begin, "\"", text, "\""] {
            message.extend_from_slice(part.as_bytes());
        }
    };
    push(KIND, &wire.kind);
    for (begin, text) in
        [(SESSION_ID, &wire.session_id), (REVISION, &wire.revision), (REASON, &wire.reason)]
    {
        if let Some(Text(text)) = text {
            push(begin, text);
        }
    }
    // A text and a number always serialize, and a vector can always be written to. If that ever
    // failed, an incomplete message would clear every cache, which is safe.
    message.extend_from_slice(NODE_ID.as_bytes());
    let _ = serde_json::to_writer(&mut message, &wire.node_id);
    message.extend_from_slice(TIMESTAMP.as_bytes());
    let _ = serde_json::to_writer(&mut message, &wire.timestamp);
    message.push(b'}');
    message
}

/// Reads a message in this layout and without escapes. Returns `None` for any other, which may be
/// valid.
pub(super) fn read(message: &[u8]) -> Option<Wire<'_>> {
    let mut rest = str::from_utf8(message).ok()?;
    let kind = take(&mut rest, KIND)?.into();
    let mut optional = |begin| take(&mut rest, begin).map(|text| Text(text.into()));
    let (session_id, revision, reason) =
        (optional(SESSION_ID), optional(REVISION), optional(REASON));
    let node_id = take(&mut rest, NODE_ID)?.into();
    let digits = rest.strip_prefix(TIMESTAMP)?.strip_suffix('}')?;
    // `parse` allows zeros and a plus sign in front, and JSON does not.
    let digits = digits.starts_with(|first| matches!(first, '1'..='9')).then_some(digits)?;
    let timestamp = digits.parse().ok()?;
    Some(Wire { kind, session_id, revision, reason, node_id, timestamp })
}

/// Takes a field with its text from the front of a message.
fn take<'a>(rest: &mut &'a str, begin: &str) -> Option<&'a str> {
    let value = rest.strip_prefix(begin)?.strip_prefix('"')?;
    let end = value.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
    let (text, after) = value.split_at(end);
    *rest = after.strip_prefix('"')?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::message::{Action, Announcement, interpret};
    use crate::id::SessionId;
    use crate::record::{Ended, Revision};

    fn announcements() -> [Announcement; 5] {
        let id = SessionId::from_bytes([7; 16]);
        [
            Announcement::SessionInvalidated(id, Some(Revision::from_bytes([8; 16]))),
            Announcement::SessionInvalidated(id, None),
            Announcement::SessionDeleted(id, Some(Ended::LoggedOut)),
            Announcement::SessionDeleted(id, None),
            Announcement::CacheClear,
        ]
    }

    /// Interprets a message as any JSON: a space in front is no part of the layout.
    fn parsed(message: &[u8]) -> Action {
        let message = [b" ", message].concat();
        assert!(read(&message).is_none());
        interpret(&message)
    }

    #[test]
    fn what_this_version_writes_is_read_without_parsing() {
        for announcement in announcements() {
            assert!(read(&announcement.encode("web-\u{fc}", 1_795_000_000_000)).is_some());
        }
    }

    #[test]
    fn a_message_that_is_nearly_in_the_layout_is_read_as_json() {
        let message = Announcement::CacheClear.encode("web-1", 7);
        let message = str::from_utf8(&message).unwrap();
        let changed = [
            ("web-1", r"web\1"),
            ("web-1", r"web\u0031"),
            ("web-1", r"web\"),
            ("web-1", "web\t1"),
            ("web-1", "web\u{7f}1"),
            ("CacheClear", r"Cache\u0043lear"),
            ("7}", "0}"),
            ("7}", "07}"),
            ("7}", "+7}"),
            ("7}", "-7}"),
            ("7}", "7.0}"),
            ("7}", "7e3}"),
            ("7}", "}"),
            ("7}", "7"),
            ("7}", "7}}"),
            ("7}", "7} "),
            ("7}", r#"7,"timestamp":7}"#),
            ("7}", "18446744073709551615}"),
            ("7}", "18446744073709551616}"),
            (r#""node_id""#, r#""type":"SessionDeleted","node_id""#),
            (r#""node_id""#, r#""reason":"x","reason":"y","node_id""#),
            (r#""web-1""#, "null"),
        ];
        for (part, replacement) in changed {
            let changed = message.replace(part, replacement);
            assert_ne!(changed, message);
            assert_eq!(interpret(changed.as_bytes()), parsed(changed.as_bytes()), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_message_is_read_as_json(
            announcement in proptest::sample::select(announcements().to_vec()),
            at: proptest::sample::Index,
            removed in 0usize..3,
            inserted in r#"["\\,:{}0+a\x00-\x1f]{0,2}"#,
        ) {
            let mut message = announcement.encode("web-1", 70);
            let at = at.index(message.len());
            let end = message.len().min(at + removed);
            message.splice(at..end, inserted.bytes());
            prop_assert_eq!(interpret(&message), parsed(&message));
        }
    }
}
