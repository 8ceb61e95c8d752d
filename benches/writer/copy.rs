//! The insert path against psql's `\copy` of the same rows into the same tables, with their keys, indexes and triggers.
//!
//! The rows that `\copy` gets have their numbers already, and it knows none of their keys: it looks nothing up.

use super::rows::{DIMS, rows};
use super::server::{BenchServer, open, psql};
use super::{Result, median};
use lnsp_ingest::chunk::EmbeddedChunk;
use lnsp_ingest::store::Dsn;
use std::path::Path;
use std::time::Instant;

const ROWS: usize = 20_480;
const ROUNDS: usize = 5;
/// Rows in a transaction: the most that the writer takes, and what it takes of a steady stream.
const BATCHES: [usize; 2] = [2048, 256];
const FORMATS: [&str; 2] = ["text", "binary"];

pub async fn figures(server: &BenchServer, scale: f64) -> Result<()> {
    let count = ((ROWS as f64 * scale) as usize).max(1);
    let rows = rows(count)?;
    let files = super::process::shared_folder()?;
    let columns = write_files(server, &rows, files.path()).await?;
    let mut inserted = BATCHES.map(|_| Vec::new());
    let mut copied = FORMATS.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for (batch, rates) in BATCHES.into_iter().zip(&mut inserted) {
            let dsn = server.database().await?;
            rates.push(count as f64 / insert(dsn, &rows, batch).await?);
        }
        for (format, rates) in FORMATS.into_iter().zip(&mut copied) {
            let dsn = server.database().await?;
            rates.push(count as f64 / copy(&dsn, &columns, files.path(), format, count)?);
        }
        let last =
            |rates: &[Vec<f64>]| rates.iter().filter_map(|rates| rates.last().copied()).collect::<Vec<_>>();
        println!("round {round}: insert {:.0?}, \\copy {:.0?} rows/s", last(&inserted), last(&copied));
    }
    // Of each round, whose runs follow one another: a machine that is busy for a while is so for both sides.
    let ratio = |copied: &[f64]| {
        let mut ratios: Vec<f64> =
            inserted[0].iter().zip(copied).map(|(ours, theirs)| ours / theirs).collect();
        median(&mut ratios)
    };
    let [vs_text, vs_binary] = copied.each_ref().map(|rates| ratio(rates));
    let [largest, usual] = inserted.each_mut().map(|rates| median(rates));
    let [text, binary] = copied.each_mut().map(|rates| median(rates));
    println!(
        "figure writer.insert_rows_per_s {largest:.0} rows/s ({count} rows of {DIMS} floats, 2,048 a transaction)"
    );
    println!("figure writer.insert_256_rows_per_s {usual:.0} rows/s");
    println!("figure writer.psql_copy_rows_per_s {text:.0} rows/s");
    println!("figure writer.psql_binary_copy_rows_per_s {binary:.0} rows/s");
    println!("figure writer.vs_psql_copy {vs_text:.2} x");
    println!("figure writer.vs_psql_binary_copy {vs_binary:.2} x");
    Ok(())
}

/// Seconds.
async fn insert(dsn: Dsn, rows: &[EmbeddedChunk], batch: usize) -> Result<f64> {
    let (store, model) = open(dsn).await?;
    let started = Instant::now();
    for batch in rows.chunks(batch) {
        store.insert(model, batch).await?;
    }
    let took = started.elapsed().as_secs_f64();
    let stored = store.count_chunks().await?;
    store.close().await;
    if stored != rows.len() as i64 {
        return Err(format!("expected {} rows, found {stored}", rows.len()).into());
    }
    Ok(took)
}

/// The columns of a table that are not computed, in order.
fn columns_of(dsn: &Dsn, table: &str) -> Result<String> {
    let names = "string_agg(quote_ident(attname), ', ' ORDER BY attnum)";
    let query = format!(
        "SELECT {names} FROM pg_attribute \
         WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
    );
    Ok(psql(dsn, &[query])?.trim().to_owned())
}

/// The tables with their columns.
type Columns = [(&'static str, String); 2];

/// Writes the rows, as the store has them, to files in both formats.
async fn write_files(server: &BenchServer, rows: &[EmbeddedChunk], folder: &Path) -> Result<Columns> {
    let dsn = server.database().await?;
    insert(dsn.clone(), rows, BATCHES[0]).await?;
    let columns =
        ["chunks", "chunk_vectors"].map(|table| columns_of(&dsn, table).map(|columns| (table, columns)));
    let [chunks, vectors] = columns;
    let columns = [chunks?, vectors?];
    for format in FORMATS {
        let export = |(table, columns): &(&str, String)| {
            let file = folder.join(format!("{table}.{format}"));
            let rows = format!("SELECT {columns} FROM {table} ORDER BY item");
            format!("\\copy ({rows}) TO '{}' WITH (FORMAT {format})", file.display())
        };
        psql(&dsn, &columns.iter().map(export).collect::<Vec<_>>())?;
    }
    Ok(columns)
}

/// Seconds from the start of psql to its end: it has committed and gone.
fn copy(dsn: &Dsn, columns: &Columns, folder: &Path, format: &str, count: usize) -> Result<f64> {
    let import = |(table, columns): &(&str, String)| {
        let file = folder.join(format!("{table}.{format}"));
        format!("\\copy {table} ({columns}) FROM '{}' WITH (FORMAT {format})", file.display())
    };
    let mut commands = vec!["SET lnsp.writer = on".to_owned()];
    commands.extend(columns.iter().map(import));
    let started = Instant::now();
    psql(dsn, &commands)?;
    let took = started.elapsed().as_secs_f64();
    let stored = psql(dsn, &["SELECT count(*) FROM chunk_vectors JOIN chunks USING (item)".to_owned()])?;
    if stored.trim() != count.to_string() {
        return Err(format!("expected {count} rows, found {stored}").into());
    }
    Ok(took)
}
