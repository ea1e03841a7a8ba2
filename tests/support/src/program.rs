//! The programs that run as servers and as sentinels.

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::Command;

/// Names the program of the servers, as a path or as a name on `PATH`.
const SERVER: &str = "REDIS_SERVER";
/// Names the program of the sentinels, for a server that cannot be one.
const SENTINEL: &str = "REDIS_SENTINEL";
const DEFAULT: &str = "redis-server";

/// Returns the program of the servers, which is `redis-server` unless the environment names
/// another.
pub(crate) fn server() -> OsString {
    named(SERVER).unwrap_or_else(|| DEFAULT.into())
}

/// Returns the program of the sentinels, which is that of the servers unless the environment names
/// another.
pub(crate) fn sentinel() -> OsString {
    named(SENTINEL).unwrap_or_else(server)
}

fn named(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|program| !program.is_empty())
}

/// Returns `true` if the servers can use TLS, and otherwise says that the test is skipped.
///
/// The default server must be able to, so that no test is skipped by mistake.
pub fn has_tls() -> bool {
    let Some(program) = named(SERVER) else { return true };
    // The server reads the certificates before it opens a port, and exits without one.
    let output = Command::new(&program).args(["--port", "0", "--tls-port", "1"]).output().unwrap();
    let has_tls = !String::from_utf8_lossy(&output.stdout).contains("Failed finding TLS support");
    if !has_tls {
        skipped(&format!("{} is built without TLS", program.display()));
    }
    has_tls
}

/// Says that the test of this thread is skipped, even if the output of tests is captured.
#[allow(clippy::explicit_write, reason = "what `eprintln!` prints is captured")]
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    writeln!(std::io::stderr(), "SKIPPED: {test}: {why}").unwrap();
}
