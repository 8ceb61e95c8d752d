//! Single chunks and the chunks of a document, with everything that is stored of them. What one call reads is one state of
//! the store: a document that is being replaced is read before or after a transaction of that, never in the middle.

use super::access::{Accesses, accesses};
use super::connection::PooledConnection;
use super::export::{StoredRowColumns, export_row};
use super::model::current_model;
use super::named_chunks::{ChunkLink, NamedChunk, linked};
use super::read::{floats, unreadable};
use super::schema::{chunk_vectors, chunks};
use super::{Store, StoreError};
use crate::chunk::ExportRow;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use std::collections::HashMap;

/// A stored chunk, and the chunks beside it in its document. A chunk without a document has none beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkRecord {
    /// What its row says. Its vector is among `vectors`.
    pub row: ExportRow,
    /// The fingerprint of the model of the vectors, their kinds, and the vectors, where they were asked for.
    pub vectors: Vec<(String, String, Vec<f32>)>,
    /// The chunk before it.
    pub previous: Option<NamedChunk>,
    /// The chunk after it.
    pub next: Option<NamedChunk>,
}

/// A chunk with what is read for single chunks only.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkDetails {
    /// The chunk itself.
    pub record: ChunkRecord,
    /// Its links to parents.
    pub parents: Vec<ChunkLink>,
    /// Its links to children.
    pub children: Vec<ChunkLink>,
    /// The accesses that are written.
    pub accesses: Option<Accesses>,
}

/// A place in the order of the chunks with one `document_id`: by dataset, by `chunk_index`, by the bytes of the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The name of the dataset.
    pub dataset_source: String,
    /// The place in the document that the client gave.
    pub chunk_index: i64,
    /// The id within the dataset.
    pub id: String,
}

/// Which chunks of a document are read.
#[derive(Debug, Clone, Copy)]
pub struct PageOfDocument<'a> {
    /// The id of the document.
    pub document: &'a str,
    /// Those of this dataset; else those of all, one dataset after the other.
    pub dataset: Option<&'a str>,
    /// Those behind this place.
    pub after: Option<&'a ChunkPlace>,
    /// The most chunks.
    pub limit: u32,
    /// The bytes of stored fields after which the page ends. It has at least one chunk.
    pub bytes: usize,
    /// Whether the vectors are read.
    pub with_vectors: bool,
}

/// Some chunks of a document, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentPage {
    /// The chunks of the page.
    pub chunks: Vec<ChunkRecord>,
    /// The place of the last one, if there are chunks behind it.
    pub next: Option<ChunkPlace>,
}

/// Bytes of JSON that a number of a vector takes at most.
const NUMBER_BYTES: usize = 13;

/// Bytes of the fields of a row that can be long. A text that is stored elsewhere is not read for it.
const ROW_BYTES: &str = "
    (octet_length(chunks.text) + coalesce(octet_length(chunks.metadata::text), 0)
     + octet_length(chunks.parent_cpe_ids::text) + octet_length(chunks.child_cpe_ids::text)
     + coalesce((SELECT octet_length(to_jsonb(p)::text) FROM chunk_cpesh p WHERE p.item = chunks.item), 0))::bigint";

const PREVIOUS: &str = r#"
    SELECT item, dataset_source, id, cpe_id FROM chunks
    WHERE document_id = $1 AND dataset_source = $2 AND (chunk_index, id COLLATE "C") < ($3, $4)
    ORDER BY chunk_index DESC, id COLLATE "C" DESC LIMIT 1"#;

const NEXT: &str = r#"
    SELECT item, dataset_source, id, cpe_id FROM chunks
    WHERE document_id = $1 AND dataset_source = $2 AND (chunk_index, id COLLATE "C") > ($3, $4)
    ORDER BY chunk_index, id COLLATE "C" LIMIT 1"#;

