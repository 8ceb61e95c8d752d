//! The dead letters of a selection. A letter has its document and metadata only in its input, so each is read.

use super::incoming::JsonText;
use super::schema::dead_letters;
use super::selection::Selected;
use super::{DeadLetterFilter, Selection, Store, StoreError, StoredDeadLetter};
use crate::chunk::{Chunk, Metadata};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Jsonb};
use diesel_async::RunQueryDsl;
use std::collections::HashSet;

/// Letters that are read at once.
const PAGE: u32 = 500;
/// Bytes of inputs that are read at once.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

impl Store {
    /// The numbers of the dead letters of a selection, ascending. Of a letter whose input is no
    /// chunk only the dataset is known.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn selected_letters(&self, selection: &Selection) -> Result<Vec<i64>, StoreError> {
        let filter = DeadLetterFilter { cause: None, dataset_source: selection.dataset.clone() };
        let ids = selection.ids.as_ref().map(|ids| ids.iter().map(String::as_str).collect());
        let (mut selected, mut after) = (Vec::new(), -1);
        loop {
            let page = self.dead_letters(&filter, after, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last() else { return Ok(selected) };
            after = last.letter;
            let fitting =
                page.into_iter().filter_map(|letter| fitting(letter, selection, ids.as_ref())).collect();
            selected.append(&mut self.with_metadata(fitting, selection).await?);
        }
    }

    /// Deletes dead letters by their numbers, and returns how many there were.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn delete_letters(&self, letters: &[i64]) -> Result<u64, StoreError> {
        let mut connection = self.pool.get().await?;
        let rows = dead_letters::table.filter(dead_letters::letter.eq_any(letters));
        let deleted = diesel::delete(rows).execute(connection.conn()).await;
        let deleted = connection.done(deleted)?;
        self.subtract_dead_letters(deleted);
        Ok(deleted as u64)
    }

    /// The numbers of those with the metadata of the selection, which the database compares as it does for chunks.
    async fn with_metadata(
        &self,
        letters: Vec<(i64, Option<Metadata>)>,
        selection: &Selection,
    ) -> Result<Vec<i64>, StoreError> {
        if selection.metadata.is_empty() {
            return Ok(letters.into_iter().map(|(letter, _)| letter).collect());
        }
        let metadata = Selection { metadata: selection.metadata.clone(), ..Selection::default() };
        let with = letters
            .iter()
            .filter_map(|(letter, object)| Some((*letter, JsonText(object.as_ref()?.as_str()))));
        let (numbers, objects) = with.unzip();
        let query = WithMetadata { numbers, objects, condition: metadata.condition() };
        let mut connection = self.pool.get().await?;
        let found = query.load::<i64>(connection.conn()).await;
        connection.done(found)
    }
}

/// The number and the metadata of a letter of this dataset, if it fits document and ids.
fn fitting(
    letter: StoredDeadLetter,
    selection: &Selection,
    ids: Option<&HashSet<&str>>,
) -> Option<(i64, Option<Metadata>)> {
    let Selection { document, metadata, .. } = selection;
    let Some(chunk) = Chunk::of_sent(&letter.dataset_source, &letter.input) else {
        let whole_dataset = document.is_none() && ids.is_none() && metadata.is_empty();
        return whole_dataset.then_some((letter.letter, None));
    };
    let in_document = document.is_none() || *document == chunk.placement.document_id;
    let name = chunk.cpe_id.to_string();
    let named = ids.is_none_or(|ids| ids.contains(&*letter.id) || ids.contains(&*name));
    (in_document && named).then_some((letter.letter, chunk.metadata))
}

/// Raw SQL, because diesel has no `unnest`.
struct WithMetadata<'a> {
    numbers: Vec<i64>,
    objects: Vec<JsonText<'a>>,
    condition: Selected<'a>,
}

/// As that of the condition.
impl QueryId for WithMetadata<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for WithMetadata<'_> {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for WithMetadata<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT letter FROM unnest(");
        out.push_bind_param::<Array<BigInt>, _>(&self.numbers)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Jsonb>, _>(&self.objects)?;
        // The name is that of the table, as in the condition.
        out.push_sql(") AS chunks (letter, metadata) WHERE ");
        self.condition.walk_ast(out.reborrow())?;
        out.push_sql(" ORDER BY letter");
        Ok(())
    }
}
