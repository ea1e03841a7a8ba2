//! The adapter for tower-sessions: its sessions, kept in a store of this crate.
//!
//! What it does is the same for all versions of tower-sessions. The macro below implements the
//! trait of each.

mod expiry;
mod merge;
mod migrating;
mod requests;
mod store;

use std::error::Error as _;
use std::iter;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::timeout;
use tracing::Instrument as _;

pub use self::migrating::{MigratingStore, MigrationStage};
pub use self::store::TowerSessionsStore;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionToken;
use crate::store::{Freshness, Undo};
use crate::task::join_result;

/// Time for which a move waits for the old store, twice at most. A shutdown waits for the move.
const OLD_STORE_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns the text of an error and its causes, which is all that their error keeps.
fn text_of(error: &StoreError) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Implements the trait of a version of tower-sessions for both stores.
macro_rules! implement_for {
    ($feature:literal, $core:ident) => {
        #[cfg(feature = $feature)]
        const _: () = {
            use $core::SessionStore;
            use $core::session::{Id, Record};
            use $core::session_store::{Error, Result};

            fn token(id: &Id) -> SessionToken {
                SessionToken::from_bytes(id.0.to_le_bytes())
            }

            fn until(store: &TowerSessionsStore, record: &Record) -> Timestamp {
                store.present().to_deadline(record.expiry_date.into())
            }

            fn to_error(error: StoreError) -> Error {
                let text = text_of(&error);
                match error.kind() {
                    StoreErrorKind::Encode | StoreErrorKind::TooLarge => Error::Encode(text),
                    StoreErrorKind::Corrupt => Error::Decode(text),
                    _ => Error::Backend(text),
                }
            }

            async fn load(
                store: &TowerSessionsStore,
                id: &Id,
                freshness: Freshness,
            ) -> Result<Option<Record>> {
                let loaded = store.load_session(&token(id), freshness).await.map_err(to_error)?;
                Ok(loaded.map(|(data, deadline)| {
                    let expiry_date = store.present().to_expiry(deadline).into();
                    Record { id: *id, data, expiry_date }
                }))
            }

            #[async_trait]
            impl SessionStore for TowerSessionsStore {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    let until = until(self, record);
                    let token = self.create_session(&mut record.data, until).await;
                    record.id = Id(i128::from_le_bytes(*token.map_err(to_error)?.expose_bytes()));
                    Ok(())
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    let token = token(&record.id);
                    let until = until(self, record);
                    self.save_session(&token, &record.data, until).await.map_err(to_error)
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    load(self, id, Freshness::Cached).await
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    self.delete_session(&token(id)).await.map_err(to_error)
                }
            }

            #[async_trait]
            impl<Old: SessionStore> SessionStore for MigratingStore<Old> {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    let continues_a_moved_one = merge::is_loaded(&record.data);
                    if self.stage == MigrationStage::Move || continues_a_moved_one {
                        self.new.create(record).await
                    } else {
                        self.old.create(record).await
                    }
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    let id = &record.id;
                    let has_moved =
                        merge::is_loaded(&record.data) || self.new.load(id).await?.is_some();
                    match self.stage {
                        MigrationStage::Prepare if !has_moved => self.old.save(record).await,
                        // A request may clear a session that it has not loaded.
                        MigrationStage::Move if !has_moved => {
                            move_if_old(self, id).await?;
                            self.new.save(record).await
                        }
                        _ => self.new.save(record).await,
                    }
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    if let Some(moved) = self.new.load(id).await? {
                        return Ok(Some(moved));
                    }
                    match self.stage {
                        MigrationStage::Prepare => {
                            if let Some(record) = self.old.load(id).await? {
                                return Ok(Some(record));
                            }
                        }
                        MigrationStage::Move => move_if_old(self, id).await?,
                    }
                    // It may have been moved a moment ago.
                    load(&self.new, id, Freshness::Fresh).await
                }

                /// In this order: a node that is moving the session looks for it in the old store
                /// once it is in the new one.
                async fn delete(&self, id: &Id) -> Result<()> {
                    self.new.forget_end(&token(id));
                    self.old.delete(id).await?;
                    self.new.delete(id).await
                }
            }

            /// Moves a session to the new store if the old one has it.
            ///
            /// A request that is cancelled does not interrupt it: the session would be in both
            /// stores, and whoever ended it in the new one would not know of the other.
            async fn move_if_old<Old: SessionStore>(
                store: &MigratingStore<Old>,
                id: &Id,
            ) -> Result<()> {
                let (old, new, id) = (store.old.clone(), store.new.clone(), *id);
                let moving = async move { take_over(&*old, &new, &id).await }.in_current_span();
                let moved = join_result(store.new.store().spawn(moving).await);
                moved.unwrap_or_else(|| Err(Error::Backend("the runtime is shutting down".into())))
            }

            async fn take_over<Old: SessionStore>(
                old: &Old,
                new: &TowerSessionsStore,
                id: &Id,
            ) -> Result<()> {
                let Some(record) = in_time(old.load(id)).await? else { return Ok(()) };
                // Any node may have chosen this time, by its own clock.
                let until = SystemTime::from(record.expiry_date).into();
                let draft = new.draft_import(token(id), &record.data, until);
                let Some(draft) = draft.map_err(to_error)? else { return Ok(()) };
                let imported = match new.import(&draft).await {
                    Ok(true) => Ok(()),
                    Ok(false) => return Ok(()),
                    Err(error) if error.kind() != StoreErrorKind::OutcomeUnknown => {
                        return Err(to_error(error));
                    }
                    Err(error) => Err(to_error(error)),
                };
                // If the old store does not have it any more, it may have been moved and ended
                // before this node has imported it.
                let mut undo = Undo::Always;
                let moved = in_time(async {
                    if old.load(id).await?.is_some() {
                        // Whoever ends it from now on ends it in the new store, too.
                        undo = Undo::UnlessChanged;
                        imported?;
                        return old.delete(id).await.map(|()| true);
                    }
                    imported.map(|()| false)
                });
                let moved = moved.await;
                if !matches!(moved, Ok(true)) {
                    // Whoever finds it in the new store does not look for it in the old one.
                    new.undo_import(&draft, undo).await.map_err(to_error)?;
                }
                moved.map(drop)
            }

            /// Waits for the old store.
            async fn in_time<R>(answer: impl Future<Output = Result<R>>) -> Result<R> {
                let late = |_| Err(Error::Backend("the old store took too long".into()));
                timeout(OLD_STORE_TIMEOUT, answer).await.unwrap_or_else(late)
            }
        };
    };
}

implement_for!("tower-sessions-0-14", tower_sessions_core_0_14);
implement_for!("tower-sessions-0-15", tower_sessions_core_0_15);
