//! The files, tests and items that the documents cite exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The root of the published API documentation of this crate.
const API: &str = "https://docs.rs/clustered-sessions/latest/clustered_sessions/";

fn read(file: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all files under a folder whose names end with `end`, as paths from the root.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    fn scan(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scan(&path, end, found);
            } else if path.to_str().unwrap().ends_with(end) {
                found.push(path.strip_prefix(ROOT).unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    scan(&Path::new(ROOT).join(folder), end, &mut found);
    found.sort();
    found
}

/// Returns all documents, as paths from the root.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut found: Vec<_> = top.map(|path| path.strip_prefix(ROOT).unwrap().to_owned()).collect();
    found.extend(files("docs", ".md"));
    assert!(found.len() >= 14, "{found:?}");
    found
}

/// Returns the functions that a text cites as `file.rs::name`.
fn cited_functions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"))
}

/// Asserts that all functions that a document cites exist, and that it cites at least `least`.
///
/// A path that begins with `src/` is relative to the root. Any other is the end of a path in
/// `tests/`.
fn check_citations(document: &str, least: usize) {
    let tests = files("tests", ".rs");
    let text = read(document);
    let mut count = 0;
    for (file, name) in cited_functions(&text) {
        let file = format!("{file}.rs");
        let candidates = if file.starts_with("src/") {
            vec![PathBuf::from(&file)]
        } else {
            tests.iter().filter(|path| path.ends_with(&file)).cloned().collect()
        };
        let exists = candidates.iter().map(read).any(|source| {
            // The third form is an entry of a macro that declares tests.
            [format!("fn {name}("), format!("fn {name}<"), format!("    {name}: ")]
                .iter()
                .any(|text| source.contains(text))
        });
        assert!(exists, "{document}: {file} has no function `{name}`");
        count += 1;
    }
    assert!(count >= least, "{document}: only {count} functions are cited");
}

#[test]
fn every_function_that_a_document_cites_exists() {
    for document in documents() {
        check_citations(document.to_str().unwrap(), 0);
    }
}

#[test]
fn every_test_that_the_guarantees_cite_exists() {
    check_citations("docs/guarantees.md", 40);
}

#[test]
fn every_check_that_the_guarantees_name_exists() {
    let checks: String = files("src/testing", ".rs").iter().map(read).collect();
    let text = read("docs/guarantees.md");
    // In parentheses, after the test that runs the conformance suite.
    let names = text.split("` (`").skip(1).map(|rest| rest.split('`').next().unwrap());
    let mut count = 0;
    for name in names {
        let exists = [format!("fn {name}("), format!("fn {name}<")]
            .iter()
            .any(|function| checks.contains(function));
        assert!(exists, "the conformance suite has no check `{name}`");
        count += 1;
    }
    assert!(count >= 3, "only {count} checks are named");
}

#[test]
fn every_test_that_the_owasp_checklist_cites_exists() {
    check_citations("docs/owasp.md", 40);
}

#[test]
fn every_function_that_the_architecture_cites_exists() {
    check_citations("ARCHITECTURE.md", 35);
}

#[test]
fn the_protocol_has_all_its_rules_and_the_guarantees_cite_each_of_them() {
    let protocol = read("docs/protocol.md");
    let rules = protocol.lines().filter_map(|line| line.strip_prefix("### Rule "));
    let numbers: Vec<usize> =
        rules.map(|rule| rule.split_once(':').unwrap().0.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=36).collect::<Vec<_>>());

    let guarantees = read("docs/guarantees.md");
    let rows = guarantees.lines().skip_while(|line| !line.starts_with("| rule |"));
    let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split(" |").next());
    let cited = cells.flat_map(|cell| cell.split(", ")).filter_map(|cell| cell.parse().ok());
    let cited: BTreeSet<usize> = cited.collect();
    assert_eq!(cited, numbers.into_iter().collect());
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").len() <= 10_000);
}

/// Splits a document into the text outside fenced code, and the fenced blocks with their info
/// strings.
fn without_code(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, block)), None) => *block += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a code block is not closed: {open:?}");
    (prose, blocks)
}

#[test]
fn code_in_documents_has_no_hidden_lines() {
    let mut count = 0;
    for document in documents() {
        for (info, block) in without_code(&read(&document)).1 {
            assert!(!info.is_empty(), "{}: a code block has no language", document.display());
            if info.starts_with("rust") {
                count += 1;
                let hidden = block.lines().find(|line| *line == "#" || line.starts_with("# "));
                assert_eq!(hidden, None, "{}: forges show this hidden line", document.display());
            }
        }
    }
    assert!(count >= 8, "{count}");
}

