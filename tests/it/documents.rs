//! The documents agree with the code: settings, error codes, metrics, labels, models, limits, flags, and every link,
//! script and cargo target they name.

use crate::root;
use clap::{Args, Command};
use lnsp_ingest::chunk::{MAX_CPESH_BYTES, MAX_NAME_BYTES, MAX_NEGATIVES, MAX_TEXT_BYTES};
use lnsp_ingest::cli;
use lnsp_ingest::config::Config;
use lnsp_ingest::error_code::ErrorCode;
use lnsp_ingest::export::COLUMNS;
use lnsp_ingest::http::{Limits, MAX_ANSWER_BYTES, MAX_QUERY_BYTES, ROUTES};
use lnsp_ingest::metrics::{self, MetricKind};
use lnsp_ingest::pipeline::PipelineSettings;
use lnsp_ingest::tmd::Axis;
use lnsp_ingest::wire::MAX_LINE_BYTES;
use lnsp_ingest::{hub, search};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md and all Markdown files in `docs`.
fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("README.md")];
    let files = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    documents.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    assert!(documents.len() > 12);
    documents
}

/// The rows of all tables of a document, without heads and rules: their cells, without the outer bars.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::trim).collect())
        .collect()
}

/// The first cells of rows that begin with a name in backquotes.
fn names(text: &str) -> BTreeSet<String> {
    let first = rows(text).into_iter().map(|cells| cells[0].to_owned());
    first.filter_map(|cell| Some(cell.strip_prefix('`')?.split('`').next()?.to_owned())).collect()
}

/// The part of a document below the heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let after = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    after.split("\n## ").next().unwrap()
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines < 200, "README.md has {lines} lines: details belong into docs");
}

#[test]
fn the_readme_leads_to_every_document() {
    let readme = read("README.md");
    for document in documents().iter().skip(1) {
        let name = document.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("(docs/{name}")), "README.md does not link to docs/{name}");
    }
}

#[test]
fn the_licence_files_are_those_of_the_manifest() {
    assert!(read("Cargo.toml").contains(r#"license = "MIT OR Apache-2.0""#));
    assert!(read("LICENSE-MIT").contains("Permission is hereby granted, free of charge"));
    assert!(read("LICENSE-APACHE").contains("Version 2.0, January 2004"));
}

#[test]
fn configuration_names_every_setting_and_no_other() {
    let command = Config::augment_args(Command::new("serve"));
    let command = cli::model::Pull::augment_args(command.mut_arg("data_dir", |flag| flag.id("serve")));
    let settings: BTreeSet<String> =
        command.get_arguments().filter_map(|flag| Some(flag.get_env()?.to_str()?.to_owned())).collect();
    assert!(settings.len() >= 11);
    let mut documented = names(&read("docs/configuration.md"));
    // Read without a flag of `serve` or `pull`.
    for name in ["LNSP_LOG", "LNSP_URL", "HF_TOKEN"] {
        assert!(documented.remove(name), "{name} is not in docs/configuration.md");
    }
    assert_eq!(documented, settings);
}

#[test]
fn configuration_names_every_default() {
    let text = read("docs/configuration.md");
    for flag in Config::augment_args(Command::new("serve")).get_arguments() {
        let Some(name) = flag.get_env().map(|name| name.to_str().unwrap().to_owned()) else { continue };
        let Some(default) = flag.get_default_values().first() else { continue };
        let cell = format!("| `{name}` | `{}` |", default.to_str().unwrap());
        assert!(text.contains(&cell), "docs/configuration.md has no row that begins with {cell}");
    }
}

#[test]
fn http_lists_every_error_code_with_status_type_and_retryable() {
    let text = read("docs/http.md");
    let errors = section(&text, "Errors");
    for code in ErrorCode::ALL {
        let info = code.info();
        let retryable = if info.retryable { "yes" } else { "no" };
        let row = format!("| `{code}` | {} | `{}` | {retryable} |", info.status, info.error_type.as_str());
        assert!(errors.contains(&row), "docs/http.md has no row that begins with {row}");
    }
    assert_eq!(names(errors).len(), ErrorCode::ALL.len(), "docs/http.md has rows of codes that do not exist");
}

#[test]
fn http_lists_every_route_and_no_other() {
    let text = read("docs/http.md");
    let calls = text.split("\n## ").next().unwrap();
    // A row may have the parameters of a query behind its path.
    let documented: BTreeSet<String> =
        names(calls).iter().map(|call| call.split('?').next().unwrap().to_owned()).collect();
    let routes: BTreeSet<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(documented, routes);
}

#[test]
fn export_lists_every_column_and_flag_and_no_other() {
    let text = read("docs/export.md");
    let documented: Vec<[String; 2]> = rows(section(&text, "Columns"))
        .into_iter()
        .filter(|cells| cells[0].starts_with('`'))
        .map(|cells| [cells[0], cells[1]].map(|cell| cell.trim_matches('`').to_owned()))
        .collect();
    let columns: Vec<[String; 2]> =
        COLUMNS.iter().map(|column| [column.name, column.array].map(str::to_owned)).collect();
    assert_eq!(documented, columns);
    let command = cli::export::Export::augment_args(Command::new("export"));
    for flag in command.get_arguments().filter_map(|flag| flag.get_long()) {
        assert!(text.contains(&format!("`--{flag}`")), "docs/export.md does not name --{flag}");
    }
}

#[test]
fn metrics_lists_every_metric_with_kind_and_labels_and_no_other() {
    let text = read("docs/metrics.md");
    let all = section(&text, "All of them");
    let mut declared = BTreeSet::new();
    for metric in metrics::declarations() {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let row = format!("| `{}` | {kind} | {labels} |", metric.name);
        assert!(all.contains(&row), "docs/metrics.md has no row that begins with {row}");
        declared.insert(metric.name.to_owned());
    }
    assert!(declared.len() > 40);
    assert_eq!(names(all), declared);
}

#[test]
fn documents_name_no_metric_that_does_not_exist() {
    let declared: BTreeSet<&str> = metrics::declarations().map(|metric| metric.name).collect();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for word in text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')) {
            let is_metric = word.starts_with("lnsp_") && !["lnsp_stage", "lnsp_ingest"].contains(&word);
            assert!(!is_metric || declared.contains(word), "{}: {word}", document.display());
        }
    }
}

