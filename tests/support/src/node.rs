//! An example as a process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

use crate::process::signal;
use crate::wait::eventually;

/// Killed when it is dropped.
pub struct Node {
    process: Child,
    says: BufReader<ChildStdout>,
    address: String,
}

impl Node {
    /// The example `node`, with these environment variables.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_example("node", variables)
    }

    pub fn start_example(name: &str, variables: &[(&str, &str)]) -> Self {
        let mut process = Command::new(executable(name))
            .env("PORT", "0")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap());
        let mut node = Node { process, says, address: String::new() };
        node.address = node.told("listening on ");
        node
    }

    /// The rest of the next line that the node writes, which must begin so.
    pub fn told(&mut self, prefix: &str) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let rest = line.trim_end().strip_prefix(prefix).map(str::to_owned);
        rest.unwrap_or_else(|| panic!("the node says {line:?}"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Stops it without ending it: its connections stay open, and it does nothing.
    pub fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    pub fn thaw(&self) {
        signal(&self.process, "CONT");
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(mut self) -> ExitStatus {
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

/// Returns the path of an example, which is built once per process. If `cargo test` has built it
/// already, that takes a moment.
fn executable(name: &str) -> String {
    static EXECUTABLES: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    let mut executables = EXECUTABLES.lock().unwrap();
    executables.entry(name.to_owned()).or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name, "--all-features", "--message-format", "json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the example does not build");
    let messages =
        output.stdout.lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let is_it = |message: &Value| message["target"]["name"] == name;
    messages
        .filter(is_it)
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .unwrap()
}
