//! The one session of a request: what its cookie led to, what the handler has done, and what is to be sent back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SessionError;
use super::change::{self, Intent, Plan};
use crate::cookie::VerifiedCookie;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{SessionId, SessionToken};
use crate::record::{Record, SessionData};
use crate::store::{Degraded, Freshness, SessionStore};

/// A change to the data that can be made again, on top of what another node has written.
pub(super) type Change<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// Shared by all clones of the request's [`Session`](super::Session), the middleware, and the task that commits.
pub(crate) struct RequestSession<T: SessionData> {
    pub(super) store: SessionStore<T>,
    verified: Option<VerifiedCookie>,
    state: Mutex<State<T>>,
    /// Loads and commits of this request come one after the other.
    pub(super) busy: tokio::sync::Mutex<()>,
}

pub(super) struct State<T> {
    pub(super) found: Loaded<T>,
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
pub(super) enum Loaded<T> {
    /// Nobody has asked yet.
    NotYet,
    NoSession,
    Missing(SessionId),
    Live(Record<T>),
    EndedMeanwhile(SessionId),
    Unreadable(StoreError, SessionId),
    /// The backend cannot be asked, and the outage policy makes the visitor a stranger.
    Unavailable(StoreError, SessionId),
    /// The backend cannot be asked, and this is what was known last.
    Stale(StoreError, Record<T>),
}

impl<T> Loaded<T> {
    pub(super) fn kind(&self) -> change::SessionState {
        match self {
            Loaded::NotYet | Loaded::NoSession => change::SessionState::NoSession,
            Loaded::Missing(_) => change::SessionState::Missing,
            Loaded::Live(_) => change::SessionState::Live,
            Loaded::EndedMeanwhile(_) => change::SessionState::EndedMeanwhile,
            Loaded::Unreadable(..) => change::SessionState::Unreadable,
            Loaded::Unavailable(..) | Loaded::Stale(..) => change::SessionState::Unavailable,
        }
    }

