//! Carries out the plan of a request in a task of its own, which a cancelled request does not stop.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::SessionError;
use super::batch::{Batch, Change};
use super::change::Plan;
use super::head::{CookieChange, Head};
use super::loaded::Loaded;
use super::logout::Logout;
use super::losses::Told;
use super::request::RequestSession;
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::Outcome;
use crate::record::{NewSession, Record, SessionData};
use crate::store::{Deletion, Freshness, Term};
use crate::task::join_result;

/// A running commit. Awaiting it returns its result, and resumes a panic of the application's
/// closures in the caller.
pub(crate) struct CommitHandle(JoinHandle<Result<(), CommitError>>);

/// The failure of a commit.
pub(crate) struct CommitError {
    pub(crate) error: SessionError,
    /// The losses that a handler has been told of that gets the error, if it is about a loss.
    told: Option<Told>,
}

impl<E: Into<SessionError>> From<E> for CommitError {
    fn from(error: E) -> Self {
        CommitError { error: error.into(), told: None }
    }
}

impl Future for CommitHandle {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(join_result(joined).unwrap_or_else(|| {
            let error = StoreError::from(StoreErrorKind::OutcomeUnknown)
                .with_source("the runtime is shutting down");
            Err(error.into())
        }))
    }
}

impl<T: SessionData> RequestSession<T> {
    /// Commits for the handler, which is told of a failure.
    pub(super) async fn commit_for_handler(
        self: &Arc<Self>,
        extra: Option<Change<T>>,
    ) -> Result<(), SessionError> {
        self.commit(extra).await.map_err(|CommitError { error, told }| {
            if let Some(told) = told {
                self.lock().losses().tell(told);
            }
            error
        })
    }

    /// Commits the uncommitted changes, with `extra` as the last one.
    pub(crate) fn commit(self: &Arc<Self>, extra: Option<Change<T>>) -> CommitHandle {
        // Both steps are done before the task runs: a request that is cancelled until then must not
        // drop the changes, and a store that is shut down until then must still accept them.
        let (session, told) = {
            let mut state = self.lock();
            state.request_commit();
            (state.loaded().id(), state.losses().told())
        };
        let pending = PendingCommit { request: self.clone(), has_begun: false };
        let admitted = self.store().begin();
        let request = self.clone();
        let commit = async move {
            let committed = match request.io_turn().await {
                Ok(_one_at_a_time) => request.commit_now(pending, admitted, extra, told).await,
                Err(error) => Err(error.into()),
            };
            let outcome = committed.as_ref().map_or_else(|it| it.error.outcome(), |()| Outcome::Ok);
            request.store().count_commit(outcome);
            committed
        };
        // Instrumented here, so that the span is a child of the request's.
        let span =
            tracing::debug_span!("session.commit", session = session.map(tracing::field::display));
        CommitHandle(self.store().spawn(commit.instrument(span)))
    }

