//! The reason of a deletion, for those who watch the session.

use crate::record::Ended;

/// Why a session was deleted. In a message, it is for those who watch the session: it changes
/// nothing of what a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// The visitor has logged out.
    LoggedOut,
    /// Another session has taken its place.
    Replaced,
    /// The application has deleted it.
    Revoked,
    /// The application has deleted it with others of its owner.
    OwnerRevoked,
}

impl Deletion {
    pub(super) const ALL: [Self; 4] =
        [Self::LoggedOut, Self::Replaced, Self::Revoked, Self::OwnerRevoked];

    /// Returns the name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::OwnerRevoked => "owner_revoked",
        }
    }

    /// Returns the reason with this name. A later version may send others.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl From<Deletion> for Ended {
    fn from(reason: Deletion) -> Self {
        match reason {
            Deletion::LoggedOut => Self::LoggedOut,
            Deletion::Replaced => Self::Replaced,
            Deletion::Revoked => Self::Revoked,
            Deletion::OwnerRevoked => Self::OwnerRevoked,
        }
    }
}
