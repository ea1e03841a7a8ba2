//! The documents are right about the files, the tests and the items that they refer to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Where the published API documentation of this crate begins.
const API: &str = "https://docs.rs/clustered-sessions/latest/clustered_sessions/";

fn read(file: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files under a folder whose names end so, by their paths from the root.
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

/// All documents, by their paths from the root.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path());
    let top = top.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let mut found: Vec<_> = top.map(|path| path.strip_prefix(ROOT).unwrap().to_owned()).collect();
    found.extend(files("docs", ".md"));
    assert!(found.len() >= 14, "{found:?}");
    found
}

/// The functions that a text names, as `file.rs::name`.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"))
}

/// Fails unless all the functions that a document names are there, which are at least this many.
///
/// Paths are from the root if they begin with `src/`, and otherwise the end of a path in `tests/`.
fn check(document: &str, least: usize) {
    let tests = files("tests", ".rs");
    let text = read(document);
    let mut count = 0;
    for (file, name) in named(&text) {
        let file = format!("{file}.rs");
        let candidates = if file.starts_with("src/") {
            vec![PathBuf::from(&file)]
        } else {
            tests.iter().filter(|path| path.ends_with(&file)).cloned().collect()
        };
        let is_there = candidates.iter().map(read).any(|source| {
            // The last form is an entry of a macro that declares tests.
            [format!("fn {name}("), format!("fn {name}<"), format!("    {name}: ")]
                .iter()
                .any(|text| source.contains(text))
        });
        assert!(is_there, "{document}: {file} has no function `{name}`");
        count += 1;
    }
    assert!(count >= least, "{document}: only {count} functions are named");
}

#[test]
fn every_function_that_a_document_names_is_there() {
    for document in documents() {
        check(document.to_str().unwrap(), 0);
    }
}

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    check("docs/guarantees.md", 40);
}

#[test]
fn every_test_that_the_checklist_names_is_there() {
    check("docs/owasp.md", 40);
}

#[test]
fn every_function_on_the_walks_of_the_architecture_is_there() {
    check("ARCHITECTURE.md", 35);
}

#[test]
fn the_protocol_has_all_its_rules_and_the_guarantees_cite_no_others() {
    let protocol = read("docs/protocol.md");
    let rules = protocol.lines().filter_map(|line| line.strip_prefix("### Rule "));
    let numbers: Vec<usize> =
        rules.map(|rule| rule.split_once(':').unwrap().0.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=34).collect::<Vec<_>>());

    let guarantees = read("docs/guarantees.md");
    let rows = guarantees.lines().skip_while(|line| !line.starts_with("| rule |"));
    let cells = rows.filter_map(|row| row.strip_prefix("| ")?.split(" |").next());
    let cited = cells.flat_map(|cell| cell.split(", ")).filter_map(|cell| cell.parse().ok());
    let cited: Vec<usize> = cited.collect();
    assert!(cited.len() > 25 && cited.iter().all(|rule| numbers.contains(rule)), "{cited:?}");
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").len() <= 10_000);
}

/// The text without fenced code, and the fenced blocks with their info strings.
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
    assert!(open.is_none(), "a block of code has no end: {open:?}");
    (prose, blocks)
}

#[test]
fn code_in_documents_has_no_hidden_lines() {
    let mut count = 0;
    for document in documents() {
        for (info, block) in without_code(&read(&document)).1 {
            assert!(!info.is_empty(), "{}: say the language of each block", document.display());
            if info.starts_with("rust") {
                count += 1;
                let hidden = block.lines().find(|line| *line == "#" || line.starts_with("# "));
                assert_eq!(hidden, None, "{}: a forge shows it", document.display());
            }
        }
    }
    assert!(count >= 8, "{count}");
}

/// The anchors of a document's headings, as forges and rustdoc make them.
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

/// Targets of inline links, and of link definitions by their labels.
fn links(text: &str) -> (Vec<String>, BTreeMap<String, String>) {
    let prose = without_code(text).0;
    let inline = prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    let definitions = prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
    let definitions = definitions.map(|(label, target)| (label.to_owned(), target.to_owned()));
    (inline.collect(), definitions.collect())
}

/// Fails unless the API documentation has this page and this item on it.
fn check_item(place: &str, url: &str, sources: &str) {
    let (page, fragment) = url.split_once('#').unwrap_or((url, ""));
    let page = page.rsplit('/').next().unwrap().trim_end_matches(".html");
    let (kind, name) = page.split_once('.').unwrap_or_else(|| panic!("{place}: {url}"));
    let declared = format!("pub {kind} {name}");
    let mut is_there =
        [" ", "<", "(", "{", ";"].iter().any(|next| sources.contains(&format!("{declared}{next}")));
    is_there &= match fragment.split_once('.') {
        Some(("method", name)) => [format!("fn {name}("), format!("fn {name}<")]
            .iter()
            .any(|method| sources.contains(method)),
        Some(("variant", name)) => sources.contains(&format!("\n    {name}")),
        Some(_) => false,
        None => fragment.is_empty(),
    };
    assert!(is_there, "{place}: the crate has no {url}");
}

#[test]
fn every_link_leads_somewhere() {
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
            assert!(!target.contains("::"), "{place}: on a forge, this link is dead");
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(Path::new(ROOT).join(&file).exists(), "{place}: there is no such file");
            if !anchor.is_empty() {
                let anchors = anchors(&read(&file));
                assert!(anchors.iter().any(|found| found == anchor), "{place}: {anchors:?}");
            }
        }
    }
    assert!(count > 80, "{count}");
}

/// The text of the guide's module that shows a chapter.
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
            let is_fine = target.starts_with('#') || target.starts_with("https://");
            assert!(is_fine, "{}: give {target} a label", chapter.display());
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
