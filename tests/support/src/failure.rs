//! The failures of scenarios that are to fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a scenario and returns the message of the panic that it ends with.
pub fn failure(scenario: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(scenario)).err()?;
    Some(match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().expect("a panic has a message")).to_owned(),
    })
}
