//! Checks of records.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Buf as _;
use futures_util::future::join_all;

use super::{
    LONG, any_id, any_record, created, extension, ok, same, scan, tombstone, with_payload,
};
use crate::backend::{Backend, Created, Deleted, Lifespan, Timestamp, Touched, Update, Updated};
use crate::error::StoreError;
use crate::id::SessionId;
use crate::record::{Content, Revision, Stored};
use crate::task::join_result;

const LIFESPANS: [Lifespan; 3] = [Lifespan::Ordinary, Lifespan::Remembered, Lifespan::Fixed];
const ANNOUNCEMENT: &[u8] = b"announcement";

pub(super) async fn an_unknown_id_has_no_record(backend: &impl Backend) {
    same(&ok(backend.load(&any_id()).await), &None, "an unknown id is `None` and no error");
    same(
        &ok(backend.touch(&any_id(), extension(Timestamp::from_millis(1), LONG)).await),
        &Touched::Gone,
        "an unknown id cannot be touched",
    );
    ok(backend.ping().await);
}

pub(super) async fn a_record_is_loaded_as_it_was_created(backend: &impl Backend) {
    let first = Revision::first();
    let large = with_payload(first, vec![0xa5; 256 * 1024]);
    let empty = with_payload(first, Vec::new());
    let mut records = vec![large, empty, tombstone(first, any_id())];
    records.extend(LIFESPANS.map(|lifespan| with_lifespan(any_record(first), lifespan)));
    for stored in records {
        let id = any_id();
        same(
            &ok(backend.create(&id, &stored, LONG).await),
            &Created::Created,
            "a record is created under a new id",
        );
        same(&ok(backend.load(&id).await), &Some(stored), "a record is loaded as it was created");
    }
}

pub(super) async fn creating_twice_changes_nothing(backend: &impl Backend) {
    let (id, first) = created(backend, LONG).await;
    let second = any_record(Revision::first());
    same(
        &ok(backend.create(&id, &second, LONG).await),
        &Created::Exists,
        "an existing record is not created again",
    );
    same(&ok(backend.load(&id).await), &Some(first), "a second creation changes nothing");
}

pub(super) async fn an_update_of_the_expected_revision_is_saved(backend: &impl Backend) {
    let (id, mut base) = created(backend, LONG).await;
    for lifespan in LIFESPANS {
        let new = with_lifespan(with_payload(base.meta.revision.next(), "new"), lifespan);
        same(
            &ok(update(backend, &id, &base, &new).await),
            &Updated::Saved,
            "a record with the expected revision is replaced",
        );
        same(
            &ok(backend.load(&id).await),
            &Some(new.clone()),
            "the new record is loaded after an update",
        );
        base = new;
    }
}

pub(super) async fn an_update_of_another_revision_is_a_conflict(backend: &impl Backend) {
    let (id, current) = created(backend, LONG).await;
    let stale = any_record(Revision::first());
    let new = with_payload(stale.meta.revision.next(), "new");
    let answer = ok(update(backend, &id, &stale, &new).await);
    same(
        &answer,
        &Updated::Conflict(current.clone()),
        "a conflict returns the record that is there",
    );
    same(&ok(backend.load(&id).await), &Some(current.clone()), "a conflict changes nothing");

    let moved = tombstone(current.meta.revision.next(), any_id());
    same(
        &ok(update(backend, &id, &current, &moved).await),
        &Updated::Saved,
        "an update can write a tombstone",
    );
    let answer = ok(update(backend, &id, &current, &new).await);
    same(&answer, &Updated::Conflict(moved), "a tombstone with another revision is a conflict");
}

pub(super) async fn an_update_never_creates(backend: &impl Backend) {
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Gone,
        "a missing record is not updated",
    );
    same(&ok(backend.load(&id).await), &None, "an update never creates");
}

pub(super) async fn an_update_can_be_retried(backend: &impl Backend) {
    let (id, base) = created(backend, LONG).await;
    let new = with_payload(base.meta.revision.next(), "new");
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Saved,
        "a record with the expected revision is replaced",
    );
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Saved,
        "an update that finds its own revision is saved",
    );
    same(&ok(backend.load(&id).await), &Some(new), "a retry changes nothing");
}

pub(super) async fn concurrent_updates_lose_nothing<B: Backend>(backend: &Arc<B>) {
    const WRITERS: u64 = 20;
    let (id, stored) = (any_id(), counter(Revision::first(), 0));
    ok(backend.create(&id, &stored, LONG).await);
    // In tasks of their own: writers of one task would run at the same time only where they wait.
    let writers = (0..WRITERS).map(|_| tokio::spawn(increment(backend.clone(), id)));
    for writer in join_all(writers).await {
        join_result(writer);
    }
    let last = ok(backend.load(&id).await).map(|stored| count(&stored));
    same(&last, &Some(WRITERS), "each concurrent update is applied exactly once");
}

