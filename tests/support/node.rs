//! The example `node` as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::process::signal;
use super::wait::eventually;

/// Killed when it is dropped.
pub(crate) struct Node {
    process: Child,
    address: String,
}

impl Node {
    /// With these environment variables.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new(executable())
            .env("PORT", "0")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").map(str::to_owned);
        let mut node = Node { process, address: String::new() };
        node.address = address.unwrap_or_else(|| panic!("the node says {line:?}"));
        node
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Stops it without ending it: its connections stay open, and it does nothing.
    pub(crate) fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    pub(crate) fn thaw(&self) {
        signal(&self.process, "CONT");
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        signal(&self.process, "TERM");
        eventually(async || self.process.try_wait().unwrap(), "the node ends").await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that panics must not panic again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Built once. With all examples there already, as `cargo test` leaves them, that takes a moment.
fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<String> = OnceLock::new();
    let build = || {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "node", "--all-features", "--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the example does not build");
        let messages = output.stdout.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let is_node = |message: &Value| message["target"]["name"] == "node";
        messages.filter(is_node).find_map(|message| message["executable"].as_str().map(str::to_owned)).unwrap()
    };
    Path::new(EXECUTABLE.get_or_init(build))
}
