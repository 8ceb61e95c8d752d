//! The dead letters as they are stored: each makes a chunk again that was sent, was refused and is not stored.

use crate::cluster::Postmaster;
use crate::judge::Case;
use crate::oracle::{Ledger, LedgerEntry};
use crate::payload::{DATASET, Piece, chunk_of, read_back};
use std::collections::{BTreeSet, HashMap, HashSet};

/// One row of `dead_letters`.
pub struct DeadLetter {
    id: String,
    content_hash: Vec<u8>,
    input: Vec<u8>,
}

/// Reads all dead letters from the table.
pub async fn read(server: &Postmaster) -> Result<Vec<DeadLetter>, tokio_postgres::Error> {
    let rows = server.connect().await?.query("SELECT id, content_hash, input FROM dead_letters", &[]).await?;
    Ok(rows
        .iter()
        .map(|row| DeadLetter { id: row.get(0), content_hash: row.get(1), input: row.get(2) })
        .collect())
}

/// Says what is wrong with them, beside the pieces that are stored.
pub fn judge(
    case: &Case,
    letters: &[DeadLetter],
    ledger: &Ledger,
    stored: &BTreeSet<Piece>,
    say: &mut impl FnMut(String),
) {
    let issued: HashMap<Vec<u8>, Piece> = ledger
        .issued
        .keys()
        .map(|piece| (chunk_of(case.seed, *piece).content_hash.to_vec(), *piece))
        .collect();
    for DeadLetter { id, content_hash, input } in letters {
        let Some(piece) = issued.get(content_hash) else {
            say(format!("no client sent the dead letter {id}"));
            continue;
        };
        if stored.contains(piece) {
            say(format!("{piece} has a dead letter, and is stored"));
        }
        let again = read_back(input);
        if !again.is_some_and(|chunk| chunk.content_hash[..] == content_hash[..] && *chunk.key.id == **id) {
            say(format!("the dead letter of {piece} makes another chunk"));
        }
    }
    // A letter is known by its key, and the next of that key takes its place.
    let written: HashSet<&str> = letters.iter().map(|letter| letter.id.as_str()).collect();
    for piece in ledger.issued.keys().filter(|piece| ledger.has(**piece, LedgerEntry::Refused)) {
        let key = chunk_of(case.seed, *piece).key;
        if !stored.contains(piece) && *key.dataset == *DATASET && !written.contains(&*key.id) {
            say(format!("{piece} was refused, and has no dead letter"));
        }
    }
}