#[test]
fn labels_lists_every_code_with_its_name() {
    let text = read("docs/labels.md");
    for (axis, heading) in Axis::ALL.iter().zip(["Domains", "Tasks", "Modifiers"]) {
        let mut documented: Vec<(usize, &str)> = rows(section(&text, heading))
            .into_iter()
            .filter(|cells| cells[0] != "code")
            .flat_map(|cells| [(cells[0].parse().unwrap(), cells[1]), (cells[2].parse().unwrap(), cells[3])])
            .collect();
        documented.sort_unstable();
        let names: Vec<(usize, &str)> = axis.names().iter().copied().enumerate().collect();
        assert_eq!(documented, names);
    }
}

#[test]
fn models_lists_the_catalogue() {
    let text = read("docs/models.md");
    let documented = names(section(&text, "The catalogue"));
    for model in hub::CATALOGUE {
        assert!(documented.contains(model.name), "{} is not in docs/models.md", model.name);
    }
}

#[test]
fn limits_are_those_of_the_code() {
    let text = read("docs/http.md");
    let limits = section(&text, "Limits");
    let admitted = Limits::default();
    let kib = |bytes: usize| format!("{} KiB", bytes / 1024);
    let thousands = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
    for (what, limit) in [
        ("text", kib(MAX_TEXT_BYTES)),
        ("CPESH fields", kib(MAX_CPESH_BYTES)),
        ("CPESH fields", format!("{MAX_NEGATIVES} soft")),
        ("line of a stream", format!("{} MiB", MAX_LINE_BYTES / 1024 / 1024)),
        ("ids and names", format!("{MAX_NAME_BYTES} bytes")),
        ("in flight", format!("{} chunks", thousands(PipelineSettings::default().in_flight()))),
        ("search", format!("up to {}", thousands(search::MAX_RESULTS))),
        ("search", format!("a body of {}", kib(MAX_QUERY_BYTES))),
        ("answer to a search", format!("{} MiB", MAX_ANSWER_BYTES / 1024 / 1024)),
        (
            "searches at once",
            format!("{}, and {} MiB", admitted.searches, admitted.answer_bytes / 1024 / 1024),
        ),
        ("pages of dead letters at once", format!("{},", admitted.pages)),
        ("exports at once", format!("{},", admitted.exports)),
    ] {
        let row = rows(limits).into_iter().find(|cells| cells[0] == what);
        let row = row.unwrap_or_else(|| panic!("no row for {what}"));
        assert!(row[1].contains(&limit), "{what}: expected {limit}, documented {}", row[1]);
    }
}

