//! The state of one request's session and its transitions. Pure: no IO, no locks, no awaits.
//!
//! `request` keeps a [`RequestState`] behind a lock. `commit` takes a [`Batch`] out of it, carries
//! out its plan, and either replaces what is loaded or puts the batch back.
//!
//! The application's closures run outside that lock. So new data is computed from [`Versioned`]
//! data or a [`Rebase`], and it is stored only if the state's version is still the same.

mod uncommitted;

use super::batch::Change;
use super::change::{self, Intent, Plan};
use super::head::{CookieChange, Head};
use super::loaded::{Loaded, Seen};
use super::losses::{Drops, Losses};
use super::view::{Rebase, Versioned, View};
use crate::clock::Millis;
use crate::id::SessionId;
use crate::record::{Record, Snapshot};
use crate::store::LastSeen;

/// The session of one request: what was loaded, and what the handler has done to it since.
pub(super) struct RequestState<T> {
    loaded: Loaded<T>,
    /// The ids that the request's cookies name, if there are several. Known once they are verified.
    named: Vec<SessionId>,
    view: View<T>,
    /// The default data of this request, once it has been needed. Each session has its own: it
    /// may hold a random value.
    default_data: Option<Snapshot<T>>,
    /// Number of changes to `view` so far. Data computed from an older version is not stored.
    version: u64,
    /// Uncommitted changes, oldest first.
    changes: Vec<Change<T>>,
    intent: Intent,
    /// Whether the next session of this request is remembered, if the handler has said so.
    remember: Option<bool>,
    /// The cookie that the response head must carry.
    cookie: Option<CookieChange>,
    /// When the loaded record was last known to be current. `None` if there is none, or if it may
    /// be stale.
    seen: Option<Seen>,
    /// The record that was loaded before, if none is now.
    ended: Option<LastSeen<T>>,
    /// Number of commits that were requested and have not taken their batch yet.
    pending_commits: u32,
    losses: Losses,
    drops: Drops,
    head: Head,
    /// `true` once a handler has asked for the session, even if it could not be loaded.
    is_extracted: bool,
    /// `true` once something was begun that the response may have to wait for.
    has_begun_io: bool,
    /// `false` if the request does not extend the session.
    extends: bool,
}

impl<T> RequestState<T> {
    pub(super) fn new() -> Self {
        RequestState {
            loaded: Loaded::NotYet,
            named: Vec::new(),
            view: View::Default,
            default_data: None,
            version: 0,
            changes: Vec::new(),
            intent: Intent::Keep,
            remember: None,
            cookie: None,
            seen: None,
            ended: None,
            pending_commits: 0,
            losses: Losses::default(),
            drops: Drops::default(),
            head: Head::Ahead,
            is_extracted: false,
            has_begun_io: false,
            extends: true,
        }
    }

    pub(super) fn loaded(&self) -> &Loaded<T> {
        &self.loaded
    }

    pub(super) fn is_loaded(&self) -> bool {
        !matches!(self.loaded, Loaded::NotYet)
    }

    /// Records that a handler asks for the session. Returns `true` if it is loaded already.
    pub(super) fn begin_extraction(&mut self) -> bool {
        self.is_extracted = true;
        self.is_loaded()
    }

    /// Returns `true` if the response may depend on the session.
    pub(super) fn is_extracted(&self) -> bool {
        self.is_extracted || self.is_loaded()
    }

    /// Returns the data that the request sees, or `None` if it is default data which the caller
    /// must make and pass to [`provide_default`](Self::provide_default).
    pub(super) fn data(&self) -> Option<Snapshot<T>> {
        let record = match &self.view {
            View::Record => self.loaded.record(),
            View::Default => None,
            View::Changed(data) => return Some(data.clone()),
        };
        record.map(Snapshot::of).or_else(|| self.default_data.clone())
    }

    /// Takes default data, unless there is some already, and returns what there is.
    pub(super) fn provide_default(&mut self, made: Snapshot<T>) -> &Snapshot<T> {
        // No version is counted: without data, nothing can have been computed from it.
        self.default_data.get_or_insert(made)
    }

    /// Returns the session that the request sees, unless the handler has destroyed or replaced it.
    pub(super) fn record(&self) -> Option<&Record<T>> {
        self.loaded.record().filter(|_| !self.intent.hides_loaded())
    }

    /// Returns the record if it is known to be current, and when it was last known to be.
    pub(super) fn live_record(&self) -> Option<(&Record<T>, Millis)> {
        match &self.loaded {
            Loaded::Live(record) => Some((record, self.seen?.at)),
            _ => None,
        }
    }

    /// Returns the moment at which the loaded session was known to exist. `None` if it is not
    /// known.
    pub(super) fn alive_at(&self) -> Option<Millis> {
        self.seen.map(|seen| seen.alive_at)
    }

