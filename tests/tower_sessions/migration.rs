//! Sessions that move from another store while nodes of all stages run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clustered_sessions::testing::{Interposed, Interposer};
use clustered_sessions::{
    MemoryBackend, MigratingStore, MigrationStage, StoreError, StoreErrorKind, TowerSessionsStore,
};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::tower_sessions::session::{Id, Record};
use super::tower_sessions::session_store::{Error, Result};
use super::tower_sessions::{Expiry, MemoryStore, Session, SessionStore};
use crate::node::{config, node, start};
use crate::web::{Call, Spy, settle};

/// What happens at a call of the old store, instead of it or just before it.
#[derive(Debug)]
enum Fault {
    Fails,
    /// Another node deletes the session.
    Deleted,
    /// It is held up until this is notified.
    Waits(Arc<Notify>),
}

/// The old store, which all nodes share.
#[derive(Clone, Debug, Default)]
struct Old {
    memory: MemoryStore,
    /// What happens at the next loads, and at the next deletions.
    loads: Arc<Mutex<VecDeque<Option<Fault>>>>,
    deletions: Arc<Mutex<VecDeque<Option<Fault>>>>,
}

impl Old {
    async fn meet(&self, faults: &Mutex<VecDeque<Option<Fault>>>, id: &Id) -> Result<()> {
        let fault = faults.lock().unwrap().pop_front().flatten();
        match fault {
            Some(Fault::Fails) => Err(Error::Backend("out of order".to_owned())),
            Some(Fault::Deleted) => self.memory.delete(id).await,
            Some(Fault::Waits(until)) => {
                until.notified().await;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl SessionStore for Old {
    async fn create(&self, record: &mut Record) -> Result<()> {
        self.memory.create(record).await
    }

    async fn save(&self, record: &Record) -> Result<()> {
        self.memory.save(record).await
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        self.meet(&self.loads, id).await?;
        self.memory.load(id).await
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        self.meet(&self.deletions, id).await?;
        self.memory.delete(id).await
    }
}

type Node = MigratingStore<Old>;

/// Two nodes, of which one has been replaced by the next stage, and their stores.
struct Cluster {
    old: Old,
    new: TowerSessionsStore,
    /// What is in the new store.
    memory: MemoryBackend,
    preparing: Node,
    moving: Node,
}

impl Cluster {
    async fn start() -> Self {
        let (old, memory) = (Old::default(), MemoryBackend::new());
        let new = node(&memory).await;
        let preparing =
            MigratingStore::new(old.clone(), node(&memory).await, MigrationStage::Prepare);
        let moving = MigratingStore::new(old.clone(), new.clone(), MigrationStage::Move);
        Cluster { old, new, memory, preparing, moving }
    }

    /// Returns whether the session is in the old store and in the new one.
    async fn places(&self, id: Id) -> (bool, bool) {
        settle().await;
        let old = self.old.memory.load(&id).await.unwrap().is_some();
        (old, self.new.load(&id).await.unwrap().is_some())
    }
}

fn request(store: &(impl SessionStore + Clone), id: Id) -> Session {
    Session::new(Some(id), Arc::new(store.clone()), None)
}

async fn stored(store: &(impl SessionStore + Clone)) -> Id {
    let session = Session::new(None, Arc::new(store.clone()), None);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    session.id().unwrap()
}

/// Changes a session that another request is moving.
async fn save_b(store: &Node, id: Id) {
    settle().await;
    let session = request(store, id);
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
}

/// Returns the values of a session under `a` and `b`, as a request finds them.
async fn read(store: &Node, id: Id) -> [Option<u64>; 2] {
    settle().await;
    let session = request(store, id);
    [session.get("a").await.unwrap(), session.get("b").await.unwrap()]
}

#[tokio::test]
async fn a_session_moves_with_its_id_when_it_is_used() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    assert_eq!(read(&cluster.preparing, id).await, [Some(1), None]);
    assert_eq!(cluster.places(id).await, (true, false));

    assert_eq!(read(&cluster.moving, id).await, [Some(1), None]);
    assert_eq!(cluster.places(id).await, (false, true));
    for (node, expected) in [(&cluster.preparing, 2), (&cluster.moving, 3)] {
        let session = request(node, id);
        session.insert("b", expected).await.unwrap();
        session.save().await.unwrap();
        assert_eq!(read(&cluster.preparing, id).await, [Some(1), Some(expected)]);
        assert_eq!(read(&cluster.moving, id).await, [Some(1), Some(expected)]);
    }
    assert_eq!(cluster.places(id).await, (false, true));
}

#[tokio::test]
async fn new_sessions_begin_where_the_nodes_of_the_stage_look() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.places(stored(&cluster.preparing).await).await, (true, false));
    assert_eq!(cluster.places(stored(&cluster.moving).await).await, (false, true));
}

#[tokio::test]
async fn a_session_that_does_not_move_is_saved_where_it_is() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.preparing).await;
    let session = request(&cluster.preparing, id);
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    let new = session.id().unwrap();
    assert_eq!(cluster.places(id).await, (false, false));
    assert_eq!(cluster.places(new).await, (true, false));
    let data = cluster.old.memory.load(&new).await.unwrap().unwrap().data;
    assert_eq!(data.len(), 2, "{data:?}");
}

