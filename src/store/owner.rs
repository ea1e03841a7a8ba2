//! What can be asked about an owner: which sessions there are, and how to end them.

use std::collections::HashMap;

use super::SessionStore;
use super::bulk_delete::{BulkDeletion, MAX_PASSES};
use super::index::Owners;
use super::scan::{Scan, Tombstones, ends_the_scan};
use super::tombstone::TOMBSTONE_TTL;
use crate::clock::millis;
use crate::error::{StoreError, StoreErrorKind};
use crate::guards::{self, Guard};
use crate::id::SessionId;
use crate::record::{Record, SessionData};

impl<T: SessionData> SessionStore<T> {
    /// The sessions of one owner, as the backend has them, in no order.
    ///
    /// Whose a session is says [`SessionConfigBuilder::owner`](crate::SessionConfigBuilder::owner). The cost depends on how many
    /// sessions this owner has, and not on how many there are. The cache is neither asked nor filled, and no session is extended.
    /// Records that cannot be read are left out; each is logged by id.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    /// struct UserSession { user_id: Option<i64>, browser: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .owner(|session: &UserSession| session.user_id.map(|id| id.to_string()))
    ///     .build()?;
    /// let store = SessionStore::new(config);
    /// let _ = store.create(UserSession { user_id: Some(42), browser: "Firefox".into() }).await?;
    /// let _ = store.create(UserSession { user_id: Some(7), browser: "Lynx".into() }).await?;
    ///
    /// for session in store.sessions_of("42").await? {
    ///     assert_eq!(session.data().browser, "Firefox");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotConfigured`](StoreErrorKind::NotConfigured) without an `owner`; the backend's.
    pub async fn sessions_of(&self, owner: &str) -> Result<Vec<Record<T>>, StoreError> {
        let owners = self.owners()?;
        // Where a session has just moved, both the trail and the new entry lead to it.
        let mut sessions = HashMap::new();
        for tag in owners.tags(owner) {
            let mut scan = Scan::of(self.clone(), tag);
            while let Some(page) = scan.next_sessions(Tombstones::Follow).await {
                for result in page {
                    match result {
                        Ok(record)
                            if owners.is_owner(owner, &record) && !self.has_expired(&record) =>
                        {
                            drop(sessions.insert(record.id(), record));
                        }
                        Err(error) if ends_the_scan(&error) => return Err(error),
                        Ok(_) | Err(_) => {}
                    }
                }
            }
        }
        Ok(sessions.into_values().collect())
    }

    /// Deletes all sessions of one owner, on every node: "log out everywhere".
    ///
    /// When it has succeeded, no session lives that was the owner's when it was called, under whatever id, and every node hears of that as of
    /// any deletion. Of the sessions that begin meanwhile, some may be deleted and some may stay; so change the password first.
    ///
    /// It judges what the backend says and deletes exactly what it has judged, and looks again until it finds nothing. A record that
    /// cannot be read, but was the owner's at some time, is deleted, too: a logout too many does less harm than one too few. What is
    /// no record at all is counted as [`unreadable`](BulkDeletion::unreadable) and stays. The cost depends on how many sessions this
    /// owner has, and not on how many there are.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    /// #     .owner(|session: &UserSession| session.user_id.map(|id| id.to_string()))
    /// #     .build()?;
    /// # let store = SessionStore::new(config);
    /// for _ in 0..3 {
    ///     let _ = store.create(UserSession { user_id: Some(42) }).await?;
    /// }
    /// assert_eq!(store.delete_all_of("42").await?.deleted, 3);
    /// assert!(store.sessions_of("42").await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotConfigured`](StoreErrorKind::NotConfigured) without an `owner`. The backend's; what was deleted by then stays deleted.
    /// [`Conflict`](StoreErrorKind::Conflict) if after 16 looks there are still new sessions to delete.
    pub async fn delete_all_of(&self, owner: &str) -> Result<BulkDeletion, StoreError> {
        self.delete_all_but(owner, None).await
    }

    /// As [`delete_all_of`](SessionStore::delete_all_of), but one session stays: "log out everywhere else", for the visitor who has just
    /// changed the password.
    ///
    /// ```
    /// # use clustered_sessions::{Session, SessionError};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { user_id: Option<i64> }
    /// async fn change_password(session: Session<UserSession>) -> Result<(), SessionError> {
    ///     // … the new password is stored by now.
    ///     let Some(user_id) = session.read(|data| data.user_id.map(|id| id.to_string())) else { return Ok(()) };
    ///     session.regenerate();
    ///     let saved = session.save().await; // the session that stays has its new id from here on
    ///     let _ = match session.id().filter(|_| saved.is_ok()) {
    ///         Some(this) => session.store().delete_all_of_except(&user_id, this).await?,
    ///         None => session.store().delete_all_of(&user_id).await?, // this one, too: better than none
    ///     };
    ///     saved
    /// }
    /// ```
    ///
    /// # Risk
    ///
    /// If the session that is to stay gets a new id meanwhile, it may be deleted like the others.
    ///
    /// # Errors
    ///
    /// Those of [`delete_all_of`](SessionStore::delete_all_of).
    pub async fn delete_all_of_except(
        &self,
        owner: &str,
        keep: SessionId,
    ) -> Result<BulkDeletion, StoreError> {
        self.delete_all_but(owner, Some(keep)).await
    }

    async fn delete_all_but(
        &self,
        owner: &str,
        keep: Option<SessionId>,
    ) -> Result<BulkDeletion, StoreError> {
        let owners = self.owners()?;
        let mut total = BulkDeletion::default();
        for _ in 0..MAX_PASSES {
            let began = self.inner.clock.now();
            let mut matched = false;
            total.unreadable = 0;
            for tag in owners.tags(owner) {
                let mut scan = Scan::of(self.clone(), tag);
                while let Some(page) = scan.next_sessions(Tombstones::Follow).await {
                    for result in page {
                        match result {
                            Ok(record)
                                if Some(record.id()) == keep
                                    || !owners.is_owner(owner, &record) => {}
                            Ok(record) => {
                                matched = true;
                                total.deleted += u64::from(self.delete_judged(&record).await?);
                            }
                            Err(error) if ends_the_scan(&error) => return Err(error),
                            Err(error) => match error.session_id().filter(|id| Some(*id) != keep) {
                                Some(id) => self.delete_unreadable(id, &mut total).await?,
                                None => total.unreadable += 1,
                            },
                        }
                    }
                }
            }
            // In a look that takes longer than trails are kept, a session may have moved from where it had not looked yet to where
            // it had, and have left no trace.
            let took = self.inner.clock.now().0 - began.0;
            if !matched && took < millis(TOMBSTONE_TTL) || !guards::enabled(Guard::LastLook) {
                return Ok(total);
            }
        }
        Err(StoreErrorKind::Conflict { attempts: MAX_PASSES }.into())
    }

    async fn delete_unreadable(
        &self,
        id: SessionId,
        total: &mut BulkDeletion,
    ) -> Result<(), StoreError> {
        match self.delete_wherever_it_moved(id).await {
            Ok(deleted) => total.deleted += u64::from(deleted),
            Err(error) if ends_the_scan(&error) => return Err(error),
            Err(_) => total.unreadable += 1,
        }
        Ok(())
    }

    fn owners(&self) -> Result<&Owners<T>, StoreError> {
        self.inner.owners.as_ref().ok_or_else(|| {
            let cause = "the configuration does not say whose a session is: give it an owner(…)";
            StoreError::from(StoreErrorKind::NotConfigured).with_source(cause)
        })
    }
}
