//! The changes that a commit writes together, and the decisions about them. Pure.

use std::sync::Arc;

use super::SessionError;
use super::change::{self, Intent, Plan};
use super::loaded::Loaded;
use crate::error::StoreErrorKind;
use crate::store::LastSeen;

/// A change to the data that can be applied again, on top of what another node has written.
pub(super) type Change<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// The changes and the plan that one commit has taken over from the request.
pub(super) struct Batch<T> {
    pub(super) plan: Plan,
    pub(super) loaded: Loaded<T>,
    pub(super) last_seen: Option<LastSeen<T>>,
    pub(super) data: Arc<T>,
    pub(super) changes: Vec<Change<T>>,
    pub(super) intent: Intent,
    /// `true` if the last change is that of the commit's own caller.
    pub(super) has_extra: bool,
    pub(super) head_sent: bool,
}

impl<T: Clone> Batch<T> {
    /// Appends the change of the commit's caller, which is applied here and may panic.
    pub(super) fn push_extra(&mut self, extra: Change<T>) {
        self.data = apply_all(&*self.data, std::slice::from_ref(&extra));
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

    /// Returns the error of a plan that cannot be carried out, whatever the backend replies.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        if self.head_sent && self.plan.sets_cookie() {
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
    /// A retry must neither apply a change twice nor bring back a deleted session. A logout can
    /// always be retried, and it stays pending until it is carried out.
    pub(super) fn give_up_after(&self, error: StoreErrorKind) -> Option<Loaded<T>> {
        match (error, &self.loaded) {
            _ if self.intent == Intent::Destroy => None,
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
pub(super) fn apply_all<T: Clone>(base: &T, changes: &[Change<T>]) -> Arc<T> {
    let mut data = base.clone();
    for change in changes {
        change(&mut data);
    }
    Arc::new(data)
}
