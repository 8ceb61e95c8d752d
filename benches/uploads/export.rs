//! Exports: the rows a second of each format, and how much memory grows: in the command over an export of a single
//! document, in the service over what it holds when it is idle.
//!
//! The rows are made by SQL: each has a text of 200 characters and a vector of the model's dimensions. Their change
//! numbers are below zero, so that the index does not follow them: its memory is not that of the export.

use super::process::{Process, lnsp, shared_folder};
use super::watch::{Peak, anonymous_memory, mib};
use super::{Result, scaled};
use lnsp_ingest::store::managed::ManagedPostgres;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

/// The rows at the full scale.
const ROWS: usize = 1_000_000;
/// Rows that one statement makes.
const BATCH: usize = 50_000;

pub async fn figures(scale: f64) -> Result<()> {
    let rows = scaled(ROWS, scale);
    let folder = shared_folder()?;
    let postgres = ManagedPostgres::start(folder.path())?;
    let dsn = postgres.dsn().to_string();
    let service = Process::scripted(&["--database-url", &dsn])?;
    make_rows(&dsn, rows).await?;
    println!("{rows} rows");
    let measure =
        async |format: &str, flags: &[&str]| Measured::of(&service, folder.path(), format, flags).await;
    // The program alone: an export of a single document.
    let alone = measure("ndjson", &["--document", "document-0"]).await?.command;
    let mut most = 0.0_f64;
    for (name, format, flags) in [
        ("ndjson", "ndjson", &[][..]),
        ("ndjson_vectors", "ndjson", &["--with-vectors"]),
        ("parquet", "parquet", &["--with-vectors"]),
        ("npz", "npz", &["--with-vectors"]),
    ] {
        let Measured { seconds, bytes, command, service } = measure(format, flags).await?;
        let command = command.saturating_sub(alone);
        println!("figure export.{name}.rows_per_s {:.0} rows/s", rows as f64 / seconds);
        println!("figure export.{name}.file_mib {:.0} MiB", mib(bytes));
        println!("figure export.{name}.command_mib {:.1} MiB", mib(command));
        println!("figure export.{name}.service_mib {:.1} MiB", mib(service));
        most = most.max(mib(command)).max(mib(service));
    }
    println!("figure export.memory_mib {most:.1} MiB");
    drop(service);
    postgres.stop()?;
    Ok(())
}

/// What one export took.
struct Measured {
    seconds: f64,
    /// The length of the file.
    bytes: u64,
    /// The most memory of the command.
    command: u64,
    /// The growth of the memory of the service.
    service: u64,
}

impl Measured {
    async fn of(service: &Process, folder: &Path, format: &str, flags: &[&str]) -> Result<Measured> {
        let output = folder.join(format!("export.{format}"));
        // What the service holds when it is idle.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = anonymous_memory(service.pid())?;
        let in_service = Peak::of_memory(service.pid());
        let started = Instant::now();
        let mut command = lnsp();
        command.args(["export", "--url", &service.url, "--format", format]).args(flags);
        let mut child = command.arg("--output").arg(&output).stderr(Stdio::null()).spawn()?;
        let in_command = Peak::of_memory(child.id());
        let status = child.wait()?;
        let seconds = started.elapsed().as_secs_f64();
        let (command, service) = (in_command.end(), in_service.end().saturating_sub(idle));
        if !status.success() {
            return Err(format!("the export as {format} failed: {status}").into());
        }
        let bytes = std::fs::metadata(&output)?.len();
        std::fs::remove_file(&output)?;
        Ok(Measured { seconds, bytes, command, service })
    }
}

async fn make_rows(dsn: &str, rows: usize) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let driver = tokio::spawn(connection);
    client.batch_execute("SET synchronous_commit = off").await?;
    for first in (0..rows).step_by(BATCH) {
        let last = rows.min(first + BATCH) - 1;
        let statement = format!(
            "WITH made AS (INSERT INTO chunks (dataset_source, id, cpe_id, item, seq, content_hash, details_hash, text, \
                 document_id, chunk_index, source_document, metadata, domain_code, task_code, modifier_code, tmd_source, \
                 tmd_model, domain_confidence, task_confidence, modifier_confidence, tmd_took_us, truncated) \
             SELECT 'exported', 'chunk-' || n, gen_random_uuid(), 1000000 + n, -1 - n, sha256(n::text::bytea), \
                 sha256(n::text::bytea), left(repeat('Text number ' || n || ' of a table. ', 10), 200), 'document-' || n / 20, \
                 n % 20, 'bench', jsonb_build_object('page', n), n % 16, n % 32, n % 64, 'local', '1', 0.5, 0.5, 0.5, 4, false \
             FROM generate_series({first}, {last}) AS n RETURNING item) \
             INSERT INTO chunk_vectors (item, model_id, kind, vector) \
             SELECT item, model_id, 'concept', decode(repeat(md5(item::text), dims / 4), 'hex') \
             FROM made, models WHERE model_id = (SELECT model_id FROM change_clock)"
        );
        client.batch_execute(&statement).await?;
    }
    client.batch_execute("ANALYZE chunks; ANALYZE chunk_vectors").await?;
    drop(client);
    driver.await??;
    Ok(())
}
