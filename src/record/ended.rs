//! The end of a session.

use std::fmt;

/// The reason why a session ended, from a watch or an event.
///
/// All but [`Unknown`](Ended::Unknown) mean that the visitor has to log in again.
///
/// ```
/// use clustered_sessions::Ended;
///
/// assert_eq!(Ended::OwnerRevoked.as_str(), "owner_revoked");
/// assert_eq!(Ended::LoggedOut.to_string(), "the visitor has logged out");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// The visitor has logged out, by [`Session::destroy`](crate::Session::destroy).
    LoggedOut,
    /// Another session has taken its place, as at a login, by
    /// [`Session::replace`](crate::Session::replace).
    Replaced,
    /// The application has deleted the session, by
    /// [`SessionStore::delete`](crate::SessionStore::delete) or
    /// [`SessionStore::bulk_delete`](crate::SessionStore::bulk_delete).
    Revoked,
    /// The application has deleted the session with others of its owner, by
    /// [`SessionStore::delete_all_of`](crate::SessionStore::delete_all_of) or a method like it.
    OwnerRevoked,
    /// The owner has logged in elsewhere, and had as many sessions as
    /// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner) allows. This
    /// was the oldest, or has lost the last place to another login.
    LimitReached,
    /// The session was deleted, and this node does not know the reason: it has missed the
    /// announcement, or all sessions were deleted.
    Deleted,
    /// The session has expired, or was past its deadline when it was missed.
    Expired,
    /// It is unknown whether the session still exists: the node could neither prove that it
    /// receives announcements, nor read the session, or its store was shut down. Treat it as an
    /// end, and let the client connect again.
    Unknown,
}

impl Ended {
    pub(crate) const ALL: [Self; 8] = [
        Self::LoggedOut,
        Self::Replaced,
        Self::Revoked,
        Self::OwnerRevoked,
        Self::LimitReached,
        Self::Deleted,
        Self::Expired,
        Self::Unknown,
    ];
    /// What can be the reason of a deletion that is announced.
    pub(crate) const DELETIONS: [Self; 5] =
        [Self::LoggedOut, Self::Replaced, Self::Revoked, Self::OwnerRevoked, Self::LimitReached];

    /// Returns the name in metrics and announcements, such as `logged_out`. It is stable, unlike
    /// the sentence of `Display`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::OwnerRevoked => "owner_revoked",
            Self::LimitReached => "limit_reached",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }

    /// Returns the reason of a deletion by its name. A later version may announce others.
    pub(crate) fn deletion_named(name: &str) -> Option<Self> {
        Self::DELETIONS.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoggedOut => "the visitor has logged out",
            Self::Replaced => "another session has taken the place of this one",
            Self::Revoked => "the session was revoked",
            Self::OwnerRevoked => "the sessions of the owner were revoked",
            Self::LimitReached => "the owner has reached the limit of sessions",
            Self::Deleted => "the session was deleted",
            Self::Expired => "the session has expired",
            Self::Unknown => "it is unknown whether the session still exists",
        })
    }
}

/// Lets a handler of a stream return the end of a watch with `?`.
impl std::error::Error for Ended {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_end_has_a_name_and_a_sentence_of_its_own() {
        let texts =
            |text: fn(&Ended) -> String| Ended::ALL.iter().map(text).collect::<HashSet<_>>();
        assert_eq!(texts(|end| end.as_str().to_owned()).len(), Ended::ALL.len());
        assert_eq!(texts(ToString::to_string).len(), Ended::ALL.len());
        assert_eq!(HashSet::from(Ended::ALL).len(), Ended::ALL.len());
    }

    #[test]
    fn the_end_of_a_watch_is_an_error() {
        let end: Box<dyn std::error::Error> = Ended::Expired.into();
        assert_eq!(end.to_string(), "the session has expired");
    }
}
