//! What a request of tower-sessions has done to its session. Pure.
//!
//! A store of tower-sessions is given the whole session to be saved. What the request has changed
//! is the difference to what it loaded, so the adapter puts digests of that into the loaded data,
//! under a [reserved key](LOADED). They are taken out before anything is stored.
//!
//! A request may save several times, and the digests stay as they were loaded. So the session also
//! has the number of the request that has written or removed a value: what is different there from
//! what a request saves was changed by it if the request has written that itself. Of removals,
//! those of the last request that saved are known, so that their number is bounded.

use std::collections::HashMap;

use serde_json::Value;

use crate::id::SessionId;
use crate::session::{KeyValues, digest, digests};

/// The data of a session, as tower-sessions has it.
pub(super) type Data = HashMap<String, Value>;

/// The key of the digests. Sessions cannot have values of their own under it.
const LOADED: &str = "clustered-sessions.loaded";

/// Returns values to be stored.
pub(super) fn values(data: &Data) -> KeyValues {
    let mut values = KeyValues::new();
    for (key, value) in own(data) {
        values.put(key, value.clone(), None);
    }
    values
}

/// Returns the values without the digests.
fn own(data: &Data) -> impl Iterator<Item = (&String, &Value)> {
    data.iter().filter(|(key, _)| *key != LOADED)
}

/// Returns `true` if the data of a record was loaded from a store of this crate, or stored in it.
pub(super) fn is_loaded(data: &Data) -> bool {
    data.contains_key(LOADED)
}

/// The state in which a request has loaded or created its session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loaded {
    /// The number of the request.
    request: u64,
    session: SessionId,
    /// The digest of each value.
    digests: HashMap<String, String>,
}

impl Loaded {
    /// Returns the data that a request is given: the values of the session, and their digests.
    pub(super) fn give_out(request: u64, session: SessionId, values: &KeyValues) -> Data {
        let mut data = Data::with_capacity(values.len() + 1);
        data.extend(values.iter().map(|(key, value)| (key.to_owned(), value.clone())));
        put_into(&mut data, request, session, values.digests().to_owned());
        data
    }

    /// Puts the digests of the data into it, when a request has created a session with it.
    pub(super) fn note_in(data: &mut Data, request: u64, session: SessionId) {
        let digests = digests(&*data);
        put_into(data, request, session, digests);
    }

    /// Takes the digests out of the data. There are none if the request has cleared the session, or
    /// has not stored it yet.
    pub(super) fn take_from(data: &mut Data) -> Option<Loaded> {
        Loaded::parse(&data.remove(LOADED)?)
    }

    fn read(data: &Data) -> Option<Loaded> {
        Loaded::parse(data.get(LOADED)?)
    }

    fn parse(value: &Value) -> Option<Loaded> {
        let [request, high, low, digests] = value.as_array()?.as_slice() else { return None };
        let [request, high, low] = [request.as_u64()?, high.as_u64()?, low.as_u64()?];
        let digests = serde_json::from_str(digests.as_str()?).ok()?;
        Some(Loaded { request, session: session_id(high, low), digests })
    }

    /// Returns the id that the session had.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Removes what the request has not changed.
    pub(super) fn keep_changes_only(&self, data: &mut Data) {
        data.retain(|key, value| !self.has(key, value));
    }

    fn has(&self, key: &str, value: &Value) -> bool {
        self.digests.get(key).is_some_and(|loaded| *loaded == digest(value))
    }
}

fn put_into(data: &mut Data, request: u64, session: SessionId, digests: String) {
    let [high, low] = halves(session);
    let value = Value::Array(vec![request.into(), high.into(), low.into(), digests.into()]);
    data.insert(LOADED.to_owned(), value);
}

fn halves(id: SessionId) -> [u64; 2] {
    let number = u128::from_be_bytes(*id.as_bytes());
    [(number >> 64) as u64, number as u64]
}

fn session_id(high: u64, low: u64) -> SessionId {
    SessionId::from_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
}

/// What a request saves.
pub(super) struct Saved<'a> {
    /// `None` if the request has cleared the session: then it replaces all values.
    loaded: Option<Loaded>,
    data: &'a Data,
}

impl<'a> Saved<'a> {
    pub(super) fn new(data: &'a Data) -> Self {
        Saved { loaded: Loaded::read(data), data }
    }

