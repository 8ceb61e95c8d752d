//! The files of folders.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file behind the names that were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Its path; `-` for standard input.
    pub path: PathBuf,
    /// It was found in a folder, so it may be none of chunks.
    pub is_in_folder: bool,
}

/// Looks into folders, and into those within them, in the order of names. Hidden files are left out, links are followed,
/// and no folder is looked into twice.
///
/// # Errors
/// A file or folder that cannot be looked at, with its name.
pub fn find_files(names: &[PathBuf]) -> Result<Vec<FoundFile>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    let given = |path: &PathBuf| FoundFile { path: path.clone(), is_in_folder: false };
    for name in names {
        // Standard input.
        if name == Path::new("-") {
            found.push(given(name));
            continue;
        }
        let metadata = std::fs::metadata(name).map_err(|error| (name.clone(), error))?;
        if metadata.is_dir() {
            look_into(name, &mut BTreeSet::new(), &mut found)?;
        } else {
            found.push(given(name));
        }
    }
    Ok(found)
}

fn look_into(
    folder: &Path,
    seen: &mut BTreeSet<(u64, u64)>,
    found: &mut Vec<FoundFile>,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (folder.to_owned(), error);
    let metadata = std::fs::metadata(folder).map_err(failed)?;
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return Ok(());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        let metadata = std::fs::metadata(&path).map_err(|error| (path.clone(), error))?;
        if metadata.is_dir() {
            look_into(&path, seen, found)?;
        } else if metadata.is_file() {
            // A pipe in a folder would be waited for.
            found.push(FoundFile { path, is_in_folder: true });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn folders_are_walked_in_order_without_hidden_files_and_circles() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir_all(at("data/b/deep")).unwrap();
        fs::create_dir(at("data/.git")).unwrap();
        for name in
            ["data/c.csv", "data/a.csv", "data/.hidden", "data/.git/config", "data/b/deep/1", "single"]
        {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("data"), at("data/b/again")).unwrap();
        symlink(at("single"), at("data/z")).unwrap();
        let found = find_files(&[at("single"), at("data"), "-".into()]).unwrap();
        let names: Vec<(String, bool)> = found
            .iter()
            .map(|FoundFile { path, is_in_folder }| {
                let name = path.strip_prefix(home.path()).unwrap_or(path);
                (name.display().to_string(), *is_in_folder)
            })
            .collect();
        let inside = |name: &str| (name.to_owned(), true);
        assert_eq!(names[0], ("single".to_owned(), false));
        assert_eq!(names[1..5], ["data/a.csv", "data/b/deep/1", "data/c.csv", "data/z"].map(inside));
        assert_eq!(names[5], ("-".to_owned(), false));
        let (path, _) = find_files(&[at("missing")]).unwrap_err();
        assert_eq!(path, at("missing"));
    }
}
