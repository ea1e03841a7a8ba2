//! Models of the cache, the fence and the lease, run under schedules that a model checker chooses.
//! See `cluster/model.rs`.
#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "only models run this")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use super::*;
use crate::clock;
use crate::cluster::model::{GONE, Model, explore, explore_all, race, version};

const MAX_STALENESS: Duration = Duration::from_secs(2);

#[test]
fn a_received_change_is_visible_however_a_load_overlaps_it() {
    explore(|| {
        let model = Model::cold();
        race(
            &model,
            [Model::load, |node| {
                node.change_elsewhere();
                node.receive();
            }],
        );
        model.settle();
    });
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    node.change_elsewhere();
                    node.change_elsewhere();
                },
                Model::receive,
                Model::load,
                |node| {
                    node.read();
                    node.read();
                },
            ],
        );
        model.settle();
    });
}

#[test]
fn a_load_of_the_announced_revision_stays_cached() {
    explore(|| {
        let model = Model::warm();
        model.change_elsewhere();
        race(&model, [Model::load, Model::receive]);
        assert_eq!(model.cached(), Some(2));
    });
}

#[test]
fn a_nodes_own_change_is_visible_at_once_and_stays_cached() {
    explore(|| {
        let model = Model::cold();
        race(&model, [Model::load, |node| assert!(node.change())]);
        assert_eq!(model.cached(), Some(2));
        model.receive();
        assert_eq!(model.cached(), Some(2), "the announcement arrived after the reply");
    });
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    assert!(node.change());
                    node.read();
                },
                Model::receive,
                Model::load,
                |node| {
                    node.read();
                    node.read();
                },
            ],
        );
        model.receive();
        assert_eq!(model.cached(), Some(2));
    });
}

#[test]
fn a_nodes_own_change_is_visible_even_if_the_lease_lapses_meanwhile() {
    explore(|| {
        let model = Model::leased_for(MAX_STALENESS);
        model.load();
        race(
            &model,
            [
                |node| {
                    assert!(node.change());
                    node.read();
                },
                |node| {
                    let (epoch, _) = node.cache.lease().held(|| Millis(0)).unwrap();
                    clock::model::advance(MAX_STALENESS);
                    // This heartbeat was sent before the change.
                    assert!(node.cache.lease().extend(epoch, Millis(u64::MAX)));
                },
            ],
        );
        model.read();
    });
}

#[test]
fn changes_by_two_nodes_leave_the_last_change_or_nothing_cached() {
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    while !node.change() {}
                    node.read();
                },
                Model::change_elsewhere,
                Model::receive,
                Model::load,
            ],
        );
        model.settle();
    });
}

#[test]
fn deleted_sessions_stay_deleted() {
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    node.delete();
                    node.read();
                },
                Model::receive,
                Model::load,
                Model::read,
            ],
        );
        model.settle();
        assert_eq!((model.due(), model.cached()), (GONE, None));
    });
}

#[test]
fn nothing_loaded_before_a_clear_is_seen_after_it() {
    explore(|| {
        let model = Model::cold();
        race(
            &model,
            [Model::load, |node| {
                node.clear_elsewhere();
                node.receive();
                node.read();
            }],
        );
        model.settle();
    });
}

#[test]
fn nothing_loaded_in_one_epoch_is_seen_in_another() {
    // The node notices the loss.
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    node.cut();
                    node.change_elsewhere();
                    node.disconnect();
                    node.read();
                    node.subscribe();
                    node.receive();
                    node.read();
                },
                Model::load,
                Model::read,
            ],
        );
        model.settle();
    });
    // The node does not notice the loss: the client library has subscribed again on its own.
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    node.cut();
                    node.change_elsewhere();
                    node.subscribe();
                },
                Model::receive,
                Model::load,
                Model::read,
            ],
        );
        model.settle();
    });
}

#[test]
fn no_session_served_in_an_outage_is_older_than_the_last_proof() {
    explore(|| {
        let model = Model::warm();
        race(
            &model,
            [
                |node| {
                    node.cut();
                    node.change_elsewhere();
                    node.disconnect();
                    node.subscribe();
                    node.receive();
                    node.read_in_outage();
                    node.disconnect();
                    node.read_in_outage();
                },
                Model::load,
                |node| {
                    node.read_in_outage();
                    node.read_in_outage();
                },
            ],
        );
        model.read_in_outage();
        model.settle();
    });
}

#[test]
fn no_version_that_this_node_has_replaced_or_deleted_is_served_in_an_outage() {
    fn loss_during(operation: fn(&Model)) {
        let model = Model::warm();
        race(&model, [operation, Model::disconnect, Model::load, Model::read_in_outage]);
        model.disconnect();
        model.read_in_outage();
    }
    explore(|| loss_during(Model::delete));
    explore(|| loss_during(|node| assert!(node.change())));
}

