//! What the documentation says about the tests is so.

use std::path::Path;

/// The tests that a text names, as `file.rs::name`.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"))
}

/// Fails unless all the tests that a text names are there, which are at least so many.
fn check(text: &str, least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(text)).unwrap();
    let mut count = 0;
    for (file, name) in named(&text) {
        // Names from `tests` leave out the directory of the test binary.
        let dirs: Vec<_> = if file.starts_with("src/") {
            vec![root.to_owned()]
        } else {
            let binaries = std::fs::read_dir(root.join("tests")).unwrap();
            binaries.map(|binary| binary.unwrap().path()).collect()
        };
        let sources =
            dirs.iter().map(|dir| std::fs::read_to_string(dir.join(format!("{file}.rs"))));
        let is_there = sources.filter_map(Result::ok).any(|source| {
            [format!("fn {name}("), format!("    {name}: ")]
                .iter()
                .any(|text| source.contains(text))
        });
        assert!(is_there, "{file}.rs has no test `{name}`");
        count += 1;
    }
    assert!(count >= least, "only {count} tests are named");
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    check("docs/guarantees.md", 40);
}

#[test]
fn every_test_that_the_checklist_names_is_there() {
    check("docs/owasp.md", 20);
}
