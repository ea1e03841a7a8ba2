//! What becomes of the index of owners.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{LONG, PATIENCE, any_id, any_record, ok, same};
use crate::backend::{Backend, Created, Cursor, OwnerTag, Page, Timestamp};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::Revision;

/// More than fit into one page, or into whatever a backend keeps small sets in.
const MANY: usize = 1000;

fn any_owner() -> OwnerTag {
    OwnerTag::from_bytes(random_bytes())
}

/// Returns the moment that is `time` from now.
fn after(time: Duration) -> Timestamp {
    Timestamp::from(SystemTime::now()).saturating_add(time)
}

/// Returns `false` if the backend consistently keeps no owner index.
pub(super) async fn is_supported(backend: &impl Backend) -> bool {
    let (owner, id) = (any_owner(), any_id());
    let missing = |error: Option<StoreError>| {
        error.is_some_and(|error| error.kind() == StoreErrorKind::NotConfigured)
    };
    let answers = [
        missing(backend.add_to_owner(&owner, &id, after(LONG)).await.err()),
        missing(backend.sessions_of_owner(&owner, None).await.err()),
        missing(backend.remove_from_owner(&owner, &id).await.err()),
    ];
    let all_or_none = answers.iter().all(|missing| *missing == answers[0]);
    assert!(all_or_none, "a backend implements all methods of the owner index or none");
    !answers[0]
}

async fn entries(backend: &impl Backend, owner: &OwnerTag) -> HashSet<SessionId> {
    let (mut met, mut cursor) = (HashSet::new(), None::<Cursor>);
    loop {
        match ok(backend.sessions_of_owner(owner, cursor.as_ref()).await) {
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
        ok(backend.add_to_owner(&one, id, after(LONG)).await);
        ok(backend.add_to_owner(&one, id, after(LONG)).await);
    }
    same(&entries(backend, &one).await, &ids, "an index has what was added, each once");
    same(
        &entries(backend, &other).await,
        &HashSet::new(),
        "an index has nothing of another owner's",
    );

    let id = any_id();
    ok(backend.add_to_owner(&one, &id, after(LONG)).await);
    ok(backend.add_to_owner(&other, &id, after(LONG)).await);
    ok(backend.remove_from_owner(&one, &id).await);
    ok(backend.remove_from_owner(&one, &id).await);
    same(&entries(backend, &one).await, &ids, "what is removed is there no more");
    same(&entries(backend, &other).await, &[id].into(), "it is removed from the one index alone");
}

pub(super) async fn a_walk_over_an_index_meets_all_of_it(backend: &impl Backend) {
    let owner = any_owner();
    let mut ids = HashSet::new();
    for _ in 0..MANY {
        let id = any_id();
        ok(backend.add_to_owner(&owner, &id, after(LONG)).await);
        ok(backend.add_to_owner(&any_owner(), &any_id(), after(LONG)).await);
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
    ok(backend.add_to_owner(&owner, &short, soon).await);
    ok(backend.add_to_owner(&owner, &extended, after(LONG)).await);
    ok(backend.add_to_owner(&owner, &extended, soon).await);
    ok(backend.add_to_owner(&left_alone, &long, after(LONG)).await);
    ok(backend.add_to_owner(&left_alone, &short, soon).await);
    let begin = Instant::now();
    while entries(backend, &owner).await.contains(&short) {
        assert!(begin.elapsed() < PATIENCE, "an index grows for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
        ok(backend.add_to_owner(&owner, &long, after(LONG)).await);
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
    ok(backend.add_to_owner(&owner, &id, after(LONG)).await);
    same(&ok(backend.clear(b"news").await), &0, "an entry is not a session");
    same(
        &entries(backend, &owner).await,
        &[id].into(),
        "a session that is being created stays in the index",
    );
    let created = ok(backend.create(&id, &any_record(Revision::first()), LONG).await);
    same(&created, &Created::Created, "an entry does not stand in the way of its session");
}
