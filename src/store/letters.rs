//! Dead letters: chunks that were taken and could not be stored, with what makes them again.
//!
//! A letter is written before its client is told, and goes away in the transaction that stores its chunk. The store
//! remembers how many there are, so that a store without letters does nothing about them.

use super::schema::dead_letters;
use super::{Store, StoreError};
use crate::chunk::{Chunk, ChunkKey};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::query_dsl::methods;
use diesel::sql_types::{Array, Binary, Bool, Text};
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A chunk that was rejected just now.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// What could not be stored.
    pub chunk: Arc<Chunk>,
    /// Where it failed.
    pub stage: &'static str,
    /// The code of the error.
    pub cause: &'static str,
    /// Its sentence.
    pub message: String,
    /// Tries in the hands of a stage, this time.
    pub attempts: u32,
    /// By our own clock. Written again with the same time it is the same failure, and counts once.
    pub failed_at: DateTime<Utc>,
}

/// A letter as it lies in the table.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = dead_letters, check_for_backend(Pg))]
pub struct StoredDeadLetter {
    /// Its number; pages go by it.
    pub letter: i64,
    /// The dataset.
    pub dataset_source: String,
    /// The id in the dataset.
    pub id: String,
    /// Where it failed last.
    pub stage: String,
    /// The code of the last error.
    pub cause: String,
    /// Its sentence.
    pub message: String,
    /// Tries in the hands of a stage, in all.
    pub attempts: i64,
    /// How often it was sent and rejected.
    pub times: i64,
    /// The JSON that makes the chunk again.
    pub input: Vec<u8>,
    /// The request it last came with.
    pub batch_id: Option<String>,
    /// The first failure.
    pub first_failed_at: DateTime<Utc>,
    /// The last one.
    pub last_failed_at: DateTime<Utc>,
}

/// Which letters; absent means any.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// With this code.
    pub cause: Option<&'static str>,
    /// Of this dataset.
    pub dataset_source: Option<String>,
}

#[derive(Insertable)]
#[diesel(table_name = dead_letters)]
struct NewLetter<'a> {
    dataset_source: &'a str,
    id: &'a str,
    content_hash: &'a [u8],
    stage: &'a str,
    cause: &'a str,
    message: String,
    attempts: i64,
    input: Vec<u8>,
    batch_id: Option<&'a str>,
    first_failed_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
}

impl<'a> NewLetter<'a> {
    fn new(letter: &'a DeadLetter) -> Result<Self, StoreError> {
        let chunk = &*letter.chunk;
        let input = chunk.as_sent().map_err(|error| {
            let problem = format!("a dead letter could not be written as JSON: {error}");
            StoreError::Database { state: None, problem }
        })?;
        Ok(NewLetter {
            dataset_source: &chunk.key.dataset,
            id: &chunk.key.id,
            content_hash: &chunk.content_hash,
            stage: letter.stage,
            cause: letter.cause,
            // A sentence may quote a server, and PostgreSQL text refuses this one character.
            message: letter.message.replace('\0', ""),
            attempts: i64::from(letter.attempts),
            input,
            batch_id: chunk.batch_id.as_deref(),
            first_failed_at: letter.failed_at,
            last_failed_at: letter.failed_at,
        })
    }
}

diesel::define_sql_function!(fn octet_length(bytes: Binary) -> Integer);

/// Letters at the last look, kept up by what this store does.
#[derive(Debug, Default)]
pub(super) struct LetterCount(AtomicI64);

impl LetterCount {
    fn get(&self) -> i64 {
        AtomicI64::load(&self.0, Ordering::Acquire).max(0)
    }

    fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::AcqRel);
    }

    fn set(&self, count: i64) {
        self.0.store(count, Ordering::Release);
    }
}

impl Store {
    /// Writes letters, in one statement. A chunk that has one already keeps its number, and the failures add up.
    ///
    /// # Errors
    /// As any query. Repeating the call after [`StoreError::Lost`] counts nothing twice.
    pub async fn file_letters(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        let mut rows = letters.iter().map(NewLetter::new).collect::<Result<Vec<_>, _>>()?;
        // In the order of the keys, as whoever removes them goes; of one key the later counts.
        rows.sort_by_key(|row| (row.dataset_source, row.id, std::cmp::Reverse(row.last_failed_at)));
        rows.dedup_by_key(|row| (row.dataset_source, row.id));
        let mut link = self.pool.get().await?;
        let upsert = diesel::insert_into(dead_letters::table)
            .values(&rows)
            .on_conflict((dead_letters::dataset_source, dead_letters::id))
            .do_update()
            .set((
                dead_letters::content_hash.eq(excluded(dead_letters::content_hash)),
                dead_letters::stage.eq(excluded(dead_letters::stage)),
                dead_letters::cause.eq(excluded(dead_letters::cause)),
                dead_letters::message.eq(excluded(dead_letters::message)),
                dead_letters::attempts.eq(dead_letters::attempts + excluded(dead_letters::attempts)),
                dead_letters::times.eq(dead_letters::times + 1),
                dead_letters::input.eq(excluded(dead_letters::input)),
                dead_letters::batch_id.eq(excluded(dead_letters::batch_id)),
                dead_letters::last_failed_at.eq(excluded(dead_letters::last_failed_at)),
            ));
        let another = dead_letters::last_failed_at.ne(excluded(dead_letters::last_failed_at));
        let written = methods::FilterDsl::filter(upsert, another)
            .returning(diesel::dsl::sql::<Bool>("xmax = 0"))
            .load::<bool>(link.conn())
            .await;
        let new = link.done(written)?.into_iter().filter(|new| *new).count();
        self.letters.add(i64::try_from(new).unwrap_or_default());
        Ok(())
    }

