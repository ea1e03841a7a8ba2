//! The holder of a stolen session, who tries to outrun its end.

use std::rc::Rc;
use std::time::Duration;

use clustered_sessions::{SessionId, SessionStore};
use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout};

use crate::owners::recorded;
use crate::promise::promise;
use crate::request::{Answer, request};
use crate::{Counter, Node, nodes_with};

/// Operations that the holder of a stolen session performs as fast as the backend replies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Thief {
    /// One client regenerates the session again and again.
    Regenerates,
    /// Many clients on two nodes change the session's data.
    Updates,
}

/// Checks that `delete_all_of` completes and deletes all sessions of an owner, however fast they
/// are regenerated or changed. There are no faults, and each call takes up to 20 ms.
pub(crate) async fn thief(seed: u64, thief: Thief) {
    let nodes = nodes_with(3, seed, |_, config| config);
    sleep(Duration::from_secs(1)).await;
    for node in nodes.iter() {
        node.faults.delay_calls_by(Duration::from_millis(1)..Duration::from_millis(20));
    }
    let ada = Counter { count: 0, owner: Some("ada".to_owned()) };
    for _ in 0..5 {
        let _ = nodes[2].store().create(ada.clone()).await.unwrap();
    }
    let clients = match thief {
        Thief::Regenerates => {
            let stolen = nodes[0].layer.cookie_for(ada).await.unwrap();
            vec![tokio::task::spawn_local(regenerate_for_ever(nodes.clone(), stolen))]
        }
        Thief::Updates => {
            let stolen = nodes[0].store().create(ada).await.unwrap().id;
            let client = |at: usize| update_for_ever(nodes[at % 2].store().clone(), stolen);
            (0..32).map(|at| tokio::task::spawn_local(client(at))).collect()
        }
    };
    sleep(match thief {
        // Long enough for many regenerations, and for tombstones to expire.
        Thief::Regenerates => Duration::from_secs(65),
        Thief::Updates => Duration::from_secs(1),
    })
    .await;
    let began = Instant::now();
    let done = nodes[2].store().delete_all_of("ada").await.expect("the revocation completes");
    // A regeneration that was under way had two records.
    let expected = if matches!(thief, Thief::Regenerates) { 6..=7 } else { 6..=6 };
    promise!(
        NotRevoked,
        expected.contains(&done.deleted),
        "{} sessions were deleted",
        done.deleted
    );
    assert!(began.elapsed() < Duration::from_secs(20), "the revocation took {:?}", began.elapsed());
    for client in clients {
        timeout(Duration::from_secs(1), client).await.expect("the stolen session ends").unwrap();
    }
    let left = recorded(nodes[0].store(), "ada").await;
    promise!(NotRevoked, left.is_empty(), "{} sessions are left", left.len());
}

/// Regenerates the session until it ends.
async fn regenerate_for_ever(nodes: Rc<Vec<Node>>, mut cookie: HeaderValue) {
    while let Answer::Saved(_, Some(new)) = request(&nodes[0], Some(cookie), None).await {
        cookie = new;
    }
}

/// Updates the session until it ends.
async fn update_for_ever(store: SessionStore<Counter>, id: SessionId) {
    while store.modify(id, |data| data.count += 1).await.is_ok() {}
}