/// Targets of inline links, without those to other sites.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let (path, wanted) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if let Some(wanted) = wanted {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#').trim()));
                assert!(found.into_iter().any(|found| found == wanted), "{}: {link}", document.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} links");
}

#[test]
fn every_script_path_and_cargo_target_exists() {
    let manifest = read("Cargo.toml");
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "`()\"',;:".contains(c)) {
            let inside = ["scripts/", "src/", "tests/", "benches/", "migrations/"];
            if inside.iter().any(|folder| word.starts_with(folder)) {
                let path = word.trim_end_matches(['.', '/']);
                assert!(root().join(path).exists(), "{}: {word} does not exist", document.display());
            }
        }
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "`(),".contains(c)).collect();
        for three in words.windows(4) {
            let ["cargo", verb @ ("bench" | "test"), flag, target] = three else { continue };
            assert_eq!(*flag, format!("--{verb}"), "{}: cargo {verb} {flag}", document.display());
            let table = format!("[[{verb}]]\nname = \"{target}\"");
            assert!(manifest.contains(&table), "{}: no {verb} {target}", document.display());
        }
    }
}

/// A command line in a document, as `lnsp` would get it: the words after the program, up to a comment or a pipe.
fn lnsp_calls(text: &str) -> Vec<Vec<&str>> {
    let lines = text.split(['\n', '`']).filter_map(|line| {
        let start = line.find("lnsp ").filter(|at| *at == 0 || line[..*at].ends_with(['/', ' ']))?;
        Some(&line[start + 5..])
    });
    // After `--` come those of another program.
    let stop = |word: &&str| !["--", "#", "|", "&", ">"].contains(word);
    lines.map(|line| line.split_whitespace().take_while(stop).collect()).collect()
}

#[test]
fn every_flag_of_an_lnsp_command_exists() {
    let commands = [
        Config::augment_args(Command::new("serve")),
        cli::doctor::Doctor::augment_args(Command::new("doctor")),
        cli::import::Import::augment_args(Command::new("import")),
        cli::ingest::Ingest::augment_args(Command::new("ingest")),
        cli::export::Export::augment_args(Command::new("export")),
        cli::replay::Replay::augment_args(Command::new("replay")),
        cli::search::Search::augment_args(Command::new("search")),
        cli::bench::Bench::augment_args(Command::new("bench")),
        cli::model::Model::augment_args(Command::new("model")),
        cli::simulate_llm::SimulateLlm::augment_args(Command::new("simulate-llm")),
        cli::delete::Delete::augment_args(Command::new("delete")),
        cli::psql::Psql::augment_args(Command::new("psql")),
        cli::backup::BackupCommand::augment_args(Command::new("backup")),
        cli::backup::RestoreCommand::augment_args(Command::new("restore")),
        cli::reembed::ReembedCommand::augment_args(Command::new("reembed")),
    ];
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for call in lnsp_calls(&text) {
            let Some(command) = commands.iter().find(|command| call.first() == Some(&command.get_name()))
            else {
                continue;
            };
            for flag in call.iter().filter_map(|word| word.strip_prefix("--")) {
                let known = command.get_arguments().any(|known| known.get_long() == Some(flag));
                assert!(known, "{}: lnsp {} has no --{flag}", document.display(), command.get_name());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen} flags");
    // Flags that are documented in sentences.
    let text = read("docs/files.md");
    let ingest = commands.iter().find(|command| command.get_name() == "ingest").unwrap();
    for flag in ingest.get_arguments().filter_map(|flag| flag.get_long()) {
        let other = ["url", "dataset"].contains(&flag);
        assert!(
            other || text.contains(&format!("`--{flag}")),
            "docs/files.md does not name lnsp ingest --{flag}"
        );
    }
}

#[test]
fn every_metric_has_its_help() {
    for metric in metrics::declarations() {
        assert!(metric.help.len() > 5, "{} has no help", metric.name);
    }
}
