//! Reads the service's own sources: a small lexer, the tree of modules, and the paths that a file names. No parser of
//! Rust: enough of one for the rules about imports, type names and comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files below a folder, in order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The tokens of a file: identifiers whole, `::` whole, other punctuation by characters. Comments are left out,
/// literals and lifetimes become `""`.
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            tokens.push("\"\"".to_owned());
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of a string, character or lifetime at the beginning of the text.
fn literal(text: &str) -> Option<usize> {
    let bare = text.strip_prefix(['b', 'c']).unwrap_or(text);
    if let Some(raw) = bare.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if let Some(inside) = raw[hashes..].strip_prefix('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(text.len() - inside.len() + inside.find(&end)? + end.len());
        }
        return None;
    }
    let quote = bare.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inside = &bare[1..];
    let mut escaped = false;
    if quote == '\'' {
        let mut characters = inside.chars();
        let (first, second) = (characters.next()?, characters.next());
        if first != '\\' && second != Some('\'') {
            // A lifetime.
            let name = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
            return Some(1 + name);
        }
    }
    for (at, character) in inside.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(text.len() - inside.len() + at + 1),
            _ => {}
        }
    }
    None
}

/// The tokens without the items under `#[cfg(test)]`.
pub fn without_tests(tokens: &[String]) -> Vec<String> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].iter().take(mark.len()).map(String::as_str).eq(mark) {
            at = end_of_item(tokens, at + mark.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Where the item that begins at a place has ended: behind its `;`, or behind its braces, whichever is first.
fn end_of_item(tokens: &[String], begin: usize) -> usize {
    let is_use = tokens[begin..].iter().take_while(|token| *token != ";").any(|token| token == "use");
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(begin) {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// One import: the local name, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// `*` for all names of a module.
    pub name: String,
    /// As it is written, with `crate`, `self` or `super` first.
    pub path: Vec<String>,
    /// Whether others may import it from here.
    pub exported: bool,
}

/// What a file names.
#[derive(Debug, Default)]
pub struct Names {
    /// Its `use` trees, flattened.
    pub imports: Vec<Import>,
    /// Paths of two parts and more in its other code.
    pub paths: Vec<Vec<String>>,
    /// Identifiers in its other code.
    pub words: BTreeSet<String>,
    /// The modules that it declares in files of their own.
    pub modules: Vec<String>,
}

/// Reads what a file names. A `super` inside a module in braces (`mod tests { .. }`) is one less for the file.
pub fn names(tokens: &[String]) -> Names {
    let mut names = Names::default();
    // Depth of braces, and the depths at which modules in braces were opened.
    let (mut depth, mut inline) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let next = |ahead: usize| tokens.get(at + ahead).map_or("", String::as_str);
        match next(0) {
            // `impl Trait + use<'a>` is no import.
            "use" if next(1) != "<" => {
                let exported = at > 0 && matches!(tokens[at - 1].as_str(), "pub" | ")");
                let mut imports = Vec::new();
                at = use_tree(tokens, at + 1, &[], &mut imports);
                for (name, path) in imports {
                    if let Some(path) = out_of_inline(path, inline.len()) {
                        names.imports.push(Import { name, path, exported: exported && inline.is_empty() });
                    }
                }
                continue;
            }
            "mod" if next(2) == ";" => {
                names.modules.push(next(1).to_owned());
                at += 3;
                continue;
            }
            "mod" if next(2) == "{" => {
                depth += 1;
                inline.push(depth);
                at += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
                depth -= 1;
            }
            word if is_word(word) => {
                let mut path = vec![word.to_owned()];
                while next(path.len() * 2 - 1) == "::" && is_word(next(path.len() * 2)) {
                    path.push(next(path.len() * 2).to_owned());
                }
                let first = at == 0 || !matches!(tokens[at - 1].as_str(), "::" | ".");
                names.words.insert(word.to_owned());
                let length = path.len() * 2 - 1;
                if path.len() > 1
                    && first
                    && let Some(path) = out_of_inline(path, inline.len())
                {
                    names.paths.push(path);
                }
                at += length;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    names
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// A path as the file itself would write it: none when it stays inside the module in braces.
fn out_of_inline(mut path: Vec<String>, depth: usize) -> Option<Vec<String>> {
    for _ in 0..depth {
        match path.first().map(String::as_str) {
            Some("super") => {
                path.remove(0);
            }
            Some("self") => return None,
            _ => return Some(path),
        }
    }
    if depth > 0 && !matches!(path.first().map(String::as_str), Some("super" | "crate")) {
        path.insert(0, "self".to_owned());
    }
    Some(path)
}

/// Flattens one tree of a `use`, and says where it has ended.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(String, Vec<String>)>,
) -> usize {
    let mut path = before.to_vec();
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, found);
                    if tokens[at] == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => {
                found.push((tokens[at + 1].clone(), path));
                return at + 2;
            }
            "," | "}" | ";" => break,
            "self" if path.len() > before.len() || !before.is_empty() => at += 1,
            "*" => {
                found.push(("*".to_owned(), path));
                return at + 1;
            }
            word => {
                path.push(word.to_owned());
                at += 1;
            }
        }
    }
    found.push((path.last().cloned().unwrap_or_default(), path));
    at
}

/// A module's place: the parts of its path from the crate on.
pub type Place = Vec<String>;

/// All modules of the library that stand in files.
pub struct Tree {
    modules: BTreeMap<Place, Module>,
}

struct Module {
    file: PathBuf,
    names: Names,
}

impl Tree {
    /// Reads the modules below `src/lib.rs`, with or without what is there for unit tests alone.
    pub fn read(src: &Path, with_tests: bool) -> Tree {
        let mut tree = Tree { modules: BTreeMap::new() };
        tree.add(src, Vec::new(), PathBuf::from("lib.rs"), with_tests);
        tree
    }

    fn add(&mut self, src: &Path, place: Place, file: PathBuf, with_tests: bool) {
        let mut tokens = tokens(&fs::read_to_string(src.join(&file)).unwrap());
        if !with_tests {
            tokens = without_tests(&tokens);
        }
        let names = names(&tokens);
        for child in names.modules.clone() {
            let mut inside = place.clone();
            inside.push(child);
            let folder: PathBuf = inside.iter().collect();
            let alone = folder.with_extension("rs");
            let file = if src.join(&alone).is_file() { alone } else { folder.join("mod.rs") };
            self.add(src, inside, file, with_tests);
        }
        self.modules.insert(place, Module { file, names });
    }

    /// Each module: its place, its file and what it names.
    pub fn modules(&self) -> impl Iterator<Item = (&Place, &Path, &Names)> {
        self.modules.iter().map(|(place, module)| (place, module.file.as_path(), &module.names))
    }

    /// A written path from the crate on; none when it begins with another crate or a local name.
    pub fn absolute(&self, place: &[String], path: &[String]) -> Option<Place> {
        let (mut at, mut rest) = (place.to_vec(), path);
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                // A child, or a module that was imported under this name.
                let names = &self.modules.get(place)?.names;
                if names.modules.iter().any(|child| child == first) {
                } else {
                    let import = names.imports.iter().find(|import| import.name == *first)?;
                    if import.path.first().is_some_and(|part| part == first) {
                        return None;
                    }
                    let base = self.absolute(place, &import.path)?;
                    (at, rest) = (base, &rest[1..]);
                }
            }
        }
        at.extend(rest.iter().cloned());
        Some(at)
    }

    /// The module whose file defines what an absolute path names: re-exports are followed to their origin. None when
    /// the path is a module itself, since naming a module uses nothing of it.
    pub fn origin(&self, path: &[String]) -> Option<Place> {
        self.follow(path, 0)
    }

    fn follow(&self, path: &[String], steps: usize) -> Option<Place> {
        let known = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let (place, rest) = path.split_at(known);
        let name = rest.first()?;
        if steps < 20 {
            for import in &self.modules[place].names.imports {
                if import.name == *name
                    && let Some(mut target) = self.absolute(place, &import.path)
                {
                    target.extend_from_slice(&rest[1..]);
                    if target != path {
                        return self.follow(&target, steps + 1);
                    }
                }
            }
        }
        Some(place.to_vec())
    }

    /// The file of a module.
    pub fn file(&self, place: &[String]) -> &Path {
        &self.modules[place].file
    }
}
