//! A note: the way of a batch to the server. Arrays that one statement unnests, as the writer sends them, against binary
//! COPY into a temporary table from which a second statement inserts. Both fill the same two tables with keys.

use super::rows::rows;
use super::server::{BenchServer, connect};
use super::{Result, median};
use bytes::{BufMut, BytesMut};
use futures_util::SinkExt;
use lnsp_ingest::chunk::EmbeddedChunk;
use lnsp_ingest::store::Dsn;
use std::time::Instant;
use tokio_postgres::Client;

const ROWS: usize = 20_480;
const ROUNDS: usize = 3;
const BATCHES: [usize; 2] = [2048, 256];

const TABLES: &str = "
    CREATE TABLE texts (item bigint PRIMARY KEY, dataset text NOT NULL, id text NOT NULL, text text NOT NULL,
        UNIQUE (dataset, id));
    CREATE TABLE vectors (item bigint PRIMARY KEY REFERENCES texts, vector bytea NOT NULL);
    ALTER TABLE vectors ALTER COLUMN vector SET STORAGE EXTERNAL;
    CREATE TEMPORARY TABLE staging (item bigint, dataset text, id text, text text, vector bytea)
        ON COMMIT DELETE ROWS;
    SET enable_seqscan = on;";

const INSERT: &str = "
    , filed AS (INSERT INTO texts SELECT item, dataset, id, text FROM incoming)
    INSERT INTO vectors SELECT item, vector FROM incoming";

pub async fn figures(server: &BenchServer, scale: f64) -> Result<()> {
    let rows = rows(((ROWS as f64 * scale) as usize).max(1))?;
    for batch in BATCHES {
        let (mut arrays, mut staged) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let rate = |seconds: f64| rows.len() as f64 / seconds;
            arrays.push(rate(unnest(server.database().await?, &rows, batch).await?));
            staged.push(rate(copy(server.database().await?, &rows, batch).await?));
        }
        let (arrays, staged) = (median(&mut arrays), median(&mut staged));
        println!(
            "note {batch} rows a transaction into two plain tables: unnest {arrays:.0} rows/s, binary COPY into a temporary table first {staged:.0} rows/s"
        );
    }
    Ok(())
}

async fn tables(dsn: &Dsn) -> Result<Client> {
    let mut client = connect(dsn).await?;
    // The first transaction makes them.
    let made = client.transaction().await?;
    made.batch_execute(TABLES).await?;
    made.commit().await?;
    Ok(client)
}

fn bytes_of(row: &EmbeddedChunk) -> Vec<u8> {
    row.embedding.vector.iter().flat_map(|float| float.to_le_bytes()).collect()
}

async fn unnest(dsn: Dsn, rows: &[EmbeddedChunk], batch: usize) -> Result<f64> {
    let client = tables(&dsn).await?;
    let arrays = "unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[])";
    let sql =
        format!("WITH incoming AS (SELECT * FROM {arrays} AS t (item, dataset, id, text, vector)){INSERT}");
    let statement = client.prepare(&sql).await?;
    let (started, mut item) = (Instant::now(), 0_i64);
    for batch in rows.chunks(batch) {
        let items: Vec<i64> = (item..).take(batch.len()).collect();
        item += batch.len() as i64;
        let datasets: Vec<&str> = batch.iter().map(|row| &*row.chunk.key.dataset).collect();
        let ids: Vec<&str> = batch.iter().map(|row| &*row.chunk.key.id).collect();
        let texts: Vec<&str> = batch.iter().map(|row| row.chunk.text.as_str()).collect();
        let vectors: Vec<Vec<u8>> = batch.iter().map(bytes_of).collect();
        client.execute(&statement, &[&items, &datasets, &ids, &texts, &vectors]).await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn copy(dsn: Dsn, rows: &[EmbeddedChunk], batch: usize) -> Result<f64> {
    let mut client = tables(&dsn).await?;
    let sql = format!("WITH incoming AS (SELECT * FROM staging){INSERT}");
    let statement = client.prepare(&sql).await?;
    let (started, mut item) = (Instant::now(), 0_i64);
    for batch in rows.chunks(batch) {
        let transaction = client.transaction().await?;
        let sink =
            transaction.copy_in::<_, bytes::Bytes>("COPY staging FROM STDIN WITH (FORMAT binary)").await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(binary(batch, item).freeze()).await?;
        sink.finish().await?;
        transaction.execute(&statement, &[]).await?;
        transaction.commit().await?;
        item += batch.len() as i64;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// The rows in the format of binary COPY.
fn binary(rows: &[EmbeddedChunk], first_item: i64) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_slice(b"PGCOPY\n\xff\r\n\0");
    out.put_slice(&[0; 8]);
    let field = |out: &mut BytesMut, bytes: &[u8]| {
        out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        out.put_slice(bytes);
    };
    for (item, row) in (first_item..).zip(rows) {
        out.put_i16(5);
        field(&mut out, &item.to_be_bytes());
        field(&mut out, row.chunk.key.dataset.as_bytes());
        field(&mut out, row.chunk.key.id.as_bytes());
        field(&mut out, row.chunk.text.as_bytes());
        field(&mut out, &bytes_of(row));
    }
    out.put_i16(-1);
    out
}
