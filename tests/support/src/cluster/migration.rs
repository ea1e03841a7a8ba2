//! The migration of slots from one master to another.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use futures_util::future::join_all;
use redis::Value;

use super::RedisCluster;
use super::view::connect;
use crate::wait::eventually;

/// The number of slots that [`RedisCluster::migrate`] moves at once.
const BATCH: usize = 256;
/// The number of slots that are set one after the other over a connection. Valkey waits for the
/// replicas each time.
const ORDERS: usize = 8;
/// The number of keys that a master moves at once.
const KEYS: usize = 100;

impl RedisCluster {
    /// Migrates slots with all their keys, and waits until all members know their new master.
    pub async fn migrate(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        let batches: Vec<_> = slots.clone().collect();
        for batch in batches.chunks(BATCH) {
            let batch = || batch.iter().copied();
            self.begin_migration(batch(), from, to).await;
            self.move_keys(batch(), from, to).await;
            self.end_migration(batch(), from, to).await;
        }
        self.has_migrated(slots, to).await;
    }

    /// Makes one master import slots, and the other migrate them. From then on, the latter answers
    /// `ASK` for keys that it does not have.
    pub async fn begin_migration<I>(&self, slots: I, from: usize, to: usize)
    where
        I: IntoIterator<Item = u16> + Clone,
    {
        self.set_slots(to, slots.clone(), "IMPORTING", self.id(from)).await;
        self.set_slots(from, slots, "MIGRATING", self.id(to)).await;
    }

    /// Moves all keys of slots whose migration has begun.
    pub async fn move_keys(&self, slots: impl IntoIterator<Item = u16>, from: usize, to: usize) {
        let mut source = connect(self.server(from)).await.unwrap();
        for slot in slots {
            loop {
                let mut query = redis::cmd("CLUSTER");
                query.arg("GETKEYSINSLOT").arg(slot).arg(KEYS);
                let keys: Vec<Vec<u8>> = query.query_async(&mut source).await.unwrap();
                if keys.is_empty() {
                    break;
                }
                let mut order = redis::cmd("MIGRATE");
                order.arg("127.0.0.1").arg(self.port(to)).arg("").arg(0).arg(5000).arg("KEYS");
                let () = order.arg(keys).query_async(&mut source).await.unwrap();
            }
        }
    }

    /// Gives slots without keys to their new master. Other masters are told so, too; replicas learn
    /// it from heartbeats.
    pub async fn end_migration<I>(&self, slots: I, from: usize, to: usize)
    where
        I: IntoIterator<Item = u16> + Clone,
    {
        let masters = self.views_of_masters().await;
        let others = masters.into_keys().filter(|index| ![from, to].contains(index));
        for master in [to, from].into_iter().chain(others) {
            self.set_slots(master, slots.clone(), "NODE", self.id(to)).await;
        }
    }

    async fn set_slots(
        &self,
        master: usize,
        slots: impl IntoIterator<Item = u16>,
        state: &str,
        id: &str,
    ) {
        let set = async |slots: &[u16]| {
            let mut orders = redis::pipe();
            for slot in slots {
                orders.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(state).arg(id).ignore();
            }
            let mut connection = connect(self.server(master)).await.unwrap();
            orders.exec_async(&mut connection).await.unwrap();
        };
        let slots: Vec<u16> = slots.into_iter().collect();
        join_all(slots.chunks(ORDERS).map(set)).await;
    }

    /// Returns `true` if the servers can migrate ranges of slots as a whole, as Valkey 9 can.
    pub fn can_migrate_atomically(&self) -> bool {
        let (_, server) = self.servers().next().expect("a cluster has members");
        let help: Vec<String> = server.command(&["CLUSTER", "HELP"]);
        help.iter().any(|line| line.starts_with("MIGRATESLOTS "))
    }

    /// Makes a master migrate slots as a whole, and waits until all members know their new master.
    pub async fn migrate_atomically(&self, slots: RangeInclusive<u16>, from: usize, to: usize) {
        let (first, last) = (slots.start().to_string(), slots.end().to_string());
        let source = self.server(from);
        let order = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first, &last, "NODE", self.id(to)];
        let () = source.command(&order);
        let succeeded = async || {
            let migrations: Vec<BTreeMap<String, Value>> =
                source.command(&["CLUSTER", "GETSLOTMIGRATIONS"]);
            // The newest one comes first.
            let state: String = redis::from_redis_value_ref(&migrations[0]["state"]).unwrap();
            assert!(!["failed", "cancelled"].contains(&state.as_str()), "the migration {state}");
            state == "success"
        };
        eventually(succeeded, "the master migrates the slots").await;
        self.has_migrated(slots, to).await;
    }

    /// Waits until all members know the master of slots.
    async fn has_migrated(&self, slots: RangeInclusive<u16>, to: usize) {
        let has_migrated = async || {
            let views = self.views().await;
            let knows = |slot| views.values().all(|view| view.owner(slot) == Some(self.id(to)));
            views.len() == self.members.len() && slots.clone().all(knows)
        };
        eventually(has_migrated, "all members know the new master of the slots").await;
    }
}