#[tokio::test]
async fn a_moved_session_that_gets_a_new_id_stays_in_the_new_store() {
    let cluster = Cluster::start().await;
    for node in [&cluster.preparing, &cluster.moving] {
        let id = stored(&cluster.moving).await;
        let session = request(node, id);
        session.cycle_id().await.unwrap();
        session.save().await.unwrap();
        let new = session.id().unwrap();
        assert_eq!(cluster.places(id).await, (false, false));
        assert_eq!(cluster.places(new).await, (false, true));
        assert_eq!(read(node, new).await, [Some(1), None]);
    }
}

#[tokio::test]
async fn a_cycled_id_that_the_old_store_refuses_brings_back_nothing_of_a_session_that_had_ended() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.moving).await;
    let session = request(&cluster.moving, id);
    session.insert("b", 2).await.unwrap();
    request(&cluster.moving, id).flush().await.unwrap();
    cluster.old.deletions.lock().unwrap().push_back(Some(Fault::Fails));
    assert!(session.cycle_id().await.is_err());
    session.save().await.unwrap();
    assert_eq!(read(&cluster.moving, session.id().unwrap()).await, [None, Some(2)]);
}

#[tokio::test]
async fn a_session_that_is_cleared_before_it_is_loaded_moves_as_well() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let session = request(&cluster.moving, id);
    session.clear().await;
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(cluster.places(id).await, (false, true));
    assert_eq!(read(&cluster.moving, id).await, [None, Some(2)]);
}

#[tokio::test]
async fn a_session_that_has_ended_before_it_is_cleared_is_not_saved_again() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let session = request(&cluster.moving, id);
    request(&cluster.preparing, id).flush().await.unwrap();
    session.clear().await;
    session.insert("b", 2).await.unwrap();
    session.save().await.unwrap();
    assert_eq!(cluster.places(id).await, (false, false));
}

#[tokio::test]
async fn a_logout_ends_a_session_wherever_it_is() {
    let cluster = Cluster::start().await;
    for node in [&cluster.preparing, &cluster.moving] {
        let (left, moved) = (stored(&cluster.old).await, stored(&cluster.moving).await);
        for id in [left, moved] {
            request(node, id).flush().await.unwrap();
            assert_eq!(cluster.places(id).await, (false, false));
            assert_eq!(read(&cluster.moving, id).await, [None, None]);
        }
    }
}

#[tokio::test]
async fn a_session_that_has_moved_and_ended_is_not_saved_to_the_old_store() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.moving).await;
    let slow = request(&cluster.preparing, id);
    slow.insert("b", 2).await.unwrap();
    request(&cluster.moving, id).flush().await.unwrap();
    settle().await;
    slow.save().await.unwrap();
    assert_eq!(cluster.places(id).await, (false, false));
}

#[tokio::test]
async fn a_session_is_found_by_a_node_that_has_not_heard_of_its_move() {
    let memory = MemoryBackend::new();
    let (old, spy) = (Old::default(), Spy::over(&memory));
    let preparing = MigratingStore::new(old.clone(), node(&spy).await, MigrationStage::Prepare);
    let moving = MigratingStore::new(old.clone(), node(&memory).await, MigrationStage::Move);
    let id = stored(&old).await;
    assert_eq!(read(&preparing, id).await, [Some(1), None]);
    spy.drop_messages();
    assert_eq!(read(&moving, id).await, [Some(1), None]);
    assert_eq!(read(&preparing, id).await, [Some(1), None]);
}

