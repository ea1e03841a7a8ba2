//! Queries and deletions by owner.

use std::collections::BTreeMap;
use std::fmt;

use futures_core::stream::BoxStream;

use super::SessionStore;
use super::index::Owners;
use super::limit::Login;
use super::revoke::{BulkDeletion, Revocation, Unreadable, revocation_timeout};
use super::scan::{Scan, Tombstones, records};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Ended, Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// Returns the sessions of one owner, as the backend has them, the last login first
    /// ([`Record::logged_in_at`]).
    ///
    /// [`SessionConfigBuilder::owner`](crate::SessionConfigBuilder::owner) defines who owns a
    /// session. The cost depends on the number of this owner's sessions, not on the number of all
    /// sessions. The cache is neither read nor filled, and no session is extended. Records that
    /// cannot be read are left out; each is logged by id.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// struct UserSession { user_id: Option<i64>, browser: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .owner(|session: &UserSession| session.user_id)
    ///     .build()?;
    /// let store = SessionStore::new(config);
    /// let _ = store.create(UserSession { user_id: Some(42), browser: "Firefox".into() }).await?;
    /// let _ = store.create(UserSession { user_id: Some(7), browser: "Lynx".into() }).await?;
    ///
    /// for session in store.sessions_of(42).await? {
    ///     assert_eq!(session.data().browser, "Firefox");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails with [`NotConfigured`](StoreErrorKind::NotConfigured) without an `owner`, or with the
    /// backend's error.
    pub async fn sessions_of(
        &self,
        owner: impl fmt::Display,
    ) -> Result<Vec<Record<T>>, StoreError> {
        self.begin()?;
        let listed = self.load_sessions_of(&owner.to_string()).await?;
        // The last one of several versions of a record. A regeneration that has failed may have
        // left a second record of the same login.
        let sessions: BTreeMap<_, _> =
            listed.into_iter().map(|it| ((Login::of(&it), it.id()), it)).collect();
        Ok(sessions.into_values().rev().collect())
    }

    /// Returns a stream of the sessions of one owner, as the backend has them, in no particular
    /// order.
    ///
    /// For owners with very many sessions: one page of them is in memory at a time, and 16 bytes
    /// for each regeneration in the last two minutes. Otherwise like
    /// [`each_session`](SessionStore::each_session): a session that is regenerated meanwhile may
    /// be returned twice, and a record that cannot be read is an `Err` of kind
    /// [`Corrupt`](StoreErrorKind::Corrupt), after which the stream continues. Without an `owner`
    /// in the configuration, the stream is one error of kind
    /// [`NotConfigured`](StoreErrorKind::NotConfigured).
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    /// #     .owner(|session: &UserSession| session.user_id)
    /// #     .build()?;
    /// use futures_util::TryStreamExt;
    ///
    /// # let store = SessionStore::new(config);
    /// let _ = store.create(UserSession { user_id: Some(42) }).await?;
    /// let mut sessions = store.each_session_of(42);
    /// while let Some(session) = sessions.try_next().await? {
    ///     println!("logged in until {:?}", session.expires_at());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn each_session_of(
        &self,
        owner: impl fmt::Display,
    ) -> BoxStream<'static, Result<Record<T>, StoreError>> {
        self.records_of(owner.to_string(), |scan| scan)
    }

    /// Returns a stream of the sessions of one owner, from such scans.
    pub(super) fn records_of(
        &self,
        owner: String,
        scans: impl Fn(Scan<T>) -> Scan<T>,
    ) -> BoxStream<'static, Result<Record<T>, StoreError>> {
        let store = self.clone();
        let scan = |tag| scans(Scan::of_owner(self.clone(), tag));
        let scans = self.owners().map(|owners| owners.tags(&owner).map(scan).collect());
        let selects = move |record: &Record<T>| {
            let owners = store.inner.owners.as_ref();
            owners.is_some_and(|owners| owners.is_owner(&owner, record))
                && !store.has_expired(record)
        };
        Box::pin(records(scans, Tombstones::Follow, selects))
    }

    /// Deletes all sessions of one owner, on every node: "log out everywhere".
    ///
    /// On success, every session the owner had when this was called is gone, even if it was
    /// regenerated meanwhile, and the deletions have been announced to every node like any other.
    /// Sessions created meanwhile may or may not be deleted, so change the password first.
    ///
    /// It visits the sessions that were in the owner's index when it began, and follows each one
    /// until it is gone: a holder who keeps changing or regenerating a session cannot outrun it. A
    /// record that cannot be read, but belonged to the owner at some time, is deleted as well: one
    /// logout too many does less harm than one too few. An entry that is no record at all is
    /// counted as [`unreadable`](BulkDeletion::unreadable) and stays. The cost depends on the
    /// number of this owner's sessions and of their regenerations in the last two minutes, not on
    /// the number of all sessions.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    /// #     .owner(|session: &UserSession| session.user_id)
    /// #     .build()?;
    /// # let store = SessionStore::new(config);
    /// for _ in 0..3 {
    ///     let _ = store.create(UserSession { user_id: Some(42) }).await?;
    /// }
    /// assert_eq!(store.delete_all_of(42).await?.deleted, 3);
    /// assert!(store.sessions_of(42).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails with [`NotConfigured`](StoreErrorKind::NotConfigured) without an `owner`, with the
    /// backend's error, and with [`Timeout`](StoreErrorKind::Timeout) after one minute, the
    /// lifetime of a tombstone. What was deleted by then stays deleted, so another call makes
    /// progress.
    ///
    /// # Risk
    ///
    /// A Redis that evicts keys may have lost entries of the owner's index. All sessions are then
    /// looked at, which takes time in proportion to their number, and may take more than a minute.
    pub async fn delete_all_of(
        &self,
        owner: impl fmt::Display,
    ) -> Result<BulkDeletion, StoreError> {
        self.begin()?;
        let owner = owner.to_string();
        let delete = self.delete_owned(&owner, None, &|_| true, Unreadable::Delete);
        self.operation_within(revocation_timeout(), delete).await
    }

    /// Deletes all sessions of one owner except one, on every node: "log out everywhere else".
    ///
    /// Meant for a visitor who has just changed the password. Otherwise like
    /// [`delete_all_of`](SessionStore::delete_all_of).
    ///
    /// ```
    /// # use clustered_sessions::{Fresh, Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// async fn change_password(
    ///     Fresh(session): Fresh<Session<UserSession>>,
    /// ) -> Result<(), SessionError> {
    ///     // … the new password has been stored.
    ///     let Some(user_id) = session.read(|data| data.user_id) else { return Ok(()) };
    ///     // Ends what was opened with the old cookie, which somebody else may know.
    ///     let is_remembered = session.record().is_some_and(|record| record.is_remembered());
    ///     session.replace(session.read(UserSession::clone));
    ///     session.remember_me(is_remembered);
    ///     if let Err(error) = session.save().await {
    ///         session.discard(); // otherwise the response would commit it after all
    ///         // Including this one: somebody else may know its cookie.
    ///         let _ = session.store().delete_all_of(user_id).await?;
    ///         return Err(error);
    ///     }
    ///     let this = session.id().ok_or(SessionError::Gone)?; // the new session
    ///     let _ = session.store().delete_all_of_except(user_id, this).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The session is kept even if it is regenerated meanwhile.
    ///
    /// # Risk
    ///
    /// The deletion may fail after the password was changed, and the visitor, whose old password is
    /// wrong by now, cannot try again. Keep the version of the password in the data, and compare it
    /// where a login is required, as the example `login` does: it refuses the other sessions.
    ///
    /// Two calls at once, each of which keeps another session, delete both. To allow one session
    /// per owner, call [`delete_all_but_newest_of`](SessionStore::delete_all_but_newest_of) after
    /// each login.
    ///
    /// # Errors
    ///
    /// As [`delete_all_of`](SessionStore::delete_all_of).
    pub async fn delete_all_of_except(
        &self,
        owner: impl fmt::Display,
        keep: SessionId,
    ) -> Result<BulkDeletion, StoreError> {
        self.begin()?;
        let owner = owner.to_string();
        let keep_all = async {
            // A session that cannot be read is kept under its id.
            let kept = match self.load_present(keep).await {
                Err(error) if error.kind() == StoreErrorKind::Corrupt => None,
                kept => kept?,
            };
            let origin = kept.map(|kept| kept.origin());
            let is_kept =
                |record: &Record<T>| record.id() == keep || Some(record.origin()) == origin;
            let is_other = |record: &Record<T>| !is_kept(record);
            self.delete_owned(&owner, Some(keep), &is_other, Unreadable::Delete).await
        };
        self.operation_within(revocation_timeout(), keep_all).await
    }

    /// Deletes all sessions of one owner except the newest, on every node: for applications that
    /// allow one session per owner. Call it after each login has been committed.
    ///
    /// Of several logins at once, each of which calls this, exactly one survives, the newest: that
    /// of the last login ([`Record::logged_in_at`]). Of two logins in the same millisecond, one is
    /// taken for the newer, and all calls take the same one.
    ///
    /// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner) does the same
    /// at each login by itself, for any number of sessions.
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// async fn login(session: Session<UserSession>, user_id: i64) -> Result<(), SessionError> {
    ///     session.replace(UserSession { user_id: Some(user_id) });
    ///     if let Err(error) = session.save().await {
    ///         session.discard(); // otherwise the response would log the user in after all
    ///         return Err(error);
    ///     }
    ///     let _ = session.store().delete_all_but_newest_of(user_id).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Risk
    ///
    /// The newest session need not be the caller's. After a change of password, call
    /// [`delete_all_of_except`](SessionStore::delete_all_of_except) instead.
    ///
    /// # Errors
    ///
    /// As [`delete_all_of`](SessionStore::delete_all_of).
    pub async fn delete_all_but_newest_of(
        &self,
        owner: impl fmt::Display,
    ) -> Result<BulkDeletion, StoreError> {
        self.begin()?;
        let owner = owner.to_string();
        let delete = async {
            // The last one of several logins finds the sessions of all others here. Its call
            // deletes all but the newest of them, which no call deletes.
            let sessions = self.sessions_of(&owner).await?;
            let Some(newest) = sessions.first() else { return Ok(BulkDeletion::default()) };
            let is_older = |record: &Record<T>| Login::of(record) < Login::of(newest);
            self.delete_owned(&owner, Some(newest.id()), &is_older, Unreadable::Delete).await
        };
        self.operation_within(revocation_timeout(), delete).await
    }

    /// Deletes those of one owner's sessions for which `predicate` returns `true`, on every node,
    /// such as those on a device that was lost, or those that began before a change of rights.
    ///
    /// A session that changes or is regenerated meanwhile is judged again. A record that cannot be
    /// read is counted as [`unreadable`](BulkDeletion::unreadable) and stays. Otherwise like
    /// [`delete_all_of`](SessionStore::delete_all_of).
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// # struct UserSession { user_id: Option<i64>, device: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    /// #     .owner(|session: &UserSession| session.user_id)
    /// #     .build()?;
    /// # let store = SessionStore::new(config);
    /// # for device in ["phone", "laptop"] {
    /// #     let _ = store.create(UserSession { user_id: Some(42), device: device.into() }).await?;
    /// # }
    /// let month_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    /// let done = store
    ///     .bulk_delete_of(42, |s| s.data().device == "phone" || s.created_at() < month_ago)
    ///     .await?;
    /// assert_eq!(done.deleted, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete_all_of`](SessionStore::delete_all_of).
    pub async fn bulk_delete_of(
        &self,
        owner: impl fmt::Display,
        predicate: impl Fn(&Record<T>) -> bool + Send + Sync,
    ) -> Result<BulkDeletion, StoreError> {
        self.begin()?;
        let owner = owner.to_string();
        let delete = self.delete_owned(&owner, None, &predicate, Unreadable::Keep);
        self.operation_within(revocation_timeout(), delete).await
    }

    /// Deletes those of an owner's sessions that are `selected`, without looking at the one to
    /// `skip`. A step of an operation.
    async fn delete_owned(
        &self,
        owner: &str,
        skip: Option<SessionId>,
        selected: &(dyn Fn(&Record<T>) -> bool + Sync),
        unreadable: Unreadable,
    ) -> Result<BulkDeletion, StoreError> {
        let owners = self.owners()?;
        let judge = |record: &Record<T>| owners.is_owner(owner, record) && selected(record);
        let mut revocation = Revocation::new(self, &judge, Ended::OwnerRevoked, unreadable);
        let visit_all = async {
            for tag in owners.tags(owner) {
                revocation.scan_owner(tag, skip).await?;
            }
            if self.inner.backend.may_lose_index_entries() {
                revocation.keep_unreadable();
                revocation.scan_all().await?;
            }
            Ok::<_, StoreError>(())
        };
        visit_all.await?;
        Ok(revocation.total())
    }

    /// Deletes the session that `record` is a version of, under whatever id it has by now, if it
    /// still has the same owner. Returns `true` if it was found.
    pub(super) async fn delete_by_origin(
        &self,
        record: &Record<T>,
        reason: Ended,
    ) -> Result<bool, StoreError> {
        let Some(owners) = &self.inner.owners else { return Ok(false) };
        let Some(owner) = owners.owner_of(record.data()) else { return Ok(false) };
        let judge = |found: &Record<T>| found.origin() == record.origin();
        let mut revocation = Revocation::new(self, &judge, reason, Unreadable::Keep);
        for tag in owners.tags(&owner) {
            revocation.scan_owner(tag, None).await?;
        }
        Ok(revocation.total().deleted > 0)
    }

    /// Returns the owner of a session, if owners are configured and it has one.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .owner(|session: &UserSession| session.user_id)
    ///     .build()?;
    /// let store = SessionStore::new(config);
    /// let session = store.create(UserSession { user_id: Some(42) }).await?;
    /// assert_eq!(store.owner_of(&session.record).as_deref(), Some("42"));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn owner_of(&self, record: &Record<T>) -> Option<String> {
        self.inner.owners.as_ref()?.owner_of(record.data())
    }

    fn owners(&self) -> Result<&Owners<T>, StoreError> {
        self.inner.owners.as_ref().ok_or_else(|| {
            let cause = "no owner is configured: set one with SessionConfigBuilder::owner";
            tracing::error!(
                error = cause,
                "the sessions of an owner were asked for, and there are no owners"
            );
            StoreError::from(StoreErrorKind::NotConfigured).with_source(cause)
        })
    }
}
