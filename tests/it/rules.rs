//! The rules of the service as tests: layers, licences, file sizes, what the README promises about settings.

use crate::root;
use lnsp_ingest::error_code::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// What each room may import, besides itself.
fn layers() -> BTreeMap<&'static str, Vec<&'static str>> {
    let domain = ["chunk", "error_code", "tmd", "model", "outcome", "quality", "rejection"];
    let ports = ["llm", "classifier", "encoder", "store", "index"];
    let with = |lists: &[&[&'static str]]| lists.concat();
    let all = with(&[
        &domain,
        &ports,
        &[
            "endpoint",
            "flow",
            "metrics",
            "vectorizer",
            "stages",
            "pipeline",
            "search",
            "http",
            "config",
            "app",
        ],
    ]);
    let mut layers: BTreeMap<_, _> = domain.iter().map(|room| (*room, domain.to_vec())).collect();
    layers.extend(ports.iter().map(|room| (*room, domain.to_vec())));
    layers.insert("hub", domain.to_vec());
    layers.insert("index", with(&[&domain, &["progress"]]));
    // It makes more calls than it gives answers, and is the only one who knows.
    layers.insert("llm", with(&[&domain, &["endpoint", "metrics"]]));
    layers.insert("endpoint", vec![]);
    layers.insert("metrics", vec![]);
    layers.insert("progress", vec![]);
    layers.insert("flow", vec!["metrics", "progress"]);
    // Texts to vectors is the encoder's port, or another server's.
    layers.insert("vectorizer", with(&[&domain, &["encoder", "endpoint", "flow", "metrics", "progress"]]));
    layers.insert("stages", with(&[&domain, &ports, &["flow", "metrics", "vectorizer"]]));
    layers.insert(
        "pipeline",
        with(&[&domain, &["store", "flow", "metrics", "progress", "stages", "vectorizer"]]),
    );
    layers.insert("search", with(&[&domain, &ports, &["flow", "metrics", "vectorizer"]]));
    layers.insert(
        "http",
        with(&[&domain, &["llm", "store", "index", "flow", "metrics", "pipeline", "search", "vectorizer"]]),
    );
    layers.insert("config", vec!["encoder", "endpoint"]);
    layers.insert("app", all.clone());
    layers.insert("simulated_llm", vec![]);
    layers.insert("doctor", with(&[&domain, &ports, &["config", "app", "endpoint", "vectorizer"]]));
    layers.insert("cli", with(&[&all, &["doctor", "hub", "simulated_llm"]]));
    layers
}

/// The rooms that a file imports: the first part of every path that begins with `crate::`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for part in code.collect::<Vec<_>>().join("\n").split("crate::").skip(1) {
        let name =
            |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = part.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or_default();
            rooms.extend(list.split(',').map(|item| name(item.trim())));
        } else {
            rooms.insert(name(part));
        }
    }
    rooms
}

#[test]
fn nothing_imports_upwards_or_sideways() {
    let layers = layers();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources(&root().join("src")) {
        let inside = file.strip_prefix(root().join("src")).unwrap();
        let room = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if room == "main" || room == "lib" {
            continue;
        }
        let allowed =
            layers.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no place in the service"));
        seen.insert(room.clone());
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(
        seen.iter().map(String::as_str).collect::<Vec<_>>(),
        layers.keys().copied().collect::<Vec<_>>()
    );
}

#[test]
fn the_reader_of_imports_sees_all_forms() {
    let text = "use crate::chunk::Chunk;\nuse crate::{flow, store::Store};\n// crate::http\nfn f() { crate::tmd::x() }";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["chunk", "flow", "store", "tmd"]);
}

#[test]
fn no_file_outgrows_its_room() {
    for file in ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root().join(folder))) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 450, "{} has {lines} lines: which two things does it hold?", file.display());
    }
}

/// Licences under which the project can be used and passed on without further duties than naming its authors.
const ALLOWED: [&str; 16] = [
    "0BSD",
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT-0",
    "MPL-2.0",
    "OpenLDAP",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether one can choose allowed licences only: `OR` is a choice, `AND` and `/` in old files as they were meant.
fn acceptable(expression: &str) -> bool {
    let text = expression.replace('/', " OR ").replace(['(', ')'], " ");
    if expression.contains('(') {
        // The forms in use are products of sums: every bracket and every rest must offer a choice.
        return expression.split(" AND ").all(|part| acceptable(part.trim_matches(['(', ')', ' '])));
    }
    text.split(" OR ").any(|choice| choice.split(" AND ").all(|one| ALLOWED.contains(&one.trim())))
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100);
    let licence =
        |package: &serde_json::Value| package["license"].as_str().unwrap_or("none stated").to_owned();
    let wrong: Vec<String> = packages
        .iter()
        .filter(|package| !acceptable(&licence(package)))
        .map(|package| format!("{}: {}", package["name"], licence(package)))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(
        acceptable("MIT/Apache-2.0")
            && acceptable("(MIT OR GPL-3.0) AND Zlib")
            && !acceptable("GPL-3.0-only")
    );
    assert!(!acceptable("MIT AND GPL-2.0"));
}

#[test]
fn the_readme_names_every_setting_and_no_other() {
    use clap::Args;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let command = lnsp_ingest::config::Config::augment_args(clap::Command::new("serve"));
    let command =
        lnsp_ingest::cli::model::Pull::augment_args(command.mut_arg("data_dir", |flag| flag.id("serve")));
    let settings: BTreeSet<String> =
        command.get_arguments().filter_map(|flag| Some(flag.get_env()?.to_str()?.to_owned())).collect();
    assert!(settings.len() >= 11);
    let table = readme.split("## Configuration").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: BTreeSet<String> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()))
        .filter(|name| !["LNSP_LOG", "LNSP_URL", "HF_TOKEN"].contains(&name.as_str()))
        .collect();
    assert_eq!(documented, settings);
}

#[test]
fn the_readme_lists_every_error_code() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for code in ErrorCode::ALL {
        assert!(readme.contains(&format!("`{code}`")), "{code} is not in the README");
    }
}

#[test]
fn every_metric_has_its_help() {
    let metrics: Vec<_> = lnsp_ingest::metrics::declarations().collect();
    assert!(metrics.len() > 40);
    for metric in metrics {
        assert!(metric.help.len() > 5, "{} has no help", metric.name);
    }
}