impl Store {
    /// A chunk with everything that is stored of it; `None` when it is deleted meanwhile.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn chunk(
        &self,
        named: &NamedChunk,
        with_vectors: bool,
    ) -> Result<Option<ChunkDetails>, StoreError> {
        let mut connection = self.begin_snapshot("").await?;
        let read = read_chunk(&mut connection, named, with_vectors).await;
        end_snapshot(connection, read).await
    }

    /// A page of the chunks of a document, in order.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn document_page(&self, page: &PageOfDocument<'_>) -> Result<DocumentPage, StoreError> {
        let mut connection = self.begin_snapshot("").await?;
        let read = read_page(&mut connection, page).await;
        end_snapshot(connection, read).await
    }

    /// Begins a transaction that sees one state of the store, with further settings.
    pub(super) async fn begin_snapshot(&self, settings: &str) -> Result<PooledConnection, StoreError> {
        let mut connection = self.pool.get().await?;
        let begin = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ", settings].concat();
        let begun = connection.conn().batch_execute(&begin).await;
        connection.checked(begun)?;
        Ok(connection)
    }
}

/// Ends a transaction that only reads.
pub(super) async fn end_snapshot<T>(
    mut connection: PooledConnection,
    read: Result<T, StoreError>,
) -> Result<T, StoreError> {
    match read {
        Ok(read) => {
            let ended = connection.conn().batch_execute("COMMIT").await;
            connection.done(ended).map(|()| read)
        }
        Err(error) => {
            connection.roll_back().await;
            Err(error)
        }
    }
}

async fn read_chunk(
    connection: &mut PooledConnection,
    named: &NamedChunk,
    with_vectors: bool,
) -> Result<Option<ChunkDetails>, StoreError> {
    let Some(mut record) = records(connection, &[named.item], with_vectors).await?.into_iter().next() else {
        return Ok(None);
    };
    let row = &record.row;
    if let Some(document) = &row.placement.document_id {
        let place = place_of(row);
        record.previous = beside(connection, PREVIOUS, document, &place).await?;
        record.next = beside(connection, NEXT, document, &place).await?;
    }
    let placement = &record.row.placement;
    let sent: Vec<&str> =
        placement.parent_cpe_ids.iter().chain(&placement.child_cpe_ids).map(String::as_str).collect();
    let names = linked(connection, &record.row.dataset_source, &sent).await?;
    let links = |ids: &[String]| {
        let link = |id: &String| ChunkLink { id: id.clone(), cpe_id: names.get(id.as_str()).copied() };
        ids.iter().map(link).collect::<Vec<_>>()
    };
    let (parents, children) = (links(&placement.parent_cpe_ids), links(&placement.child_cpe_ids));
    let accesses = accesses(connection, named.item).await?;
    Ok(Some(ChunkDetails { record, parents, children, accesses }))
}

/// A chunk of a document, as far as its page is decided by it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = chunks, check_for_backend(Pg))]
struct PlacedChunk {
    #[diesel(embed)]
    named: NamedChunk,
    #[diesel(select_expression = sql::<BigInt>(ROW_BYTES))]
    #[diesel(select_expression_type = diesel::expression::SqlLiteral<BigInt>)]
    bytes: i64,
}

