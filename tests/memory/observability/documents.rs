//! The documented tables, the alerts and the dashboard agree with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clustered_sessions::{MemoryBackend, SessionLayer};
use metrics_util::MetricKind;
use metrics_util::debugging::DebuggingRecorder;
use serde_json::Value;

use super::PREFIX;
use crate::web::config;

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Returns the rows of the table with this head, each as its cells.
fn table(head: &str) -> Vec<Vec<String>> {
    let text = read("docs/observability.md");
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.take_while(|row| row.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "there is no table {head}");
    rows
}

/// Returns the code spans in a text.
fn code_spans(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

type Described = BTreeMap<String, (String, String, BTreeSet<String>)>;

fn documented() -> Described {
    let rows = table("| metric |").into_iter();
    rows.map(|row| {
        (row[0].trim_matches('`').to_owned(), (row[1].clone(), row[2].clone(), code_spans(&row[3])))
    })
    .collect()
}

/// Returns the metrics that a store registers, and the values of each label.
fn registered() -> (Described, BTreeMap<String, BTreeSet<String>>) {
    let recorder = DebuggingRecorder::new();
    let config = config(&MemoryBackend::new()).build().unwrap();
    let _layer = metrics::with_local_recorder(&recorder, || SessionLayer::new(config));
    let (mut metrics, mut values) = (Described::new(), BTreeMap::<_, BTreeSet<_>>::new());
    for (key, unit, description, _) in recorder.snapshotter().snapshot().into_vec() {
        let kind = match key.kind() {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        assert!(
            description.is_some_and(|text| !text.is_empty()),
            "{} is not described",
            key.key().name()
        );
        let mut labels = BTreeSet::new();
        for label in key.key().labels() {
            labels.insert(label.key().to_owned());
            values.entry(label.key().to_owned()).or_default().insert(label.value().to_owned());
        }
        let unit = unit.unwrap().as_str().to_owned();
        metrics.insert(key.key().name().to_owned(), (kind.to_owned(), unit, labels));
    }
    (metrics, values)
}

#[test]
fn the_table_of_metrics_matches_the_metrics_of_a_store() {
    assert_eq!(documented(), registered().0);
}

#[test]
fn names_units_and_types_follow_the_conventions_of_prometheus() {
    for (name, (kind, unit, _)) in documented() {
        assert!(name.starts_with(PREFIX), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert_eq!(name.ends_with("_seconds"), unit == "seconds", "{name}");
    }
}

#[test]
fn each_operation_and_outcome_is_documented() {
    let (_, values) = registered();
    let outcomes: BTreeSet<_> =
        table("| outcome |").iter().flat_map(|row| code_spans(&row[0])).collect();
    assert_eq!(outcomes, values["outcome"]);
    let text = read("docs/observability.md");
    let operations = text.lines().find(|line| line.starts_with("`operation` is")).unwrap();
    let (operations, _) = operations.split_once("`outcome`").unwrap();
    let mut operations = code_spans(operations);
    operations.remove("operation");
    assert_eq!(operations, values["operation"]);
}

/// Returns the dashboard and its queries.
fn dashboard() -> (Value, Vec<String>) {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let targets = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let queries =
        targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    (dashboard, queries)
}

fn alerts() -> String {
    let text = read("docs/observability.md");
    text.split("```yaml").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns the metrics in a query, without the suffixes that Prometheus appends to the names of
/// histograms.
fn queried_metrics(query: &str) -> BTreeSet<String> {
    let words = query.split(|c| !is_word(c)).filter(|word| word.starts_with(PREFIX));
    let suffixes = ["_bucket", "_sum", "_count"];
    words
        .map(|word| {
            suffixes.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

/// Returns the labels that a query selects by, each with a value.
fn label_selectors(query: &str) -> Vec<(String, String)> {
    let parts: Vec<_> = query.split('"').collect();
    let of_label = |pair: &[&str]| {
        let before = pair[0].trim_end_matches(['=', '~', '!']);
        let label = before.rsplit(|c| !is_word(c)).next().unwrap().to_owned();
        pair[1].split('|').map(move |value| (label.clone(), value.to_owned())).collect::<Vec<_>>()
    };
    parts.chunks_exact(2).flat_map(of_label).collect()
}

#[test]
fn the_dashboard_and_the_alerts_query_existing_metrics() {
    let (_, mut queries) = dashboard();
    queries.extend(alerts().lines().filter(|line| !line.contains("alert:")).map(str::to_owned));
    let (metrics, (_, values)) = (documented(), registered());
    let mut count = 0;
    for query in &queries {
        for metric in queried_metrics(query) {
            assert!(metrics.contains_key(&metric), "there is no {metric}: {query}");
            count += 1;
        }
        for (label, value) in label_selectors(query) {
            match label.as_str() {
                "instance" | "store" => assert_eq!(value, format!("${label}"), "{query}"),
                label => {
                    assert!(values[label].contains(&value), "there is no {label} {value}: {query}");
                }
            }
        }
        for by in query.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(", ") {
                assert!(
                    ["instance", "le"].contains(&label) || values.contains_key(label),
                    "{label}: {query}"
                );
            }
        }
    }
    assert!(count > 40, "{count}");
    assert!(alerts().matches("- alert:").count() >= 5);
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown: BTreeSet<_> =
        dashboard().1.iter().flat_map(|query| queried_metrics(query)).collect();
    assert_eq!(shown, documented().into_keys().collect());
}

#[test]
fn the_dashboard_has_the_structure_that_grafana_expects() {
    let (dashboard, _) = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> =
        variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance", "store"]);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} overlaps another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = target["expr"].as_str().unwrap();
            let selectors = query.matches("{instance=~\"$instance\", store=~\"$store\"").count();
            assert_eq!(selectors, query.matches(PREFIX).count(), "{title}");
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "testing" {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Returns the text before the parenthesis that closes the one opened just before `text`.
fn in_parentheses(text: &str) -> &str {
    let (mut depth, mut quoted) = (1, false);
    let end = text.char_indices().find(|(_, c)| {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    &text[..end.unwrap().0]
}

/// Returns the `tracing` calls in the code: events as level and message, spans as level and name.
fn traced() -> BTreeSet<(String, String)> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut traced = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, path) in text.match_indices("tracing::") {
            let Some((level, rest)) = text[at + path.len()..].split_once("!(") else { continue };
            let (level, is_span) =
                level.strip_suffix("_span").map_or((level, false), |level| (level, true));
            if !["error", "warn", "info", "debug", "trace"].contains(&level) {
                continue;
            }
            let arguments = in_parentheses(rest);
            let mut texts = arguments.split('"').skip(1).step_by(2);
            let text = if is_span { texts.next() } else { texts.last() };
            traced.insert((
                level.to_owned(),
                text.unwrap_or_else(|| panic!("{}: {arguments}", file.display())).to_owned(),
            ));
        }
    }
    traced
}

#[test]
fn the_tables_of_spans_and_events_match_the_code() {
    let spans = table("| span |")
        .into_iter()
        .map(|row| (row[1].clone(), row[0].trim_matches('`').to_owned()));
    let events =
        table("| level | message |").into_iter().map(|row| (row[0].clone(), row[1].clone()));
    let documented: BTreeSet<_> = spans.chain(events).collect();
    assert_eq!(documented, traced());
}
