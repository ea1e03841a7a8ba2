//! The move from another store of tower-sessions, during which nobody is logged out.

use std::sync::Arc;

use super::TowerSessionsStore;

/// A store for the time in which sessions move from another store of tower-sessions to a
/// [`TowerSessionsStore`], with their ids, so that the visitors keep their cookies and their
/// logins.
///
/// A visitor's session moves at its next request, and expires in the old store otherwise. Nodes are
/// replaced one by one, three times:
///
/// 1. With [`MigrationStage::Prepare`]: the nodes know both stores. Sessions stay in the old one.
/// 2. With [`MigrationStage::Move`]: sessions move, and new ones begin in the new store. The nodes
///    that are not yet replaced find them there.
/// 3. When the longest session of the old store has expired: with the `TowerSessionsStore` alone.
///
/// ```
/// # #[cfg(feature = "tower-sessions-0-14")] mod app {
/// # use tower_sessions_0_14::{self as tower_sessions, MemoryStore};
/// use clustered_sessions::{MigratingStore, MigrationStage, SessionStore, TowerSessionsStore};
/// use tower_sessions::SessionManagerLayer;
///
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = clustered_sessions::SessionConfig::builder(clustered_sessions::Secret::new([7; 32])?).build()?;
/// # let (old, stage) = (MemoryStore::default(), MigrationStage::Move);
/// let new = TowerSessionsStore::new(SessionStore::new(config));
/// let layer = SessionManagerLayer::new(MigratingStore::new(old, new, stage));
/// # let _: axum::Router = axum::Router::new().layer(layer);
/// # Ok(()) }
/// # }
/// # #[cfg(feature = "tower-sessions-0-14")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() { app::main().await.unwrap() }
/// # #[cfg(not(feature = "tower-sessions-0-14"))] fn main() {}
/// ```
///
/// # What is promised
///
/// A session that a node of any stage has ended does not come back. A node that moves a session
/// writes it to the new store, looks for it in the old store once more, and removes it there,
/// before it uses it, even if the client disconnects meanwhile. If one of these steps fails, so
/// does the request, and the session stays where it was, or is gone from both stores if the old one
/// carries out a deletion that it has not acknowledged in time. One that another request has
/// changed meanwhile stays in the new store, and a copy without the change may stay in the old one.
/// (Under `Prepare`, the old store is as good as it was before: some stores of tower-sessions write
/// a session that has ended.)
///
/// Five things are not promised:
///
/// - The methods of the new [`SessionStore`](crate::SessionStore), such as
///   [`delete_all_of`](crate::SessionStore::delete_all_of), end sessions in the new store only.
///   They do not end one that has not moved yet, nor the copy in the old store that is left if a
///   process dies while it moves a session, can reach neither store then, or finds that the old
///   store does not delete it and another request has changed it: such a visitor is logged in again
///   by the next request.
///   To log a user out everywhere meanwhile, delete the sessions in both stores, first in the old
///   one. A logout by the visitor ends both.
/// - A save by a node of the stage `Prepare` may be lost if another node moves the session at the
///   same moment.
/// - A request on a node of the stage `Prepare` that has loaded its session from the old store
///   before another node moves it saves the whole session. Changes that other requests have saved
///   since the move are lost.
/// - If the outcome of a creation in the new store is unknown, as after a lost connection, the next
///   request repeats it under the same token. If the server carries out the first one only when the
///   session has moved and its visitor has logged out, the session is there again, as it was in the
///   old store, until it expires.
/// - A node that does not know the new store cannot find a session that has moved: hence the first
///   stage.
///
/// # Costs
///
/// A session that has moved is read from memory. One that has not is looked for in the new store
/// first, which the node answers from memory after the first time. Moving it takes two reads, a
/// deletion in the old store, and a creation in the new one.
///
/// To the new store, a move is the creation of a session: it emits
/// [`SessionEvent::Created`](crate::SessionEvent::Created), and counts as a login for
/// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner), which is better
/// introduced afterwards.
#[derive(Clone, Debug)]
pub struct MigratingStore<Old> {
    /// Shared with the tasks that move sessions.
    pub(super) old: Arc<Old>,
    pub(super) new: TowerSessionsStore,
    pub(super) stage: MigrationStage,
}

/// What a [`MigratingStore`] does with the sessions of the old store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrationStage {
    /// It leaves them there, and finds those that other nodes have moved.
    Prepare,
    /// It moves them to the new store when they are used.
    Move,
}

impl<Old> MigratingStore<Old> {
    /// Creates a store over the one in which the sessions have been and the one to which they move.
    pub fn new(old: Old, new: TowerSessionsStore, stage: MigrationStage) -> Self {
        MigratingStore { old: Arc::new(old), new, stage }
    }
}
