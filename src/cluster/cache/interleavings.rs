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
fn what_was_heard_is_seen_however_a_load_crosses_it() {
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
fn a_nodes_own_change_is_seen_at_once_and_stays_warm() {
    explore(|| {
        let model = Model::cold();
        race(&model, [Model::load, |node| assert!(node.change())]);
        assert_eq!(model.cached(), Some(2));
        model.receive();
        assert_eq!(model.cached(), Some(2), "its announcement came after the reply");
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
fn a_nodes_own_change_is_seen_though_the_lease_lapses_while_it_is_made() {
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
                    // The heartbeat that proves this was sent before the change.
                    assert!(node.cache.lease().extend(epoch, Millis(u64::MAX)));
                },
            ],
        );
        model.read();
    });
}

#[test]
fn two_nodes_that_change_a_session_leave_the_last_change_or_nothing() {
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
    // The node does not notice it: the client library has subscribed again by itself.
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
fn what_is_served_in_an_outage_is_not_older_than_the_last_proof() {
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
fn what_this_node_has_deleted_or_changed_is_not_served_in_an_outage() {
    fn lost_during(deed: fn(&Model)) {
        let model = Model::warm();
        race(&model, [deed, Model::disconnect, Model::load, Model::read_in_outage]);
        model.disconnect();
        model.read_in_outage();
    }
    explore(|| lost_during(Model::delete));
    explore(|| lost_during(|node| assert!(node.change())));
}

#[test]
fn a_thread_that_sees_a_new_epoch_finds_the_one_that_was_lost() {
    explore_all(|| {
        let lease = Lease::new();
        let lost = lease.bump();
        lease.extend(lost, Millis(100));
        let shared = Arc::new((lease, lost));
        let losses: fn(&(Lease, Epoch)) = |(lease, _)| {
            lease.bump();
            lease.bump();
        };
        let look: fn(&(Lease, Epoch)) = |(lease, lost)| {
            assert_eq!(lease.last_held(|| Millis(0)).map(|last| last.epoch), Some(*lost));
        };
        race(&shared, [losses, look]);
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
fn every_bump_begins_an_epoch_of_its_own() {
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
        Flight::race([Flight::land, |flight| {
            assert!(flight.model.change());
            flight.board();
        }]);
    });
    explore(|| {
        Flight::race([
            Flight::land,
            Flight::board,
            |flight| flight.model.receive(),
            |flight| {
                flight.model.change_elsewhere();
                flight.board();
            },
        ]);
    });
    explore(|| {
        Flight::race([Flight::land, Flight::board, |flight| {
            flight.model.cut();
            flight.model.change_elsewhere();
            flight.model.subscribe();
            flight.model.receive();
            flight.board();
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
    /// Begins a load, and runs the threads.
    fn race<const N: usize>(threads: [fn(&Self); N]) {
        let model = Model::cold();
        let call = model.cache.begin_load(&model.id);
        let mark = call.mark();
        let (call, loaded, promised) = (Mutex::new(Some(call)), OnceLock::new(), AtomicU32::new(0));
        let flight = Arc::new(Flight { model, call, mark, loaded, promised });
        race(&flight, threads);
        assert!(*flight.loaded.get().unwrap() >= flight.promised.load(Ordering::Relaxed));
    }

    /// The load ends.
    fn land(&self) {
        let call = self.call.lock().unwrap().take().unwrap();
        let loaded = self.model.stored();
        self.loaded.set(version(loaded.as_ref())).unwrap();
        call.finish(loaded.as_ref());
    }

    /// A read begins, and decides to wait for the load if it may.
    fn board(&self) {
        let due = self.model.due();
        if self.model.cache.may_share(&self.mark) {
            self.promised.fetch_max(due, Ordering::Relaxed);
        }
    }
}
