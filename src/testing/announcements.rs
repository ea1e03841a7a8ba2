//! What is heard of them.

use std::time::Duration;

use super::{LONG, PATIENCE, any_id, any_record, later, ok, same, tombstone, with_payload};
use crate::backend::{Backend, Event, Subscription, Update};
use crate::record::Revision;

const HEARTBEAT: Duration = Duration::from_millis(20);

pub(super) async fn a_subscription_is_confirmed_and_proven(backend: &impl Backend) {
    let before = tokio::time::Instant::now().into_std();
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    same(
        &next(&mut subscription).await,
        &Event::Connected,
        "a subscription begins with its confirmation",
    );
    let mut last = before;
    for _ in 0..3 {
        let Event::Alive(sent_at) = next(&mut subscription).await else {
            panic!("nothing was announced")
        };
        assert!(sent_at >= last, "proofs come in order");
        last = sent_at;
    }
    assert!(last > before, "proofs go on");
}

pub(super) async fn writes_are_announced_in_order(backend: &impl Backend) {
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"update")).await);
    ok(backend.delete(&id, b"delete").await);
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.delete_if(&id, base.meta.revision, b"delete if").await);
    ok(backend.publish(b"publish\0\xff\n").await);
    ok(backend.clear(b"clear").await);
    for expected in [&b"update"[..], b"delete", b"delete if", b"publish\0\xff\n", b"clear"] {
        same(
            &message(&mut subscription).await,
            &expected.to_vec(),
            "writes are announced in their order",
        );
    }
}

pub(super) async fn what_changed_nothing_is_not_announced(backend: &impl Backend) {
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.update(Update::new(&any_id(), base.meta.revision, &new, LONG, b"gone")).await);
    ok(backend.update(Update::new(&id, Revision::first(), &new, LONG, b"conflict")).await);
    ok(backend.delete_if(&id, Revision::first(), b"conflict").await);
    ok(backend.touch(&id, later(base.meta.deadline), LONG).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"saved")).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"repeated")).await);
    ok(backend.publish(b"end").await);
    same(
        &message(&mut subscription).await,
        &b"saved".to_vec(),
        "creating, conflicts and touches are no news",
    );
    same(
        &message(&mut subscription).await,
        &b"end".to_vec(),
        "a repetition that changes nothing is no news",
    );
}

pub(super) async fn deletions_are_announced_even_of_what_was_gone(backend: &impl Backend) {
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    let grave = any_id();
    ok(backend.create(&grave, &tombstone(Revision::first(), any_id()), LONG).await);
    ok(backend.delete(&any_id(), b"gone").await);
    ok(backend.delete(&grave, b"moved").await);
    ok(backend.delete_if(&any_id(), Revision::first(), b"gone, too").await);
    for expected in [&b"gone"[..], b"moved", b"gone, too"] {
        same(
            &message(&mut subscription).await,
            &expected.to_vec(),
            "a deletion is announced in any case",
        );
    }
}

pub(super) async fn a_proof_comes_after_what_it_proves(backend: &impl Backend) {
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    for round in 0..20u8 {
        ok(backend.publish(&[round]).await);
        let announced = tokio::time::Instant::now().into_std();
        let mut heard = false;
        loop {
            match next(&mut subscription).await {
                Event::Message(message) if message[..] == [round] => heard = true,
                Event::Alive(sent_at) if sent_at >= announced => {
                    assert!(heard, "a proof overtook an announcement that was made before it");
                    break;
                }
                _ => {}
            }
        }
    }
}

pub(super) async fn every_subscriber_hears(backend: &impl Backend) {
    let mut one = ok(backend.subscribe(HEARTBEAT).await);
    let mut two = ok(backend.subscribe(HEARTBEAT).await);
    ok(backend.publish(b"both").await);
    for subscription in [&mut one, &mut two] {
        same(
            &message(subscription).await,
            &b"both".to_vec(),
            "every subscriber hears every announcement",
        );
    }
    drop(one);
    ok(backend.publish(b"the other").await);
    same(
        &message(&mut two).await,
        &b"the other".to_vec(),
        "one that leaves takes nothing from the others",
    );
}

async fn next(subscription: &mut Subscription) -> Event {
    match tokio::time::timeout(PATIENCE, subscription.next()).await {
        Ok(Some(event)) => event,
        Ok(None) => panic!("the subscription has ended"),
        Err(_) => panic!("nothing is heard"),
    }
}

/// The next message, whatever proofs come before it.
async fn message(subscription: &mut Subscription) -> Vec<u8> {
    loop {
        if let Event::Message(message) = next(subscription).await {
            return message.to_vec();
        }
    }
}
