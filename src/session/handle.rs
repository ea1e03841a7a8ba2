//! The one session of a request: what its cookie led to, what the handler has done, and what is to be sent back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SessionError;
use super::change::{self, Intent, Plan};
use crate::cookie::Presented;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{SessionId, SessionToken};
use crate::record::{Record, SessionData};
use crate::store::{Freshness, SessionStore, Substitute};

/// A change to the data that can be made again, on top of what another node has written.
pub(super) type Change<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// Shared by all clones of the request's [`Session`](super::Session), the middleware, and the task that commits.
pub(crate) struct Handle<T: SessionData> {
    pub(super) store: SessionStore<T>,
    presented: Option<Presented>,
    state: Mutex<State<T>>,
    /// Loads and commits of this request come one after the other.
    pub(super) busy: tokio::sync::Mutex<()>,
}

pub(super) struct State<T> {
    pub(super) found: Found<T>,
    /// What the request sees: the record's data with the changes below.
    pub(super) data: Arc<T>,
    /// Counts the changes of `data`, so that one made outside the lock is not lost to another.
    pub(super) version: u64,
    /// Changes not committed yet, oldest first.
    pub(super) changes: Vec<Change<T>>,
    pub(super) intent: Intent,
    pub(super) cookie: Option<CookieChange>,
    /// Commits that have been asked for and have not taken over the changes yet.
    pub(super) commits_due: u32,
    head_sent: bool,
}

/// What the request's cookie led to.
#[derive(Clone, Debug)]
pub(super) enum Found<T> {
    /// Nobody has asked yet.
    Unasked,
    Nothing,
    Dead(SessionId),
    Live(Record<T>),
    Lost(SessionId),
    Unreadable(StoreError, SessionId),
    /// The backend cannot be asked, and the outage policy makes the visitor a stranger.
    Unknown(StoreError, SessionId),
    /// The backend cannot be asked, and this is what was known last.
    LastKnown(StoreError, Record<T>),
}

impl<T> Found<T> {
    pub(super) fn kind(&self) -> change::Found {
        match self {
            Found::Unasked | Found::Nothing => change::Found::Nothing,
            Found::Dead(_) => change::Found::Dead,
            Found::Live(_) => change::Found::Live,
            Found::Lost(_) => change::Found::Lost,
            Found::Unreadable(..) => change::Found::Unreadable,
            Found::Unknown(..) | Found::LastKnown(..) => change::Found::Unsure,
        }
    }

    /// The id that a logout is about.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Found::Unasked | Found::Nothing => None,
            Found::Live(record) | Found::LastKnown(_, record) => Some(record.id()),
            Found::Dead(id) | Found::Lost(id) | Found::Unreadable(_, id) | Found::Unknown(_, id) => Some(*id),
        }
    }

    /// What the request may see, be it sure or not.
    fn record(&self) -> Option<&Record<T>> {
        match self {
            Found::Live(record) | Found::LastKnown(_, record) => Some(record),
            _ => None,
        }
    }

    /// Why it is not sure.
    pub(super) fn outage(&self) -> Option<&StoreError> {
        match self {
            Found::Unknown(error, _) | Found::LastKnown(error, _) => Some(error),
            _ => None,
        }
    }
}

/// What the visitor's cookie becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CookieChange {
    Set(SessionToken),
    Remove,
}

/// What the middleware has to say in the response's head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Whether the response may depend on the session.
    pub(crate) extracted: bool,
    pub(crate) cookie: Option<CookieChange>,
    /// For how long the session can live.
    pub(crate) life: Duration,
}

impl<T: SessionData> Handle<T> {
    pub(crate) fn new(store: SessionStore<T>, presented: Option<Presented>) -> Self {
        let state = State {
            found: Found::Unasked,
            data: store.blank().clone(),
            version: 0,
            changes: Vec::new(),
            intent: Intent::Keep,
            cookie: None,
            commits_due: 0,
            head_sent: false,
        };
        Handle { store, presented, state: Mutex::new(state), busy: tokio::sync::Mutex::new(()) }
    }

