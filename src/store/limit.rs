//! The limit on the sessions of one owner.
//!
//! A session that comes to an owner is written first. Then the owner's sessions are listed, and the
//! limit is applied to what was found. Of logins that run at the same time, the one that is the
//! last to begin its list finds the sessions of all others, and leaves no more than the limit.
//!
//! All nodes agree on the order of an owner's sessions, that of their logins. It does not change
//! while they live, whatever is done to them. So of several logins, no two end each other.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;

use super::SessionStore;
use super::index::Ownership;
use super::revoke::{Revocation, Unreadable};
use super::scan::{Scan, aborts_scan};
use super::tombstone::TOMBSTONE_TTL;
use crate::clock::{Timestamp, millis};
use crate::config::{LimitPolicy, OwnerLimit};
use crate::error::{StoreError, StoreErrorKind};
use crate::events::SessionEvent;
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Ended, Record, SessionData};

/// Maximum number of sessions that a login ends at once, as many as there are on a page of a scan.
const AT_ONCE: usize = 256;

/// A session's place among those of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Login {
    at: Timestamp,
    /// Tells logins of the same millisecond apart. A regeneration keeps it.
    origin: SessionId,
}

impl Login {
    pub(super) fn of<T>(record: &Record<T>) -> Self {
        Login { at: record.meta().logged_in_at, origin: record.origin() }
    }
}

/// Returns the last login of each origin. Of several sessions of one origin, no more than one
/// remains: they are attempts to give one session a new token, and all but one will fail.
fn last_of_each_origin(logins: impl IntoIterator<Item = Login>) -> BTreeSet<Login> {
    let mut last = BTreeMap::new();
    for Login { at, origin } in logins {
        let latest = last.entry(origin).or_insert(at);
        *latest = at.max(*latest);
    }
    last.into_iter().map(|(origin, at)| Login { at, origin }).collect()
}

/// Why a session must not stay.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// There is no place for it, but there may be one soon: the sessions that have taken the last
    /// ones are those of later logins, which may have to go for the same reason.
    Contended { owner: String },
    /// It is refused, or the limit could not be applied.
    Failed(StoreError),
}

impl From<StoreError> for NotAdmitted {
    fn from(error: StoreError) -> Self {
        NotAdmitted::Failed(error)
    }
}

/// What is to be done about the limit.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The session may stay, and these must end.
    Admit {
        end: BTreeSet<Login>,
    },
    Contended,
    Refuse,
}

impl OwnerLimit {
    /// Decides on a login, given all sessions of the owner.
    fn judge(self, own: Login, mut all: BTreeSet<Login>) -> Verdict {
        match self.policy {
            LimitPolicy::EndOldest => {
                let kept = all.iter().rev().nth(self.max - 1).copied();
                let end = kept.map_or_else(BTreeSet::new, |oldest_kept| {
                    all.split_off(&oldest_kept);
                    all
                });
                Verdict::Admit { end }
            }
            LimitPolicy::RefuseNew => {
                all.remove(&own);
                if all.len() < self.max {
                    Verdict::Admit { end: BTreeSet::new() }
                } else if all.range(..own).count() < self.max {
                    Verdict::Contended
                } else {
                    Verdict::Refuse
                }
            }
        }
    }
}

impl<T: SessionData> SessionStore<T> {
    /// Applies the limit to a version that has just been written, and deletes the session if it
    /// must not stay. `reason` is as for [`undo`](Self::undo).
    ///
    /// # Errors
    ///
    /// Fails with [`LimitReached`](StoreErrorKind::LimitReached) only if the session is known to be
    /// gone, and otherwise with [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown).
    pub(super) async fn admit_or_undo(
        &self,
        record: &Record<T>,
        ownership: Option<&Ownership>,
        reason: Option<Ended>,
    ) -> Result<(), StoreError> {
        let Err(refusal) = self.admit(record, ownership).await else { return Ok(()) };
        let error = self.give_up(refusal);
        let is_limit = error.kind() == StoreErrorKind::LimitReached;
        let reason = reason.map(|reason| if is_limit { reason } else { Ended::Deleted });
        // Boxed as in `admit`.
        let undone = Box::pin(self.undo(record, reason)).await;
        // Most kinds say that nothing was changed.
        Err(if is_limit && undone { error } else { StoreError::outcome_unknown(error) })
    }

