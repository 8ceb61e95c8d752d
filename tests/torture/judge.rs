//! The judge: a process that reads the tables, the index files and the ledger, asks the service nothing, and says on
//! its standard output what is wrong.
//!
//! It comes at the moments of [`When`].

use crate::cluster::{Postmaster, postmaster};
use crate::dead_letters;
use crate::items::Items;
use crate::oracle::{Ledger, LedgerEntry};
use crate::payload::{Piece, Remaking, chunk_of};
use lnsp_ingest::chunk::Chunk;
use lnsp_ingest::store::managed::ManagedPostgres;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What is to be judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// Of the payloads.
    pub seed: u64,
    /// The data folder with PostgreSQL.
    pub data: PathBuf,
    /// The folder of the index.
    pub index: PathBuf,
    /// Of the oracle.
    pub ledger: PathBuf,
    /// What can be expected.
    pub when: When,
}

/// When the judge looks: no process writes to the index then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// The service was killed: the index may be behind, but equals the rows up to its watermark.
    Killed,
    /// It has drained under load: the index has all rows.
    Drained,
    /// It has drained after everything was answered: beside that, everything is stored.
    Over,
}

impl When {
    fn drained(self) -> bool {
        self != When::Killed
    }
}

/// A row with its vectors.
struct Row {
    dataset: String,
    id: String,
    item: i64,
    seq: i64,
    content_hash: Vec<u8>,
    text: String,
    codes: [i16; 3],
    source: String,
    metadata: Option<serde_json::Value>,
    document: Option<String>,
    place: i64,
    vectors: Vec<Vec<u8>>,
}