#[test]
fn the_last_epoch_with_a_lease_is_found_during_concurrent_losses() {
    explore_all(|| {
        let lease = Lease::new();
        let lost = lease.bump();
        lease.extend(lost, Millis(100));
        let shared = Arc::new((lease, lost));
        let lose: fn(&(Lease, Epoch)) = |(lease, _)| {
            lease.bump();
            lease.bump();
        };
        let look: fn(&(Lease, Epoch)) = |(lease, lost)| {
            assert_eq!(lease.last_held(|| Millis(0)).map(|last| last.epoch), Some(*lost));
        };
        race(&shared, [lose, look]);
    });
}

#[test]
fn a_proof_from_an_earlier_epoch_gives_no_lease_in_a_later_one() {
    explore_all(|| {
        let lease = Lease::new();
        let old = lease.bump();
        let shared = Arc::new((lease, old));
        let proof: fn(&(Lease, Epoch)) = |(lease, old)| {
            lease.extend(*old, Millis(100));
        };
        let loss: fn(&(Lease, Epoch)) = |(lease, _)| {
            lease.bump();
            assert_eq!(lease.held(|| Millis(0)), None);
        };
        race(&shared, [proof, loss]);
        assert_eq!(shared.0.held(|| Millis(0)), None);
    });
}

#[test]
fn concurrent_bumps_begin_different_epochs() {
    explore_all(|| {
        let shared = Arc::new((Lease::new(), [OnceLock::new(), OnceLock::new()]));
        let bumps: [fn(&(Lease, [OnceLock<Epoch>; 2])); 2] = [
            |(lease, [one, _])| one.set(lease.bump()).unwrap(),
            |(lease, [_, two])| two.set(lease.bump()).unwrap(),
        ];
        race(&shared, bumps);
        let [one, two] = &shared.1;
        assert_ne!(one.get(), two.get());
    });
}

#[test]
fn a_node_that_receives_nothing_is_stale_by_max_staleness_at_most() {
    explore(|| {
        let model = Model::leased_for(MAX_STALENESS);
        model.load();
        model.cut();
        race(
            &model,
            [
                |node| {
                    node.change_elsewhere();
                    clock::model::advance(MAX_STALENESS);
                    node.expect(node.acknowledged());
                },
                |node| {
                    node.read();
                    node.read();
                },
                Model::load,
            ],
        );
        model.read();
    });
}

#[test]
fn a_load_is_shared_only_with_reads_for_which_it_is_fresh_enough() {
    explore(|| {
        Flight::race([Flight::finish, |flight| {
            assert!(flight.model.change());
            flight.join();
        }]);
    });
    explore(|| {
        Flight::race([
            Flight::finish,
            Flight::join,
            |flight| flight.model.receive(),
            |flight| {
                flight.model.change_elsewhere();
                flight.join();
            },
        ]);
    });
    explore(|| {
        Flight::race([Flight::finish, Flight::join, |flight| {
            flight.model.cut();
            flight.model.change_elsewhere();
            flight.model.subscribe();
            flight.model.receive();
            flight.join();
        }]);
    });
}

/// A load in progress that other reads may want to share.
struct Flight {
    model: Arc<Model>,
    call: Mutex<Option<PendingFill<u32>>>,
    mark: FillMark,
    loaded: OnceLock<u32>,
    /// The newest version that was due when a read decided to wait for this load.
    promised: AtomicU32,
}

impl Flight {
    /// Begins a load and runs the threads.
    fn race<const N: usize>(threads: [fn(&Self); N]) {
        let model = Model::cold();
        let call = model.cache.begin_load(&model.id);
        let mark = call.mark();
        let (call, loaded, promised) = (Mutex::new(Some(call)), OnceLock::new(), AtomicU32::new(0));
        let flight = Arc::new(Flight { model, call, mark, loaded, promised });
        race(&flight, threads);
        assert!(*flight.loaded.get().unwrap() >= flight.promised.load(Ordering::Relaxed));
    }

    /// Ends the load.
    fn finish(&self) {
        let call = self.call.lock().unwrap().take().unwrap();
        let loaded = self.model.stored();
        self.loaded.set(version(loaded.as_ref())).unwrap();
        call.finish(loaded.as_ref().ok_or(Absence::Gone));
    }

    /// Begins a read, which waits for the load if it may share it.
    fn join(&self) {
        let due = self.model.due();
        if self.model.cache.may_share(&self.mark) {
            self.promised.fetch_max(due, Ordering::Relaxed);
        }
    }
}