    /// Applies the limit to a session that has just been written, if it is new to its owner.
    pub(super) async fn admit(
        &self,
        record: &Record<T>,
        ownership: Option<&Ownership>,
    ) -> Result<(), NotAdmitted> {
        let (Some(limit), Some(Ownership { owner, is_new: true })) =
            (self.owner_limit(), ownership)
        else {
            return Ok(());
        };
        let began = self.inner.clock.now();
        // Boxed, here and below, because few writes come here: the future of each contains this
        // one.
        let all = Box::pin(self.load_sessions_of(owner)).await?;
        let own = Login::of(record);
        let counts = |login: &Login| *login <= own || guards::enabled(Guard::LaterLogins);
        let logins = last_of_each_origin(all.iter().map(Login::of).filter(counts));
        match limit.judge(own, logins) {
            Verdict::Contended => {
                return Err(NotAdmitted::Contended { owner: owner.clone() });
            }
            Verdict::Refuse => return Err(self.refuse(owner).into()),
            Verdict::Admit { end } if end.is_empty() => {}
            Verdict::Admit { end } => {
                let ends = |record: &Record<T>| {
                    let login = Login::of(record);
                    end.iter().any(|last| last.origin == login.origin && login <= *last)
                };
                let ids = all.iter().filter(|record| ends(record)).map(Record::id);
                let ids: Vec<_> = ids.collect();
                let judge = |found: &Record<T>| {
                    self.owner_of(found).as_deref() == Some(owner) && ends(found)
                };
                let reason = Ended::LimitReached;
                let mut revocation = Revocation::new(self, &judge, reason, Unreadable::Keep);
                // The first login under a new limit may end thousands.
                for page in ids.chunks(AT_ONCE) {
                    revocation.chase_all(page.to_vec()).await?;
                }
                self.inner.limited_logins.add_one();
            }
        }
        // A session that was regenerated meanwhile has been found by its tombstone.
        if self.inner.clock.now().0 - began.0 >= millis(TOMBSTONE_TTL) {
            return Err(StoreError::from(StoreErrorKind::Timeout).into());
        }
        Ok(())
    }

    /// Returns the error of a login that is not tried again.
    pub(super) fn give_up(&self, reason: NotAdmitted) -> StoreError {
        match reason {
            NotAdmitted::Contended { owner } => self.refuse(&owner),
            NotAdmitted::Failed(error) => error,
        }
    }

    /// Fails if the policy is to refuse a login, and the owner of this data has as many sessions as
    /// are allowed, without those which the login continues or `ends`.
    ///
    /// [`admit`](Self::admit) decides. This spares a visitor the loss of the session before, if
    /// that is known not to help.
    pub(crate) async fn ensure_place(
        &self,
        data: &T,
        ends: impl Fn(&Record<T>) -> bool,
    ) -> Result<(), StoreError> {
        let Some(OwnerLimit { max, policy: LimitPolicy::RefuseNew }) = self.owner_limit() else {
            return Ok(());
        };
        let Some(owner) = self.inner.owners.as_ref().and_then(|owners| owners.owner_of(data))
        else {
            return Ok(());
        };
        let sessions = Box::pin(self.load_sessions_of(&owner)).await?;
        let mut origins: BTreeSet<_> = sessions.iter().map(Record::origin).collect();
        // By their origins: a session that is regenerated meanwhile may be there twice.
        for ended in sessions.iter().filter(|session| ends(session)) {
            origins.remove(&ended.origin());
        }
        if origins.len() < max { Ok(()) } else { Err(self.refuse(&owner)) }
    }