    /// Returns the record that is or was loaded.
    fn last_seen(&self) -> Option<LastSeen<T>> {
        match self.loaded.record() {
            Some(record) => Some(LastSeen::new(record.clone(), self.alive_at())),
            None => self.ended.clone(),
        }
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Sets the ids that the request's cookies name, if there are several.
    pub(super) fn set_named(&mut self, named: Vec<SessionId>) {
        self.named = named;
    }

    /// Records that something begins that the response may have to wait for.
    pub(super) fn begin_io(&mut self) {
        self.has_begun_io = true;
    }

    pub(super) fn has_begun_io(&self) -> bool {
        self.has_begun_io
    }

    /// Returns `true` if a commit is planned or about to start, or must report a loss.
    pub(super) fn has_work(&self) -> bool {
        let must_report = self.losses.unknown_to(self.losses.told()).is_some();
        self.plan() != Plan::Nothing || self.pending_commits > 0 || must_report
    }

    /// Returns the changes that were dropped.
    pub(super) fn losses(&mut self) -> &mut Losses {
        &mut self.losses
    }

    fn plan(&self) -> Plan {
        change::plan(self.loaded.kind(), self.intent, self.has_changes())
    }

    /// Returns the data that uncommitted changes apply to.
    fn base_data(&self) -> Option<Snapshot<T>> {
        self.record().map(Snapshot::of).or_else(|| self.default_data.clone())
    }

    fn set_view(&mut self, view: View<T>) {
        self.view = view;
        self.version += 1;
    }

    /// Lets the request see the session without changes.
    fn reset_view(&mut self) {
        self.set_view(if self.intent.hides_loaded() { View::Default } else { View::Record });
    }

    /// Takes over the session that the request has seen so far, while nothing was loaded here.
    pub(super) fn take_over(&mut self, record: Record<T>, seen: Seen) {
        debug_assert!(
            !self.is_loaded() && self.changes.is_empty(),
            "no handle is given out before"
        );
        self.loaded = Loaded::Live(record);
        self.seen = Some(seen);
        self.reset_view();
    }

    /// Replaces what is loaded. If there are uncommitted changes, returns the rebase that the
    /// caller must compute and pass to [`finish_rebase`](Self::finish_rebase).
    #[must_use]
    pub(super) fn set_loaded(&mut self, loaded: Loaded<T>, seen: Seen) -> Option<Rebase<T>> {
        if matches!(loaded, Loaded::NotYet) {
            // The end of a commit that had nothing to do, before the session was loaded.
            return None;
        }
        let is_live = matches!(loaded, Loaded::Live(_));
        // Without a read, as at the end of a commit that has nothing to do, it is not seen again.
        let is_read = match (&loaded, &self.loaded) {
            (Loaded::Live(new), Loaded::Live(old)) => !new.is_shared_with(old),
            _ => true,
        };
        if is_live {
            // A later session of this request does not inherit from this one.
            self.default_data = None;
        }
        self.replace_loaded(loaded);
        if is_read {
            self.seen = is_live.then_some(seen);
        }
        self.next_rebase()
    }

    fn replace_loaded(&mut self, loaded: Loaded<T>) {
        self.ended = if loaded.record().is_some() { None } else { self.last_seen() };
        if loaded.is_gone() {
            self.send_no_token();
        }
        self.loaded = loaded;
    }

    /// Stores the data of a computed rebase. If the state has changed in the meantime, stores
    /// nothing and returns the rebase to compute instead.
    #[must_use]
    pub(super) fn finish_rebase(&mut self, version: u64, data: Snapshot<T>) -> Option<Rebase<T>> {
        if self.version != version {
            return self.next_rebase();
        }
        self.set_view(View::Changed(data));
        None
    }

    fn next_rebase(&mut self) -> Option<Rebase<T>> {
        if self.changes.is_empty() {
            self.reset_view();
            return None;
        }
        let (base, changes) = (self.base_data(), self.changes.clone());
        Some(Rebase { version: self.version, base, changes })
    }

    /// Returns `None` if default data is needed, as [`data`](Self::data) does.
    pub(super) fn versioned(&self) -> Option<Versioned<T>> {
        Some(Versioned { version: self.version, data: self.data()? })
    }

    /// Adds a change, with the data that it makes of the data of this version, and returns
    /// `true`. If the state has changed in the meantime, does nothing.
    #[must_use]
    pub(super) fn push_change(
        &mut self,
        version: u64,
        change: &Change<T>,
        data: Snapshot<T>,
    ) -> bool {
        if self.version != version {
            return false;
        }
        self.changes.push(change.clone());
        self.set_view(View::Changed(data));
        true
    }

    pub(super) fn regenerate(&mut self) {
        self.intent = self.intent.regenerate();
    }

    pub(super) fn remember_me(&mut self, remember: bool) {
        self.remember = Some(remember);
    }

    /// Marks the session for deletion. Earlier changes belong to the session that ends, so they are
    /// dropped, and so is a cookie that the response was to carry: if the deletion fails, the
    /// visitor must not be given the session.
    pub(super) fn destroy(&mut self) {
        self.intent = Intent::Destroy;
        self.drop_changes();
        self.send_no_token();
    }

    /// Drops a cookie that the response was to carry, unless it removes that of the browser.
    fn send_no_token(&mut self) {
        self.cookie = self.cookie.take().filter(|cookie| !cookie.is_token());
    }

    /// Begins a new session with the data that `change` sets. Earlier changes are dropped.
    pub(super) fn replace(&mut self, data: Snapshot<T>, change: Change<T>) {
        self.intent = self.intent.replace();
        self.changes = vec![change];
        self.set_view(View::Changed(data));
    }

    fn drop_changes(&mut self) {
        self.changes.clear();
        self.reset_view();
    }

    pub(super) fn do_not_extend(&mut self) {
        self.extends = false;
    }

    pub(super) fn extends(&self) -> bool {
        self.extends
    }

    pub(super) fn set_cookie(&mut self, cookie: CookieChange) {
        self.cookie = Some(cookie);
    }

    /// Marks the response head as sent and returns the cookie change that it carries.
    pub(super) fn send_head(&mut self) -> Option<CookieChange> {
        self.head = Head::Sent;
        self.cookie.take()
    }
}

#[cfg(test)]
mod tests;