    /// Returns `true` if the request has exactly the values that it has loaded.
    pub(super) fn is_unchanged(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| {
            own(self.data).count() == loaded.digests.len()
                && own(self.data).all(|(key, value)| loaded.has(key, value))
        })
    }

    /// Returns the present values with the changes of the request.
    pub(super) fn apply_to(&self, current: &KeyValues) -> KeyValues {
        let mut values = current.clone();
        for (key, value) in own(self.data) {
            if self.has_changed(current, key, value) {
                values.put(key, value.clone(), self.request());
            }
        }
        for key in current.keys().filter(|key| !self.data.contains_key(*key)) {
            if self.has_removed(current, key) {
                values.remove_for(key, self.request());
            }
        }
        if values != *current {
            values.forget_removals(self.request());
        }
        values
    }

    fn request(&self) -> Option<u64> {
        self.loaded.as_ref().map(|loaded| loaded.request)
    }

    fn has_changed(&self, current: &KeyValues, key: &str, value: &Value) -> bool {
        let as_loaded = || self.loaded.as_ref().is_some_and(|loaded| loaded.has(key, value));
        current.value(key) != Some(value) && (self.has_written(current, key) || !as_loaded())
    }

    fn has_removed(&self, current: &KeyValues, key: &str) -> bool {
        self.loaded.as_ref().is_none_or(|loaded| loaded.digests.contains_key(key))
            || self.has_written(current, key)
    }

    /// Returns `true` if the present value, or its absence, comes from an earlier save of the same
    /// request.
    fn has_written(&self, current: &KeyValues, key: &str) -> bool {
        self.request().is_some() && current.writer(key) == self.request()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: SessionId = SessionId::from_bytes([0xf7; 16]);

    fn values(pairs: &[(&str, u8)]) -> KeyValues {
        let mut values = KeyValues::new();
        for &(key, value) in pairs {
            values.put(key, value.into(), None);
        }
        values
    }

    fn pairs(values: &KeyValues) -> Vec<(String, u64)> {
        values.iter().map(|(key, value)| (key.to_owned(), value.as_u64().unwrap())).collect()
    }

    /// Saves what a request that loaded `data` has made of it.
    fn save(stored: &mut KeyValues, data: &Data) {
        *stored = Saved::new(data).apply_to(stored);
    }

    fn set(data: &mut Data, key: &str, value: u8) {
        data.insert(key.to_owned(), value.into());
    }

    #[test]
    fn requests_at_the_same_time_that_change_different_keys_keep_both_changes() {
        let mut stored = values(&[("a", 1), ("b", 1), ("c", 1)]);
        let mut one = Loaded::give_out(1, ID, &stored);
        let mut other = Loaded::give_out(2, ID, &stored);
        set(&mut one, "a", 2);
        set(&mut one, "d", 2);
        other.remove("b");
        set(&mut other, "c", 3);
        save(&mut stored, &one);
        save(&mut stored, &other);
        assert_eq!(pairs(&stored), pairs(&values(&[("a", 2), ("c", 3), ("d", 2)])));
    }

    #[test]
    fn a_value_that_another_request_has_removed_or_changed_is_not_brought_back() {
        let mut stored = values(&[("a", 1), ("b", 1)]);
        let mut slow = Loaded::give_out(1, ID, &stored);
        let mut fast = Loaded::give_out(2, ID, &stored);
        fast.remove("a");
        set(&mut fast, "b", 2);
        save(&mut stored, &fast);
        set(&mut slow, "c", 3);
        save(&mut stored, &slow);
        assert_eq!(pairs(&stored), pairs(&values(&[("b", 2), ("c", 3)])));
    }

    #[test]
    fn a_request_that_saves_twice_can_take_back_what_it_saved_first() {
        let mut stored = values(&[("a", 1)]);
        let mut data = Loaded::give_out(1, ID, &stored);
        set(&mut data, "a", 2);
        set(&mut data, "new", 2);
        save(&mut stored, &data);
        // Another request's values stay.
        let mut other = Loaded::give_out(2, ID, &stored);
        set(&mut other, "other", 3);
        save(&mut stored, &other);
        set(&mut data, "a", 1);
        data.remove("new");
        save(&mut stored, &data);
        assert_eq!(pairs(&stored), pairs(&values(&[("a", 1), ("other", 3)])));
        data.remove("a");
        save(&mut stored, &data);
        set(&mut data, "a", 1);
        save(&mut stored, &data);
        assert_eq!(pairs(&stored), pairs(&values(&[("a", 1), ("other", 3)])));
    }

    #[test]
    fn what_is_remembered_of_removals_does_not_grow() {
        let mut stored = values(&[]);
        for request in 0..10 {
            let mut data = Loaded::give_out(request, ID, &stored);
            set(&mut data, &request.to_string(), 1);
            save(&mut stored, &data);
            data.remove(&request.to_string());
            save(&mut stored, &data);
        }
        assert!(stored.is_empty());
        let known = (0..10).filter(|request: &u64| stored.writer(&request.to_string()).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_cleared_session_has_what_was_put_into_it_since() {
        let mut stored = values(&[("a", 1), ("b", 1)]);
        let mut data = Loaded::give_out(1, ID, &stored);
        data.clear();
        set(&mut data, "c", 2);
        save(&mut stored, &data);
        assert_eq!(stored, values(&[("c", 2)]));
    }

    #[test]
    fn a_request_is_unchanged_if_it_has_what_it_loaded_and_nothing_else() {
        let mut data = Loaded::give_out(1, ID, &values(&[("a", 1), ("b", 1)]));
        assert!(Saved::new(&data).is_unchanged());
        set(&mut data, "a", 2);
        assert!(!Saved::new(&data).is_unchanged());
        set(&mut data, "a", 1);
        assert!(Saved::new(&data).is_unchanged());
        data.remove("b");
        assert!(!Saved::new(&data).is_unchanged(), "one is missing");
        set(&mut data, "c", 1);
        assert!(!Saved::new(&data).is_unchanged(), "another one is in its place");
        data.clear();
        assert!(!Saved::new(&data).is_unchanged(), "a cleared session replaces whatever there is");
        assert!(Saved::new(&Loaded::give_out(1, ID, &values(&[]))).is_unchanged());
    }

    #[test]
    fn the_digests_are_never_stored() {
        let data = Loaded::give_out(u64::MAX, ID, &values(&[("a", 1)]));
        let mut stored = values(&[]);
        save(&mut stored, &data);
        assert_eq!(stored, values(&[]));
        let mut data = data;
        let loaded = Loaded::take_from(&mut data).unwrap();
        assert_eq!((loaded.request, loaded.session()), (u64::MAX, ID));
        assert_eq!(data, HashMap::from([("a".to_owned(), json!(1))]));
        assert_eq!(Loaded::take_from(&mut data), None);
    }

    #[test]
    fn what_else_is_under_the_reserved_key_is_ignored() {
        for value in [json!(1), json!([1, 2, 3]), json!([1, 2, 3, 4]), json!([-1, 2, 3, "{}"])] {
            let mut data = HashMap::from([(LOADED.to_owned(), value)]);
            assert_eq!(Loaded::take_from(&mut data), None);
            assert!(data.is_empty());
        }
    }

    /// A change of one key: a new value, or its removal.
    fn changes() -> impl Strategy<Value = HashMap<String, Option<u8>>> {
        prop::collection::hash_map("[a-d]", prop::option::of(0..4u8), 0..4)
    }

    fn change(data: &mut Data, changes: &HashMap<String, Option<u8>>) {
        for (key, value) in changes {
            match value {
                Some(value) => set(data, key, *value),
                None => drop(data.remove(key)),
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_that_is_alone_stores_what_it_has(steps in prop::collection::vec((changes(), any::<bool>()), 1..6)) {
            let mut stored = values(&[("a", 1), ("b", 1)]);
            let mut data = Loaded::give_out(1, ID, &stored);
            for (changes, clears) in steps {
                if clears {
                    data.clear();
                }
                change(&mut data, &changes);
                save(&mut stored, &data);
                let mut own = data.clone();
                own.remove(LOADED);
                let stored: Data = stored.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
                prop_assert_eq!(stored, own);
            }
        }

        #[test]
        fn what_a_request_does_not_change_stays_as_others_leave_it(mine in changes(), theirs in changes()) {
            let mut stored = values(&[("a", 9), ("b", 9)]);
            let mut slow = Loaded::give_out(1, ID, &stored);
            let mut fast = Loaded::give_out(2, ID, &stored);
            change(&mut fast, &theirs);
            save(&mut stored, &fast);
            let before = stored.clone();
            change(&mut slow, &mine);
            save(&mut stored, &slow);
            for key in ["a", "b", "c", "d"] {
                // To remove a key that was not there is no change.
                let changed = mine.get(key).filter(|it| it.is_some() || ["a", "b"].contains(&key));
                let expected = match changed {
                    Some(value) => value.map(Value::from),
                    None => before.value(key).cloned(),
                };
                prop_assert_eq!(stored.value(key).cloned(), expected, "{}", key);
            }
        }
    }
}