    /// The id that a logout is about.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Loaded::NotYet | Loaded::NoSession => None,
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record.id()),
            Loaded::Missing(id)
            | Loaded::EndedMeanwhile(id)
            | Loaded::Unreadable(_, id)
            | Loaded::Unavailable(_, id) => Some(*id),
        }
    }

    /// What the request may see, be it sure or not.
    fn record(&self) -> Option<&Record<T>> {
        match self {
            Loaded::Live(record) | Loaded::Stale(_, record) => Some(record),
            _ => None,
        }
    }

    /// Why it is not sure.
    pub(super) fn outage(&self) -> Option<&StoreError> {
        match self {
            Loaded::Unavailable(error, _) | Loaded::Stale(error, _) => Some(error),
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

impl<T: SessionData> RequestSession<T> {
    pub(crate) fn new(store: SessionStore<T>, verified: Option<VerifiedCookie>) -> Self {
        let state = State {
            found: Loaded::NotYet,
            data: store.default_data().clone(),
            version: 0,
            changes: Vec::new(),
            intent: Intent::Keep,
            cookie: None,
            commits_due: 0,
            head_sent: false,
        };
        RequestSession {
            store,
            verified,
            state: Mutex::new(state),
            busy: tokio::sync::Mutex::new(()),
        }
    }

    /// A request whose session is known, for tests.
    pub(super) fn found(store: SessionStore<T>, record: Record<T>) -> Self {
        let request = Self::new(store, None);
        {
            let mut state = request.lock();
            state.data = record.data().clone();
            state.found = Loaded::Live(record);
        }
        request
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of the application runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the session, if that has not been done yet.
    pub(super) async fn find(&self) -> Result<(), SessionError> {
        if !matches!(self.lock().found, Loaded::NotYet) {
            return Ok(());
        }
        let _busy = self.busy.lock().await;
        if matches!(self.lock().found, Loaded::NotYet) {
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
            Loaded::NotYet => self.verified.as_ref().map(|verified| verified.token.session_id()),
            Loaded::NoSession => None,
            known => known.id(),
        };
        let found = match id {
            None => Loaded::NoSession,
            Some(id) => match self.store.read(id, freshness).await {
                Ok(Some(record)) => Loaded::Live(record),
                Ok(None) => match before {
                    Loaded::Live(_) | Loaded::Stale(..) | Loaded::EndedMeanwhile(_) => {
                        Loaded::EndedMeanwhile(id)
                    }
                    _ => Loaded::Missing(id),
                },
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    Loaded::Unreadable(error, id)
                }
                // Who asks for a fresh one is not to be put off.
                Err(error) if freshness == Freshness::Fresh => return Err(error.into()),
                Err(error) => match self.store.degraded(&id, &error) {
                    Some(Degraded::Default) => Loaded::Unavailable(error, id),
                    Some(Degraded::Stale(record)) => Loaded::Stale(error, record),
                    None => return Err(error.into()),
                },
            },
        };
        self.rest_on(found, |_| ());
        Ok(())
    }

    /// From now on the request's data is what was found plus the uncommitted changes. `also` changes the rest of the state in the
    /// same step.
    pub(super) fn rest_on(&self, found: Loaded<T>, also: impl FnOnce(&mut State<T>)) {
        {
            let mut state = self.lock();
            also(&mut state);
            state.found = found;
            if state.changes.is_empty() {
                state.data = state.base(self.store.default_data());
                state.version += 1;
                return;
            }
        }
        loop {
            let (version, base, changes) = {
                let state = self.lock();
                (state.version, state.base(self.store.default_data()), state.changes.clone())
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
        state.forget_changes(self.store.default_data());
    }

    pub(crate) fn discard(&self) {
        let mut state = self.lock();
        state.intent = state.intent.discard();
        state.forget_changes(self.store.default_data());
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
        let extracted = !matches!(state.found, Loaded::NotYet);
        let live = match &state.found {
            Loaded::Live(record) => Some(record.clone()),
            _ => None,
        };
        drop(state);
        let mut life = Duration::MAX;
        if let Some(record) = live {
            if matches!(cookie, Some(CookieChange::Set(_))) {
                life = self.store.remaining_lifetime(&record);
            }
            self.store.touch_if_due(&record);
            self.store.reencrypt_if_needed(&record);
        }
        Head { extracted, cookie, life }
    }

    /// A live session whose cookie is signed with an older secret gets one signed with the current secret.
    fn signed_anew(&self, state: &State<T>) -> Option<CookieChange> {
        let Loaded::Live(record) = &state.found else { return None };
        let verified = self.verified.as_ref().filter(|verified| verified.needs_resigning)?;
        (verified.token.session_id() == record.id())
            .then(|| CookieChange::Set(verified.token.clone()))
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
        state.forget_changes(self.store.default_data());
        drop(state);
        if let Some(id) = logout {
            delete_in_background(&self.store, id);
        }
    }
}

impl<T> State<T> {
    /// What the uncommitted changes are made on.
    fn base(&self, default_data: &Arc<T>) -> Arc<T> {
        self.record().map_or(default_data, Record::data).clone()
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

    fn forget_changes(&mut self, default_data: &Arc<T>) {
        self.changes.clear();
        self.data = self.base(default_data);
        self.version += 1;
    }

    /// The session that is to be deleted, if it is. From now on it counts as gone.
    fn take_logout(&mut self) -> Option<SessionId> {
        let id =
            (std::mem::take(&mut self.intent) == Intent::Destroy).then(|| self.found.id())??;
        self.found = Loaded::EndedMeanwhile(id);
        Some(id)
    }
}

/// What was never committed, for instance because it was done after the head had left, is lost; a logout is not.
impl<T: SessionData> Drop for RequestSession<T> {
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
        let delete = store_for_task.delete_following_tombstones(id);
        if let Err(error) = store_for_task.operation(delete).await {
            tracing::error!(session = %id, error = &error as &dyn std::error::Error, "a logout was not carried out");
        }
    });
}
