//! A scenario under some of the rules, as a model to explore.

use crate::explorer::Model;
use crate::rule::{Rule, Rules};
use crate::scenario::Scenario;
use crate::step::Step;
use crate::truth::Violation;
use crate::world::World;

/// A scenario under some of the rules.
#[derive(Debug)]
pub struct System {
    scenario: Scenario,
    rules: Rules,
    /// The promises that are checked.
    promises: Vec<Violation>,
    /// All steps that may be possible in some state.
    steps: Vec<Step>,
}

impl System {
    /// Creates a model that checks these promises.
    pub fn new(scenario: Scenario, rules: Rules, promises: &[Violation]) -> System {
        let mut steps = Step::among(scenario.sites());
        steps.extend(scenario.events.iter().copied().map(Step::Event));
        System { scenario, rules, promises: promises.to_vec(), steps }
    }

    /// Returns the rules that are kept.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// Returns `true` if this rule is kept.
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        self.rules.keep(rule)
    }
}

impl Model for System {
    type State = World;
    type Step = Step;
    type Violation = Violation;

    fn start(&self) -> World {
        self.scenario.start.clone()
    }

    fn successors(&self, world: &World, found: &mut dyn FnMut(Step, World)) {
        for step in &self.steps {
            if self.is_possible(world, *step) {
                let mut next = world.clone();
                self.take(&mut next, *step);
                let kept = self.scenario.kept_in(&next);
                next.normalise(self.rules, kept);
                found(*step, next);
            }
        }
    }

    fn violation(&self, world: &World) -> Option<Violation> {
        let mut violations = world.node.violations(&world.truth, self.rules);
        violations.find(|violation| self.promises.contains(violation))
    }
}
