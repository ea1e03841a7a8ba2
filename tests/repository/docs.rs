//! The tests that the documents name exist.

use std::fs;
use std::path::{Path, PathBuf};

/// The tests that a text names, as `file.rs::name`.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"))
}

/// Where a file may be that a document names: under `src` by its full path, else in the directory
/// of one of the test binaries.
fn candidates(root: &Path, file: &str) -> Vec<PathBuf> {
    let file = format!("{file}.rs");
    if file.starts_with("src/") {
        return vec![root.join(file)];
    }
    let binaries = fs::read_dir(root.join("tests")).unwrap();
    binaries.map(|binary| binary.unwrap().path().join(&file)).collect()
}

/// Checks that a document names at least `least` tests, and that each of them exists.
fn check(document: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).unwrap();
    let mut count = 0;
    for (file, name) in named(&text) {
        let definitions = [format!("fn {name}("), format!("    {name}: ")];
        let exists = candidates(root, file)
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|source| definitions.iter().any(|text| source.contains(text)));
        assert!(exists, "{document}: {file}.rs has no test `{name}`");
        count += 1;
    }
    assert!(count >= least, "{document} names only {count} tests");
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    check("docs/guarantees.md", 40);
}

#[test]
fn every_test_that_the_checklist_names_is_there() {
    check("docs/owasp.md", 20);
}
