//! What hubs know files by: large ones by their SHA-256, small ones as Git does.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

/// A hash of a file, in lower-case hex, and how it is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// The hash of the content.
    Sha256(String),
    /// SHA-1 of Git's header and its bytes. Who can make two files of one SHA-1 can also choose what the hub says; it
    /// guards against damage.
    Git(String),
}

/// As it is written: `sha256:...` or `git:...`.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hash::Sha256(hex) => write!(f, "sha256:{hex}"),
            Hash::Git(hex) => write!(f, "git:{hex}"),
        }
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Hash, &'static str> {
        let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.split_once(':') {
            Some(("sha256", digest)) if hex(digest, 64) => Ok(Hash::Sha256(digest.to_ascii_lowercase())),
            Some(("git", digest)) if hex(digest, 40) => Ok(Hash::Git(digest.to_ascii_lowercase())),
            _ => Err("expected sha256: and 64, or git: and 40 hexadecimal digits"),
        }
    }
}

impl Hash {
    /// The beginning of its digits, for the name of a file.
    pub(super) fn short(&self) -> &str {
        let (Hash::Sha256(hex) | Hash::Git(hex)) = self;
        hex.get(..16).unwrap_or(hex)
    }

    /// The same kind of hash, of something that may be other bytes.
    pub(super) fn of(&self, bytes: &[u8]) -> Hash {
        match self {
            Hash::Sha256(_) => Hash::sha256(bytes),
            Hash::Git(_) => Hash::Git(hex(&Sha1::new_with_prefix(git_header(bytes.len() as u64))
                .chain_update(bytes)
                .finalize())),
        }
    }

    pub(super) fn sha256(bytes: &[u8]) -> Hash {
        Hash::Sha256(hex(&Sha256::digest(bytes)))
    }

    /// The same kind of hash, of a file.
    pub(super) fn of_file(&self, path: &Path) -> std::io::Result<Hash> {
        let mut file = fs::File::open(path)?;
        Ok(match self {
            Hash::Sha256(_) => Hash::Sha256(digest(Sha256::new(), &mut file)?),
            Hash::Git(_) => {
                let length = file.metadata()?.len();
                Hash::Git(digest(Sha1::new_with_prefix(git_header(length)), &mut file)?)
            }
        })
    }
}

fn git_header(length: u64) -> String {
    format!("blob {length}\0")
}

fn digest(mut hasher: impl Digest, file: &mut fs::File) -> std::io::Result<String> {
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&block[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_hashes_that_git_and_sha256sum_print() {
        let git: Hash = "git:ce013625030ba8dba906f756967f9e9ca394464a".parse().unwrap();
        let sha: Hash =
            "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        fs::write(&path, "hello\n").unwrap();
        for known in [git, sha] {
            assert_eq!(known.of_file(&path).unwrap(), known);
            assert_eq!(known.of(b"hello\n"), known);
            assert_ne!(known.of(b"hello"), known);
            assert_eq!(known.to_string().parse::<Hash>(), Ok(known));
        }
        for wrong in ["sha256:12", "git:xx", "md5:0", ""] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }
}
