//! The messages between nodes, and how a message that cannot be read is handled.

mod layout;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::id::{SessionId, TEXT_LEN, encode_128};
use crate::record::{Ended, Revision};

/// Maximum length of a message in bytes. Longer ones are not parsed: ours have some 200 bytes, plus
/// a node id of at most 128.
pub(crate) const MAX_LEN: usize = 4096;

/// A change that is announced to all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// A session was deleted, or moved to another id, which is no deletion and has no reason.
    SessionDeleted(SessionId, Option<Ended>),
    /// A session was changed, to this revision if it is known.
    SessionInvalidated(SessionId, Option<Revision>),
    /// Any session may have changed.
    CacheClear,
}

/// The reaction of a listener to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Evict this session, unless the cached revision is the one given.
    Evict(SessionId, Option<Revision>),
    /// Evict this session, which may have been deleted.
    Delete(SessionId, Option<Ended>),
    /// Evict all sessions.
    Clear,
    /// Evict all sessions, because the message cannot be read and may concern any of them. A node
    /// that ignored it would keep stale sessions during a rolling upgrade that adds a message type.
    Unreadable,
}

/// The JSON form of a message. Unknown fields are ignored, so that later versions may add some.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    session_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    revision: Option<Text<'a>>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    node_id: Cow<'a, str>,
    #[serde(default)]
    timestamp: u64,
}

/// A text that is borrowed from the message if it has no escapes. In an `Option`, a `Cow` alone
/// would always be copied.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Announcement {
    /// Encodes the message. `timestamp` is in milliseconds since the Unix epoch. It and the node id
    /// are for people who read the channel; no node depends on them.
    pub(crate) fn encode(self, node_id: &str, timestamp: u64) -> Vec<u8> {
        let (kind, id, revision, reason) = match self {
            Self::SessionDeleted(id, reason) => ("SessionDeleted", Some(id), None, reason),
            Self::SessionInvalidated(id, revision) => {
                ("SessionInvalidated", Some(id), revision, None)
            }
            Self::CacheClear => ("CacheClear", None, None, None),
        };
        let (mut id_text, mut revision_text) = ([0; TEXT_LEN], [0; TEXT_LEN]);
        layout::write(&Wire {
            kind: kind.into(),
            session_id: id.as_ref().map(|id| Text(id.write_text(&mut id_text).into())),
            revision: revision
                .map(|revision| Text(encode_128(revision.as_bytes(), &mut revision_text).into())),
            reason: reason.map(|reason| Text(reason.as_str().into())),
            node_id: node_id.into(),
            timestamp,
        })
    }
}

/// Decides how to react to a message. It never fails: an unreadable message clears the cache.
pub(crate) fn interpret(message: &[u8]) -> Action {
    if message.len() > MAX_LEN {
        return Action::Unreadable;
    }
    let parsed = layout::read(message).or_else(|| serde_json::from_slice(message).ok());
    let Some(wire) = parsed else { return Action::Unreadable };
    if wire.kind == "CacheClear" {
        return Action::Clear;
    }
    // A message type of a later version is unknown, but it still names the session that it
    // concerns.
    match wire.session_id.and_then(|id| id.0.parse().ok()) {
        Some(id) if wire.kind == "SessionInvalidated" => {
            Action::Evict(id, wire.revision.and_then(|text| parse_revision(&text.0)))
        }
        Some(id) if wire.kind == "SessionDeleted" => {
            Action::Delete(id, wire.reason.and_then(|reason| Ended::deletion_named(&reason.0)))
        }
        Some(id) => Action::Evict(id, None),
        None => Action::Unreadable,
    }
}