    /// Reports a login that is refused, and returns its error.
    fn refuse(&self, owner: &str) -> StoreError {
        self.inner.limited_logins.add_one();
        self.inner.events.emit(|| SessionEvent::LimitReached { owner: owner.to_owned() });
        StoreErrorKind::LimitReached.into()
    }

    /// Returns an owner's sessions, as the backend has them. One that is regenerated meanwhile may
    /// be there twice. Records that cannot be read are left out.
    pub(super) async fn load_sessions_of(&self, owner: &str) -> Result<Vec<Record<T>>, StoreError> {
        let mut sessions = Vec::new();
        let mut stream = self.records_of(owner.to_owned(), Scan::into_step);
        while let Some(session) = stream.next().await {
            match session {
                Ok(record) => sessions.push(record),
                Err(error) if aborts_scan(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(sessions)
    }

    pub(super) fn owner_limit(&self) -> Option<OwnerLimit> {
        self.inner.owners.as_ref()?.limit()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(at: u64, origin: u8) -> Login {
        Login { at: Timestamp::from_millis(at), origin: SessionId::from_bytes([origin; 16]) }
    }

    fn judge(policy: LimitPolicy, max: usize, own: Login, all: &[Login]) -> Verdict {
        OwnerLimit { max, policy }.judge(own, all.iter().copied().collect())
    }

    fn ends<const N: usize>(end: [Login; N]) -> Verdict {
        Verdict::Admit { end: end.into() }
    }

    #[test]
    fn the_oldest_logins_end() {
        let [a, b, c] = [login(1, 9), login(2, 1), login(2, 2)];
        let end_oldest = |max, own, all: &[Login]| judge(LimitPolicy::EndOldest, max, own, all);
        assert_eq!(end_oldest(2, b, &[b, a]), ends([]));
        assert_eq!(end_oldest(2, c, &[c, a, b]), ends([a]));
        assert_eq!(end_oldest(1, c, &[c, a, b]), ends([a, b]));
        assert_eq!(end_oldest(1, a, &[c, a, b]), ends([a, b]), "a later login has overtaken it");
    }

    #[test]
    fn a_login_is_refused_if_there_are_enough_earlier_ones() {
        let [a, b, c] = [login(1, 9), login(2, 1), login(2, 2)];
        let refuse_new = |max, own, all: &[Login]| judge(LimitPolicy::RefuseNew, max, own, all);
        assert_eq!(refuse_new(2, b, &[a, b]), ends([]));
        assert_eq!(refuse_new(2, c, &[a, b, c]), Verdict::Refuse);
        assert_eq!(refuse_new(2, b, &[a, b, c]), Verdict::Contended, "the later one may go");
        assert_eq!(refuse_new(1, a, &[a, b, c]), Verdict::Contended);
        assert_eq!(refuse_new(2, c, &[a, b]), Verdict::Refuse, "its own session has ended already");
    }

    #[test]
    fn of_the_attempts_to_move_one_session_the_last_counts() {
        let [first, second, other] = [login(1, 9), login(2, 9), login(1, 1)];
        assert_eq!(last_of_each_origin([second, other, first]), [other, second].into());
    }

    proptest! {
        /// Several logins at once: each sees the sessions of those that were written before it.
        #[test]
        fn no_more_than_the_limit_remain(times in prop::collection::vec(0u64..4, 1..8), max in 1usize..4, ends_oldest: bool) {
            let policy = if ends_oldest { LimitPolicy::EndOldest } else { LimitPolicy::RefuseNew };
            let (mut present, mut admitted) = (BTreeSet::new(), 0);
            for (origin, at) in times.into_iter().enumerate() {
                let own = login(at, origin as u8);
                present.insert(own);
                match (OwnerLimit { max, policy }).judge(own, present.clone()) {
                    Verdict::Admit { end } => {
                        present.retain(|it| !end.contains(it));
                        admitted += 1;
                    }
                    Verdict::Contended | Verdict::Refuse => drop(present.remove(&own)),
                }
                prop_assert!(present.len() <= max);
                prop_assert_eq!(present.len(), admitted.min(max), "no place is left free");
            }
        }
    }
}
