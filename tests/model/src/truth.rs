//! The contract: which versions of the session the node may serve.

use crate::normal::Names;
use crate::world::{TERM, Value};

/// The versions of the session, and since when each of them is outdated.
///
/// It follows the history that survives: a version that a failover has lost is outdated from the
/// failover on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Truth {
    /// The present version.
    present: Value,
    /// Ticks since each version was replaced, up to [`TERM`], by [`Value::index`].
    ages: [u8; Value::COUNT],
    /// The versions that the node itself has replaced by an acknowledged change, a bit each.
    replaced: u8,
}

/// A promise of the contract that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The node serves a version that was replaced a term ago.
    Stale,
    /// The node serves a version that it has replaced itself.
    OwnChangeUnseen,
    /// The node uses its cache although it knows that it misses announcements.
    ServedWithoutSubscription,
}

impl Truth {
    /// Returns the contract about a session with this version.
    pub fn new(present: Value) -> Truth {
        Truth { present, ages: [TERM; Value::COUNT], replaced: 0 }
    }

    /// Records a change.
    pub fn change(&mut self, value: Value) {
        if value != self.present {
            self.ages[self.present.index()] = 0;
            self.ages[value.index()] = TERM;
            self.present = value;
        }
        self.replaced &= !bit(value);
    }

    /// Records that the servers have gone back to this version, and returns `true` if it was not
    /// the present one. What was acknowledged since then is lost, changes of this node included.
    pub fn rewind(&mut self, value: Value) -> bool {
        let loses = value != self.present;
        if loses {
            self.change(value);
            self.replaced = 0;
        }
        loses
    }

    /// Records a change that does not survive, since another server took over so many ticks ago.
    pub fn lose(&mut self, value: Value, deposed: u8) {
        if value != self.present {
            self.ages[value.index()] = deposed;
        }
    }

    /// Returns the versions that a change by this node replaces, for
    /// [`acknowledge`](Self::acknowledge).
    pub fn versions_before(&self, value: Value) -> u8 {
        let end = match value {
            Value::Gone => Value::COUNT,
            Value::Revision(number) => usize::from(number),
        };
        // Without `Gone`: nothing follows upon it.
        (1..end).fold(0, |versions, index| versions | 1 << index)
    }

    /// Records that a change by this node was acknowledged, after which it must not serve these
    /// versions.
    pub fn acknowledge(&mut self, versions: u8) {
        self.replaced |= versions & !bit(self.present);
    }

    /// Returns the promises that are broken if the node serves this version.
    pub fn violations(&self, served: Value) -> impl Iterator<Item = Violation> + use<> {
        let is_stale = served != self.present && self.ages[served.index()] >= TERM;
        let is_replaced = self.replaced & bit(served) != 0;
        let stale = is_stale.then_some(Violation::Stale);
        stale.into_iter().chain(is_replaced.then_some(Violation::OwnChangeUnseen))
    }

    /// Gives the versions other names, and forgets those that have none.
    pub fn rename(&mut self, names: &Names) {
        let old = *self;
        *self = Truth::new(names.of(old.present).unwrap_or(old.present));
        for (index, name) in names.iter() {
            self.ages[name.index()] = old.ages[index];
            self.replaced |= u8::from(old.replaced & (1 << index) != 0) << name.index();
        }
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        for age in &mut self.ages {
            *age = TERM.min(*age + 1);
        }
    }
}

fn bit(value: Value) -> u8 {
    1 << value.index()
}
