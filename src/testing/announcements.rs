//! Checks of announcements and subscriptions.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    LONG, PATIENCE, any_id, any_record, created, extension, later, ok, same, tombstone,
    with_payload,
};
use crate::backend::{Backend, Event, Subscription, Update};
use crate::record::Revision;

const HEARTBEAT: Duration = Duration::from_millis(20);

pub(super) async fn a_subscription_is_confirmed_and_alive(backend: &impl Backend) {
    let before = Instant::now().into_std();
    let mut subscription = connected(backend).await;
    let mut last = before;
    for _ in 0..3 {
        let Event::Alive(sent_at) = proof(&mut subscription).await else {
            panic!("a subscription is confirmed once")
        };
        assert!(sent_at >= last, "`Alive` events come in order");
        last = sent_at;
    }
    assert!(last > before, "`Alive` events continue");
}

pub(super) async fn writes_are_announced_in_order(backend: &impl Backend) {
    let subscription = connected(backend).await;
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"update")).await);
    ok(backend.delete(&id, b"delete").await);
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.delete_if(&id, base.meta.revision, b"delete if").await);
    let mut messages = Messages::of(subscription);
    let expected = [&b"update"[..], b"delete", b"delete if"];
    messages.arrive(&expected, "writes are announced").await;
    same(
        &messages.of_these(&expected),
        &expected.map(<[u8]>::to_vec).to_vec(),
        "announcements about a session arrive in the order of the writes",
    );
}

pub(super) async fn announcements_about_no_session_arrive(backend: &impl Backend) {
    let subscription = connected(backend).await;
    ok(backend.publish(b"publish\0\xff\n").await);
    ok(backend.clear(b"clear").await);
    Messages::of(subscription)
        .arrive(
            &[b"publish\0\xff\n", b"clear"],
            "`publish` and `clear` are announced, byte for byte",
        )
        .await;
}

pub(super) async fn calls_that_change_nothing_are_not_announced(backend: &impl Backend) {
    let subscription = connected(backend).await;
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    ok(backend.create(&id, &base, LONG).await);
    ok(backend.update(Update::new(&any_id(), base.meta.revision, &new, LONG, b"of nothing")).await);
    ok(backend.update(Update::new(&id, Revision::first(), &new, LONG, b"conflict")).await);
    ok(backend.delete_if(&id, Revision::first(), b"conflict").await);
    ok(backend.touch(&id, extension(later(base.meta.deadline), LONG)).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"saved")).await);
    ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, b"repeated")).await);
    ok(backend.publish(b"end").await);
    let mut messages = Messages::of(subscription);
    messages.arrive(&[b"saved", b"end"], "a write and `publish` are announced").await;
    same(
        &messages.of_these(&[b"of nothing", b"conflict", b"repeated"]),
        &Vec::new(),
        "creations, conflicts, touches, and retries that change nothing are not announced",
    );
}

pub(super) async fn each_deletion_is_announced(backend: &impl Backend) {
    let subscription = connected(backend).await;
    let moved = any_id();
    ok(backend.create(&moved, &tombstone(Revision::first(), any_id()), LONG).await);
    ok(backend.delete(&any_id(), b"gone").await);
    ok(backend.delete(&moved, b"moved").await);
    ok(backend.delete_if(&any_id(), Revision::first(), b"gone, too").await);
    Messages::of(subscription)
        .arrive(
            &[b"gone", b"moved", b"gone, too"],
            "a deletion is announced even if there is no record",
        )
        .await;
}

