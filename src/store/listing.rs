//! Documents and datasets, in pages, with counts of what is in them. Counting reads an entry of an index a chunk.

use super::chunk_record::end_snapshot;
use super::connection::PooledConnection;
use super::read::item_number;
use super::schema::chunks;
use super::{Store, StoreError};
use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text, Timestamptz};
use diesel_async::RunQueryDsl;

/// A document of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ListedDocument {
    /// The id of the document.
    #[diesel(sql_type = Text)]
    pub document_id: String,
    /// The name of the dataset. A document with the same id in another one is another document.
    #[diesel(sql_type = Text)]
    pub dataset_source: String,
    /// The number of its chunks.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// When the first of them arrived.
    #[diesel(sql_type = Timestamptz)]
    pub first_created_at: DateTime<Utc>,
    /// When the last of them arrived.
    #[diesel(sql_type = Timestamptz)]
    pub last_created_at: DateTime<Utc>,
}

/// A dataset with its size.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ListedDataset {
    /// The name of the dataset.
    #[diesel(sql_type = Text)]
    pub dataset_source: String,
    /// The number of its chunks.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// The number of its documents; chunks without one do not count.
    #[diesel(sql_type = BigInt)]
    pub documents: i64,
}

#[derive(QueryableByName)]
struct DatasetName {
    #[diesel(sql_type = Text)]
    dataset_source: String,
}

/// The groups come in the order of an index, so that only those of the page are read. A hash of all groups would be read
/// from all rows.
const IN_ORDER: &str = "SET LOCAL enable_hashagg = off";

const DOCUMENTS: &str = "
    SELECT document_id, dataset_source, count(*) AS chunks,
           min(created_at) AS first_created_at, max(created_at) AS last_created_at
    FROM chunks WHERE document_id IS NOT NULL AND (document_id, dataset_source) > ($1, $2)
    GROUP BY document_id, dataset_source ORDER BY document_id, dataset_source LIMIT $3";

const DOCUMENTS_OF_DATASET: &str = "
    SELECT document_id, dataset_source, count(*) AS chunks,
           min(created_at) AS first_created_at, max(created_at) AS last_created_at
    FROM chunks WHERE document_id IS NOT NULL AND (document_id, dataset_source) > ($1, $2) AND dataset_source = $4
    GROUP BY document_id, dataset_source ORDER BY document_id, dataset_source LIMIT $3";

/// From each dataset to the next one.
const DATASET_NAMES: &str = "
    WITH RECURSIVE found AS (
        (SELECT dataset_source, 1::bigint AS place FROM chunks
         WHERE dataset_source > $1 ORDER BY dataset_source LIMIT 1)
        UNION ALL
        SELECT (SELECT next.dataset_source FROM chunks AS next
                WHERE next.dataset_source > found.dataset_source ORDER BY next.dataset_source LIMIT 1),
               place + 1
        FROM found WHERE found.dataset_source IS NOT NULL AND place < $2
    )
    SELECT dataset_source FROM found WHERE dataset_source IS NOT NULL";

const DATASETS: &str = "
    SELECT dataset_source, sum(chunks)::bigint AS chunks, count(document_id) AS documents
    FROM (SELECT dataset_source, document_id, count(*) AS chunks FROM chunks
          WHERE dataset_source = ANY($1) GROUP BY dataset_source, document_id) AS places
    GROUP BY dataset_source ORDER BY dataset_source";

/// The most datasets that are named for one document.
const MOST_NAMED: i64 = 5;

impl Store {
    /// Documents in the order of their ids and datasets, after this one.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn documents(
        &self,
        dataset: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<ListedDocument>, StoreError> {
        let mut connection = self.begin_snapshot(IN_ORDER).await?;
        // No name of a dataset is empty.
        let (document, last_dataset) = after.unwrap_or_default();
        let query = diesel::sql_query(if dataset.is_some() { DOCUMENTS_OF_DATASET } else { DOCUMENTS });
        let query = query.bind::<Text, _>(document).bind::<Text, _>(last_dataset);
        let query = query.bind::<BigInt, _>(i64::from(limit));
        let found = match dataset {
            Some(dataset) => query.bind::<Text, _>(dataset).load(connection.conn()).await,
            None => query.load(connection.conn()).await,
        };
        let found = connection.checked(found);
        end_snapshot(connection, found).await
    }

    /// Datasets in the order of their names, after this one.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn datasets(&self, after: Option<&str>, limit: u32) -> Result<Vec<ListedDataset>, StoreError> {
        let mut connection = self.begin_snapshot("").await?;
        let found = datasets(&mut connection, after.unwrap_or_default(), limit).await;
        end_snapshot(connection, found).await
    }

    /// The first few datasets with a document of this id.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn datasets_of_document(&self, document: &str) -> Result<Vec<String>, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = chunks::table.select(chunks::dataset_source).distinct();
        let query = query.filter(chunks::document_id.eq(document)).order(chunks::dataset_source);
        let found = query.limit(MOST_NAMED).load(connection.conn()).await;
        connection.done(found)
    }
}

impl Store {
    /// The numbers in the search index and the ids of the chunks of a document.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn ids_of_document(
        &self,
        dataset: &str,
        document: &str,
    ) -> Result<Vec<(u32, String)>, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = chunks::table.select((chunks::item, chunks::id));
        let query = query.filter(chunks::document_id.eq(document).and(chunks::dataset_source.eq(dataset)));
        let found = query.load::<(i64, String)>(connection.conn()).await;
        let found = connection.done(found)?.into_iter();
        found.map(|(item, id)| Ok((item_number(item)?, id))).collect()
    }

    /// The number of chunks of a document, counted up to `most`.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_of_document(
        &self,
        dataset: &str,
        document: &str,
        most: usize,
    ) -> Result<usize, StoreError> {
        let mut connection = self.pool.get().await?;
        let query = chunks::table.select(chunks::item);
        let query = query.filter(chunks::document_id.eq(document).and(chunks::dataset_source.eq(dataset)));
        let found = query.limit(most as i64).load::<i64>(connection.conn()).await;
        Ok(connection.done(found)?.len())
    }
}

async fn datasets(
    connection: &mut PooledConnection,
    after: &str,
    limit: u32,
) -> Result<Vec<ListedDataset>, StoreError> {
    let names = diesel::sql_query(DATASET_NAMES).bind::<Text, _>(after).bind::<BigInt, _>(i64::from(limit));
    let names = names.load::<DatasetName>(connection.conn()).await;
    let names = connection.checked(names)?.into_iter().map(|name| name.dataset_source);
    let names: Vec<String> = names.collect();
    let found = diesel::sql_query(DATASETS).bind::<Array<Text>, _>(names);
    let found = found.load(connection.conn()).await;
    connection.checked(found)
}
