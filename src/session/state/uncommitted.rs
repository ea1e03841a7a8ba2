//! What becomes of uncommitted changes: a commit takes them and may put them back, or they are
//! dropped.

use super::RequestState;
use crate::record::Ended;
use crate::session::SessionError;
use crate::session::batch::Batch;
use crate::session::change::Intent;
use crate::session::head::Head;
use crate::session::loaded::Loaded;
use crate::session::logout::Logout;

impl<T> RequestState<T> {
    /// Drops what is not committed, except for a logout.
    pub(in super::super) fn discard(&mut self) {
        self.drops.discarded += 1;
        self.discard_uncommitted();
    }

    fn discard_uncommitted(&mut self) {
        self.intent = self.intent.discard();
        self.remember = None;
        self.drop_changes();
    }

    /// Like [`discard`](Self::discard), after a commit that failed with this error.
    pub(in super::super) fn discard_after(&mut self, error: SessionError) {
        self.record_loss(error);
        self.discard_uncommitted();
    }

    /// Records that what is not committed is dropped, except for a logout.
    fn record_loss(&mut self, error: SessionError) {
        self.drops.lost += 1;
        let is_lost = matches!(self.intent, Intent::Regenerate | Intent::Replace { .. });
        if is_lost || self.has_changes() {
            self.losses.record(error);
        }
    }

    /// Registers a commit whose task will call [`take_batch`](Self::take_batch).
    pub(in super::super) fn request_commit(&mut self) {
        self.begin_io();
        self.pending_commits += 1;
    }

    /// Withdraws a commit that has not taken its batch. If the request was aborted, which has left
    /// everything to the commit, does now what [`abort`](Self::abort) does.
    pub(in super::super) fn withdraw_commit(&mut self) -> Option<Logout<T>> {
        self.pending_commits -= 1;
        if self.head == Head::Never { self.abort() } else { None }
    }

    /// Takes what a commit has to write. The request keeps seeing its data.
    pub(in super::super) fn take_batch(&mut self) -> Batch<T>
    where
        T: Clone,
    {
        self.pending_commits -= 1;
        Batch {
            plan: self.plan(),
            loaded: self.loaded.clone(),
            named: self.named.clone(),
            last_seen: self.last_seen(),
            data: self.data(),
            default_data: self.default_data.clone(),
            changes: std::mem::take(&mut self.changes),
            intent: std::mem::take(&mut self.intent),
            remember: self.remember,
            has_extra: false,
            head: self.head,
            extends: self.extends,
            drops: self.drops,
        }
    }

    /// Puts the changes and the intent of an uncommitted batch before those made since. A
    /// [`destroy`](Self::destroy) or [`replace`](Self::replace) since then voids the batch, and so
    /// does anything that has dropped what was uncommitted, except for a logout.
    pub(in super::super) fn put_back(&mut self, batch: &mut Batch<T>) {
        if batch.drops != self.drops {
            let intent = batch.intent.discard();
            let loses = !batch.changes.is_empty() || batch.intent != intent;
            if batch.drops.lost != self.drops.lost && loses {
                self.losses.record(SessionError::ChangesLost);
            }
            batch.changes.clear();
            batch.intent = intent;
        }
        match (batch.intent, self.intent) {
            (earlier, Intent::Replace { .. }) if earlier.is_logout() => {
                self.intent = Intent::Replace { after_logout: true };
                return;
            }
            (_, Intent::Destroy | Intent::Replace { .. }) => return,
            (Intent::Keep, _) => {}
            (intent, _) => self.intent = intent,
        }
        batch.changes.append(&mut self.changes);
        self.changes = std::mem::take(&mut batch.changes);
    }

    /// Ends a request that has no response head. Returns the logout that is left to carry out.
    ///
    /// Other changes are dropped, also for clones of the session that the application still holds:
    /// otherwise its next change would be made on top of them. If a commit is pending, its task
    /// takes everything, and nothing is dropped here.
    pub(in super::super) fn abort(&mut self) -> Option<Logout<T>> {
        self.head = Head::Never;
        if self.pending_commits > 0 {
            return None;
        }
        self.record_loss(SessionError::ChangesLost);
        let logout = self.take_logout();
        self.drop_changes();
        logout
    }

    /// Returns an uncommitted logout, if there is one. Afterwards its sessions count as ended.
    pub(in super::super) fn take_logout(&mut self) -> Option<Logout<T>> {
        if !std::mem::take(&mut self.intent).is_logout() {
            return None;
        }
        let logout = Logout::new(&self.loaded, &self.named, self.last_seen(), Ended::LoggedOut);
        let ended = self.loaded.id().map_or(Loaded::NoSession, Loaded::EndedMeanwhile);
        self.replace_loaded(ended);
        Some(logout)
    }
}
