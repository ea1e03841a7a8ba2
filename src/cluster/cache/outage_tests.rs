//! Tests of the entries that may still be served after a load has failed.

use super::tests::{Bench, TTL};
use super::*;
use crate::record::Meta;

const MAX_STALENESS: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(30);

impl Bench {
    /// Creates a cache whose lease begins now.
    fn proven_now() -> Self {
        let bench = Bench::over(Lease::new());
        bench.subscribe();
        bench
    }

    /// Begins a new subscription, and receives its first heartbeat.
    fn subscribe(&self) {
        let epoch = self.cache.lease().bump();
        self.prove(epoch);
    }

    /// Receives a heartbeat.
    fn prove(&self, epoch: Epoch) {
        self.cache.lease().extend(epoch, self.clock.now().plus(millis(MAX_STALENESS)));
    }

    /// Returns the version that may be served after a load has failed.
    fn last_known(&self) -> Option<u32> {
        let known = self.cache.last_known(&self.id, StaleIfError::AfterLease(millis(GRACE)));
        known.map(|record| *record.data())
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_the_lost_epoch_is_served_until_the_grace_period_after_its_last_lease_ends() {
    for noticed in [true, false] {
        let bench = Bench::proven_now();
        bench.fill(&bench.record(1));
        pass(MAX_STALENESS / 2).await;
        let (epoch, _) = bench.cache.lease().held(|| bench.clock.now()).unwrap();
        bench.prove(epoch);
        if noticed {
            // The subscription is lost, renewed and lost again before a heartbeat is received.
            bench.cache.lease().bump();
            bench.cache.lease().bump();
        }
        pass(MAX_STALENESS + GRACE - Duration::from_millis(1)).await;
        assert_eq!((bench.cached(), bench.last_known()), (None, Some(1)));
        pass(Duration::from_millis(1)).await;
        assert_eq!(bench.last_known(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_never_served_again_once_another_epoch_is_proven() {
    let bench = Bench::proven_now();
    bench.fill(&bench.record(1));
    bench.subscribe();
    assert_eq!(
        (bench.cached(), bench.last_known()),
        (None, None),
        "an announcement may have been missed between the two epochs"
    );
    bench.cache.lease().bump();
    assert_eq!(bench.last_known(), None);

    bench.subscribe();
    bench.fill(&bench.record(2));
    bench.cache.lease().bump();
    assert_eq!(bench.last_known(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_limits_an_entry_in_an_outage_and_the_time_to_live_does_not() {
    let bench = Bench::proven_now();
    let record = bench.record(1);
    let meta = Meta { deadline: bench.clock.wall().saturating_add(TTL + GRACE), ..record.meta() };
    bench.fill(&Record::new(bench.clock.moment(), bench.id, meta, 1, 0));
    pass(TTL).await;
    let (epoch, _) = bench.cache.lease().held(|| Millis(0)).unwrap();
    bench.prove(epoch);
    assert_eq!(
        (bench.cached(), bench.last_known()),
        (None, Some(1)),
        "the node holds its lease, and only loads fail"
    );
    pass(GRACE - Duration::from_millis(1)).await;
    assert_eq!(bench.last_known(), Some(1));
    pass(Duration::from_millis(1)).await;
    assert_eq!(bench.last_known(), None, "the session has expired");
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_not_served_once_its_session_is_evicted_or_written_after_the_loss() {
    let bench = Bench::proven_now();
    let record = bench.record(1);
    let operations: [(&str, &dyn Fn()); 6] = [
        ("an eviction, or an announcement", &|| bench.cache.evict(&bench.id, None)),
        ("an announcement of another revision", &|| {
            bench.cache.evict(&bench.id, Some(Revision::first()));
        }),
        ("a clear", &|| bench.cache.clear()),
        ("a deletion, whatever its outcome", &|| drop(bench.cache.begin_write(&bench.id, None))),
        ("a change of unknown outcome", &|| drop(bench.begin_write(&record))),
        ("a successful change", &|| bench.begin_write(&record).saved(&bench.record(2))),
    ];
    for (what, operation) in operations {
        bench.subscribe();
        bench.fill(&record);
        bench.cache.lease().bump();
        assert_eq!(bench.last_known(), Some(1));
        operation();
        assert_eq!(bench.last_known(), None, "{what}");
    }
    bench.subscribe();
    bench.fill(&record);
    bench.cache.lease().bump();
    bench.cache.evict(&bench.id, Some(record.revision()));
    assert_eq!(
        bench.last_known(),
        Some(1),
        "an announcement of the cached revision does not evict it"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_not_served_once_a_load_after_the_loss_contradicts_it() {
    let bench = Bench::proven_now();
    let record = bench.record(1);
    let reads = [
        ("the same version", Some(record.clone()), Some(1)),
        ("another version", Some(bench.record(2)), None),
        ("no session", None, None),
    ];
    for (what, read, expected) in reads {
        for begun_before_the_loss in [true, false] {
            bench.subscribe();
            bench.fill(&record);
            let early = bench.cache.begin_load(&bench.id);
            bench.cache.lease().bump();
            let load =
                if begun_before_the_loss { early } else { bench.cache.begin_load(&bench.id) };
            load.finish(read.as_ref().ok_or(Absence::Gone));
            assert_eq!(bench.last_known(), expected, "{what}, {begun_before_the_loss}");
        }
    }
    bench.subscribe();
    bench.fill(&record);
    bench.cache.lease().bump();
    drop(bench.cache.begin_load(&bench.id));
    assert_eq!(bench.last_known(), Some(1), "a load that fails changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_change_in_flight_is_not_cached_if_a_load_finds_the_session_gone() {
    let bench = Bench::proven_now();
    let (base, new) = (bench.record(1), bench.record(2));
    bench.fill(&base);
    let write = bench.begin_write(&base);
    bench.cache.begin_load(&bench.id).finish(Err(Absence::Gone));
    write.saved(&new);
    bench.cache.lease().bump();
    assert_eq!(bench.last_known(), None);
}

#[tokio::test(start_paused = true)]
async fn the_absence_of_a_session_is_not_served_in_an_outage() {
    let bench = Bench::proven_now();
    bench.cache.begin_load(&bench.id).finish(Err(Absence::Gone));
    assert!(matches!(bench.cache.get(&bench.id), Lookup::Absent(_)));
    bench.cache.lease().bump();
    assert_eq!(bench.last_known(), None);
    assert!(matches!(bench.cache.get(&bench.id), Lookup::Miss));
}

#[tokio::test(start_paused = true)]
async fn without_a_listener_the_grace_period_counts_from_the_load() {
    let bench = Bench::over(Lease::permanent());
    let known = || {
        bench.cache.last_known(&bench.id, StaleIfError::AfterRead(millis(TTL + GRACE))).is_some()
    };
    let load = bench.cache.begin_load(&bench.id);
    pass(TTL).await;
    load.finish(Ok(&bench.record(1)));
    assert_eq!((bench.cached(), known()), (None, true));
    pass(GRACE - Duration::from_millis(1)).await;
    assert!(known());
    pass(Duration::from_millis(1)).await;
    assert!(!known());
}
