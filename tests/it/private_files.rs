//! What other accounts of the machine can do: nothing. Folders and files of the service are its own, and what is
//! written beside a file of a user goes through no link.

use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp, run};
use crate::support::scripted_service::{ScriptedService, Step};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
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

/// A shared folder with a file of eight chunks, and something precious elsewhere.
struct Shared {
    _home: tempfile::TempDir,
    file: PathBuf,
    victim: PathBuf,
}

impl Shared {
    fn new() -> Shared {
        let home = tempfile::tempdir().unwrap();
        let (file, victim) = (home.path().join("chunks.ndjson"), home.path().join("victim"));
        fs::write(&file, (0..8).map(|n| format!("{{\"text\":\"Fact {n}.\"}}\n")).collect::<String>())
            .unwrap();
        fs::write(&victim, "precious").unwrap();
        Shared { _home: home, file, victim }
    }

    fn journal(&self) -> PathBuf {
        format!("{}.lnsp-journal", self.file.display()).into()
    }

    /// Sends the file to a service that takes it in two pieces, so that a journal is written in between.
    fn ingest(&self) -> (Option<i32>, String) {
        let service = ScriptedService::start([Step::EndAfter(5)]);
        let (code, _, complaint) =
            run(&mut lnsp(&["ingest", "--url", &service.url, self.file.to_str().unwrap()]));
        (code, complaint)
    }
}

#[test]
fn a_journal_goes_through_no_link_in_a_shared_folder() {
    for planted in ["", ".new"] {
        let shared = Shared::new();
        let link = PathBuf::from(format!("{}{planted}", shared.journal().display()));
        symlink(&shared.victim, &link).unwrap();
        let (code, complaint) = shared.ingest();
        assert_eq!(code, Some(0), "{complaint}");
        assert_eq!(fs::read_to_string(&shared.victim).unwrap(), "precious", "{planted}");
        assert!(link.is_symlink(), "it is left to its owner");
        let told = complaint.contains("has no journal, because") && complaint.contains("it is a link");
        assert_eq!(told, planted.is_empty(), "{complaint}");
        assert_eq!(complaint.contains("remove it"), planted.is_empty(), "{complaint}");
    }
}

#[test]
fn a_journal_of_another_account_is_neither_believed_nor_replaced() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let shared = Shared::new();
    fs::write(shared.journal(), "forged").unwrap();
    chown(shared.journal(), Some(54_321), None).unwrap();
    let (code, complaint) = shared.ingest();
    assert_eq!(code, Some(0), "{complaint}");
    assert!(complaint.contains("it belongs to 54321 and this runs as root"), "{complaint}");
    assert_eq!(fs::read_to_string(shared.journal()).unwrap(), "forged");
}

#[test]
fn a_journal_is_for_its_owner_and_leaves_nothing_else_behind() {
    let shared = Shared::new();
    fs::write(&shared.file, "{\"text\":\"\"}\n{\"text\":\"good\"}\n").unwrap();
    let (code, complaint) = shared.ingest();
    assert_eq!(code, Some(1), "{complaint}");
    assert_eq!(mode(&shared.journal()), 0o600);
    assert_eq!(fs::read_dir(shared.file.parent().unwrap()).unwrap().count(), 3, "file, journal, victim");
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