    /// A handle whose session is known, for tests.
    pub(super) fn found(store: SessionStore<T>, record: Record<T>) -> Self {
        let handle = Self::new(store, None);
        {
            let mut state = handle.lock();
            state.data = record.data().clone();
            state.found = Found::Live(record);
        }
        handle
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of the application runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the session, if that has not been done yet.
    pub(super) async fn find(&self) -> Result<(), SessionError> {
        if !matches!(self.lock().found, Found::Unasked) {
            return Ok(());
        }
        let _busy = self.busy.lock().await;
        if matches!(self.lock().found, Found::Unasked) {
            self.read(Freshness::Cached).await?;
        }
        Ok(())
    }

    /// Finds it as the backend has it now, and makes the uncommitted changes anew on top of that.
    pub(super) async fn reload(&self) -> Result<(), SessionError> {
        let _busy = self.busy.lock().await;
        self.read(Freshness::Fresh).await
    }

    async fn read(&self, freshness: Freshness) -> Result<(), SessionError> {
        let before = self.lock().found.clone();
        let id = match &before {
            Found::Unasked => self.presented.as_ref().map(|presented| presented.token.session_id()),
            Found::Nothing => None,
            known => known.id(),
        };
        let found = match id {
            None => Found::Nothing,
            Some(id) => match self.store.read(id, freshness).await {
                Ok(Some(record)) => Found::Live(record),
                Ok(None) => match before {
                    Found::Live(_) | Found::LastKnown(..) | Found::Lost(_) => Found::Lost(id),
                    _ => Found::Dead(id),
                },
                Err(error) if error.kind() == StoreErrorKind::Corrupt => Found::Unreadable(error, id),
                // Who asks for a fresh one is not to be put off.
                Err(error) if freshness == Freshness::Fresh => return Err(error.into()),
                Err(error) => match self.store.substitute(&id, &error) {
                    Some(Substitute::Blank) => Found::Unknown(error, id),
                    Some(Substitute::LastKnown(record)) => Found::LastKnown(error, record),
                    None => return Err(error.into()),
                },
            },
        };
        self.rest_on(found, |_| ());
        Ok(())
    }

    /// From now on the request's data is what was found plus the uncommitted changes. `also` changes the rest of the state in the
    /// same step.
    pub(super) fn rest_on(&self, found: Found<T>, also: impl FnOnce(&mut State<T>)) {
        {
            let mut state = self.lock();
            also(&mut state);
            state.found = found;
            if state.changes.is_empty() {
                state.data = state.base(self.store.blank());
                state.version += 1;
                return;
            }
        }
        loop {
            let (version, base, changes) = {
                let state = self.lock();
                (state.version, state.base(self.store.blank()), state.changes.clone())
            };
            let data = apply_all(&*base, &changes);
            let mut state = self.lock();
            if state.version == version {
                state.data = data;
                state.version += 1;
                return;
            }
        }
    }

    /// Applies a change to what the request sees, and keeps it for the commit. The change runs outside the lock, on a copy.
    pub(super) fn apply(&self, change: &Change<T>) {
        loop {
            let (version, data) = {
                let state = self.lock();
                (state.version, state.data.clone())
            };
            let data = apply_all(&*data, std::slice::from_ref(change));
            let mut state = self.lock();
            if state.version == version {
                state.changes.push(change.clone());
                state.data = data;
                state.version += 1;
                return;
            }
        }
    }

    pub(super) fn regenerate(&self) {
        let mut state = self.lock();
        state.intent = state.intent.regenerate();
    }

    /// What was changed before belongs to the session that ends.
    pub(super) fn destroy(&self) {
        let mut state = self.lock();
        state.intent = Intent::Destroy;
        state.forget_changes(self.store.blank());
    }

    pub(crate) fn discard(&self) {
        let mut state = self.lock();
        state.intent = state.intent.discard();
        state.forget_changes(self.store.blank());
    }

    /// The session's id, unless it has been destroyed.
    pub(super) fn id(&self) -> Option<SessionId> {
        let state = self.lock();
        state.record().map(Record::id)
    }

    pub(super) fn outage(&self) -> Option<StoreError> {
        self.lock().found.outage().cloned()
    }

    /// Whether the response must wait for a commit, of what is to be done or of what is being done.
    pub(crate) fn needs_commit(&self) -> bool {
        let state = self.lock();
        state.plan() != Plan::Nothing || state.commits_due > 0 || self.busy.try_lock().is_err()
    }

    /// The head leaves. A session that was only read is extended and encrypted anew in the background, if it is time for that.
    pub(crate) fn send_head(&self) -> Head {
        let mut state = self.lock();
        state.head_sent = true;
        let cookie = state.cookie.take().or_else(|| self.signed_anew(&state));
        let extracted = !matches!(state.found, Found::Unasked);
        let live = match &state.found {
            Found::Live(record) => Some(record.clone()),
            _ => None,
        };
        drop(state);
        let mut life = Duration::MAX;
        if let Some(record) = live {
            if matches!(cookie, Some(CookieChange::Set(_))) {
                life = self.store.life_left(&record);
            }
            self.store.touch_if_due(&record);
            self.store.reseal_if_outdated(&record);
        }
        Head { extracted, cookie, life }
    }

    /// A live session whose cookie is signed with an older secret gets one signed with the current secret.
    fn signed_anew(&self, state: &State<T>) -> Option<CookieChange> {
        let Found::Live(record) = &state.found else { return None };
        let presented = self.presented.as_ref().filter(|presented| !presented.current)?;
        (presented.token.session_id() == record.id()).then(|| CookieChange::Set(presented.token.clone()))
    }

    /// The request is over without a head: cancelled, panicked or failed. A logout is carried out all the same; nothing else is,
    /// unless its commit has been asked for.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        state.head_sent = true;
        if state.commits_due > 0 {
            return;
        }
        let logout = state.take_logout();
        // What the application still holds must not see them either, or the next change would be made on top of them.
        state.forget_changes(self.store.blank());
        drop(state);
        if let Some(id) = logout {
            delete_in_background(&self.store, id);
        }
    }
}

