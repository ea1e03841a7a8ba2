//! Decides what a commit does with a session. Pure.
//!
//! | loaded | no action | changed | regenerated | destroyed | destroyed, then changed | replaced |
//! |---|---|---|---|---|---|---|
//! | no cookie that verifies | nothing | create | as without | remove cookie | create | create |
//! | a cookie whose session was gone, or cookies of several sessions | nothing | create | as without | delete | replace | replace |
//! | a session | nothing | update | regenerate | delete | replace | replace |
//! | a session that has ended since | nothing | refuse | refuse | delete | replace | replace |
//! | a session that was regenerated or replaced a moment ago | nothing | refuse | refuse | delete | refuse | replace |
//! | a record that cannot be decoded | nothing | refuse | refuse | delete | replace | create |
//! | a session that an outage makes unavailable | nothing | refuse | refuse | delete | replace | replace |
//!
//! An *update* of a session that gives it another owner becomes *regenerate*: see `commit.rs`.
//!
//! The column *regenerated* includes changes made before or after `regenerate`; *as without* means
//! that `regenerate` has no effect. *Delete* and *replace* do not depend on what was loaded: once
//! the backend has deleted the session, none is left.
//!
//! A request whose session was regenerated or replaced a moment ago is late: its browser has the
//! new cookie by now, or will soon. A session that it created would take the visitor's login away.

/// What was loaded for the request's cookie, without the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionState {
    /// There is no cookie that verifies, or the session was not loaded.
    NoSession,
    /// A cookie verifies, but the session was gone at the first load. Or cookies of several
    /// sessions verify, so that none of them is used.
    Missing,
    /// The cookie leads to a tombstone: it was replaced a moment ago.
    Moved,
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
    /// A new session, whatever the cookie led to.
    Replace {
        /// `true` if the handler has also destroyed the session: that is done in any case.
        after_logout: bool,
    },
}

impl Intent {
    pub(super) fn regenerate(self) -> Self {
        match self {
            Intent::Keep | Intent::Regenerate => Intent::Regenerate,
            // The session that replaces it gets a new token anyway.
            Intent::Destroy | Intent::Replace { .. } => self,
        }
    }

    pub(super) fn replace(self) -> Self {
        Intent::Replace { after_logout: self.is_logout() }
    }

    /// Drops the intent, except for a logout.
    pub(super) fn discard(self) -> Self {
        if self.is_logout() { Intent::Destroy } else { Intent::Keep }
    }

    /// Returns `true` if the session must be deleted, even if the request fails.
    pub(super) fn is_logout(self) -> bool {
        matches!(self, Intent::Destroy | Intent::Replace { after_logout: true })
    }

    /// Returns `true` if the request sees a new session instead of the one that was loaded.
    pub(super) fn hides_loaded(self) -> bool {
        matches!(self, Intent::Destroy | Intent::Replace { .. })
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
        (SessionState::NoSession, Intent::Replace { .. }, _) => Plan::Create,
        (SessionState::Unreadable, Intent::Replace { after_logout: false }, _) => Plan::Create,
        (_, Intent::Replace { .. }, _) => Plan::Replace,
        (SessionState::NoSession, Intent::Destroy, false) => Plan::RemoveCookie,
        (SessionState::NoSession, _, true) => Plan::Create,
        (SessionState::Moved, Intent::Destroy, true) => Plan::Refuse,
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
            SessionState::EndedMeanwhile
            | SessionState::Moved
            | SessionState::Unreadable
            | SessionState::Unavailable,
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
        use Plan::{Create, Delete, Nothing, Refuse, Regenerate, RemoveCookie, Replace, Update};
        let columns = [
            (Intent::Keep, false),
            (Intent::Keep, true),
            (Intent::Regenerate, false),
            (Intent::Regenerate, true),
            (Intent::Destroy, false),
            (Intent::Destroy, true),
            (Intent::Replace { after_logout: false }, true),
            (Intent::Replace { after_logout: true }, true),
        ];
        let rows = [
            (
                SessionState::NoSession,
                [Nothing, Create, Nothing, Create, RemoveCookie, Create, Create, Create],
            ),
            (
                SessionState::Missing,
                [Nothing, Create, Nothing, Create, Delete, Replace, Replace, Replace],
            ),
            (
                SessionState::Moved,
                [Nothing, Refuse, Refuse, Refuse, Delete, Refuse, Replace, Replace],
            ),
            (
                SessionState::Live,
                [Nothing, Update, Regenerate, Regenerate, Delete, Replace, Replace, Replace],
            ),
            (
                SessionState::EndedMeanwhile,
                [Nothing, Refuse, Refuse, Refuse, Delete, Replace, Replace, Replace],
            ),
            (
                SessionState::Unreadable,
                [Nothing, Refuse, Refuse, Refuse, Delete, Replace, Create, Replace],
            ),
            (
                SessionState::Unavailable,
                [Nothing, Refuse, Refuse, Refuse, Delete, Replace, Replace, Replace],
            ),
        ];
        for (loaded, row) in rows {
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
    fn a_logout_is_neither_discarded_nor_turned_into_anything_less() {
        let replaced = Intent::Destroy.replace();
        assert_eq!(replaced, Intent::Replace { after_logout: true });
        assert_eq!(replaced.replace(), replaced);
        assert_eq!(Intent::Destroy.regenerate(), Intent::Destroy);
        assert_eq!(replaced.regenerate(), replaced);
        assert_eq!([Intent::Destroy, replaced].map(Intent::discard), [Intent::Destroy; 2]);
    }

    #[test]
    fn anything_else_is_discarded() {
        assert_eq!(Intent::Keep.regenerate(), Intent::Regenerate);
        assert_eq!(Intent::Regenerate.discard(), Intent::Keep);
        assert_eq!(Intent::Regenerate.replace().discard(), Intent::Keep);
    }
}
