//! The rules of the sources as tests: file sizes, names, comments, licences. Layers and documents have files of their
//! own.

use crate::root;
use crate::support::source::{files, tokens, without_tests};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

#[test]
fn no_file_outgrows_its_room() {
    for file in ["src", "tests", "benches"].iter().flat_map(|folder| files(&root().join(folder))) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 450, "{} has {lines} lines: which two things does it hold?", file.display());
    }
}

/// The types that a file defines, outside of its tests: not those of a trait or its implementation.
fn types(text: &str) -> Vec<String> {
    let tokens = without_tests(&tokens(text));
    let (mut found, mut blocks, mut header) = (Vec::new(), Vec::new(), Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => {
                let associated =
                    header.iter().any(|word| matches!(*word, "impl" | "trait")) && !header.contains(&"fn");
                blocks.push(associated);
                header.clear();
            }
            "}" => {
                blocks.pop();
                header.clear();
            }
            ";" => header.clear(),
            word => header.push(word),
        }
        let defines = match token.as_str() {
            "struct" | "enum" | "trait" | "union" => true,
            "type" => !blocks.last().is_some_and(|associated| *associated),
            _ => false,
        };
        let name = tokens.get(at + 1).map_or("", String::as_str);
        if defines && name.starts_with(|c: char| c.is_uppercase()) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Names that say enough in each room.
const GENERIC: [&str; 5] = ["Options", "Error", "Config", "Settings", "State"];

#[test]
fn no_type_name_stands_twice() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let for_tests_alone = |file: &std::path::Path| file.ends_with("tests.rs");
    for file in files(&root().join("src")).into_iter().filter(|file| !for_tests_alone(file)) {
        let inside = file.strip_prefix(root()).unwrap().display().to_string();
        let text = fs::read_to_string(&file).unwrap();
        // `type Parcel<T> = flow::Parcel<T, ..>` fixes parameters of the same type.
        for name in types(&text).into_iter().filter(|name| !text.contains(&format!("= flow::{name}<"))) {
            places.entry(name).or_default().push(inside.clone());
        }
    }
    assert!(places.len() > 300, "{} types", places.len());
    places.retain(|name, files| files.len() > 1 && !GENERIC.contains(&name.as_str()));
    assert_eq!(places, BTreeMap::new());
}

#[test]
fn the_reader_of_types_leaves_out_tests_and_associated_types() {
    let text = "pub struct A<T>(T); enum B { C } trait D { type E; fn f() -> impl G; } impl D for A { type E = B; }
        type H = u8; #[cfg(test)] struct I { a: u8 } #[cfg(test)] mod tests { struct J; } fn k() { struct L; }";
    assert_eq!(types(text), ["A", "B", "D", "H", "L"]);
}

/// The documentation comments of a file, each as one line: where it begins, and its text.
fn documentation(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut before = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let comment =
            ["///", "//!"].into_iter().find_map(|mark| Some((mark, line.strip_prefix(mark)?.trim())));
        match (comment, before) {
            (Some((mark, words)), Some(same)) if mark == same => {
                let last = &mut found.last_mut().unwrap().1;
                last.push(' ');
                last.push_str(words);
            }
            (Some((_, words)), _) => found.push((number + 1, words.to_owned())),
            (None, _) => {}
        }
        before = comment.map(|(mark, _)| mark);
    }
    found
}

/// Words that make persons of things.
const PERSONAL: [&str; 8] =
    ["whoever", "nobody", "somebody", "everybody", "usher", "lying", "goes home", "stands still"];

#[test]
fn comments_say_something_and_make_no_persons_of_things() {
    let mut wrong = Vec::new();
    for file in files(&root().join("src")) {
        for (line, words) in documentation(&fs::read_to_string(&file).unwrap()) {
            let plain = words.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
            let personal = PERSONAL.iter().any(|word| format!(" {plain} ").contains(&format!(" {word} ")));
            if words.chars().count() < 15 || personal {
                wrong.push(format!("{}:{line}: {words}", file.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} comments:\n{}", wrong.len(), wrong.join("\n"));
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

/// What cargo knows about the dependencies. It must not ask the network: a machine that has only built the project has
/// the sources for its own platform alone, and there the other platforms are left out.
fn metadata() -> Vec<u8> {
    let cargo = |arguments: &[&str]| {
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap()
    };
    let offline = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let all = cargo(&offline);
    if all.status.success() {
        return all.stdout;
    }
    let version = String::from_utf8(cargo(&["-vV"]).stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = cargo(&[&offline[..], &["--filter-platform", host]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let metadata: serde_json::Value = serde_json::from_slice(&metadata()).unwrap();
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
