//! Files and folders of this account alone: no other account may read them, replace them, or lead a write elsewhere.
//!
//! Folders have mode 0700, files 0600. Nothing is opened through a link, nothing of another account is touched, and a
//! file that is replaced is written under a random name and renamed. Each error is a sentence that says what to do. A
//! leaf: imports no other module of the service.

use nix::fcntl::OFlag;
use nix::unistd::{Uid, User, getegid, geteuid};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The mode of a folder that only its owner may enter.
pub const PRIVATE: u32 = 0o700;
/// The mode of a folder that others may pass on their way to a folder of theirs, but not list.
pub const PASSABLE: u32 = 0o711;

/// The mode of a data folder: private, but for root passable, because the PostgreSQL that root starts runs as another
/// account and has its folder in it.
pub fn data_folder_mode() -> u32 {
    if geteuid().is_root() { PASSABLE } else { PRIVATE }
}

/// The mode of files.
const FILE: u32 = 0o600;
/// The bits of a mode that permit something.
const PERMISSIONS: u32 = 0o777;

/// What is expected at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileType {
    Folder,
    Regular,
}

/// Makes `path` a folder of this account in which `mode` is the most that is allowed. Missing folders are made with
/// this mode, also those above; a wider mode of an existing folder is narrowed.
///
/// # Errors
/// The path is a link, is no folder, or belongs to another account; or the error of the operating system.
pub fn own_folder(path: &Path, mode: u32) -> io::Result<()> {
    own_folder_of(path, mode, geteuid().as_raw(), getegid().as_raw())
}

/// As [`own_folder`], for a folder that root keeps for another account: `owner` and its `group` own it afterwards.
///
/// # Errors
/// As [`own_folder`]; a folder of root is given to `owner`.
pub fn own_folder_of(path: &Path, mode: u32, owner: u32, group: u32) -> io::Result<()> {
    make_folders(path, mode)?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let folder = opened.map_err(|error| explained(path, error))?;
    let found = folder.metadata()?;
    check(&found, FileType::Folder, &[owner, geteuid().as_raw()])?;
    // By the open folder, so that nothing can be put in its place in between.
    if found.uid() != owner {
        std::os::unix::fs::fchown(&folder, Some(owner), Some(group))?;
    }
    narrow(&folder, &found, mode)
}

/// Makes the folders that are missing on a path. What exists is left as it is.
///
/// # Errors
/// The error of the operating system.
pub fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| explained(path, error))
}

/// Opens a file with `options`, which may create it. The file has mode 0600 afterwards.
///
/// # Errors
/// The path is a link, is no file, or belongs neither to this account nor to `other`; or the error of the operating
/// system.
pub fn open(path: &Path, options: &mut OpenOptions, other: Option<u32>) -> io::Result<File> {
    // Without O_NONBLOCK a pipe in its place would be waited for.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = options.mode(FILE).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| explained(path, error))?;
    let found = file.metadata()?;
    let own = geteuid().as_raw();
    check(&found, FileType::Regular, &[own, other.unwrap_or(own)])?;
    narrow(&file, &found, FILE)?;
    Ok(file)
}

/// Puts a file with this content in the place of the one at `path`, durably: after a power cut one of both is there,
/// whole.
///
/// # Errors
/// As [`open`]; the file before stays.
pub fn replace(path: &Path, content: &[&[u8]]) -> io::Result<()> {
    is_own_or_absent(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix: OsString = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    // A random name, made new, of mode 0600.
    let mut beside = tempfile::Builder::new().prefix(&prefix).suffix(".new").tempfile_in(folder)?;
    for piece in content {
        beside.write_all(piece)?;
    }
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Whether a folder could be made private by [`own_folder`], without changing it. A folder that is missing could.
///
/// # Errors
/// As [`own_folder`].
pub fn could_own_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) => check(&found, FileType::Folder, &[geteuid().as_raw()]),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_own_or_absent(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) => check(&found, FileType::Regular, &[geteuid().as_raw()]),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn check(found: &Metadata, expected: FileType, owners: &[u32]) -> io::Result<()> {
    if found.is_symlink() {
        return Err(link());
    }
    match expected {
        FileType::Folder if !found.is_dir() => return refused("it is no folder: remove it".to_owned()),
        FileType::Regular if !found.is_file() => return refused("it is no plain file: remove it".to_owned()),
        _ => {}
    }
    if owners.contains(&found.uid()) {
        return Ok(());
    }
    let (owner, own) = (account(found.uid()), account(geteuid().as_raw()));
    refused(format!(
        "it belongs to {owner} and this runs as {own}: remove it, or give it to {own} (chown {own})"
    ))
}

/// The error of the operating system, or what it means that a link was not followed.
fn explained(path: &Path, error: io::Error) -> io::Error {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link { link() } else { error }
}

fn link() -> io::Error {
    io::Error::other("it is a link, which is not followed: remove it, or put what it leads to in its place")
}

fn refused(sentence: String) -> io::Result<()> {
    Err(io::Error::other(sentence))
}

fn narrow(file: &File, found: &Metadata, most: u32) -> io::Result<()> {
    if found.mode() & PERMISSIONS & !most == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(found.mode() & !PERMISSIONS | found.mode() & most))
}

