//! Finds the PostgreSQL programs on this machine.

use super::error::ManagedError;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest major version whose SQL the migrations need (function bodies parsed when they are made).
const OLDEST_MAJOR: u32 = 14;

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    folder: PathBuf,
    pub version: String,
    pub major: u32,
}

impl Binaries {
    /// The installation for a cluster: the one of its major version, or for a new cluster the first that is new enough,
    /// in the order of [`candidates`].
    pub fn find(cluster_major: Option<u32>, cluster: &Path) -> Result<Binaries, ManagedError> {
        choose(candidates().filter_map(Binaries::probe).collect(), cluster_major, cluster)
    }

    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// The client, which is a package of its own in some distributions.
    pub fn psql(&self) -> Option<PathBuf> {
        Some(self.folder.join("psql")).filter(|path| path.is_file())
    }

    fn probe(folder: PathBuf) -> Option<Binaries> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let (version, major) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { folder, version, major })
    }
}

/// The first client program in the order of [`candidates`].
pub fn psql() -> Option<PathBuf> {
    candidates().map(|folder| folder.join("psql")).find(|path| path.is_file())
}

/// A folder with client programs of PostgreSQL, as [`client_programs`] finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPrograms {
    /// The folder of `pg_dump`, `pg_restore` and `psql`.
    pub folder: PathBuf,
    /// The version of `pg_dump`, for example `15.18`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

/// The folders that have `pg_dump`, `pg_restore` and `psql`: in the order of [`candidates`], or only this one.
pub fn client_programs(only: Option<&Path>) -> Vec<ClientPrograms> {
    let folders: Vec<PathBuf> = match only {
        Some(folder) => vec![folder.to_owned()],
        None => candidates().collect(),
    };
    let probe = |folder: PathBuf| {
        let whole = ["pg_dump", "pg_restore", "psql"].iter().all(|name| folder.join(name).is_file());
        let output = whole.then(|| Command::new(folder.join("pg_dump")).arg("--version").output().ok())??;
        let (version, major) = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(ClientPrograms { folder, version, major })
    };
    folders.into_iter().filter_map(probe).collect()
}

fn choose(
    installed: Vec<Binaries>,
    cluster_major: Option<u32>,
    cluster: &Path,
) -> Result<Binaries, ManagedError> {
    let found = match installed.as_slice() {
        [] => "none at all".to_owned(),
        some => some.iter().map(|b| format!("PostgreSQL {}", b.version)).collect::<Vec<_>>().join(", "),
    };
    match cluster_major {
        Some(major) => installed.into_iter().find(|b| b.major == major).ok_or(ManagedError::OtherMajor {
            folder: cluster.to_owned(),
            found: major,
            installed: found,
        }),
        None => installed
            .into_iter()
            .find(|b| b.major >= OLDEST_MAJOR)
            .ok_or(ManagedError::NoBinaries { oldest: OLDEST_MAJOR, found }),
    }
}

/// The folder that `pg_config` reports, then the distributions' folders with the highest version first, then the PATH.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok();
    let output = output.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let places = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    let installed =
        places.into_iter().flat_map(|(base, prefix, bin)| versions_in(Path::new(base), prefix, bin));
    let on_path: Vec<_> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let mut seen = HashSet::new();
    output.into_iter().chain(installed).chain(on_path).filter(move |folder| seen.insert(folder.clone()))
}

/// The folders `<base>/<prefix><number>/<bin>`, the highest number first.
fn versions_in(base: &Path, prefix: &str, bin: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join(bin)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// `postgres (PostgreSQL) 15.18 (Debian ..)`, `pg_dump (PostgreSQL) 15.18`, or `.. 19beta1`.
fn parse_version(line: &str) -> Option<(String, u32)> {
    let (_, version) = line.split_once("(PostgreSQL) ")?;
    let version = version.split_whitespace().next()?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((version.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(version: &str) -> Binaries {
        let (version, major) = parse_version(&format!("postgres (PostgreSQL) {version} (Debian)\n")).unwrap();
        Binaries { folder: format!("/usr/lib/postgresql/{major}/bin").into(), version, major }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(installation("15.18").major, 15);
        assert_eq!(installation("19beta1").major, 19);
        assert_eq!(parse_version("pg_dump (PostgreSQL) 17.2"), Some(("17.2".to_owned(), 17)));
        assert_eq!(parse_version("pg_dump 15.18"), None);
    }

    #[test]
    fn a_cluster_gets_its_own_version_and_a_new_one_the_first_that_is_new_enough() {
        let installed = || vec![installation("9.6.24"), installation("17.2"), installation("15.18")];
        let cluster = Path::new("/data/cluster");
        assert_eq!(choose(installed(), Some(15), cluster).unwrap().version, "15.18");
        assert_eq!(choose(installed(), None, cluster).unwrap().version, "17.2");

        let error = choose(installed(), Some(14), cluster).unwrap_err().to_string();
        assert!(error.contains("made by PostgreSQL 14") && error.contains("PostgreSQL 17.2"), "{error}");
        let error = choose(vec![installation("9.6.24")], None, cluster).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 9.6.24") && error.contains("DATABASE_URL"), "{error}");
    }

    #[test]
    fn the_highest_version_of_a_place_comes_first() {
        let base = tempfile::tempdir().unwrap();
        for name in ["pgsql-9", "pgsql-16", "pgsql-15", "pgsql-extras", "other"] {
            std::fs::create_dir(base.path().join(name)).unwrap();
        }
        let found = versions_in(base.path(), "pgsql-", "bin");
        let names: Vec<_> =
            found.iter().map(|p| p.strip_prefix(base.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["pgsql-16/bin", "pgsql-15/bin", "pgsql-9/bin"]);
    }
}
