//! What is to be done about a session when its request ends. Pure.
//!
//! | found | nothing done | changed | regenerated | destroyed | destroyed, then changed |
//! |---|---|---|---|---|---|
//! | no session | nothing | create | as without | forget | create |
//! | a cookie whose session is gone | nothing | create | as without | delete | replace |
//! | a session | nothing | update | regenerate | delete | replace |
//! | a session, gone meanwhile | nothing | refuse | refuse | delete | replace |
//! | a record that cannot be read | nothing | refuse | refuse | delete | replace |
//! | nothing sure, in an outage | nothing | refuse | refuse | delete | replace |
//!
//! *Regenerated* includes changes made before or after it; *as without* means as if it had not been asked for. What is destroyed
//! first and then replaced needs no guessing: once the backend has deleted the session, there is none.

/// What the request's cookie led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionState {
    /// No cookie that verifies.
    NoSession,
    /// A cookie that verifies, without a session when it was first looked for.
    Missing,
    /// A session.
    Live,
    /// A session that has gone since it was found.
    EndedMeanwhile,
    /// A record that cannot be read.
    Unreadable,
    /// A cookie that verifies, and a backend that cannot be asked about it: what the request sees stands in for the session.
    Unavailable,
}

/// What the handler has asked for besides changes of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Intent {
    /// Nothing.
    #[default]
    Keep,
    /// A new token.
    Regenerate,
    /// The end of the session. What is changed afterwards belongs to a new one.
    Destroy,
}

impl Intent {
    pub(super) fn regenerate(self) -> Self {
        match self {
            Intent::Keep | Intent::Regenerate => Intent::Regenerate,
            // What comes after it has a new token anyway.
            Intent::Destroy => Intent::Destroy,
        }
    }

    /// A logout stands.
    pub(super) fn discard(self) -> Self {
        match self {
            Intent::Keep | Intent::Regenerate => Intent::Keep,
            Intent::Destroy => Intent::Destroy,
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    /// A new session.
    Create,
    /// New data for the session.
    Update,
    /// A new token and id for the session, with what has changed.
    Regenerate,
    /// The end of the session, wherever it has moved.
    Delete,
    /// Its end, and a new one.
    Replace,
    /// Only the cookie goes.
    RemoveCookie,
    /// The change cannot be made.
    Refuse,
}

impl Plan {
    /// Whether it needs a cookie in the response.
    pub(super) fn needs_head(self) -> bool {
        matches!(self, Plan::Create | Plan::Regenerate | Plan::Replace)
    }
}

pub(super) fn plan(found: SessionState, intent: Intent, changed: bool) -> Plan {
    match (found, intent, changed) {
        (SessionState::NoSession, Intent::Destroy, false) => Plan::RemoveCookie,
        (SessionState::NoSession, _, true) => Plan::Create,
        (_, Intent::Destroy, false) => Plan::Delete,
        (_, Intent::Destroy, true) => Plan::Replace,
        (SessionState::Missing, Intent::Keep | Intent::Regenerate, true) => Plan::Create,
        (
            SessionState::NoSession | SessionState::Missing,
            Intent::Keep | Intent::Regenerate,
            false,
        ) => Plan::Nothing,
        (_, Intent::Keep, false) => Plan::Nothing,
        (SessionState::Live, Intent::Keep, true) => Plan::Update,
        (SessionState::Live, Intent::Regenerate, _) => Plan::Regenerate,
        (
            SessionState::EndedMeanwhile | SessionState::Unreadable | SessionState::Unavailable,
            Intent::Keep | Intent::Regenerate,
            _,
        ) => Plan::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use Intent::{Destroy, Keep, Regenerate};
        let columns = [
            (Keep, false),
            (Keep, true),
            (Regenerate, false),
            (Regenerate, true),
            (Destroy, false),
            (Destroy, true),
        ];
        for (found, row) in [
            (
                SessionState::NoSession,
                [
                    Plan::Nothing,
                    Plan::Create,
                    Plan::Nothing,
                    Plan::Create,
                    Plan::RemoveCookie,
                    Plan::Create,
                ],
            ),
            (
                SessionState::Missing,
                [
                    Plan::Nothing,
                    Plan::Create,
                    Plan::Nothing,
                    Plan::Create,
                    Plan::Delete,
                    Plan::Replace,
                ],
            ),
            (
                SessionState::Live,
                [
                    Plan::Nothing,
                    Plan::Update,
                    Plan::Regenerate,
                    Plan::Regenerate,
                    Plan::Delete,
                    Plan::Replace,
                ],
            ),
            (
                SessionState::EndedMeanwhile,
                [
                    Plan::Nothing,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Delete,
                    Plan::Replace,
                ],
            ),
            (
                SessionState::Unreadable,
                [
                    Plan::Nothing,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Delete,
                    Plan::Replace,
                ],
            ),
            (
                SessionState::Unavailable,
                [
                    Plan::Nothing,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Refuse,
                    Plan::Delete,
                    Plan::Replace,
                ],
            ),
        ] {
            for ((intent, changed), expected) in columns.into_iter().zip(row) {
                assert_eq!(
                    plan(found, intent, changed),
                    expected,
                    "{found:?} {intent:?} {changed}"
                );
            }
        }
    }

    #[test]
    fn a_logout_stands() {
        assert_eq!(Intent::Destroy.regenerate(), Intent::Destroy);
        assert_eq!(Intent::Destroy.discard(), Intent::Destroy);
        assert_eq!(Intent::Regenerate.discard(), Intent::Keep);
        assert_eq!(Intent::Keep.regenerate(), Intent::Regenerate);
    }
}
