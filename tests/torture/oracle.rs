//! The oracle: a process that outlives every fault and keeps, in a file it only appends to, what was issued, what was
//! acknowledged, and what was called a conflict.
//!
//! A client tells it what it is about to send, and waits for its confirmation; only then it sends. So whatever is in
//! the database and not in the ledger was sent by no client. An answer is recorded after it was read.

use crate::payload::Piece;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};

/// The kinds of entries in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerEntry {
    /// These are about to be sent.
    Issued,
    /// These were answered `stored`.
    Stored,
    /// These were answered `duplicate`.
    Duplicate,
    /// These were answered `id_conflict`.
    Conflict,
    /// These were refused for ever, for a reason that is the service's own.
    Refused,
}

impl LedgerEntry {
    const ALL: [LedgerEntry; 5] = [
        LedgerEntry::Issued,
        LedgerEntry::Stored,
        LedgerEntry::Duplicate,
        LedgerEntry::Conflict,
        LedgerEntry::Refused,
    ];

    fn letter(self) -> &'static str {
        match self {
            LedgerEntry::Issued => "I",
            LedgerEntry::Stored => "S",
            LedgerEntry::Duplicate => "D",
            LedgerEntry::Conflict => "C",
            LedgerEntry::Refused => "R",
        }
    }
}

/// What the ledger says at its end.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How often each was issued.
    pub issued: HashMap<Piece, u64>,
    /// How often each was answered, by what.
    pub answered: HashMap<(Piece, &'static str), u64>,
}

impl Ledger {
    /// Reads it; a last line without its end is none.
    pub fn read(path: &Path) -> Ledger {
        let text = std::fs::read_to_string(path).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut ledger = Ledger::default();
        for line in whole.lines() {
            assert_eq!(ledger.enter(line), None, "the oracle has let a wrong line in: {line}");
        }
        ledger
    }

    /// It was answered `stored` or `duplicate`.
    pub fn acknowledged(&self, piece: Piece) -> bool {
        [LedgerEntry::Stored, LedgerEntry::Duplicate].iter().any(|entry| self.has(piece, *entry))
    }

    /// It was answered so.
    pub fn has(&self, piece: Piece, entry: LedgerEntry) -> bool {
        self.answered.contains_key(&(piece, entry.letter()))
    }

    /// Takes a line in, or says what is wrong with it.
    fn enter(&mut self, line: &str) -> Option<String> {
        let mut words = line.split(' ');
        let letter = words.next().unwrap_or_default();
        let entry =
            LedgerEntry::ALL.into_iter().find(|entry| entry.letter() == letter).expect("a known entry");
        for piece in words.map(|piece| piece.parse::<Piece>().unwrap()) {
            if entry == LedgerEntry::Issued {
                *self.issued.entry(piece).or_default() += 1;
                continue;
            }
            let others = (0..4).map(|variant| Piece { variant, ..piece }).filter(|other| *other != piece);
            let wrong = match entry {
                _ if !self.issued.contains_key(&piece) => Some("was never issued"),
                LedgerEntry::Duplicate if self.issued[&piece] < 2 => Some("was issued once only"),
                LedgerEntry::Conflict
                    if !others.into_iter().any(|other| self.issued.contains_key(&other)) =>
                {
                    Some("has an id that no other content was issued with")
                }
                _ => None,
            };
            if let Some(wrong) = wrong {
                return Some(format!("{piece} was answered {entry:?}, but it {wrong}"));
            }
            *self.answered.entry((piece, entry.letter())).or_default() += 1;
        }
        None
    }
}

/// The process.
pub fn run(folder: &str) {
    let folder = PathBuf::from(folder);
    crate::follow_the_driver();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(folder.join("oracle")).unwrap();
        let file = File::options().create(true).append(true).open(folder.join("ledger")).unwrap();
        let book = Arc::new(Mutex::new((Ledger::default(), file)));
        println!("listening");
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(listen(socket, book.clone()));
        }
    });
}

async fn listen(socket: UnixStream, book: Arc<Mutex<(Ledger, File)>>) {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let wrong = {
            let (ledger, file) = &mut *book.lock().unwrap();
            let wrong = ledger.enter(&line);
            if wrong.is_none() {
                file.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
            wrong
        };
        let answer = format!("{}\n", wrong.unwrap_or_default());
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The oracle as the driver sees it.
pub struct Oracle {
    _process: Child,
    socket: tokio::sync::Mutex<BufReader<UnixStream>>,
    /// Its file.
    pub ledger: PathBuf,
}

impl Oracle {
    /// Starts one that keeps its ledger in `folder`.
    pub async fn start(folder: &Path) -> Oracle {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("role:oracle")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = process.stdout.take().unwrap();
        assert_eq!(BufReader::new(said).lines().next_line().await.unwrap().as_deref(), Some("listening"));
        let socket = UnixStream::connect(folder.join("oracle")).await.unwrap();
        let socket = tokio::sync::Mutex::new(BufReader::new(socket));
        Oracle { _process: process, socket, ledger: folder.join("ledger") }
    }

    /// Tells it. An error is a promise that the service has broken.
    pub async fn tell(&self, entry: LedgerEntry, pieces: &[Piece]) -> Result<(), String> {
        if pieces.is_empty() {
            return Ok(());
        }
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        let line = format!("{} {}\n", entry.letter(), pieces.join(" "));
        let mut socket = self.socket.lock().await;
        socket.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_line(&mut answer).await.unwrap();
        assert!(answer.ends_with('\n'), "the oracle has died");
        let answer = answer.trim();
        if answer.is_empty() { Ok(()) } else { Err(answer.to_owned()) }
    }
}
