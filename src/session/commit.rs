//! Carries out the plan. Always in a task of its own, which goes on when the request is cancelled.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::SessionError;
use super::change::{Intent, Plan};
use super::request::{Change, CookieChange, Loaded, RequestSession, apply_all};
use crate::error::{StoreError, StoreErrorKind};
use crate::observe::Outcome;
use crate::record::{NewSession, SessionData};

/// The end of a commit, and whether the application panicked in it.
pub(crate) type Commit = JoinHandle<Result<(), SessionError>>;

impl<T: SessionData> RequestSession<T> {
    /// Commits what is to be done, and `extra` as the last change.
    pub(crate) fn commit(self: &Arc<Self>, extra: Option<Change<T>>) -> Commit {
        // Both are done here and not in the task: a request that is cancelled before the task runs must not take the changes
        // away, and a store that is shut down then has accepted them.
        let session = {
            let mut state = self.lock();
            state.commits_due += 1;
            state.found.id()
        };
        let admitted = self.store.begin();
        let request = self.clone();
        let commit = async move {
            let _busy = request.busy.lock().await;
            let committed = request.commit_now(admitted, extra).await;
            let outcome = committed.as_ref().map_or_else(SessionError::outcome, |()| Outcome::Ok);
            request.store.count_commit(outcome);
            committed
        };
        // A child of the request's span, though it runs in a task of its own.
        let span =
            tracing::debug_span!("session.commit", session = session.map(tracing::field::display));
        self.store.spawn(commit.instrument(span))
    }

    async fn commit_now(
        &self,
        admitted: Result<(), StoreError>,
        extra: Option<Change<T>>,
    ) -> Result<(), SessionError> {
        let mut work = self.take_work();
        if let Err(closed) = admitted {
            self.put_back(work);
            return Err(closed.into());
        }
        if let Some(extra) = extra {
            // A change that panics must not take a logout with it.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work.plan_with(extra))) {
                self.put_back(work);
                resume_unwind(panic);
            }
        }
        if work.head_sent && work.plan.needs_head() {
            self.put_back(work);
            return Err(SessionError::HeadSent);
        }
        if let (Plan::Refuse, Some(error)) = (work.plan, work.found.outage()) {
            let error = error.clone();
            self.put_back(work);
            return Err(SessionError::ReadOnly(error));
        }
        match self.store.operation(self.carry_out(&work)).await {
            Ok((found, cookie)) => {
                self.rest_on(found, |state| {
                    if cookie.is_some() {
                        state.cookie = cookie;
                    }
                });
                Ok(())
            }
            Err(error) => {
                self.after_failure(work, &error);
                Err(error.into())
            }
        }
    }

    async fn carry_out(
        &self,
        work: &Work<T>,
    ) -> Result<(Loaded<T>, Option<CookieChange>), StoreError> {
        let store = &self.store;
        let again = |base: &T| apply_all(base, &work.changes);
        match (work.plan, &work.found) {
            (Plan::Nothing, found) => Ok((found.clone(), None)),
            (Plan::Create, _) => Ok(started(store.create_from_arc(work.data.clone()).await?)),
            (Plan::Update, Loaded::Live(base)) => {
                let record = store.write(base.clone(), work.data.clone(), &again).await?;
                Ok((Loaded::Live(record), None))
            }
            (Plan::Regenerate, Loaded::Live(base)) => {
                Ok(started(store.regenerate(base.clone(), work.data.clone(), &again).await?))
            }
            (Plan::Delete | Plan::Replace, found) => {
                if let Some(id) = found.id() {
                    store.delete_following_tombstones(id).await?;
                }
                if work.plan == Plan::Replace {
                    return Ok(started(store.create_from_arc(work.data.clone()).await?));
                }
                Ok((Loaded::NoSession, Some(CookieChange::Remove)))
            }
            (Plan::RemoveCookie, _) => Ok((Loaded::NoSession, Some(CookieChange::Remove))),
            (Plan::Refuse, Loaded::Unreadable(error, _)) => Err(error.clone()),
            (Plan::Refuse | Plan::Update | Plan::Regenerate, _) => Err(StoreErrorKind::Gone.into()),
        }
    }

    fn take_work(&self) -> Work<T> {
        let mut state = self.lock();
        state.commits_due -= 1;
        Work {
            plan: state.plan(),
            found: state.found.clone(),
            data: state.data.clone(),
            changes: std::mem::take(&mut state.changes),
            intent: std::mem::take(&mut state.intent),
            extra: false,
            head_sent: state.head_sent(),
        }
    }

    /// A commit that failed may be tried again, unless that could do something twice or bring back what has gone. A logout always
    /// may, and stands until it is carried out.
    fn after_failure(&self, work: Work<T>, error: &StoreError) {
        let found = match (error.kind(), &work.found) {
            _ if work.intent == Intent::Destroy => return self.put_back(work),
            (StoreErrorKind::Gone, Loaded::Live(record)) => Loaded::EndedMeanwhile(record.id()),
            (
                StoreErrorKind::Gone | StoreErrorKind::Corrupt | StoreErrorKind::OutcomeUnknown,
                found,
            ) => found.clone(),
            _ => return self.put_back(work),
        };
        self.rest_on(found, |_| ());
    }

    /// What was not done is to be done again, before what has been asked for since.
    fn put_back(&self, mut work: Work<T>) {
        if work.extra {
            // Its caller gets the error.
            work.changes.pop();
        }
        let mut state = self.lock();
        match (work.intent, state.intent) {
            // Destroyed since: the changes of before are void.
            (_, Intent::Destroy) => return,
            (Intent::Keep, _) => {}
            (intent, _) => state.intent = intent,
        }
        work.changes.append(&mut state.changes);
        state.changes = work.changes;
    }
}

/// What a commit has taken over from the request.
struct Work<T> {
    plan: Plan,
    found: Loaded<T>,
    data: Arc<T>,
    changes: Vec<Change<T>>,
    intent: Intent,
    /// Whether the last change is not the request's but this commit's.
    extra: bool,
    head_sent: bool,
}

impl<T: SessionData> Work<T> {
    fn plan_with(&mut self, extra: Change<T>) {
        self.data = apply_all(&*self.data, std::slice::from_ref(&extra));
        self.changes.push(extra);
        self.extra = true;
        self.plan = super::change::plan(self.found.kind(), self.intent, true);
    }
}

fn started<T>(new: NewSession<T>) -> (Loaded<T>, Option<CookieChange>) {
    (Loaded::Live(new.record), Some(CookieChange::Set(new.token)))
}
