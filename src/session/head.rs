//! The response head of a request and what the session changes in it.

use std::time::Duration;

use crate::id::SessionToken;

/// The progress of a request's response head, which alone can carry a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It has not been sent yet.
    Ahead,
    Sent,
    /// There will be none: the request was cancelled, has panicked or has failed.
    Never,
}

/// A change to the visitor's cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CookieChange {
    Set(SessionToken),
    /// The token that the visitor has already, signed with the current secret.
    Resign(SessionToken),
    Remove,
}

impl CookieChange {
    /// Returns `true` if the browser has the session's token afterwards.
    pub(super) fn is_token(&self) -> bool {
        matches!(self, CookieChange::Set(_) | CookieChange::Resign(_))
    }
}

/// The session's changes to the response head.
#[derive(Debug)]
pub(crate) struct HeadChanges {
    /// `true` if the response may depend on the session.
    pub(crate) extracted: bool,
    /// `true` if the request has cookies of several sessions, none of which was used.
    pub(crate) ambiguous: bool,
    pub(crate) cookie: Option<CookieChange>,
    /// Maximum remaining lifetime of the session.
    pub(crate) lifetime: Duration,
    /// `true` if browsers are to keep the cookie when they are closed.
    pub(crate) remembered: bool,
}

impl HeadChanges {
    pub(super) fn without_cookie(extracted: bool) -> Self {
        HeadChanges {
            extracted,
            ambiguous: false,
            cookie: None,
            lifetime: Duration::MAX,
            remembered: false,
        }
    }
}
