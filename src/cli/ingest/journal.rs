//! The file beside a file: what is settled of it, for the next run after this one was killed.
//!
//! It is written whole beside itself, flushed, and renamed, so there is always one that is whole. It is good for the
//! same bytes, sent to the same dataset of the same service; for anything else it counts as absent, which costs time
//! and nothing else. A header line with a checksum, one of JSON, then the settled lines as a roaring bitmap. The folder
//! may be shared: a link in its place is not followed, and what another account put there is left alone.

use super::ledger::{Ledger, UploadTally};
use crate::files;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

const EXTENSION: &str = ".lnsp-journal";
const MAGIC: &str = "lnsp-journal 1 ";

/// What a journal is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Where the file goes.
    pub url: String,
    /// The dataset its chunks belong to.
    pub dataset: String,
    /// What happens to chunks whose ids are stored with other content.
    #[serde(default = "error")]
    pub on_conflict: String,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// blake3 of its bytes, in hex.
    pub fingerprint: String,
}

fn error() -> String {
    "error".to_owned()
}

#[derive(Serialize, Deserialize)]
struct JournalPage {
    #[serde(flatten)]
    subject: Subject,
    /// The database behind the service.
    store: Option<String>,
    #[serde(flatten)]
    tally: UploadTally,
    complaints: Vec<String>,
}

/// What lies beside a file.
#[derive(Debug)]
pub enum JournalState {
    /// There is no journal.
    Nothing,
    /// One that cannot be used, and why.
    Useless(String),
    /// This file was begun before.
    Begun {
        /// What is settled.
        ledger: Ledger,
        /// In which database.
        store: Option<String>,
    },
}

impl JournalState {
    fn useless(why: &str) -> JournalState {
        JournalState::Useless(why.to_owned())
    }
}

/// The journal of one file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    subject: Subject,
}

impl Journal {
    /// Of this file. Nothing is read or written yet.
    pub fn beside(file: &Path, subject: Subject) -> Journal {
        Journal { path: with_suffix(file, EXTENSION), subject }
    }

    /// The path of the journal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the journal.
    pub fn read(&self) -> JournalState {
        let bytes = match files::read(&self.path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return JournalState::Nothing,
            Err(error) => return JournalState::Useless(format!("cannot be read ({error})")),
        };
        let Some((page, bits)) = open(&bytes) else { return JournalState::useless("is damaged") };
        let (now, then) = (&self.subject, &page.subject);
        if (now.bytes, &now.fingerprint) != (then.bytes, &then.fingerprint) {
            return JournalState::useless("is of other contents of this file");
        }
        if (&now.url, &now.dataset) != (&then.url, &then.dataset) {
            return JournalState::useless("is of another service or dataset");
        }
        match Ledger::restore(bits, page.tally, page.complaints) {
            Some(ledger) => JournalState::Begun { ledger, store: page.store },
            None => JournalState::useless("is damaged"),
        }
    }

    /// Writes it, flushed to the disk.
    ///
    /// # Errors
    /// The system's; the journal before stays.
    pub fn write(&self, ledger: &mut Ledger, store: Option<&str>) -> io::Result<()> {
        let page = JournalPage {
            subject: self.subject.clone(),
            store: store.map(str::to_owned),
            tally: ledger.tally(),
            complaints: ledger.complaints().to_vec(),
        };
        let mut content = serde_json::to_vec(&page)?;
        content.push(b'\n');
        ledger.write_lines(&mut content)?;
        let head = format!("{MAGIC}{}\n", blake3::hash(&content).to_hex());

        files::replace(&self.path, &[head.as_bytes(), &content])
    }

    /// Removes it: nothing of the file is left to do.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self) -> io::Result<()> {
        files::remove(&self.path)
    }
}

fn open(bytes: &[u8]) -> Option<(JournalPage, &[u8])> {
    let (head, content) = split_line(bytes)?;
    let checksum = head.strip_prefix(MAGIC.as_bytes())?;
    if blake3::hash(content).to_hex().as_bytes() != checksum {
        return None;
    }
    let (page, bits) = split_line(content)?;
    Some((serde_json::from_slice(page).ok()?, bits))
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::LineResult;
    use super::*;
    use std::fs;

    fn subject() -> Subject {
        let text = |text: &str| text.to_owned();
        Subject {
            url: text("http://here"),
            dataset: text("d"),
            on_conflict: error(),
            bytes: 7,
            fingerprint: text("f"),
        }
    }

    #[test]
    fn a_journal_is_good_for_what_it_was_written_for_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file.ndjson");
        let journal = Journal::beside(&file, subject());
        assert!(matches!(journal.read(), JournalState::Nothing));

        let mut ledger = Ledger::default();
        for line in (1..=100_000).chain([200_000, 1 << 40]) {
            ledger.settle(line, LineResult::Stored);
        }
        ledger.settle(100_001, LineResult::Duplicate);
        ledger.settle(100_002, LineResult::Failed(Default::default()));
        journal.write(&mut ledger, Some("s")).unwrap();
        let JournalState::Begun { ledger: read, store } = journal.read() else { panic!() };
        assert_eq!(
            (read.lines(), read.tally(), store.as_deref()),
            (ledger.lines(), ledger.tally(), Some("s"))
        );
        assert_eq!(read.complaints(), ledger.complaints());
        assert!(fs::metadata(journal.path()).unwrap().len() < 1000, "runs cost little");

        let other = |change: fn(&mut Subject)| {
            let mut subject = subject();
            change(&mut subject);
            Journal::beside(&file, subject).read()
        };
        let why = |state| match state {
            JournalState::Useless(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(other(|s| s.bytes += 1)), "is of other contents of this file");
        assert!(matches!(other(|s| s.fingerprint.push('x')), JournalState::Useless(_)));
        assert_eq!(why(other(|s| s.url.push('x'))), "is of another service or dataset");
        assert!(matches!(other(|s| s.dataset.push('x')), JournalState::Useless(_)));

        let whole = fs::read(journal.path()).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(journal.path(), &damaged).unwrap();
            assert!(matches!(journal.read(), JournalState::Useless(_)), "byte {at}");
            fs::write(journal.path(), &whole[..at]).unwrap();
            assert!(matches!(journal.read(), JournalState::Useless(_)), "cut at {at}");
        }
        journal.remove().unwrap();
        journal.remove().unwrap();
        assert!(matches!(journal.read(), JournalState::Nothing));
    }
}
