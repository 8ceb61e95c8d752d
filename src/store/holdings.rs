//! How much the store holds. A small store is counted; for a large one, where counting would read every row, PostgreSQL's
//! statistics and a sample give estimates.

use super::connection::PooledConnection;
use super::{Store, StoreError};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double, Float, Nullable, Text};
use diesel_async::RunQueryDsl;

/// Datasets are counted up to this number, each with one look into an index.
const COUNTED_DATASETS: i64 = 1000;
/// The rows of a sample, about.
const SAMPLED_ROWS: f64 = 20_000.0;

/// A quantity in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// The result of counting.
    Exact(u64),
    /// An estimate of PostgreSQL.
    Estimate(u64),
    /// PostgreSQL has no statistics yet.
    Unknown,
}

/// How much the store holds, see [`Store::holdings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// Different documents; chunks without one do not count.
    pub documents: Amount,
    /// Different datasets.
    pub datasets: Amount,
    /// Bytes of all texts, in UTF-8.
    pub text_bytes: Amount,
    /// Bytes of the tables of chunks and vectors on disk, with their indexes.
    pub table_bytes: Amount,
}

#[derive(QueryableByName)]
struct Totals {
    #[diesel(sql_type = BigInt)]
    documents: i64,
    #[diesel(sql_type = BigInt)]
    datasets: i64,
    #[diesel(sql_type = BigInt)]
    text_bytes: i64,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Average {
    #[diesel(sql_type = Nullable<Double>)]
    average: Option<f64>,
}

/// A column of `pg_stats`: the number of different values, or, below zero, their share of all rows.
#[derive(QueryableByName)]
struct Distinct {
    #[diesel(sql_type = Float)]
    n_distinct: f32,
}

const TOTALS: &str = "
    SELECT count(*) FILTER (WHERE document_id IS NOT NULL) AS documents,
           count(DISTINCT dataset_source) AS datasets,
           coalesce(sum(bytes), 0)::bigint AS text_bytes
    FROM (SELECT dataset_source, document_id, sum(octet_length(text)) AS bytes
          FROM chunks GROUP BY dataset_source, document_id) AS places";

/// From each dataset to the next one, up to one more than $1.
const DATASETS: &str = "
    WITH RECURSIVE found AS (
        (SELECT dataset_source, 0::bigint AS before FROM chunks ORDER BY dataset_source LIMIT 1)
        UNION ALL
        SELECT (SELECT next.dataset_source FROM chunks AS next
                WHERE next.dataset_source > found.dataset_source ORDER BY next.dataset_source LIMIT 1),
               before + 1
        FROM found WHERE found.dataset_source IS NOT NULL AND before < $1
    )
    SELECT count(dataset_source) AS number FROM found";

const DISTINCT: &str = "
    SELECT n_distinct FROM pg_stats
    WHERE schemaname = current_schema() AND tablename = 'chunks' AND attname = $1";

const AVERAGE: &str = "SELECT avg(octet_length(text))::float8 AS average FROM chunks TABLESAMPLE SYSTEM ($1)";

const TABLES: &str = "
    SELECT pg_total_relation_size('chunks') + pg_total_relation_size('chunk_vectors') AS number";

impl Store {
    /// How much a store of so many rows holds. Up to `counted` rows everything is counted; beyond, this takes about as
    /// long however many there are.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn holdings(&self, rows: u64, counted: u64) -> Result<Holdings, StoreError> {
        let mut connection = self.pool.get().await?;
        let tables = diesel::sql_query(TABLES).get_result::<Number>(connection.conn_for_scan()).await;
        let table_bytes = Amount::Exact(unsigned(connection.checked(tables)?.number));
        if rows <= counted {
            let totals = diesel::sql_query(TOTALS).get_result::<Totals>(connection.conn_for_scan()).await;
            let totals = connection.done(totals)?;
            return Ok(Holdings {
                documents: Amount::Exact(unsigned(totals.documents)),
                datasets: Amount::Exact(unsigned(totals.datasets)),
                text_bytes: Amount::Exact(unsigned(totals.text_bytes)),
                table_bytes,
            });
        }
        let datasets = diesel::sql_query(DATASETS).bind::<BigInt, _>(COUNTED_DATASETS);
        let datasets = datasets.get_result::<Number>(connection.conn_for_scan()).await;
        let datasets = match connection.checked(datasets)?.number {
            number if number <= COUNTED_DATASETS => Amount::Exact(unsigned(number)),
            _ => distinct(&mut connection, "dataset_source", rows).await?,
        };
        let documents = distinct(&mut connection, "document_id", rows).await?;
        let percent = (100.0 * SAMPLED_ROWS / rows.max(1) as f64).min(100.0);
        let average = diesel::sql_query(AVERAGE).bind::<Float, _>(percent as f32);
        let average = average.get_result::<Average>(connection.conn_for_scan()).await;
        let average = connection.done(average)?.average;
        let text_bytes =
            average.map_or(Amount::Unknown, |bytes| Amount::Estimate((bytes * rows as f64) as u64));
        Ok(Holdings { documents, datasets, text_bytes, table_bytes })
    }
}

async fn distinct(connection: &mut PooledConnection, column: &str, rows: u64) -> Result<Amount, StoreError> {
    let found = diesel::sql_query(DISTINCT).bind::<Text, _>(column);
    let found = found.load::<Distinct>(connection.conn_for_scan()).await;
    let found = connection.checked(found)?;
    Ok(found.into_iter().next().map_or(Amount::Unknown, |found| Amount::Estimate(found.of(rows))))
}

impl Distinct {
    fn of(&self, rows: u64) -> u64 {
        let number = f64::from(self.n_distinct);
        // To the next whole number: the share is rounded.
        (if number < 0.0 { -number * rows as f64 } else { number }).round() as u64
    }
}

fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_values_below_zero_is_a_share_of_the_rows() {
        let of = |n_distinct, rows| Distinct { n_distinct }.of(rows);
        assert_eq!((of(7.0, 100), of(-1.0, 100), of(-0.25, 1000), of(0.0, 100)), (7, 100, 250, 0));
    }
}