async fn read_page(
    connection: &mut PooledConnection,
    page: &PageOfDocument<'_>,
) -> Result<DocumentPage, StoreError> {
    let mut query = chunks::table.select(PlacedChunk::as_select()).into_boxed();
    query = query.filter(chunks::document_id.eq(page.document));
    if let Some(dataset) = page.dataset {
        query = query.filter(chunks::dataset_source.eq(dataset));
    }
    if let Some(ChunkPlace { dataset_source, chunk_index, id }) = page.after {
        let behind = "(chunks.dataset_source, chunks.chunk_index, chunks.id COLLATE \"C\") > (";
        let behind = sql::<Bool>(behind).bind::<Text, _>(dataset_source).sql(", ");
        query = query.filter(behind.bind::<BigInt, _>(*chunk_index).sql(", ").bind::<Text, _>(id).sql(")"));
    }
    let order = (chunks::dataset_source, chunks::chunk_index, sql::<Text>("chunks.id COLLATE \"C\""));
    // One more: it is the neighbour of the last one, and says whether there are others.
    let query = query.order(order).limit(i64::from(page.limit) + 1);
    let found = query.load::<PlacedChunk>(connection.conn()).await;
    let found: Vec<PlacedChunk> = connection.checked(found)?;
    let dims = match page.with_vectors {
        true => {
            let model = current_model(connection.conn()).await;
            connection.checked(model)?.map_or(0, |(_, model)| model.dims)
        }
        false => 0,
    };
    let (mut count, mut bytes) = (0, 0);
    while count < found.len().min(page.limit as usize) && (count == 0 || bytes <= page.bytes) {
        bytes += usize::try_from(found[count].bytes).unwrap_or_default() + 2 * dims * NUMBER_BYTES;
        count += usize::from(count == 0 || bytes <= page.bytes);
    }
    let items: Vec<i64> = found[..count].iter().map(|chunk| chunk.named.item).collect();
    let mut chunks = records(connection, &items, page.with_vectors).await?;
    let same_dataset = |a: &PlacedChunk, b: &PlacedChunk| a.named.dataset_source == b.named.dataset_source;
    for (at, record) in chunks.iter_mut().enumerate() {
        let before = at.checked_sub(1).map(|before| &found[before]);
        record.previous = match before {
            Some(before) => same_dataset(before, &found[at]).then(|| before.named.clone()),
            None if page.after.is_none() => None,
            None => beside(connection, PREVIOUS, page.document, &place_of(&record.row)).await?,
        };
        let after = found.get(at + 1).filter(|after| same_dataset(after, &found[at]));
        record.next = after.map(|after| after.named.clone());
    }
    let next = chunks.last().filter(|_| count < found.len()).map(|last| place_of(&last.row));
    Ok(DocumentPage { chunks, next })
}

fn place_of(row: &ExportRow) -> ChunkPlace {
    let chunk_index = row.placement.chunk_index;
    ChunkPlace { dataset_source: row.dataset_source.clone(), chunk_index, id: row.id.clone() }
}

/// The nearest chunk of the same document and dataset on one side.
async fn beside(
    connection: &mut PooledConnection,
    side: &str,
    document: &str,
    place: &ChunkPlace,
) -> Result<Option<NamedChunk>, StoreError> {
    let ChunkPlace { dataset_source, chunk_index, id } = place;
    let query = diesel::sql_query(side).bind::<Text, _>(document).bind::<Text, _>(dataset_source);
    let query = query.bind::<BigInt, _>(*chunk_index).bind::<Text, _>(id);
    let found = query.get_result::<NamedChunk>(connection.conn()).await.optional();
    connection.checked(found)
}

/// The rows of these items, in their order, without neighbours. Items that are not stored are missing.
async fn records(
    connection: &mut PooledConnection,
    items: &[i64],
    with_vectors: bool,
) -> Result<Vec<ChunkRecord>, StoreError> {
    let query = chunks::table.select((chunks::item, StoredRowColumns::as_select()));
    let rows = query.filter(chunks::item.eq_any(items)).load(connection.conn()).await;
    let rows: Vec<(i64, StoredRowColumns)> = connection.checked(rows)?;
    let mut rows: HashMap<i64, StoredRowColumns> = rows.into_iter().collect();
    let mut vectors: HashMap<i64, Vec<(String, String, Vec<f32>)>> = HashMap::new();
    if with_vectors {
        let model = current_model(connection.conn()).await;
        if let Some((id, model)) = connection.checked(model)? {
            let query = chunk_vectors::table
                .select((chunk_vectors::item, chunk_vectors::kind, chunk_vectors::vector))
                .filter(chunk_vectors::item.eq_any(items).and(chunk_vectors::model_id.eq(id.get())))
                .order((chunk_vectors::item, chunk_vectors::kind));
            let found = query.load::<(i64, String, Vec<u8>)>(connection.conn()).await;
            for (item, kind, bytes) in connection.checked(found)? {
                let vector = (model.fingerprint.clone(), kind, floats(&bytes)?);
                vectors.entry(item).or_default().push(vector);
            }
        }
    }
    let record = |item: &i64| {
        let row = rows.remove(item)?;
        let vectors = vectors.remove(item).unwrap_or_default();
        Some(export_row(row, None).map(|row| ChunkRecord { row, vectors, previous: None, next: None }))
    };
    let records = items.iter().filter_map(record).collect::<Result<Vec<_>, _>>()?;
    if records.iter().any(|record| with_vectors && record.vectors.is_empty()) {
        return Err(unreadable("vector"));
    }
    Ok(records)
}