    async fn commit_now(
        &self,
        pending: PendingCommit<T>,
        admitted: Result<(), StoreError>,
        extra: Option<Change<T>>,
        told: Told,
    ) -> Result<(), CommitError> {
        let mut batch = pending.begin(extra.is_some());
        if extra.is_none() && !batch.intent.hides_loaded() {
            let lost = self
                .lock()
                .losses()
                .unknown_to(told)
                .map(|(error, told)| CommitError { error: error.clone(), told: Some(told) });
            if let Some(lost) = lost {
                self.put_back(batch);
                return Err(lost);
            }
        }
        if let Err(closed) = admitted {
            if batch.plan == Plan::Nothing && extra.is_none() {
                return Ok(());
            }
            self.put_back(batch);
            return Err(closed.into());
        }
        if let Some(extra) = extra {
            // A change that panics must not take a logout with it.
            let base = batch.data.clone().unwrap_or_default();
            let extra_only = std::slice::from_ref(&extra);
            match catch_unwind(AssertUnwindSafe(|| self.apply_all(&base, extra_only))) {
                Ok(data) => batch.push_extra(extra, data),
                Err(panic) => {
                    self.put_back(batch);
                    resume_unwind(panic);
                }
            }
        }
        let _on_panic = OnPanic {
            logout: batch.intent.is_logout().then(|| batch.logout()),
            loses_changes: batch.is_of_others(),
            request: self,
        };
        if batch
            .changed_default()
            .is_some_and(|(data, default)| self.store().is_same(data, default))
        {
            batch.plan_without_changes();
        }
        // An attacker may have planted the token, and must not be logged in with the visitor.
        // After the response head, as in a socket, the visitor cannot be given another one.
        if batch.plan == Plan::Update && batch.head != Head::Sent && self.is_login(&batch) {
            batch.plan = Plan::Regenerate;
        }
        if let Err(error) = batch.check() {
            self.put_back(batch);
            return Err(error.into());
        }
        match self.store().operation(self.execute(&batch)).await {
            Ok(Committed { loaded, cookie }) => {
                self.rebase_onto(loaded, cookie);
                Ok(())
            }
            Err(Failed { error, has_ended }) => {
                let kept = batch.give_up_after(error.kind());
                let mut error = CommitError::from(error);
                if kept.is_none() {
                    self.put_back(batch);
                } else if batch.is_of_others() {
                    error.told = Some(self.lock().losses().record(error.error.clone()));
                }
                if let Some(Committed { loaded, cookie }) = has_ended {
                    self.rebase_onto(loaded, cookie);
                } else if let Some(loaded) = kept {
                    self.rebase_onto(loaded, None);
                }
                Err(error)
            }
        }
    }

    async fn execute(&self, batch: &Batch<T>) -> Result<Committed<T>, Failed<T>> {
        let store = self.store();
        let reapply = |base: &T| self.apply_all(base, &batch.changes);
        let data = || batch.data.clone().unwrap_or_default();
        let remember = batch.remember;
        match (batch.plan, &batch.loaded) {
            (Plan::Nothing, loaded) => {
                Ok(Committed { cookie: self.confirm_cookie(loaded).await, loaded: loaded.clone() })
            }
            (Plan::Create, _) => Ok(Committed::new_token(
                store.create_session(&data(), Term::remembered(remember == Some(true))).await?,
            )),
            (Plan::Update, Loaded::Live(base)) => {
                let record = store.write(base.clone(), data(), &reapply).await?;
                if batch.head != Head::Ahead && batch.extends {
                    // Otherwise the response does.
                    store.touch_if_due(&record, store.now());
                    store.reencrypt_if_needed(&record);
                }
                // The write has shown that the session exists, and under which id.
                let outdated = self.outdated_cookie(&record);
                let cookie = outdated.map(|cookie| CookieChange::Resign(cookie.token.clone()));
                Ok(Committed { loaded: Loaded::Live(record), cookie })
            }
            (Plan::Regenerate, Loaded::Live(base)) => {
                let new = store.regenerate(base.clone(), data(), &reapply, remember).await?;
                Ok(Committed::new_token(new))
            }
            (Plan::Delete, loaded) => {
                let deletion = batch.logout().carry_out(store).await?;
                Ok(Committed::deleted(loaded.clone(), deletion))
            }
            (Plan::Replace, _) => {
                let term = Term::remembered(remember == Some(true));
                // Before the deletion: a login that cannot succeed must not log the visitor out.
                let encoded = store.encode_new(&data(), term)?;
                let logout = batch.logout().with_another();
                if !batch.intent.is_logout() {
                    let origin = batch.loaded.record().map(Record::origin);
                    let ends = |other: &Record<T>| {
                        Some(other.origin()) == origin || logout.ids().contains(&other.id())
                    };
                    store.ensure_place(encoded.data(), ends).await?;
                }
                let deletion = match logout.carry_out(store).await {
                    // A login does not depend on what became of the session before it.
                    Err(error)
                        if error.kind() == StoreErrorKind::Gone && !batch.intent.is_logout() =>
                    {
                        Deletion::Gone
                    }
                    deleted => deleted?,
                };
                let created = store.create_encoded(&encoded, term).await;
                created.map(Committed::new_token).map_err(|error| Failed {
                    error,
                    has_ended: Some(Committed::deleted(batch.loaded.clone(), deletion)),
                })
            }
            (Plan::RemoveCookie, loaded) => Ok(Committed::deleted(loaded.clone(), Deletion::Gone)),
            (Plan::Refuse, Loaded::Unreadable(error, _)) => Err(error.clone().into()),
            (Plan::Refuse | Plan::Update | Plan::Regenerate, _) => {
                Err(StoreError::from(StoreErrorKind::Gone).into())
            }
        }
    }