    /// Letters with a higher number than `after`, by rising number: `limit` at most, and not many more than `bytes`
    /// of inputs, but at least one where there is one.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let matching = || {
            let mut query = dead_letters::table.filter(dead_letters::letter.gt(after)).into_boxed();
            if let Some(cause) = filter.cause {
                query = query.filter(dead_letters::cause.eq(cause));
            }
            if let Some(dataset) = &filter.dataset_source {
                query = query.filter(dead_letters::dataset_source.eq(dataset));
            }
            query.order(dead_letters::letter).limit(i64::from(limit))
        };
        let mut link = self.pool.get().await?;
        let sizes = matching()
            .select((dead_letters::letter, octet_length(dead_letters::input)))
            .load::<(i64, i32)>(link.conn())
            .await;
        let mut room = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut last = None;
        for (letter, size) in link.checked(sizes)? {
            if last.is_some() && room < i64::from(size) {
                break;
            }
            (last, room) = (Some(letter), room - i64::from(size));
        }
        let found = match last {
            Some(last) => {
                let page =
                    matching().filter(dead_letters::letter.le(last)).select(StoredDeadLetter::as_select());
                page.load(link.conn()).await
            }
            None => Ok(Vec::new()),
        };
        link.done(found)
    }

    /// How many letters there are, looked up.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn count_letters(&self) -> Result<i64, StoreError> {
        let mut link = self.pool.get().await?;
        let count = dead_letters::table.count().get_result::<i64>(link.conn()).await;
        let count = link.done(count)?;
        self.letters.set(count);
        Ok(count)
    }

    /// How many letters there are, as far as this store knows: no query.
    pub fn dead_letter_count(&self) -> i64 {
        self.letters.get()
    }

    /// Removes the letters of chunks that are stored. An insert does so by itself.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn remove_letters<'c>(
        &self,
        stored: impl Iterator<Item = &'c Chunk>,
    ) -> Result<(), StoreError> {
        let mut link = self.pool.get().await?;
        let removed = remove(link.conn(), stored.map(Delivered::from)).await;
        self.letters_went(link.done(removed)?);
        Ok(())
    }

    pub(super) fn letters_went(&self, count: usize) {
        self.letters.add(-i64::try_from(count).unwrap_or_default());
    }
}

/// A chunk that is stored: its letter is delivered.
pub(super) struct Delivered<'a> {
    key: &'a ChunkKey,
    content_hash: &'a [u8],
}

impl<'a> From<&'a Chunk> for Delivered<'a> {
    fn from(chunk: &'a Chunk) -> Self {
        Delivered { key: &chunk.key, content_hash: &chunk.content_hash }
    }
}

/// Removes the letters of these chunks; gives their number. Also used inside the transaction of an insert.
pub(super) async fn remove<'a>(
    conn: &mut AsyncPgConnection,
    delivered: impl Iterator<Item = Delivered<'a>>,
) -> QueryResult<usize> {
    let mut delivered: Vec<_> = delivered.collect();
    delivered.sort_by_key(|one| one.key);
    RemoveLetters {
        datasets: delivered.iter().map(|one| &*one.key.dataset).collect(),
        ids: delivered.iter().map(|one| &*one.key.id).collect(),
        hashes: delivered.iter().map(|one| one.content_hash).collect(),
    }
    .execute(conn)
    .await
}

/// Written out, because diesel has no `unnest`.
struct RemoveLetters<'a> {
    datasets: Vec<&'a str>,
    ids: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
}

/// Its type is its name, so each connection prepares it once.
impl QueryId for RemoveLetters<'_> {
    type QueryId = RemoveLetters<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for RemoveLetters<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("DELETE FROM dead_letters USING unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.datasets)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.hashes)?;
        out.push_sql(
            ") AS stored (dataset_source, id, content_hash) \
             WHERE dead_letters.dataset_source = stored.dataset_source AND dead_letters.id = stored.id \
             AND dead_letters.content_hash = stored.content_hash",
        );
        Ok(())
    }
}
