//! An example of the crate, run as a process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

use crate::process::signal;
use crate::wait::eventually;

/// The process of an example. It is killed on drop.
pub struct Node {
    process: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Node {
    /// Starts the example `node` with these environment variables.
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
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut node = Node { process, output, address: String::new() };
        node.address = node.read_line("listening on ");
        node
    }

    /// Reads the next line that the node prints and returns the part after `prefix`. Panics if the
    /// line does not start with it.
    pub fn read_line(&mut self, prefix: &str) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let rest = line.trim_end().strip_prefix(prefix).map(str::to_owned);
        rest.unwrap_or_else(|| panic!("the node printed {line:?}"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Limits the number of files that the process may have open.
    pub fn limit_files(&self, limit: u32) {
        let status = Command::new("prlimit")
            .args(["--pid", &self.process.id().to_string(), &format!("--nofile={limit}:")])
            .status()
            .unwrap();
        assert!(status.success(), "prlimit failed");
    }

    /// Stops the process with `SIGSTOP`: its connections stay open.
    pub fn freeze(&self) {
        signal(&self.process, "STOP");
    }

    /// Resumes the process.
    pub fn thaw(&self) {
        signal(&self.process, "CONT");
    }

    /// Sends `SIGTERM` and waits until the process has exited.
    pub async fn terminate(mut self) -> ExitStatus {
        signal(&self.process, "TERM");
        eventually(async || self.process.try_wait().unwrap(), "the node exits").await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that panics must not panic again here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the path of an example, which is built once per process. The build is quick if
/// `cargo test` has built the example already.
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
    let is_example = |message: &Value| message["target"]["name"] == name;
    messages
        .filter(is_example)
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .unwrap()
}
