//! Which chunks the names that clients give mean: ids within a dataset, and public names.

use super::connection::PooledConnection;
use super::read::item_number;
use super::schema::chunks;
use super::{Store, StoreError};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// The names of a stored chunk.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
pub struct NamedChunk {
    pub(super) item: i64,
    /// The name of its dataset.
    pub dataset_source: String,
    /// Its id within the dataset.
    pub id: String,
    /// Its public name.
    pub cpe_id: Uuid,
}

/// A link of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkLink {
    /// The id, as the client gave it: that of a chunk of the same dataset, or a public name.
    pub id: String,
    /// The public name of the chunk, if it is stored.
    pub cpe_id: Option<Uuid>,
}

/// The most chunks that are named for one id.
const MOST_NAMED: i64 = 5;

/// From each dataset to the next one, with one look into the index of keys each.
const IN_EVERY_DATASET: &str = "
    WITH RECURSIVE found AS (
        (SELECT dataset_source FROM chunks ORDER BY dataset_source LIMIT 1)
        UNION ALL
        SELECT (SELECT next.dataset_source FROM chunks AS next
                WHERE next.dataset_source > found.dataset_source ORDER BY next.dataset_source LIMIT 1)
        FROM found WHERE found.dataset_source IS NOT NULL
    )
    SELECT named.item, named.dataset_source, named.id, named.cpe_id
    FROM found CROSS JOIN LATERAL (
        SELECT * FROM chunks WHERE chunks.dataset_source = found.dataset_source AND chunks.id = $1 LIMIT 1) AS named
    LIMIT $2";

impl NamedChunk {
    /// Its number in the search index.
    ///
    /// # Errors
    /// A number that no row of this program has.
    pub fn item(&self) -> Result<u32, StoreError> {
        item_number(self.item)
    }
}

impl Store {
    /// The chunks that an id names. Within a dataset that is the chunk with this id there, else the one with this public
    /// name. Without a dataset it is the one with this public name, else all with this id, the first few of them.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn named_chunks(&self, id: &str, dataset: Option<&str>) -> Result<Vec<NamedChunk>, StoreError> {
        let mut connection = self.pool.get().await?;
        let found = named_chunks(connection.conn(), id, dataset).await;
        connection.done(found)
    }
}

async fn named_chunks(
    conn: &mut AsyncPgConnection,
    id: &str,
    dataset: Option<&str>,
) -> QueryResult<Vec<NamedChunk>> {
    if let Some(dataset) = dataset {
        let by_key = chunks::table.select(NamedChunk::as_select());
        let by_key = by_key.filter(chunks::dataset_source.eq(dataset).and(chunks::id.eq(id)));
        let found = by_key.load(conn).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    // Only what is a UUID can be a public name; others would fail the cast.
    if let Ok(name) = id.parse::<Uuid>() {
        let by_name = chunks::table.select(NamedChunk::as_select()).filter(chunks::cpe_id.eq(name));
        let mut found: Vec<NamedChunk> = by_name.load(conn).await?;
        found.retain(|found| dataset.is_none_or(|dataset| found.dataset_source == dataset));
        if !found.is_empty() {
            return Ok(found);
        }
    }
    if dataset.is_some() {
        return Ok(Vec::new());
    }
    let by_id = diesel::sql_query(IN_EVERY_DATASET).bind::<Text, _>(id).bind::<BigInt, _>(MOST_NAMED);
    by_id.load(conn).await
}

/// The public names of those of these links that lead to a stored chunk: by its id in this dataset, else by its public
/// name.
pub(super) async fn linked<'a>(
    connection: &mut PooledConnection,
    dataset: &str,
    links: &[&'a str],
) -> Result<HashMap<&'a str, Uuid>, StoreError> {
    if links.is_empty() {
        return Ok(HashMap::new());
    }
    let by_id = chunks::table.select((chunks::id, chunks::cpe_id));
    let by_id = by_id.filter(chunks::dataset_source.eq(dataset).and(chunks::id.eq_any(links)));
    let by_id = by_id.load::<(String, Uuid)>(connection.conn()).await;
    let by_id: HashMap<String, Uuid> = connection.checked(by_id)?.into_iter().collect();
    let names: Vec<Uuid> = links.iter().filter_map(|link| link.parse().ok()).collect();
    let by_name = chunks::table.select(chunks::cpe_id).filter(chunks::cpe_id.eq_any(names));
    let by_name = by_name.load::<Uuid>(connection.conn()).await;
    let by_name: HashSet<Uuid> = connection.checked(by_name)?.into_iter().collect();
    let name = |link: &&'a str| {
        let public = || link.parse().ok().filter(|name| by_name.contains(name));
        Some((*link, by_id.get(*link).copied().or_else(public)?))
    };
    Ok(links.iter().filter_map(name).collect())
}
