//! The owner index in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::PAGE;
use crate::backend::{Cursor, OwnerTag, Page, Timestamp};
use crate::id::SessionId;

/// Minimum number of owners at which those without live entries are swept. A sweep is due when
/// there are twice as many as after the last one.
const SWEEP_AT: usize = 1024;

/// The sessions of each owner, each with the time at which its entry expires.
#[derive(Debug, Default)]
pub(super) struct OwnerIndex {
    entries: HashMap<OwnerTag, BTreeMap<SessionId, Timestamp>>,
    /// The number of owners at which they are swept, if it is above [`SWEEP_AT`].
    sweep_at: usize,
}

impl OwnerIndex {
    pub(super) fn add(
        &mut self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
        now: Timestamp,
    ) {
        self.sweep(now);
        let sessions = self.entries.entry(*owner).or_default();
        sessions.retain(|_, until| *until > now);
        let entry = sessions.entry(*id).or_insert(until);
        *entry = until.max(*entry);
    }

    pub(super) fn remove(&mut self, owner: &OwnerTag, id: &SessionId) {
        if let Some(sessions) = self.entries.get_mut(owner) {
            sessions.remove(id);
            if sessions.is_empty() {
                self.entries.remove(owner);
            }
        }
    }

    /// Shortens the life of an entry.
    pub(super) fn expire(&mut self, owner: &OwnerTag, id: &SessionId, until: Timestamp) {
        if let Some(entry) = self.entries.get_mut(owner).and_then(|sessions| sessions.get_mut(id)) {
            *entry = until.min(*entry);
        }
    }

    pub(super) fn page(&self, owner: &OwnerTag, cursor: Option<&Cursor>, now: Timestamp) -> Page {
        let start = match cursor.map(|cursor| cursor.as_str().parse::<SessionId>()) {
            None => Bound::Unbounded,
            Some(Ok(last)) => Bound::Excluded(last),
            Some(Err(_)) => return Page::Restart,
        };
        let after = self
            .entries
            .get(owner)
            .into_iter()
            .flat_map(|sessions| sessions.range((start, Bound::Unbounded)));
        let mut lasting = after.filter(|(_, until)| **until > now).map(|(id, _)| *id);
        let ids: Vec<_> = lasting.by_ref().take(PAGE).collect();
        let next = lasting.next().and(ids.last()).map(|id| Cursor::new(id.to_string()));
        Page::new(ids, Vec::new(), next)
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.entries.len() >= self.sweep_at.max(SWEEP_AT) {
            self.entries.retain(|_, sessions| sessions.values().any(|until| *until > now));
            self.sweep_at = self.entries.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(owners: &OwnerIndex) -> usize {
        owners.entries.values().map(BTreeMap::len).sum()
    }

    #[test]
    fn the_index_of_a_busy_owner_and_the_number_of_owners_stay_bounded() {
        let (mut owners, busy) = (OwnerIndex::default(), OwnerTag::from_bytes([0; 32]));
        for now in 0..100_000u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&now.to_be_bytes());
            let mut other = [1; 32];
            other[..8].copy_from_slice(&now.to_be_bytes());
            for owner in [&busy, &OwnerTag::from_bytes(other)] {
                let [until, now] = [now + 100, now].map(Timestamp::from_millis);
                owners.add(owner, &SessionId::from_bytes(id), until, now);
            }
            assert!(owners.entries[&busy].len() <= 100);
            assert!(len(&owners) <= 100 + SWEEP_AT + 100, "{}", len(&owners));
        }
    }
}