#[tokio::test]
async fn a_session_that_ends_while_it_is_moved_does_not_come_back() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    // Another node deletes it after this one has read it.
    cluster.old.loads.lock().unwrap().extend([None, Some(Fault::Deleted)]);
    assert_eq!(read(&cluster.moving, id).await, [None, None]);
    assert_eq!(cluster.places(id).await, (false, false));
}

#[tokio::test]
async fn a_session_that_another_node_is_moving_is_found() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let copy = cluster.old.memory.load(&id).await.unwrap().unwrap();
    assert_eq!(read(&cluster.moving, id).await, [Some(1), None]);
    // As this node reads it from the old store, the other one has not deleted it yet.
    cluster.old.memory.save(&copy).await.unwrap();
    cluster.new.store().evict_from_cache(cluster.new.store().all_session_ids().await.unwrap()[0]);
    assert_eq!(read(&cluster.preparing, id).await, [Some(1), None]);
    assert_eq!(read(&cluster.moving, id).await, [Some(1), None]);
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_session_where_it_was() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let fails = || Some(Fault::Fails);
    for (loads, deletions) in
        [(vec![fails()], vec![]), (vec![None, fails()], vec![]), (vec![], vec![fails()])]
    {
        cluster.old.loads.lock().unwrap().extend(loads);
        cluster.old.deletions.lock().unwrap().extend(deletions);
        assert!(cluster.moving.load(&id).await.is_err());
        assert_eq!(cluster.places(id).await, (true, false));
    }
    assert_eq!(read(&cluster.moving, id).await, [Some(1), None]);
}