    /// Returns a cookie to be signed again, if its session has been looked up for that and still
    /// exists. A failure costs the visitor nothing: the next request tries again.
    async fn confirm_cookie(&self, loaded: &Loaded<T>) -> Option<CookieChange> {
        let cookie = self.cookie_to_confirm(loaded)?;
        let found = self.store().read(cookie.id, Freshness::Fresh).await;
        matches!(found, Ok(Ok(_))).then(|| CookieChange::Resign(cookie.token.clone()))
    }

    /// Returns `true` if the changes give the session an owner that it did not have.
    fn is_login(&self, batch: &Batch<T>) -> bool {
        let (Loaded::Live(base), Some(data)) = (&batch.loaded, &batch.data) else { return false };
        self.store().has_new_owner(base, data)
    }

    fn put_back(&self, mut batch: Batch<T>) {
        batch.drop_extra();
        self.lock().put_back(&mut batch);
    }
}

/// A commit that is requested. It is withdrawn if it does not begin: the end of its request leaves
/// everything to the commits that are pending.
struct PendingCommit<T: SessionData> {
    request: Arc<RequestSession<T>>,
    has_begun: bool,
}

impl<T: SessionData> PendingCommit<T> {
    /// Takes what there is to write. If `with_data`, it includes what the request sees.
    fn begin(mut self, with_data: bool) -> Batch<T> {
        let batch = self.request.take_batch(with_data);
        self.has_begun = true;
        batch
    }
}

impl<T: SessionData> Drop for PendingCommit<T> {
    fn drop(&mut self) {
        if !self.has_begun {
            self.request.withdraw_commit();
        }
    }
}

/// Ends a commit that panics in the application's code: carries out its logout, as that of a
/// handler that panics. If it loses changes that are not its caller's, records that, and drops all
/// that is uncommitted: the request must not see, or write, what counts as lost.
struct OnPanic<'a, T: SessionData> {
    logout: Option<Logout<T>>,
    loses_changes: bool,
    request: &'a RequestSession<T>,
}

impl<T: SessionData> Drop for OnPanic<'_, T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if self.loses_changes {
            let mut state = self.request.lock();
            state.losses().record(SessionError::ChangesLost);
            // The request still sees what is lost.
            state.discard_after(SessionError::ChangesLost);
        }
        if let Some(logout) = self.logout.take() {
            logout.carry_out_in_background(self.request.store());
        }
    }
}

/// The failure of a commit.
struct Failed<T> {
    error: StoreError,
    /// What is loaded now, if the visitor's session has ended although the one to take its place
    /// was not created.
    has_ended: Option<Committed<T>>,
}

impl<T> From<StoreError> for Failed<T> {
    fn from(error: StoreError) -> Self {
        Failed { error, has_ended: None }
    }
}

/// The result of a commit: what is loaded now, and the cookie that the response must carry.
struct Committed<T> {
    loaded: Loaded<T>,
    cookie: Option<CookieChange>,
}

impl<T> Committed<T> {
    /// The session exists, under the token that the visitor has.
    fn same_token(loaded: Loaded<T>) -> Self {
        Committed { loaded, cookie: None }
    }

    /// The session has a new token: it was created or regenerated.
    fn new_token(new: NewSession<T>) -> Self {
        Committed { loaded: Loaded::Live(new.record), cookie: Some(CookieChange::Set(new.token)) }
    }

    /// What was loaded is no session any more.
    fn deleted(loaded: Loaded<T>, deletion: Deletion) -> Self {
        match (loaded.id(), deletion) {
            // The browser may have the cookie of a later login by now.
            (Some(id), Deletion::Replaced) => Committed::same_token(Loaded::Moved(id)),
            (Some(_), _) if matches!(loaded, Loaded::Moved(_)) => Committed::same_token(loaded),
            _ => Committed { loaded: Loaded::NoSession, cookie: Some(CookieChange::Remove) },
        }
    }
}
