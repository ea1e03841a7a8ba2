//! The changes that a commit writes together, and the decisions about them. Pure.

use std::sync::Arc;

use super::SessionError;
use super::change::{self, Intent, Plan};
use super::head::Head;
use super::loaded::Loaded;
use super::logout::Logout;
use super::losses::Drops;
use crate::error::StoreErrorKind;
use crate::id::SessionId;
use crate::record::{Ended, Snapshot};
use crate::store::LastSeen;

/// A change to the data that can be applied again, on top of what another node has written.
pub(super) type Change<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// The changes and the plan that one commit has taken over from the request.
pub(super) struct Batch<T> {
    pub(super) plan: Plan,
    pub(super) loaded: Loaded<T>,
    pub(super) named: Vec<SessionId>,
    pub(super) last_seen: Option<LastSeen<T>>,
    /// What the request sees. `None` if that is default data which has not been made, so that
    /// nothing was changed.
    pub(super) data: Option<Snapshot<T>>,
    /// The default data that the request has seen.
    pub(super) default_data: Option<Snapshot<T>>,
    pub(super) changes: Vec<Change<T>>,
    pub(super) intent: Intent,
    pub(super) remember: Option<bool>,
    /// `true` if the last change is that of the commit's own caller.
    pub(super) has_extra: bool,
    pub(super) head: Head,
    /// `false` if the request does not extend the session.
    pub(super) extends: bool,
    pub(super) drops: Drops,
}

impl<T: Clone> Batch<T> {
    /// Appends the change of the commit's caller, which has made `data`.
    pub(super) fn push_extra(&mut self, extra: Change<T>, data: Snapshot<T>) {
        self.data = Some(data);
        self.changes.push(extra);
        self.has_extra = true;
        self.plan = change::plan(self.loaded.kind(), self.intent, true);
    }

    /// Drops the change of the commit's caller, who gets the error instead.
    pub(super) fn drop_extra(&mut self) {
        if std::mem::take(&mut self.has_extra) {
            self.changes.pop();
        }
    }

    /// Returns `true` if it has something to write that is not the change of the commit's caller.
    pub(super) fn is_of_others(&self) -> bool {
        self.changes.len() > usize::from(self.has_extra) || self.intent != Intent::Keep
    }

    /// Returns the data of a session that would be created only because the default data was
    /// changed, and the default data.
    pub(super) fn changed_default(&self) -> Option<(&T, &T)> {
        let implicit = matches!(self.plan, Plan::Create | Plan::Replace)
            && !matches!(self.intent, Intent::Replace { .. });
        let (data, default_data) = (self.data.as_deref()?, self.default_data.as_deref()?);
        implicit.then_some((data, default_data))
    }

    /// Plans without the changes, which change nothing.
    pub(super) fn plan_without_changes(&mut self) {
        self.plan = change::plan(self.loaded.kind(), self.intent, false);
    }

    /// Returns the deletion of what the cookies led to.
    pub(super) fn logout(&self) -> Logout<T> {
        let is_replaced = self.plan == Plan::Replace && !self.intent.is_logout();
        let reason = if is_replaced { Ended::Replaced } else { Ended::LoggedOut };
        Logout::new(&self.loaded, &self.named, self.last_seen.clone(), reason)
    }

    /// Returns the error of a plan that cannot be carried out, whatever the backend replies.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        if self.head != Head::Ahead && self.plan.sets_cookie() {
            return Err(SessionError::HeadSent);
        }
        match (self.plan, self.loaded.outage()) {
            (Plan::Refuse, Some(error)) => Err(SessionError::ReadOnly(error.clone())),
            _ => Ok(()),
        }
    }

    /// Returns what the request sees after a commit that failed with this error and must not be
    /// tried again, or `None` if the batch may be put back.
    ///
    /// A retry must neither apply a change twice nor bring back a deleted session. A login that was
    /// refused is not tried again with the response, so that the handler can explain it. A logout
    /// can always be retried, and it stays pending until it is carried out.
    pub(super) fn give_up_after(&self, error: StoreErrorKind) -> Option<Loaded<T>> {
        match (error, &self.loaded) {
            (StoreErrorKind::LimitReached, loaded) if !self.intent.is_logout() => {
                Some(loaded.clone())
            }
            _ if self.intent.hides_loaded() => None,
            (StoreErrorKind::Gone, Loaded::Live(record)) => {
                Some(Loaded::EndedMeanwhile(record.id()))
            }
            (
                StoreErrorKind::Gone | StoreErrorKind::Corrupt | StoreErrorKind::OutcomeUnknown,
                loaded,
            ) => Some(loaded.clone()),
            _ => None,
        }
    }
}

/// Applies the changes, in order, to a copy of the data.
pub(super) fn apply_all<T: Clone>(base: &T, changes: &[Change<T>]) -> Snapshot<T> {
    let mut data = base.clone();
    for change in changes {
        change(&mut data);
    }
    Snapshot::new(data)
}