#[tokio::test]
async fn a_client_that_disconnects_while_its_session_is_moved_leaves_no_copy() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let release = Arc::new(Notify::new());
    cluster.old.deletions.lock().unwrap().push_back(Some(Fault::Waits(release.clone())));
    tokio::select! {
        biased;
        _ = cluster.moving.load(&id) => panic!("the old store holds the deletion up"),
        () = settle() => {}
    }
    assert_eq!(cluster.places(id).await, (true, true));
    release.notify_one();
    assert_eq!(cluster.places(id).await, (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_move_that_an_old_store_does_not_finish_leaves_the_session_where_it_was() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let never = || Some(Fault::Waits(Arc::default()));
    for (loads, deletions) in
        [(vec![never()], vec![]), (vec![None, never()], vec![]), (vec![], vec![never()])]
    {
        cluster.old.loads.lock().unwrap().extend(loads);
        cluster.old.deletions.lock().unwrap().extend(deletions);
        assert!(cluster.moving.load(&id).await.is_err());
        assert_eq!(cluster.places(id).await, (true, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_that_an_old_store_does_not_finish_keeps_what_was_saved_meanwhile() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let never = Some(Fault::Waits(Arc::default()));
    cluster.old.deletions.lock().unwrap().push_back(never);
    let (moved, ()) = tokio::join!(cluster.moving.load(&id), save_b(&cluster.preparing, id));
    assert!(moved.is_err());
    assert_eq!(read(&cluster.moving, id).await, [Some(1), Some(2)]);
    request(&cluster.moving, id).flush().await.unwrap();
    assert_eq!(cluster.places(id).await, (false, false), "a logout ends both copies");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_before_it_is_moved_does_not_come_back_by_a_change() {
    for answers in [true, false] {
        let cluster = Cluster::start().await;
        let id = stored(&cluster.old).await;
        let release = Arc::new(Notify::new());
        let waits = Some(Fault::Waits(release.clone()));
        cluster.old.loads.lock().unwrap().extend([None, waits]);
        let meanwhile = async {
            save_b(&cluster.preparing, id).await;
            cluster.old.memory.delete(&id).await.unwrap();
            if answers {
                release.notify_one();
            }
        };
        let (moved, ()) = tokio::join!(cluster.moving.load(&id), meanwhile);
        assert_eq!(moved.is_ok(), answers);
        assert_eq!(cluster.places(id).await, (false, false));
    }
}

#[tokio::test]
async fn a_move_that_fails_removes_no_entry_that_the_next_one_needs() {
    let (old, spy) = (Old::default(), Spy::new());
    let moving = MigratingStore::new(old.clone(), node(&spy).await, MigrationStage::Move);
    let session = Session::new(None, Arc::new(old.clone()), None);
    session.insert("user", "ada").await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    old.deletions.lock().unwrap().push_back(Some(Fault::Fails));
    assert!(moving.load(&id).await.is_err());
    settle().await;
    let calls = spy.take_calls();
    assert!(calls.contains(&Call::AddToOwner), "{calls:?}");
    assert!(!calls.contains(&Call::RemoveFromOwner), "{calls:?}");
}

#[tokio::test]
async fn a_move_of_unknown_outcome_leaves_no_copy_in_the_new_store() {
    let (old, memory) = (Old::default(), MemoryBackend::new());
    let spy = Spy::over(&memory);
    let new = node(&spy).await;
    let moving = MigratingStore::new(old.clone(), new.clone(), MigrationStage::Move);
    let id = stored(&old).await;
    // The node remembers that the new store does not have it, so the next call creates it there.
    assert!(new.load(&id).await.unwrap().is_none());
    spy.lose_next_answer();
    assert!(moving.load(&id).await.is_err());
    assert!(old.memory.load(&id).await.unwrap().is_some());
    assert_eq!(node(&memory).await.store().size().await.unwrap(), 0);
}

/// A link that breaks after each creation.
#[derive(Clone, Debug, Default)]
struct BrokenLink(Arc<AtomicBool>);

impl Interposer for BrokenLink {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = std::result::Result<R, StoreError>> + Send + 'static,
    ) -> std::result::Result<R, StoreError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let answer = call.await;
        self.0.fetch_or(method == Call::Create, Ordering::Relaxed);
        answer
    }
}

#[tokio::test]
async fn a_session_that_ends_while_its_move_cannot_be_announced_does_not_come_back() {
    let (old, memory, link) = (Old::default(), MemoryBackend::new(), BrokenLink::default());
    let backend = Interposed::with_interposer(memory.clone(), link.clone());
    let new = start(config(&memory).backend(backend)).await;
    let moving = MigratingStore::new(old.clone(), new, MigrationStage::Move);
    let id = stored(&old).await;
    let release = Arc::new(Notify::new());
    old.loads.lock().unwrap().extend([None, Some(Fault::Waits(release.clone()))]);
    let meanwhile = async {
        settle().await;
        old.memory.delete(&id).await.unwrap();
        link.0.store(false, Ordering::Relaxed);
        release.notify_one();
    };
    let (moved, ()) = tokio::join!(moving.load(&id), meanwhile);
    assert!(moved.is_err());
    assert_eq!(node(&memory).await.store().size().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_forever_for_a_store_that_does_not_answer() {
    let cluster = Cluster::start().await;
    let id = stored(&cluster.old).await;
    let never = Some(Fault::Waits(Arc::default()));
    cluster.old.deletions.lock().unwrap().push_back(never);
    assert!(tokio::time::timeout(Duration::from_secs(1), cluster.moving.load(&id)).await.is_err());
    let shutdown = cluster.new.store().shutdown();
    assert!(tokio::time::timeout(Duration::from_secs(16), shutdown).await.is_ok());
    let old = cluster.old.memory.load(&id).await.unwrap().is_some();
    let new = node(&cluster.memory).await.load(&id).await.unwrap().is_some();
    assert_eq!((old, new), (true, false), "the session is where it was");
}

#[tokio::test]
async fn a_moved_session_keeps_its_expiry() {
    let cluster = Cluster::start().await;
    let expiry = Expiry::AtDateTime(OffsetDateTime::now_utc() + Duration::from_secs(86_400));
    let session = Session::new(None, Arc::new(cluster.old.clone()), Some(expiry));
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    let id = session.id().unwrap();
    let before = cluster.old.memory.load(&id).await.unwrap().unwrap().expiry_date;
    let moved = cluster.moving.load(&id).await.unwrap().unwrap();
    // It is converted by two readings of the clock.
    assert!((moved.expiry_date - before).abs() < Duration::from_secs(1));
}
