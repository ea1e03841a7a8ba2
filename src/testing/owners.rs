//! What becomes of the index of owners.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{LONG, PATIENCE, any_id, any_record, ok, same};
use crate::backend::{Backend, Created, Cursor, OwnerTag, Page};
use crate::clock::millis;
use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::Revision;

/// More than fit into one page, or into whatever a backend keeps small sets in.
const MANY: usize = 1000;

fn any_owner() -> OwnerTag {
    OwnerTag::from_bytes(random_bytes())
}

/// In milliseconds since the Unix epoch.
fn after(time: Duration) -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + time)
}

async fn entries(backend: &impl Backend, owner: &OwnerTag) -> HashSet<SessionId> {
    let (mut met, mut cursor) = (HashSet::new(), None::<Cursor>);
    loop {
        match ok(backend.indexed(owner, cursor.as_ref()).await) {
            Page::Ids { ids, moved, next } => {
                same(&moved, &Vec::new(), "an index does not know what has moved");
                met.extend(ids);
                cursor = next;
            }
            Page::Restart => (met, cursor) = Default::default(),
        }
        if cursor.is_none() {
            return met;
        }
    }
}

pub(super) async fn an_owner_is_not_taken_for_another(backend: &impl Backend) {
    let (one, other) = (any_owner(), any_owner());
    let ids: HashSet<_> = [(); 3].map(|()| any_id()).into();
    for id in &ids {
        ok(backend.index(&one, id, after(LONG)).await);
        ok(backend.index(&one, id, after(LONG)).await);
    }
    same(&entries(backend, &one).await, &ids, "an index has what was added, each once");
    same(
        &entries(backend, &other).await,
        &HashSet::new(),
        "an index has nothing of another owner's",
    );

    let id = any_id();
    ok(backend.index(&one, &id, after(LONG)).await);
    ok(backend.index(&other, &id, after(LONG)).await);
    ok(backend.unindex(&one, &id).await);
    ok(backend.unindex(&one, &id).await);
    same(&entries(backend, &one).await, &ids, "what is removed is there no more");
    same(&entries(backend, &other).await, &[id].into(), "it is removed from the one index alone");
}

pub(super) async fn a_walk_over_an_index_meets_all_of_it(backend: &impl Backend) {
    let owner = any_owner();
    let mut ids = HashSet::new();
    for _ in 0..MANY {
        let id = any_id();
        ok(backend.index(&owner, &id, after(LONG)).await);
        ok(backend.index(&any_owner(), &any_id(), after(LONG)).await);
        ids.insert(id);
    }
    let met = entries(backend, &owner).await;
    same(&met.len(), &MANY, "a walk meets every entry, and nothing of another owner's");
    same(&met, &ids, "a walk meets every entry");
    let page = ok(backend.scan(None).await);
    assert!(!matches!(page, Page::Ids { ids, .. } if !ids.is_empty()), "an entry is not a session");
}

pub(super) async fn an_entry_lasts_until_its_moment_and_is_forgotten_after_it(
    backend: &impl Backend,
) {
    let (owner, left_alone) = (any_owner(), any_owner());
    let (short, extended, long) = (any_id(), any_id(), any_id());
    let soon = after(Duration::from_millis(50));
    ok(backend.index(&owner, &short, soon).await);
    ok(backend.index(&owner, &extended, after(LONG)).await);
    ok(backend.index(&owner, &extended, soon).await);
    ok(backend.index(&left_alone, &long, after(LONG)).await);
    ok(backend.index(&left_alone, &short, soon).await);
    let begin = Instant::now();
    while entries(backend, &owner).await.contains(&short) {
        assert!(begin.elapsed() < PATIENCE, "an index grows for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
        ok(backend.index(&owner, &long, after(LONG)).await);
    }
    assert!(after(Duration::ZERO) >= soon, "an entry is forgotten before its time");
    same(
        &entries(backend, &owner).await.contains(&extended),
        &true,
        "an entry lasts until the latest moment given",
    );
    same(
        &entries(backend, &left_alone).await.contains(&long),
        &true,
        "an index lasts as long as one of its entries",
    );
}

pub(super) async fn clear_leaves_the_indices(backend: &impl Backend) {
    let (owner, id) = (any_owner(), any_id());
    ok(backend.index(&owner, &id, after(LONG)).await);
    same(&ok(backend.clear(b"news").await), &0, "an entry is not a session");
    same(
        &entries(backend, &owner).await,
        &[id].into(),
        "a session that is being created stays in the index",
    );
    let created = ok(backend.create(&id, &any_record(Revision::first()), LONG).await);
    same(&created, &Created::Created, "an entry does not stand in the way of its session");
}
