//! What other accounts of the machine can do: nothing. Folders and files of the service are its own.

use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp, run};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn a_start_narrows_what_an_earlier_version_left_open() {
    let data = DataFolder::with_cluster();
    let index = data.path().join("index");
    fs::create_dir(&index).unwrap();
    fs::write(index.join("LOCK"), "").unwrap();
    for (path, mode) in [(data.path(), 0o777), (&index, 0o755), (&index.join("LOCK"), 0o644)] {
        set_mode(path, mode);
    }
    let service = Service::start(data.path(), &[]);
    // Root's PostgreSQL has to pass the data folder on its way; it can neither list nor change it.
    let passable = if nix::unistd::geteuid().is_root() { 0o711 } else { 0o700 };
    assert_eq!(mode(data.path()), passable);
    assert_eq!((mode(&index), mode(&index.join("LOCK"))), (0o700, 0o600));
    let open: Vec<_> = below(data.path())
        .into_iter()
        .filter(|path| !path.starts_with(data.path().join("postgres/cluster")) && mode(path) & 0o077 != 0)
        .filter(|path| !path.starts_with(data.path().join("postgres/run/")))
        .map(|path| format!("{:o} {}", mode(&path), path.display()))
        .collect();
    assert_eq!(open, Vec::<String>::new());
    assert!(service.terminate().success());
}

#[test]
fn a_data_folder_of_another_account_is_refused_with_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    chown(data.path(), Some(54_321), None).unwrap();
    let flags = ["--port", "0", "--data-dir", data.path().to_str().unwrap()];
    let (code, _, complaint) = run(&mut lnsp(&[&["serve"], &flags[..]].concat()));
    assert_eq!(code, Some(1));
    assert!(complaint.contains("it belongs to 54321 and this runs as root"), "{complaint}");
    assert!(complaint.contains("chown root") && complaint.contains("LNSP_DATA_DIR"), "{complaint}");
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    let (code, out, _) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
    assert!(code == Some(1) && out.contains("it belongs to 54321"), "{out}");
}
