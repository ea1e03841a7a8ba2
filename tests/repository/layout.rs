//! The modules of the crate form layers. See "Layout" in `src/lib.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the top down. Modules of one layer do not import from each other.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["middleware", "tower_sessions"],
    &["session"],
    &["store", "fuzzing"],
    &["config"],
    &["cluster", "codec", "cookie", "events", "testing"],
    &["resilience"],
    &["backend", "observe", "secret"],
    &["record"],
    &["error"],
    &["id", "clock"],
    &["random", "sync", "task", "timeout", "guards"],
];

/// Prefixes of paths that the modules in [`WITHOUT_HTTP`] must not contain.
const HTTP: [&str; 4] = ["http::", "axum_core::", "tower_layer::", "tower_service::"];
const WITHOUT_HTTP: [&str; 8] =
    ["error", "record", "backend", "observe", "codec", "cluster", "resilience", "store"];

/// Returns the code of each file under `src` without comments, by its path from `src`.
fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .collect::<Vec<_>>();
                found.insert(path.strip_prefix(root).unwrap().to_owned(), code.join("\n"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 80, "only {} files were found", found.len());
    found
}

/// Returns the top-level module that a file belongs to.
fn module(file: &Path) -> String {
    Path::new(file.components().next().unwrap().as_os_str())
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

fn layer(module: &str) -> usize {
    let layer = LAYERS.iter().position(|layer| layer.contains(&module));
    layer.unwrap_or_else(|| panic!("`{module}` has no layer: add it to LAYERS and to `src/lib.rs`"))
}

/// Returns the segments of each path that follows `prefix` in the code. Braces are expanded:
/// `a::{b, c}` yields two paths.
fn paths(code: &str, prefix: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at]
            .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
        {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let head: Vec<String> =
            rest[..end].split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
        match rest[end..].strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((inner, _)) if rest[..end].ends_with("::") || end == 0 => {
                for name in inner.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                    let name = name.split([' ', ':']).next().unwrap().to_owned();
                    paths.push(head.iter().cloned().chain([name]).collect());
                }
            }
            _ => paths.push(head),
        }
    }
    paths
}

#[test]
fn every_module_imports_only_from_the_layers_below_it() {
    for (file, code) in sources() {
        let importer = module(&file);
        for path in paths(&code, "crate::") {
            let Some(imported) = path.first() else { continue };
            let is_item_of_the_root = imported.starts_with(char::is_uppercase);
            if *imported == importer || is_item_of_the_root || imported == "guide" {
                continue;
            }
            assert!(
                layer(imported) > layer(&importer),
                "{} imports from `{imported}`, which is not below `{importer}`",
                file.display()
            );
        }
    }
}

#[test]
fn modules_without_http_name_no_http_crates() {
    for (file, code) in sources() {
        if WITHOUT_HTTP.contains(&&*module(&file)) {
            for name in HTTP {
                assert!(paths(&code, name).is_empty(), "{} names `{name}`", file.display());
            }
        }
    }
}

/// Returns the file of a module, given the module's path from the crate's root.
fn file_of(sources: &BTreeMap<PathBuf, String>, path: &[String]) -> Option<PathBuf> {
    let base: PathBuf = path.iter().collect();
    [base.with_extension("rs"), base.join("mod.rs")]
        .into_iter()
        .find(|file| sources.contains_key(file))
}

/// Returns the path of a file's module from the crate's root.
fn path_of(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let names = file.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod" && name != "lib").collect()
}

/// Returns the file that defines the item at a path: the file of the last module on the path, or of
/// the child that this module re-exports the item from.
fn definition(sources: &BTreeMap<PathBuf, String>, path: &[String]) -> Option<PathBuf> {
    let depth = (1..=path.len()).rev().find(|&depth| file_of(sources, &path[..depth]).is_some())?;
    let (module, item) = (&path[..depth], path.get(depth));
    let file = file_of(sources, module)?;
    let re_export = paths(&sources[&file], "self::")
        .into_iter()
        .find(|found| found.last() == item && found.len() > 1);
    match re_export {
        Some(found) if item.is_some() => definition(sources, &[module, &found].concat()),
        _ => Some(file),
    }
}

/// A module and its private children form one unit. So imports between a file and the modules that
/// contain it do not count.
#[test]
fn imports_between_files_have_no_cycles() {
    let sources = sources();
    let mut imports: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for (file, code) in &sources {
        let here = path_of(file);
        let parent = &here[..here.len().saturating_sub(1)];
        let absolute = paths(code, "crate::");
        let relative = paths(code, "super::").into_iter().map(|path| [parent, &path].concat());
        for path in absolute.into_iter().chain(relative) {
            let Some(target) = definition(&sources, &path) else { continue };
            let there = path_of(&target);
            if !here.starts_with(&there) && !there.starts_with(&here) {
                imports.entry(file.clone()).or_default().push(target);
            }
        }
    }
    assert!(imports.len() > 60, "only {} files import anything", imports.len());
    // Files without remaining imports are removed repeatedly. The files that are left are part of a
    // cycle or import from one.
    loop {
        let before = imports.len();
        let left: Vec<PathBuf> = imports.keys().cloned().collect();
        imports.retain(|_, targets| targets.iter().any(|target| left.contains(target)));
        if imports.len() == before {
            break;
        }
    }
    assert!(
        imports.is_empty(),
        "these files are in an import cycle or import from one: {:?}",
        imports.keys()
    );
}
