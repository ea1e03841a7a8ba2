//! `Expiry` as the lifetime of a session.

use std::sync::Arc;
use std::time::Duration;

use clustered_sessions::{Clock, KeyValues, MemoryBackend, SessionToken, TowerSessionsStore};
use time::OffsetDateTime;
use tokio::time::advance;

use super::tower_sessions::session::Id;
use super::tower_sessions::{Expiry, Session, SessionStore as _};
use crate::node::{config, start};
use crate::web::{Call, Spy, settle};

const MINUTE: Duration = Duration::from_secs(60);

struct Cluster {
    spy: Spy,
    clock: Clock,
}

impl Cluster {
    fn new() -> Self {
        let clock = Clock::tokio();
        Cluster { spy: Spy::over(&MemoryBackend::with_clock(clock.clone())), clock }
    }

    /// Starts a node with an idle timeout that is shorter than the sessions of the tests.
    async fn node(&self) -> TowerSessionsStore {
        start(config(&self.spy).clock(self.clock.clone()).timeout(5 * MINUTE)).await
    }
}

/// Returns an expiry so long from now: their sessions read the real clock, which does not move
/// while the test runs, and the store is given what is left by it.
fn after(time: Duration) -> Option<Expiry> {
    Some(Expiry::AtDateTime(OffsetDateTime::now_utc() + time))
}

fn past() -> Option<Expiry> {
    Some(Expiry::AtDateTime(OffsetDateTime::UNIX_EPOCH))
}

async fn stored(node: &TowerSessionsStore, expiry: Option<Expiry>) -> Id {
    let session = Session::new(None, Arc::new(node.clone()), expiry);
    session.insert("a", 1).await.unwrap();
    session.save().await.unwrap();
    session.id().unwrap()
}

/// Saves a session that a request has not changed, as a layer with `with_always_save` does.
async fn save(node: &TowerSessionsStore, id: Id, expiry: Option<Expiry>) {
    Session::new(Some(id), Arc::new(node.clone()), expiry).save().await.unwrap();
}

async fn is_alive(node: &TowerSessionsStore, id: Id) -> bool {
    settle().await;
    node.load(&id).await.unwrap().is_some()
}

async fn pass(time: Duration) {
    settle().await;
    advance(time).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_its_own_expiry_says() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node().await, cluster.node().await);
    for round in 0..2u32 {
        let expiry = match round {
            0 => Expiry::OnInactivity((60 * MINUTE).try_into().unwrap()),
            _ => Expiry::AtDateTime(OffsetDateTime::now_utc() + 60 * MINUTE),
        };
        let id = stored(&here, Some(expiry)).await;
        // Reading does not extend it, neither here nor by the store.
        for _ in 0..5 {
            pass(10 * MINUTE).await;
            assert!(is_alive(&here, id).await && is_alive(&there, id).await);
            let native = SessionToken::from_bytes(id.0.to_le_bytes()).session_id();
            assert!(here.store().visit(native).await.unwrap().is_some());
            assert!(here.store().touch(native).await.unwrap());
        }
        pass(9 * MINUTE).await;
        assert!(is_alive(&here, id).await && is_alive(&there, id).await);
        pass(2 * MINUTE).await;
        assert!(!is_alive(&here, id).await && !is_alive(&there, id).await);
    }
}