impl<T> State<T> {
    /// What the uncommitted changes are made on.
    fn base(&self, blank: &Arc<T>) -> Arc<T> {
        self.record().map_or(blank, Record::data).clone()
    }

    /// The session that the request sees, unless it has been destroyed.
    fn record(&self) -> Option<&Record<T>> {
        self.found.record().filter(|_| self.intent != Intent::Destroy)
    }

    pub(super) fn plan(&self) -> Plan {
        change::plan(self.found.kind(), self.intent, !self.changes.is_empty())
    }

    pub(super) fn head_sent(&self) -> bool {
        self.head_sent
    }

    fn forget_changes(&mut self, blank: &Arc<T>) {
        self.changes.clear();
        self.data = self.base(blank);
        self.version += 1;
    }

    /// The session that is to be deleted, if it is. From now on it counts as gone.
    fn take_logout(&mut self) -> Option<SessionId> {
        let id = (std::mem::take(&mut self.intent) == Intent::Destroy).then(|| self.found.id())??;
        self.found = Found::Lost(id);
        Some(id)
    }
}

/// What was never committed, for instance because it was done after the head had left, is lost; a logout is not.
impl<T: SessionData> Drop for Handle<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let logout = state.take_logout();
        if !state.changes.is_empty() {
            self.store.count_dropped_changes();
            tracing::warn!(
                session = state.found.id().map(tracing::field::display),
                "changes to a session were never committed: after the response has begun, call save() or use modify()"
            );
        }
        if let Some(id) = logout {
            delete_in_background(&self.store, id);
        }
    }
}

pub(super) fn apply_all<T: Clone>(base: &T, changes: &[Change<T>]) -> Arc<T> {
    let mut data = base.clone();
    for change in changes {
        change(&mut data);
    }
    Arc::new(data)
}

fn delete_in_background<T: SessionData>(store: &SessionStore<T>, id: SessionId) {
    if tokio::runtime::Handle::try_current().is_err() {
        tracing::error!(session = %id, "a logout was not carried out: its runtime has gone");
        return;
    }
    let store_for_task = store.clone();
    store.spawn(async move {
        if let Err(error) = store_for_task.delete_wherever_it_moved(id).await {
            tracing::error!(session = %id, error = &error as &dyn std::error::Error, "a logout was not carried out");
        }
    });
}
