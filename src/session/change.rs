//! Decides what a commit does with a session. Pure.
//!
//! | loaded | no action | changed | regenerated | destroyed | destroyed, then changed |
//! |---|---|---|---|---|---|
//! | no cookie that verifies | nothing | create | as without | remove cookie | create |
//! | a cookie whose session was gone, or several cookies | nothing | create | as without | delete | replace |
//! | a session | nothing | update | regenerate | delete | replace |
//! | a session that has ended since | nothing | refuse | refuse | delete | replace |
//! | a record that cannot be decoded | nothing | refuse | refuse | delete | replace |
//! | a session that an outage makes unavailable | nothing | refuse | refuse | delete | replace |
//!
//! The column *regenerated* includes changes made before or after `regenerate`; *as without* means
//! that `regenerate` has no effect. *Delete* and *replace* do not depend on what was loaded: once
//! the backend has deleted the session, none is left.

/// What was loaded for the request's cookie, without the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionState {
    /// There is no cookie that verifies, or the session was not loaded.
    NoSession,
    /// A cookie verifies, but the session was gone at the first load. Or several cookies verify, so
    /// that none of their sessions is used.
    Missing,
    /// The session exists.
    Live,
    /// The session was loaded, and has been deleted or has expired since.
    EndedMeanwhile,
    /// The record exists but cannot be decoded.
    Unreadable,
    /// A cookie verifies, but the backend is unreachable. The request sees default or stale data.
    Unavailable,
}

/// The handler's request for something other than a change of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Intent {
    /// No such request: the session stays under its token.
    #[default]
    Keep,
    /// A new token.
    Regenerate,
    /// Deletion of the session. Later changes belong to a new one.
    Destroy,
}

impl Intent {
    pub(super) fn regenerate(self) -> Self {
        match self {
            Intent::Keep | Intent::Regenerate => Intent::Regenerate,
            // The session that replaces it gets a new token anyway.
            Intent::Destroy => Intent::Destroy,
        }
    }

    /// Drops the intent, except for a logout.
    pub(super) fn discard(self) -> Self {
        match self {
            Intent::Keep | Intent::Regenerate => Intent::Keep,
            Intent::Destroy => Intent::Destroy,
        }
    }
}

/// The work of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    /// Creates a session.
    Create,
    /// Writes new data to the session.
    Update,
    /// Writes the session, with its changes, under a new token and id.
    Regenerate,
    /// Deletes the session under whatever id it has been regenerated to.
    Delete,
    /// Deletes the session and creates a new one.
    Replace,
    /// Removes the cookie. There is no session to delete.
    RemoveCookie,
    /// Fails: the changes have no session that they can be applied to.
    Refuse,
}

impl Plan {
    /// Returns `true` if the plan makes a new token, which only a response head can carry.
    pub(super) fn sets_cookie(self) -> bool {
        matches!(self, Plan::Create | Plan::Regenerate | Plan::Replace)
    }
}

/// Returns the plan for what was loaded, what the handler intends, and whether it changed the data.
pub(super) fn plan(loaded: SessionState, intent: Intent, changed: bool) -> Plan {
    match (loaded, intent, changed) {
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
    fn each_state_and_intent_has_its_plan() {
        use Intent::{Destroy, Keep, Regenerate};
        let columns = [
            (Keep, false),
            (Keep, true),
            (Regenerate, false),
            (Regenerate, true),
            (Destroy, false),
            (Destroy, true),
        ];
        for (loaded, row) in [
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
                    plan(loaded, intent, changed),
                    expected,
                    "{loaded:?} {intent:?} {changed}"
                );
            }
        }
    }

    #[test]
    fn a_logout_is_neither_discarded_nor_turned_into_a_regeneration() {
        assert_eq!(Intent::Destroy.regenerate(), Intent::Destroy);
        assert_eq!(Intent::Destroy.discard(), Intent::Destroy);
        assert_eq!(Intent::Regenerate.discard(), Intent::Keep);
        assert_eq!(Intent::Keep.regenerate(), Intent::Regenerate);
    }
}
