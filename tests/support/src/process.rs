//! Signals to processes that a test has started.

use std::process::{Child, Command};

/// Sends a signal by its name, such as `STOP`.
pub(crate) fn signal(process: &Child, name: &str) {
    let status =
        Command::new("kill").args(["-s", name, &process.id().to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} failed");
}