/// Returns the anchors of a document's headings, as forges and rustdoc generate them.
fn anchors(text: &str) -> Vec<String> {
    let prose = without_code(text).0;
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Returns the targets of inline links, and of link definitions by their labels.
fn links(text: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let prose = without_code(text).0;
    let inline = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    let definitions = prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    let definitions = definitions.map(|(label, target)| (label.to_owned(), target.to_owned()));
    (inline.collect(), definitions.collect())
}

/// Asserts that the crate has the item that a URL of the API documentation refers to.
fn check_item(place: &str, url: &str, sources: &str) {
    let (page, fragment) = url.split_once('#').unwrap_or((url, ""));
    let page = page.rsplit('/').next().unwrap().trim_end_matches(".html");
    let (kind, name) = page.split_once('.').unwrap_or_else(|| panic!("{place}: {url}"));
    let declared = format!("pub {kind} {name}");
    let mut exists =
        [" ", "<", "(", "{", ";"].iter().any(|next| sources.contains(&format!("{declared}{next}")));
    exists &= match fragment.split_once('.') {
        Some(("method", name)) => [format!("fn {name}("), format!("fn {name}<")]
            .iter()
            .any(|method| sources.contains(method)),
        Some(("variant", name)) => sources.contains(&format!("\n    {name}")),
        Some(_) => false,
        None => fragment.is_empty(),
    };
    assert!(exists, "{place}: the crate has no {url}");
}

#[test]
fn every_link_has_an_existing_target() {
    let sources: String = files("src", ".rs").iter().map(read).collect();
    let mut count = 0;
    for document in documents() {
        let text = read(&document);
        let (inline, definitions) = links(&text);
        for target in inline.iter().chain(definitions.values()) {
            count += 1;
            let place = format!("{}: {target}", document.display());
            if let Some(url) = target.strip_prefix(API) {
                check_item(&place, url, &sources);
                continue;
            }
            if target.starts_with("https://") {
                continue;
            }
            assert!(!target.contains("::"), "{place}: forges cannot resolve this link");
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(Path::new(ROOT).join(&file).exists(), "{place}: the file does not exist");
            if !anchor.is_empty() {
                let anchors = anchors(&read(&file));
                assert!(anchors.iter().any(|found| found == anchor), "{place}: {anchors:?}");
            }
        }
    }
    assert!(count > 80, "{count}");
}

/// Returns the name and the text of the guide's module for a chapter.
fn module_of<'a>(guide: &'a str, chapter: &Path) -> (String, &'a str) {
    let name = chapter.file_stem().unwrap().to_str().unwrap().replace('-', "_");
    let module = guide.split_once(&format!("pub mod {name} {{"));
    let (_, module) = module.unwrap_or_else(|| panic!("the guide has no module `{name}`"));
    (name, module.split("\n}").next().unwrap())
}

#[test]
fn links_between_chapters_work_on_docs_rs_too() {
    let guide = read("src/guide/mod.rs");
    for chapter in files("docs", ".md") {
        let (name, module) = module_of(&guide, &chapter);
        assert!(module.contains(&*chapter.to_string_lossy()), "`{name}` shows another chapter");
        assert!(guide.contains(&format!("[`{name}`]")), "the guide does not list `{name}`");
        let text = read(&chapter);
        let (inline, definitions) = links(&text);
        for target in inline {
            let is_allowed = target.starts_with('#') || target.starts_with("https://");
            assert!(is_allowed, "{}: give {target} a label", chapter.display());
        }
        for (label, target) in &definitions {
            let uses = text.matches(&format!("[{label}]")).count();
            assert!(uses > 1, "{}: [{label}] is not used", chapter.display());
            if target.starts_with("https://") {
                continue;
            }
            let defined = match target.split_once(".md") {
                Some((file, anchor)) if !file.contains('/') => {
                    format!("//! [{label}]: super::{}{anchor}\n", file.replace('-', "_"))
                }
                _ => format!("//! [{label}]: https://docs.rs/"),
            };
            assert!(module.contains(&defined), "`{name}` in the guide lacks {defined}");
        }
        let prose = without_code(&text).0;
        for used in prose.split("][").skip(1).map(|rest| rest.split(']').next().unwrap()) {
            assert!(definitions.contains_key(used), "{}: [{used}]", chapter.display());
        }
    }
}

#[test]
fn what_guides_quote_is_the_code_that_is_tested() {
    let frameworks = "docs/other-frameworks.md";
    for (source, guide) in [
        ("tests/tower_sessions/side_by_side.rs", "docs/coming-from-tower-sessions.md"),
        ("tests/frameworks/tests/salvo.rs", frameworks),
        ("tests/frameworks/tests/tonic.rs", frameworks),
        ("tests/frameworks/tests/warp.rs", frameworks),
    ] {
        let text = read(source);
        let (_, rest) = text.split_once("// In the guide, word for word:\n\n").unwrap();
        let (code, _) = rest.split_once("\n// End of the quotation.").unwrap();
        assert!(
            read(guide).contains(code.trim_end()),
            "{guide} does not have the code of {source}"
        );
    }
}
