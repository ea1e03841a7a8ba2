//! Checks that the public API names types of the allowed crates only: a major version of any other
//! dependency must not be a breaking change of this crate.
//!
//! Reads the JSON that `rustdoc --output-format json` has written; see `.ci/run`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![allow(clippy::expect_used, reason = "it panics if the format has changed")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::Value;

const ALLOWED: [&str; 13] = [
    "alloc",
    "axum_core",
    "bytes",
    "core",
    "futures_core",
    "http",
    "serde",
    "serde_core",
    "std",
    // The traits of byte streams, for connectors. Version 1 is stable.
    "tokio",
    "tower_layer",
    "tower_service",
    // The traits of the adapters. Each feature names the version in its name.
    "tower_sessions_core",
];

/// Collects the ids of all paths that a part of an item names: types, traits and bounds are all
/// objects with an `id` and a `path`.
fn named<'a>(part: &'a Value, found: &mut Vec<&'a Value>) {
    match part {
        Value::Object(fields) => {
            if let (Some(id), Some(_)) = (fields.get("id"), fields.get("path")) {
                found.push(id);
            }
            fields.values().for_each(|field| named(field, found));
        }
        Value::Array(parts) => parts.iter().for_each(|part| named(part, found)),
        _ => {}
    }
}

/// Returns `true` if an implementation appears in no signature: auto traits, blanket
/// implementations of other crates, and `Unpin`, whose bounds come from `pin_project_lite`.
fn is_implied(inner: &Value) -> bool {
    let implementation = &inner["impl"];
    implementation["is_synthetic"] == true
        || !implementation["blanket_impl"].is_null()
        || implementation["trait"]["path"].as_str().is_some_and(|path| path.ends_with("Unpin"))
}

fn main() -> ExitCode {
    let file = std::env::args().nth(1).expect("usage: external-types FILE.json");
    let json = std::fs::read(&file).expect("the file can be read");
    let docs: Value = serde_json::from_slice(&json).expect("the file is JSON");
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut checked = 0;
    for item in docs["index"].as_object().expect("the file is from rustdoc").values() {
        if item["crate_id"] != 0 || is_implied(&item["inner"]) {
            continue;
        }
        let mut ids = Vec::new();
        named(&item["inner"], &mut ids);
        for id in ids {
            let Some(path) = docs["paths"].get(id.to_string()) else { continue };
            checked += 1;
            let name = match path["crate_id"].as_u64() {
                None | Some(0) => continue,
                Some(number) => &docs["external_crates"][number.to_string()]["name"],
            };
            let name = name.as_str().expect("a crate has a name");
            if !ALLOWED.contains(&name) {
                let at = &item["span"];
                let user = format!("{}:{}", at["filename"].as_str().unwrap_or("?"), at["begin"][0]);
                users.entry(name.to_owned()).or_default().insert(user);
            }
        }
    }
    assert!(checked > 500, "only {checked} paths were found: has the format changed?");
    for (name, users) in &users {
        eprintln!("the public API names types of `{name}`:");
        users.iter().for_each(|user| eprintln!("    {user}"));
    }
    if users.is_empty() {
        println!("{checked} paths in the public API, all of allowed crates");
    }
    ExitCode::from(u8::from(!users.is_empty()))
}