/// Returns `None` for a malformed revision; the session is then evicted whatever revision is
/// cached.
fn parse_revision(text: &str) -> Option<Revision> {
    let mut bytes = [0; 16];
    let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (written == bytes.len()).then(|| Revision::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "AAECAwQFBgcICQoLDA0ODw";

    fn id() -> SessionId {
        ID.parse().unwrap()
    }

    #[test]
    fn the_wire_form_is_frozen() {
        let revision = Revision::from_bytes(*b"0123456789abcdef");
        for (announcement, expected) in [
            (
                Announcement::SessionDeleted(id(), None),
                r#"{"type":"SessionDeleted","session_id":"AAECAwQFBgcICQoLDA0ODw","node_id":"web-1","timestamp":7}"#,
            ),
            (
                Announcement::SessionDeleted(id(), Some(Ended::OwnerRevoked)),
                r#"{"type":"SessionDeleted","session_id":"AAECAwQFBgcICQoLDA0ODw","reason":"owner_revoked","node_id":"web-1","timestamp":7}"#,
            ),
            (
                Announcement::SessionInvalidated(id(), Some(revision)),
                r#"{"type":"SessionInvalidated","session_id":"AAECAwQFBgcICQoLDA0ODw","revision":"MDEyMzQ1Njc4OWFiY2RlZg","node_id":"web-1","timestamp":7}"#,
            ),
            (Announcement::CacheClear, r#"{"type":"CacheClear","node_id":"web-1","timestamp":7}"#),
        ] {
            assert_eq!(String::from_utf8(announcement.encode("web-1", 7)).unwrap(), expected);
        }
    }

    #[test]
    fn a_known_session_in_an_unknown_message_is_evicted() {
        let message = format!(r#"{{"type":"SessionMoved","session_id":"{ID}","to":"elsewhere"}}"#);
        assert_eq!(interpret(message.as_bytes()), Action::Evict(id(), None));
    }

    #[test]
    fn an_unreadable_revision_evicts_the_session() {
        let message =
            format!(r#"{{"type":"SessionInvalidated","session_id":"{ID}","revision":"!"}}"#);
        assert_eq!(interpret(message.as_bytes()), Action::Evict(id(), None));
    }

    #[test]
    fn a_deletion_for_another_reason_is_a_deletion() {
        for reason in ["x", "expired", "unknown", "deleted"] {
            let message =
                format!(r#"{{"type":"SessionDeleted","session_id":"{ID}","reason":"{reason}"}}"#);
            assert_eq!(interpret(message.as_bytes()), Action::Delete(id(), None));
        }
    }

    #[test]
    fn any_other_message_clears_the_cache() {
        let too_long = format!(
            r#"{{"type":"SessionDeleted","session_id":"{ID}","x":"{}"}}"#,
            "x".repeat(MAX_LEN)
        );
        for message in [
            "",
            "hello",
            "{}",
            "[]",
            "null",
            r#"{"type":7}"#,
            r#"{"type":"SessionDeleted"}"#,
            too_long.as_str(),
        ] {
            assert_eq!(interpret(message.as_bytes()), Action::Unreadable, "{message}");
        }
        let cut = format!(r#"{{"type":"SessionDeleted","session_id":"{}"}}"#, &ID[..21]);
        assert_eq!(interpret(cut.as_bytes()), Action::Unreadable);
    }

    fn announcements() -> impl Strategy<Value = Announcement> {
        prop_oneof![
            (any::<[u8; 16]>(), proptest::option::of(proptest::sample::select(&Ended::DELETIONS)))
                .prop_map(|(id, why)| Announcement::SessionDeleted(SessionId::from_bytes(id), why)),
            any::<([u8; 16], Option<[u8; 16]>)>().prop_map(|(id, revision)| {
                Announcement::SessionInvalidated(
                    SessionId::from_bytes(id),
                    revision.map(Revision::from_bytes),
                )
            }),
            Just(Announcement::CacheClear),
        ]
    }

    proptest! {
        #[test]
        fn encoded_announcements_are_interpreted(announcement in announcements(), node_id: String, timestamp: u64) {
            prop_assume!(node_id.len() <= 128);
            let expected = match announcement {
                Announcement::SessionDeleted(id, reason) => Action::Delete(id, reason),
                Announcement::SessionInvalidated(id, revision) => Action::Evict(id, revision),
                Announcement::CacheClear => Action::Clear,
            };
            prop_assert_eq!(interpret(&announcement.encode(&node_id, timestamp)), expected);
        }
    }
}
