//! Doc comments follow the style of the crate: a summary line states what an item is or does, and
//! comments are no wider than the code.

use std::fs;
use std::path::{Path, PathBuf};

/// First words that begin a question or a fragment instead of a statement.
const POOR_OPENINGS: [&str; 12] = [
    "What", "Whether", "How", "Who", "Whose", "Where", "When", "Why", "Until", "Which", "As",
    "Whom",
];
const WIDTH: usize = 100;

/// Returns the path and text of each Rust file of the crate, its tests, examples and benches.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "tests", "examples", "benches"] {
        walk(&root.join(dir), &mut found);
    }
    for (path, _) in &mut found {
        *path = path.strip_prefix(root).unwrap().to_owned();
    }
    found.sort();
    found
}

/// Returns the text of the doc comment on a line, if it has one.
fn doc_comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
}

/// Returns the first line of each doc comment of a file, with its line number.
fn summaries(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<_> = text.lines().collect();
    let begins = |at: usize| at == 0 || doc_comment(lines[at - 1]).is_none();
    let at_line = |at: usize| Some((at + 1, doc_comment(lines[at])?.trim()));
    (0..lines.len()).filter(|&at| begins(at)).filter_map(at_line).collect()
}

#[test]
fn summary_lines_state_what_an_item_is_or_does() {
    let (mut blocks, mut poor) = (0, Vec::new());
    for (file, text) in sources() {
        for (line, summary) in summaries(&text) {
            blocks += 1;
            let word = summary.split(|c: char| !c.is_alphabetic()).next().unwrap();
            if POOR_OPENINGS.contains(&word) {
                poor.push(format!("{}:{line}: {summary}", file.display()));
            }
        }
    }
    assert!(blocks > 500, "only {blocks} doc comments were found");
    assert!(
        poor.len() * 100 < blocks * 3,
        "{} of {blocks} doc comments begin with a question word:\n{}",
        poor.len(),
        poor.join("\n")
    );
}

#[test]
fn comments_fit_the_width_of_the_code() {
    let is_exempt = |comment: &str| comment.contains("://") || comment.contains("| ");
    let mut long = Vec::new();
    for (file, text) in sources() {
        let mut in_code = false;
        for (at, line) in text.lines().enumerate() {
            let doc = doc_comment(line).map(str::trim_start);
            // Examples are code, and rustdoc hides some of their lines.
            let is_fence = doc.is_some_and(|doc| doc.starts_with("```"));
            in_code = doc.is_some() && in_code != is_fence;
            let is_comment = line.trim_start().starts_with("//") && !in_code;
            if is_comment && line.chars().count() > WIDTH && !is_exempt(line) {
                long.push(format!("{}:{}", file.display(), at + 1));
            }
        }
    }
    assert!(
        long.is_empty(),
        "{} comments are longer than {WIDTH} columns:\n{}",
        long.len(),
        long.join("\n")
    );
}
