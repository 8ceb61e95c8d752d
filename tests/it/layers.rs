//! Imports run downwards: each room has its layer, and no files import each other in a circle.

use crate::root;
use crate::support::source::{Tree, names, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Pure: no tokio, no actix, no input or output.
const DOMAIN: [&str; 9] =
    ["chunk", "error_code", "filter", "keyword", "tmd", "model", "outcome", "quality", "rejection"];
/// What the outside is reached by.
const PORTS: [&str; 6] = ["llm", "classifier", "encoder", "router", "store", "index"];

/// What each room may import, besides itself: the picture in `src/lib.rs`.
fn layers() -> BTreeMap<&'static str, Vec<&'static str>> {
    let with = |lists: &[&[&'static str]]| lists.concat();
    let mut layers = BTreeMap::from([
        ("error_code", vec![]),
        ("tmd", vec![]),
        ("model", vec![]),
        ("quality", vec!["chunk"]),
        ("rejection", vec!["error_code"]),
        ("chunk", vec!["error_code", "model", "rejection", "tmd"]),
        ("keyword", vec![]),
        ("filter", vec!["chunk", "keyword", "tmd"]),
        ("outcome", vec!["chunk", "error_code", "rejection"]),
    ]);
    // Leaves.
    layers.insert("memory", vec![]);
    layers.insert("metrics", vec![]);
    layers.insert("threads", vec![]);
    layers.insert("endpoint", vec![]);
    layers.insert("allowed_host", vec![]);
    layers.insert("files", vec![]);
    layers.insert("lmdb", vec![]);
    layers.insert("output", vec![]);
    layers.insert("answer_cache", vec!["files", "lmdb", "output", "threads"]);
    layers.insert("simulated_llm", vec![]);
    // Ports, and what they speak.
    layers.insert("wire", DOMAIN.to_vec());
    layers.insert("input", with(&[&DOMAIN, &["wire"]]));
    layers.insert("export", DOMAIN.to_vec());
    layers.insert("classifier", DOMAIN.to_vec());
    layers.insert("encoder", with(&[&DOMAIN, &["memory", "threads"]]));
    layers.insert("store", with(&[&DOMAIN, &["files", "metrics", "threads"]]));
    layers.insert("index", with(&[&DOMAIN, &["files", "lmdb", "output", "threads"]]));
    // The old TMD router: its lanes, and others of its kind as a source.
    layers.insert("router", with(&[&DOMAIN, &["endpoint", "flow", "metrics", "server_pool", "threads"]]));
    layers.insert("hub", with(&[&DOMAIN, &["files", "threads"]]));
    // It makes more calls than it gives answers, so it counts them itself.
    layers.insert(
        "llm",
        with(&[&DOMAIN, &["answer_cache", "endpoint", "flow", "metrics", "server_pool", "threads"]]),
    );
    layers.insert("flow", vec!["metrics", "threads"]);
    // Servers that do the same work, whatever they are asked.
    layers.insert("server_pool", vec!["flow", "threads"]);
    // Texts to vectors: by the encoder, or by another server.
    layers.insert(
        "vectorizer",
        with(&[&DOMAIN, &["encoder", "endpoint", "flow", "metrics", "output", "server_pool", "threads"]]),
    );
    layers
        .insert("stages", with(&[&DOMAIN, &PORTS, &["flow", "metrics", "output", "threads", "vectorizer"]]));
    layers.insert(
        "pipeline",
        with(&[&DOMAIN, &["store", "flow", "metrics", "output", "threads", "stages", "vectorizer"]]),
    );
    layers.insert("search", with(&[&DOMAIN, &PORTS, &["flow", "metrics", "threads", "vectorizer"]]));
    layers.insert("access", vec!["store", "metrics", "threads"]);
    layers.insert("deletion", vec!["store", "index", "metrics"]);
    layers
        .insert("backfill", with(&[&DOMAIN, &["store", "index", "llm", "metrics", "threads", "vectorizer"]]));
    layers.insert(
        "http",
        with(&[
            &DOMAIN,
            &[
                "access",
                "allowed_host",
                "backfill",
                "deletion",
                "wire",
                "llm",
                "store",
                "index",
                "flow",
                "memory",
                "metrics",
                "output",
                "threads",
                "pipeline",
                "router",
                "search",
                "server_pool",
                "vectorizer",
            ],
        ]),
    );
    // Composition.
    layers.insert("config", vec!["allowed_host", "chunk", "encoder", "endpoint", "llm"]);
    let below = with(&[
        &DOMAIN,
        &PORTS,
        &[
            "answer_cache",
            "endpoint",
            "files",
            "flow",
            "metrics",
            "output",
            "server_pool",
            "threads",
            "vectorizer",
            "stages",
            "pipeline",
            "router",
            "search",
            "access",
            "backfill",
            "deletion",
            "wire",
            "http",
            "config",
        ],
    ]);
    layers.insert("app", below.clone());
    layers.insert(
        "doctor",
        with(&[&DOMAIN, &PORTS, &["config", "app", "endpoint", "files", "vectorizer", "threads"]]),
    );
    layers.insert("cli", with(&[&below, &["app", "doctor", "export", "hub", "input", "simulated_llm"]]));
    layers
}

#[test]
fn no_import_runs_upwards_or_sideways() {
    let layers = layers();
    let tree = Tree::read(&root().join("src"), true);
    let (mut wrong, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (place, file, names) in tree.modules() {
        let Some(room) = place.first() else { continue };
        let allowed = layers.get(room.as_str()).unwrap_or_else(|| panic!("{room} has no layer"));
        seen.insert(room.as_str());
        let written = names.imports.iter().map(|import| &import.path).chain(&names.paths);
        for import in written.filter_map(|path| tree.absolute(place, path)?.into_iter().next()) {
            if import != *room && !allowed.contains(&import.as_str()) && layers.contains_key(import.as_str())
            {
                wrong.insert(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
    assert_eq!(seen, layers.keys().copied().collect());
}

#[test]
fn the_picture_names_every_room() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let picture = text.split("```").nth(1).unwrap();
    let words: BTreeSet<&str> = picture.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let missing: Vec<&str> = layers().keys().copied().filter(|room| !words.contains(room)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// Which file takes something from which. A module that declares or re-exports another takes nothing from it unless
/// its own code uses the name; what comes through a re-export comes from its origin.
fn arrows(tree: &Tree) -> BTreeMap<&Path, BTreeSet<&Path>> {
    let mut arrows: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for (place, file, names) in tree.modules() {
        let taken =
            names.imports.iter().filter(|import| !import.exported || names.words.contains(&import.name));
        let mut paths: Vec<Vec<String>> = Vec::new();
        for import in taken {
            let mut path = import.path.clone();
            if import.name == "*" {
                path.push("*".to_owned());
            }
            paths.push(path);
        }
        paths.extend(names.paths.iter().cloned());
        let targets = arrows.entry(file).or_default();
        for path in paths {
            if let Some(origin) = tree.absolute(place, &path).and_then(|path| tree.origin(&path))
                && origin != *place
            {
                targets.insert(tree.file(&origin));
            }
        }
    }
    arrows
}

/// The groups of files of which each reaches each other.
fn circles<'a>(arrows: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<Vec<String>> {
    let reached = |from: &'a Path| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for next in arrows.get(file).into_iter().flatten() {
                if seen.insert(*next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&Path, BTreeSet<&Path>> = arrows.keys().map(|file| (*file, reached(file))).collect();
    let group = |file: &Path| {
        let mutual = |other: &&&Path| reach.get(**other).is_some_and(|back| back.contains(file));
        reach[file].iter().filter(mutual).map(|file| file.display().to_string()).collect::<Vec<_>>()
    };
    arrows.keys().map(|file| group(file)).filter(|group| group.len() > 1).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let tree = Tree::read(&root().join("src"), false);
    let arrows = arrows(&tree);
    assert!(arrows.len() > 100 && arrows.values().map(BTreeSet::len).sum::<usize>() > 300);
    let found: Vec<Vec<String>> = circles(&arrows).into_iter().collect();
    let inside = |file: &str, circle: &[String]| -> Vec<String> {
        let targets = arrows[Path::new(file)].iter().map(|target| target.display().to_string());
        targets.filter(|target| circle.contains(target)).collect()
    };
    let lines: Vec<String> = found
        .iter()
        .flat_map(|circle| circle.iter().map(|file| format!("{file} -> {}", inside(file, circle).join(", "))))
        .collect();
    assert!(lines.is_empty(), "{} circles:\n{}", found.len(), lines.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_all_forms() {
    let text = r##"
        use crate::{flow::{batch::Batch, Inlet as In}, http::{self, *}};
        pub(crate) use super::super::chunk;
        // use crate::comment;
        /* use crate::block; */
        const TEXT: &str = r#"use crate::literal; " "#;
        fn f<'a>(c: char) -> bool { let _ = "use crate::text"; c == '\'' && crate::tmd::x() && self::g() }
        mod tests { use super::*; use super::super::up; mod deeper { use self::here; } }
    "##;
    let names = names(&tokens(text));
    let imports: Vec<String> =
        names.imports.iter().map(|import| format!("{} = {}", import.name, import.path.join("::"))).collect();
    assert_eq!(
        imports,
        [
            "Batch = crate::flow::batch::Batch",
            "In = crate::flow::Inlet",
            "http = crate::http",
            "* = crate::http",
            "chunk = super::super::chunk",
            "* = self",
            "up = super::up",
        ]
    );
    assert_eq!(names.imports.iter().filter(|import| import.exported).count(), 1);
    let paths: Vec<String> = names.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["crate::tmd::x", "self::g"]);
}

#[test]
fn circles_are_found_and_lines_are_none() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Path::new);
    let arrows = BTreeMap::from([(a, [b].into()), (b, [c].into()), (c, [a, d].into()), (d, BTreeSet::new())]);
    assert_eq!(circles(&arrows), [vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]].into());
    let arrows = BTreeMap::from([(a, [b, c].into()), (b, [c].into()), (c, BTreeSet::new())]);
    assert_eq!(circles(&arrows), BTreeSet::new());
}