/// The name of an account, or its number.
fn account(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & PERMISSIONS
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_made_private_and_a_wide_one_is_narrowed() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        own_folder(&deep, PRIVATE).unwrap();
        assert_eq!((mode(&deep), mode(deep.parent().unwrap())), (0o700, 0o700));
        for (before, most, after) in [
            (0o777, PRIVATE, 0o700),
            (0o755, PASSABLE, 0o711),
            (0o700, PASSABLE, 0o700),
            (0o500, PRIVATE, 0o500),
        ] {
            set_mode(&deep, before);
            own_folder(&deep, most).unwrap();
            assert_eq!(mode(&deep), after, "{before:o}");
        }
    }

    #[test]
    fn neither_a_link_nor_something_else_is_taken_for_a_folder() {
        let home = tempfile::tempdir().unwrap();
        let (other, link) = (home.path().join("other"), home.path().join("link"));
        fs::create_dir(&other).unwrap();
        set_mode(&other, 0o755);
        symlink(&other, &link).unwrap();
        for path in [&link, &{
            let nowhere = home.path().join("nowhere");
            symlink(home.path().join("missing"), &nowhere).unwrap();
            nowhere
        }] {
            let error = own_folder(path, PRIVATE).unwrap_err().to_string();
            assert!(error.contains("it is a link") && error.contains("remove it"), "{error}");
        }
        assert_eq!(mode(&other), 0o755, "what the link leads to is left alone");
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        own_folder(&file, PRIVATE).unwrap_err();
    }

    #[test]
    fn a_file_is_opened_and_replaced_only_where_it_is_a_file_of_this_account() {
        let home = tempfile::tempdir().unwrap();
        let (victim, path) = (home.path().join("victim"), home.path().join("file"));
        fs::write(&victim, "precious").unwrap();
        let writing = || OpenOptions::new().create(true).append(true).clone();

        replace(&path, &[b"one", b" two"]).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one two".to_vec(), 0o600));
        set_mode(&path, 0o644);
        open(&path, &mut writing(), None).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::remove_file(&path).unwrap();

        let fails = |path: &Path, words: &str| {
            let outcomes = [open(path, &mut writing(), None).map(drop), replace(path, &[b"x"])];
            for error in outcomes.map(Result::unwrap_err) {
                assert!(error.to_string().contains(words), "{error}");
            }
        };
        symlink(&victim, &path).unwrap();
        fails(&path, "it is a link");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");

        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(replace(&path, &[b"x"]).unwrap_err().to_string().contains("no plain file"));
    }

    #[test]
    fn what_belongs_to_another_account_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join("folder"), home.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        for path in [&folder, &file] {
            std::os::unix::fs::chown(path, Some(54_321), None).unwrap();
        }
        for error in [own_folder(&folder, PRIVATE), could_own_folder(&folder), replace(&file, &[b"x"])]
            .map(Result::unwrap_err)
        {
            assert!(error.to_string().contains("belongs to 54321 and this runs as root"), "{error}");
        }
        own_folder_of(&folder, PRIVATE, 54_321, 54_321).unwrap();
        open(&file, OpenOptions::new().append(true), Some(54_321)).unwrap();
    }
}