pub(super) async fn alive_comes_after_all_announcements_before_it(backend: &impl Backend) {
    let mut subscription = connected(backend).await;
    for round in 0..20u8 {
        // Each announcement is made once: an earlier one may arrive again.
        let [publish, update, delete, delete_if, clear] = [0, 1, 2, 3, 4].map(|call| [call, round]);
        ok(backend.publish(&publish).await);
        arrives_before_alive(&mut subscription, &publish, "publish").await;

        let (id, base) = created(backend, LONG).await;
        let new = with_payload(base.meta.revision.next(), "new");
        ok(backend.update(Update::new(&id, base.meta.revision, &new, LONG, &update)).await);
        arrives_before_alive(&mut subscription, &update, "update").await;
        ok(backend.delete(&id, &delete).await);
        arrives_before_alive(&mut subscription, &delete, "delete").await;

        let (id, base) = created(backend, LONG).await;
        ok(backend.delete_if(&id, base.meta.revision, &delete_if).await);
        arrives_before_alive(&mut subscription, &delete_if, "delete_if").await;

        created(backend, LONG).await;
        ok(backend.clear(&clear).await);
        arrives_before_alive(&mut subscription, &clear, "clear").await;
    }
}

/// Asserts that the announcement of a call that has just ended arrives before any proof that was
/// requested since.
async fn arrives_before_alive(subscription: &mut Subscription, announcement: &[u8], call: &str) {
    let ended = Instant::now().into_std();
    let mut received = false;
    loop {
        match next(subscription).await {
            Event::Message(message) if message == announcement => received = true,
            Event::Alive(sent_at) if sent_at > ended => {
                assert!(received, "`Alive` overtook the announcement that `{call}` has made");
                break;
            }
            _ => {}
        }
    }
}

pub(super) async fn each_subscriber_receives_each_announcement(backend: &impl Backend) {
    let mut one = Messages::of(connected(backend).await);
    let mut two = Messages::of(connected(backend).await);
    ok(backend.publish(b"both").await);
    for messages in [&mut one, &mut two] {
        messages.arrive(&[b"both"], "each subscriber receives each announcement").await;
    }
    drop(one);
    ok(backend.publish(b"the other").await);
    two.arrive(&[b"the other"], "a subscriber that leaves does not affect the others").await;
}

/// Subscribes, and waits until the subscription is confirmed: announcements from before may be
/// missed.
async fn connected(backend: &impl Backend) -> Subscription {
    let mut subscription = ok(backend.subscribe(HEARTBEAT).await);
    same(
        &proof(&mut subscription).await,
        &Event::Connected,
        "a subscription begins with `Connected`",
    );
    subscription
}

async fn next(subscription: &mut Subscription) -> Event {
    match timeout(PATIENCE, subscription.next()).await {
        Ok(Some(event)) => event,
        Ok(None) => panic!("the subscription has ended: {:?}", subscription.cause()),
        Err(_) => panic!("the subscription yields no event"),
    }
}

/// Returns the next event that is not an announcement: one from before may arrive again.
async fn proof(subscription: &mut Subscription) -> Event {
    loop {
        match next(subscription).await {
            Event::Message(_) => {}
            event => return event,
        }
    }
}

/// The announcements of a subscription. Each may arrive several times, and so may those from before
/// the subscription.
struct Messages {
    subscription: Subscription,
    /// Those that have arrived, in order, each once.
    received: Vec<Vec<u8>>,
}

impl Messages {
    fn of(subscription: Subscription) -> Self {
        Messages { subscription, received: Vec::new() }
    }

    /// Waits until all of these have arrived.
    async fn arrive(&mut self, expected: &[&[u8]], promise: &str) {
        // For all of them: proofs arrive all the time.
        let end = Instant::now() + PATIENCE;
        while self.of_these(expected).len() < expected.len() {
            match timeout_at(end, self.subscription.next()).await {
                Ok(Some(Event::Message(message))) => {
                    if !self.received.iter().any(|received| *received == message) {
                        self.received.push(message.to_vec());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("{promise}: the subscription has ended"),
                Err(_) => {
                    panic!("{promise}\n   found: {:?}\nexpected: {expected:?}", self.received)
                }
            }
        }
    }

    /// Returns those of these that have arrived, in the order of their arrival.
    fn of_these(&self, messages: &[&[u8]]) -> Vec<Vec<u8>> {
        let received = self.received.iter();
        received.filter(|received| messages.contains(&&received[..])).cloned().collect()
    }
}