/// The process.
pub fn run(case: &str) -> ExitCode {
    let case: Case = serde_json::from_str(case).unwrap();
    // After a drain the service has stopped its server; after a kill the next service has to start it.
    let start = || case.when.drained().then(|| ManagedPostgres::start(&case.data).unwrap());
    let _own = if postmaster(&case.data).is_none() { start() } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let findings = match runtime.block_on(judge(&case)) {
        Ok(findings) => findings,
        Err(unreachable) if case.when.drained() => vec![format!("the rows cannot be read: {unreachable}")],
        Err(unreachable) => {
            println!("not looked: {unreachable}");
            return ExitCode::SUCCESS;
        }
    };
    findings.iter().take(20).for_each(|finding| println!("{finding}"));
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn judge(case: &Case) -> Result<Vec<String>, Box<dyn Error>> {
    // The index first, then the rows in one snapshot, then the ledger: each may only know more than the one before.
    let items = Items::read(&case.index);
    let server = postmaster(&case.data).ok_or("PostgreSQL is not there")?;
    let (rows, clock, next_item) = read_rows(&server).await?;
    let letters = dead_letters::read(&server).await?;
    let ledger = Ledger::read(&case.ledger);
    let mut findings = Vec::new();
    let mut say = |finding: String| findings.push(finding);

    numbers(&rows, clock, next_item, &mut say);
    let stored = contents(case, &rows, &ledger, &mut say);
    dead_letters::judge(case, &letters, &ledger, &stored, &mut say);
    match items {
        Ok(items) => index(case, &rows, &items, &mut say),
        Err(_) if !case.when.drained() && rows.is_empty() => {}
        Err(problem) => say(format!("the index cannot be read: {problem}")),
    }
    let items: BTreeSet<i64> = rows.iter().map(|row| row.item).collect();
    println!("looked at {} rows, {} issued", items.len(), ledger.issued.len());
    Ok(findings)
}

async fn read_rows(server: &Postmaster) -> Result<(Vec<Row>, i64, i64), tokio_postgres::Error> {
    let mut client = server.connect().await?;
    let snapshot = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let snapshot = snapshot.read_only(true).start().await?;
    let clock = snapshot.query_one("SELECT seq, next_item FROM change_clock", &[]).await?;
    let query =
        "SELECT dataset_source, id, item, seq, content_hash, text, domain_code, task_code, modifier_code,
                        tmd_source, metadata::text, document_id, chunk_index,
                        ARRAY(SELECT vector FROM chunk_vectors v WHERE v.item = c.item)
                 FROM chunks c ORDER BY seq";
    let rows = snapshot.query(query, &[]).await?;
    let rows = rows.iter().map(|row| Row {
        dataset: row.get(0),
        id: row.get(1),
        item: row.get(2),
        seq: row.get(3),
        content_hash: row.get(4),
        text: row.get(5),
        codes: [row.get(6), row.get(7), row.get(8)],
        source: row.get(9),
        metadata: row.get::<_, Option<String>>(10).map(|text| serde_json::from_str(&text).unwrap()),
        document: row.get(11),
        place: row.get(12),
        vectors: row.get(13),
    });
    Ok((rows.collect(), clock.get(0), clock.get(1)))
}

/// Every number is given out once, and by the clock.
fn numbers(rows: &[Row], clock: i64, next_item: i64, say: &mut impl FnMut(String)) {
    let mut seen = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for row in rows {
        if !seen.0.insert(row.seq) || !seen.1.insert(row.item) || !seen.2.insert((&row.dataset, &row.id)) {
            say(format!("doubled: seq {}, item {}, id {}", row.seq, row.item, row.id));
        }
        if row.seq > clock || row.seq < 1 || row.item >= next_item || row.item < 0 {
            say(format!("seq {} and item {} are not of the clock {clock}, {next_item}", row.seq, row.item));
        }
    }
}

/// Every row is a piece that was issued, with its content and vector; every piece that was acknowledged is a row.
/// Gives the pieces that are stored.
fn contents(case: &Case, rows: &[Row], ledger: &Ledger, say: &mut impl FnMut(String)) -> BTreeSet<Piece> {
    let issued: HashMap<Vec<u8>, (Piece, Chunk)> = ledger
        .issued
        .keys()
        .map(|piece| (*piece, chunk_of(case.seed, *piece)))
        .map(|(piece, chunk)| (chunk.content_hash.to_vec(), (piece, chunk)))
        .collect();
    let remaking = Remaking::new();
    let mut stored = BTreeSet::new();
    for row in rows {
        let Some((piece, chunk)) = issued.get(&row.content_hash) else {
            say(format!("no client sent the row {} ({:.60})", row.id, row.text));
            continue;
        };
        stored.insert(*piece);
        differences(row, chunk, &remaking)
            .for_each(|what| say(format!("{piece} is stored with another {what}")));
        if ledger.has(*piece, LedgerEntry::Conflict) && !ledger.acknowledged(*piece) {
            say(format!("{piece} was answered id_conflict, and is the one that is stored"));
        }
    }
    let given_up =
        |piece| ledger.has(piece, LedgerEntry::Conflict) || ledger.has(piece, LedgerEntry::Refused);
    for piece in ledger.issued.keys().filter(|piece| !stored.contains(piece)) {
        if ledger.acknowledged(*piece) {
            say(format!("{piece} was acknowledged and is lost"));
        } else if case.when == When::Over && piece.variant == 0 && !given_up(*piece) {
            say(format!("{piece} was sent until it was answered, and is not stored"));
        }
    }
    stored
}

fn differences<'a>(
    row: &'a Row,
    chunk: &'a Chunk,
    remaking: &Remaking,
) -> impl Iterator<Item = &'static str> + 'a {
    let vector = remaking.vector(&chunk.text);
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let sent = chunk.client_tmd().map(|tmd| [tmd.domain(), tmd.task(), tmd.modifier()].map(i16::from));
    let by_client = row.source == "client";
    let alike = [
        ("key", row.dataset == *chunk.key.dataset && row.id == *chunk.key.id),
        ("text", row.text == chunk.text),
        ("metadata", row.metadata == chunk.metadata.as_ref().map(|sent| sent.fields().into())),
        ("document", row.document == chunk.placement.document_id && row.place == chunk.placement.chunk_index),
        ("number of vectors than one", row.vectors.len() == 1),
        ("vector", row.vectors.first() == Some(&bytes)),
        ("source of codes", by_client == sent.is_some()),
        ("code", sent.is_none_or(|codes| codes == row.codes)),
    ];
    alike.into_iter().filter(|(_, alike)| !alike).map(|(what, _)| what)
}

/// The index equals the rows up to its watermark.
fn index(case: &Case, rows: &[Row], items: &Items, say: &mut impl FnMut(String)) {
    let last = rows.last().map_or(0, |row| row.seq);
    if case.when.drained() && items.watermark < last {
        say(format!("after the drain the index stands at {}, the rows at {last}", items.watermark));
    }
    let within: HashMap<u32, &Row> =
        rows.iter().filter(|row| row.seq <= items.watermark).map(|row| (row.item as u32, row)).collect();
    for (item, row) in &within {
        let bytes = |vector: &Arc<[f32]>| vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        match items.vectors.get(item) {
            None => say(format!(
                "item {item} (seq {}) is not in the index, which stands at {}",
                row.seq, items.watermark
            )),
            Some(vector) if Some(&bytes(vector)) != row.vectors.first() => {
                say(format!("item {item} has another vector in the index"));
            }
            Some(_) => {}
        }
    }
    for item in items.vectors.keys().filter(|item| !within.contains_key(item)) {
        say(format!(
            "item {item} is in the index, which stands at {}, and is no row up to there",
            items.watermark
        ));
    }
    if items.counted != items.vectors.len() as u64 {
        say(format!("the index says it has {} items, and has {}", items.counted, items.vectors.len()));
    }
}
