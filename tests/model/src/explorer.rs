//! Breadth-first search over all states of a model, for a shortest path to a violation.

use std::fmt;
use std::hash::Hash;

use indexmap::IndexMap;

/// A system with a finite number of states.
pub trait Model {
    /// A state. Equal states are visited once.
    type State: Eq + Hash;
    /// A transition between two states.
    type Step: Copy + fmt::Debug;
    /// A reason why a state should not be reachable.
    type Violation;

    /// Returns the state in which the system begins.
    fn start(&self) -> Self::State;

    /// Passes each possible next state to `found`, with the step that leads to it.
    fn successors(&self, state: &Self::State, found: &mut dyn FnMut(Self::Step, Self::State));

    /// Returns the reason why this state should not be reachable, if there is one.
    fn violation(&self, state: &Self::State) -> Option<Self::Violation>;
}

/// The result of a search.
#[derive(Debug)]
pub enum Outcome<M: Model> {
    /// No reachable state is a violation.
    Holds(Vec<M::State>),
    /// The steps of a shortest path from the start to a violation.
    Violated(Vec<M::Step>, M::Violation),
}

/// The states that were found, each with its predecessor, in the order in which they were found. So
/// the map is also the queue of those that are still to be visited.
type Found<S, P> = IndexMap<S, Option<(usize, P)>>;

/// Visits all reachable states, those that fewer steps lead to first, until one is a violation.
pub fn explore<M: Model>(model: &M) -> Outcome<M> {
    let mut found: Found<M::State, M::Step> = IndexMap::new();
    found.insert(model.start(), None);
    let mut at = 0;
    while let Some((state, _)) = found.get_index(at) {
        if let Some(violation) = model.violation(state) {
            return Outcome::Violated(path(&found, at), violation);
        }
        let mut next = Vec::new();
        model.successors(state, &mut |step, state| next.push((step, state)));
        for (step, state) in next {
            found.entry(state).or_insert(Some((at, step)));
        }
        at += 1;
    }
    Outcome::Holds(found.into_keys().collect())
}

/// Returns the steps that lead from the start to the state at this position.
fn path<S, P: Copy>(found: &Found<S, P>, mut at: usize) -> Vec<P> {
    let mut steps = Vec::new();
    while let Some((_, Some((before, step)))) = found.get_index(at) {
        steps.push(*step);
        at = *before;
    }
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that doubles or grows by one, up to a maximum.
    struct Counter {
        forbidden: u32,
    }

    impl Model for Counter {
        type State = u32;
        type Step = char;
        type Violation = ();

        fn start(&self) -> u32 {
            1
        }

        fn successors(&self, state: &u32, found: &mut dyn FnMut(char, u32)) {
            for (step, next) in [('+', state + 1), ('*', state * 2)] {
                if next <= 10 {
                    found(step, next);
                }
            }
        }

        fn violation(&self, state: &u32) -> Option<()> {
            (*state == self.forbidden).then_some(())
        }
    }

    #[test]
    fn every_reachable_state_is_visited_once() {
        let Outcome::Holds(states) = explore(&Counter { forbidden: 11 }) else { panic!() };
        assert_eq!(states, [1, 2, 3, 4, 6, 5, 8, 7, 10, 9]);
    }

    #[test]
    fn the_path_to_a_violation_is_a_shortest_one() {
        let Outcome::Violated(steps, ()) = explore(&Counter { forbidden: 9 }) else { panic!() };
        assert_eq!(steps.len(), 4, "{steps:?}");
        assert_eq!(steps.last(), Some(&'+'));
    }
}
