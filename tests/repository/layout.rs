//! The modules of the crate are layers: see "Layout" in `src/lib.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. Modules on one line do not import from each other.
const LAYERS: &[&[&str]] = &[
    &["lib"],
    &["middleware"],
    &["session"],
    &["store", "fuzzing"],
    &["config"],
    &["cluster", "codec", "cookie", "testing"],
    &["resilience"],
    &["backend", "observe", "secret"],
    &["record"],
    &["error"],
    &["id", "clock"],
    &["random", "sync", "guards"],
];

/// Paths that a layer must not name, whether it imports them or spells them out.
const HTTP: [&str; 4] = ["http::", "axum_core::", "tower_layer::", "tower_service::"];
const WITHOUT_HTTP: [&str; 8] =
    ["error", "record", "backend", "observe", "codec", "cluster", "resilience", "store"];

/// The code of each file under `src`, without comments, by its path from there.
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

/// The module at the top that a file belongs to.
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
    layer.unwrap_or_else(|| {
        panic!("`{module}` is in no layer: add it to LAYERS and to `src/lib.rs`")
    })
}

/// The paths that follow each `prefix` in the code, as segments. Braces are opened: `a::{b, c}` is two paths.
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
fn the_store_side_knows_nothing_of_http() {
    for (file, code) in sources() {
        if WITHOUT_HTTP.contains(&&*module(&file)) {
            for name in HTTP {
                assert!(paths(&code, name).is_empty(), "{} names `{name}`", file.display());
            }
        }
    }
}

/// The file of a module, given the path to it from the crate's root.
fn file_of(sources: &BTreeMap<PathBuf, String>, path: &[String]) -> Option<PathBuf> {
    let base: PathBuf = path.iter().collect();
    [base.with_extension("rs"), base.join("mod.rs")]
        .into_iter()
        .find(|file| sources.contains_key(file))
}

/// The path of a file's module from the crate's root.
fn path_of(file: &Path) -> Vec<String> {
    let file = file.with_extension("");
    let names = file.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod" && name != "lib").collect()
}

/// The file that defines what a path names: the last module on it that has a file, or the child that it re-exports the item from.
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

/// A module and the private children under it are one unit, so imports between a file and the modules that it is inside of do not
/// count, nor do a module's imports from its own children.
#[test]
fn no_files_import_each_other_in_a_circle() {
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
    // What is left after files that import nothing that is left have been taken away, again and again, is in a circle or above one.
    loop {
        let before = imports.len();
        let left: Vec<PathBuf> = imports.keys().cloned().collect();
        imports.retain(|_, targets| targets.iter().any(|target| left.contains(target)));
        if imports.len() == before {
            break;
        }
    }
    assert!(imports.is_empty(), "in a circle, or above one: {:?}", imports.keys());
}