#[cfg(feature = "_guards")]
#[tokio::test]
async fn a_node_whose_clock_is_wrong_neither_lengthens_nor_shortens_a_session() {
    for hours in [-1, 1] {
        // Their clock cannot be changed, so that of the store is. Seen from there, theirs is wrong.
        let clock = Clock::wrong_by(hours * 3_600_000);
        let memory = MemoryBackend::with_clock(clock.clone());
        let node = start(config(&memory).clock(clock)).await;
        let expiry = Some(Expiry::OnInactivity((10 * MINUTE).try_into().unwrap()));
        let id = stored(&node, expiry).await;
        save(&node, id, expiry).await;

        let theirs = node.load(&id).await.unwrap().expect("the session is alive");
        let native = SessionToken::from_bytes(id.0.to_le_bytes()).session_id();
        let ours = node.store().get(native).await.unwrap();
        for left in [
            (theirs.expiry_date - OffsetDateTime::now_utc()).try_into().unwrap(),
            ours.expires_at().duration_since(ours.created_at()).unwrap(),
        ] {
            assert!(left > 9 * MINUTE && left < 11 * MINUTE, "{left:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_expiry_a_session_lasts_two_weeks_as_their_default_is() {
    let cluster = Cluster::new();
    let node = cluster.node().await;
    let id = stored(&node, Some(Expiry::OnSessionEnd)).await;
    let record = node.load(&id).await.unwrap().unwrap();
    let left = record.expiry_date - OffsetDateTime::now_utc();
    assert_eq!((left + Duration::from_secs(30)).whole_days(), 14);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_only_extends_a_session_is_written_once_a_quarter_has_passed() {
    let cluster = Cluster::new();
    let node = cluster.node().await;
    let id = stored(&node, after(60 * MINUTE)).await;
    cluster.spy.take_calls();
    save(&node, id, after(74 * MINUTE)).await;
    assert_eq!(cluster.spy.take_calls(), [], "14 of 74 minutes are gained");
    save(&node, id, after(81 * MINUTE)).await;
    assert_eq!(cluster.spy.take_calls(), [Call::Update], "21 of 81");
    pass(80 * MINUTE).await;
    assert!(is_alive(&node, id).await);
    pass(2 * MINUTE).await;
    assert!(!is_alive(&node, id).await);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_expiry_counts_at_once_on_every_node() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node().await, cluster.node().await);
    let id = stored(&here, after(60 * MINUTE)).await;
    assert!(is_alive(&there, id).await);
    save(&here, id, after(10 * MINUTE)).await;
    pass(11 * MINUTE).await;
    assert!(!is_alive(&here, id).await && !is_alive(&there, id).await);

    let id = stored(&here, after(60 * MINUTE)).await;
    assert!(is_alive(&there, id).await);
    save(&here, id, past()).await;
    assert!(!is_alive(&here, id).await && !is_alive(&there, id).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_expired_is_not_stored() {
    let cluster = Cluster::new();
    let node = cluster.node().await;
    cluster.spy.take_calls();
    let id = stored(&node, past()).await;
    assert_eq!(cluster.spy.take_calls(), []);
    assert!(!is_alive(&node, id).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_missed_an_earlier_expiry_does_not_undo_it() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node().await, cluster.node().await);
    let id = stored(&here, after(60 * MINUTE)).await;
    assert!(is_alive(&there, id).await);
    cluster.spy.drop_messages();
    save(&here, id, after(10 * MINUTE)).await;
    let native = SessionToken::from_bytes(id.0.to_le_bytes()).session_id();
    assert!(there.store().touch(native).await.unwrap());
    pass(11 * MINUTE).await;
    assert!(here.store().find_fresh(native).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_missed_the_first_expiry_of_a_session_does_not_undo_it() {
    let cluster = Cluster::new();
    let (here, there) = (cluster.node().await, cluster.node().await);
    let created = here.store().create(KeyValues::default()).await.unwrap();
    let id = Id(i128::from_le_bytes(*created.token.expose_bytes()));
    assert!(is_alive(&there, id).await);
    cluster.spy.drop_messages();
    save(&here, id, after(MINUTE)).await;
    assert!(there.store().touch(created.id).await.unwrap());
    pass(2 * MINUTE).await;
    assert!(here.store().find_fresh(created.id).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_absolute_timeout_bounds_every_expiry() {
    let cluster = Cluster::new();
    let config = config(&cluster.spy).clock(cluster.clock.clone()).timeout(5 * MINUTE);
    let node = start(config.absolute_timeout(30 * MINUTE)).await;
    let id = stored(&node, after(60 * MINUTE)).await;
    pass(20 * MINUTE).await;
    save(&node, id, after(90 * MINUTE)).await;
    assert!(is_alive(&node, id).await);
    pass(11 * MINUTE).await;
    assert!(!is_alive(&node, id).await);
}