async fn increment(backend: Arc<impl Backend>, id: SessionId) {
    let Some(mut base) = ok(backend.load(&id).await) else { panic!("the record is gone") };
    loop {
        let new = counter(base.meta.revision.next(), count(&base) + 1);
        match ok(update(&backend, &id, &base, &new).await) {
            Updated::Saved => return,
            Updated::Conflict(current) => base = current,
            Updated::Gone => panic!("the record is gone"),
        }
    }
}

fn counter(revision: Revision, count: u64) -> Stored {
    with_payload(revision, count.to_be_bytes().to_vec())
}

fn count(counter: &Stored) -> u64 {
    match &counter.content {
        Content::Payload(payload) if payload.len() == 8 => payload.clone().get_u64(),
        _ => panic!("the payload has changed"),
    }
}

pub(super) async fn a_deleted_record_is_gone(backend: &impl Backend) {
    let (id, _) = created(backend, LONG).await;
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::Deleted,
        "an existing record is deleted",
    );
    same(&ok(backend.load(&id).await), &None, "a deleted record is not loaded");
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::Gone,
        "a missing record is not deleted again",
    );
}

pub(super) async fn a_deletion_reports_a_tombstone_and_keeps_it(backend: &impl Backend) {
    let (id, to) = (any_id(), any_id());
    let moved = tombstone(Revision::first(), to);
    ok(backend.create(&id, &moved, LONG).await);
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::MovedTo(to),
        "a deletion reports the id that a tombstone names",
    );
    same(&ok(backend.load(&id).await), &Some(moved), "a deletion keeps a tombstone");
    same(
        &ok(backend.touch(&id, extension(Timestamp::from_millis(u64::MAX), LONG)).await),
        &Touched::Gone,
        "a tombstone is not extended",
    );
}

pub(super) async fn a_conditional_deletion_keeps_another_revision(backend: &impl Backend) {
    let (id, current) = created(backend, LONG).await;
    let answer = ok(backend.delete_if(&id, Revision::first(), ANNOUNCEMENT).await);
    same(
        &answer,
        &Deleted::Conflict(current.clone()),
        "a conditional deletion of another revision is a conflict",
    );
    same(&ok(backend.load(&id).await), &Some(current.clone()), "a conflict changes nothing");
    let answer = ok(backend.delete_if(&id, current.meta.revision, ANNOUNCEMENT).await);
    same(&answer, &Deleted::Deleted, "a conditional deletion removes its revision");
    let answer = ok(backend.delete_if(&id, current.meta.revision, ANNOUNCEMENT).await);
    same(&answer, &Deleted::Gone, "a missing record is not deleted again");
}

pub(super) async fn a_scan_finds_each_session_and_reports_tombstones_apart(backend: &impl Backend) {
    let mut sessions = HashSet::new();
    for _ in 0..1000 {
        sessions.insert(created(backend, LONG).await.0);
    }
    let mut targets = HashSet::new();
    for _ in 0..10 {
        let to = any_id();
        ok(backend.create(&any_id(), &tombstone(Revision::first(), to), LONG).await);
        targets.insert(to);
    }
    let (found, moved_to) = scan(backend).await;
    same(&sessions.difference(&found).count(), &0, "a scan finds each session");
    same(&found.difference(&sessions).count(), &0, "a scan finds nothing but sessions");
    same(&moved_to, &targets, "a scan reports the ids that tombstones name");
}

pub(super) async fn clear_leaves_nothing(backend: &impl Backend) {
    let mut ids = Vec::new();
    for _ in 0..700 {
        ids.push(created(backend, LONG).await.0);
    }
    let tombstone_id = any_id();
    ok(backend.create(&tombstone_id, &tombstone(Revision::first(), any_id()), LONG).await);
    same(&ok(backend.clear(ANNOUNCEMENT).await), &700, "`clear` counts sessions and no tombstones");
    ids.push(tombstone_id);
    for id in ids {
        same(&ok(backend.load(&id).await), &None, "`clear` removes each record");
    }
    same(&ok(backend.clear(ANNOUNCEMENT).await), &0, "`clear` of an empty backend counts nothing");
}

fn with_lifespan(mut stored: Stored, lifespan: Lifespan) -> Stored {
    stored.meta.lifespan = lifespan;
    stored
}

async fn update(
    backend: &impl Backend,
    id: &SessionId,
    base: &Stored,
    new: &Stored,
) -> Result<Updated, StoreError> {
    backend.update(Update::new(id, base.meta.revision, new, LONG, ANNOUNCEMENT)).await
}
