//! Which chunks a call is about: those of a dataset, of a document, with some ids, or with values in their metadata.

use diesel::expression::{AppearsOnTable, Expression, SelectableExpression, ValidGrouping, is_aggregate};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, Bool, Text, Uuid as SqlUuid};
use uuid::Uuid;

/// Restricts a call to chunks that fit every one of these values. Without any value it selects all chunks of the store,
/// see [`Selection::is_everything`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The name of the dataset.
    pub dataset: Option<String>,
    /// The id of the document.
    pub document: Option<String>,
    /// Ids of chunks, each either the id within the dataset or the public name (`global_id`). An empty list selects
    /// nothing.
    pub ids: Option<Vec<String>>,
    /// Names and values of the metadata, on its first level. A value that is no text is compared as PostgreSQL's `->>`
    /// writes it: `7`, `true`.
    pub metadata: Vec<(String, String)>,
}

impl Selection {
    /// Whether it restricts nothing, and so selects the whole store.
    pub fn is_everything(&self) -> bool {
        let Selection { dataset, document, ids, metadata } = self;
        dataset.is_none() && document.is_none() && ids.is_none() && metadata.is_empty()
    }

    /// The conditions that a replacement of a row can make true or false.
    pub(super) fn of_content(&self) -> Selection {
        let Selection { document, metadata, .. } = self;
        Selection { document: document.clone(), metadata: metadata.clone(), ..Selection::default() }
    }

    /// The condition on the table `chunks`, as an expression for `filter` and for [`AstPass`].
    pub(super) fn condition(&self) -> Selected<'_> {
        // Only what is a UUID can be a public name; the others would fail the cast.
        let names = self.ids.iter().flatten().filter_map(|id| id.parse().ok()).collect();
        Selected { selection: self, names }
    }
}

/// The `WHERE` condition of a [`Selection`], always one boolean expression that can stand beside others with `AND`.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    selection: &'a Selection,
    /// The ids that can be public names.
    names: Vec<Uuid>,
}

impl QueryFragment<Pg> for Selected<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let Selection { dataset, document, ids, metadata } = self.selection;
        out.push_sql("(true");
        if let Some(dataset) = dataset {
            out.push_sql(" AND chunks.dataset_source = ");
            out.push_bind_param::<Text, _>(dataset)?;
        }
        if let Some(document) = document {
            out.push_sql(" AND chunks.document_id = ");
            out.push_bind_param::<Text, _>(document)?;
        }
        if let Some(ids) = ids {
            // Two look-ups into indexes; an OR would read the whole dataset.
            out.push_sql(" AND chunks.item IN (SELECT item FROM chunks AS named WHERE named.id = ANY(");
            out.push_bind_param::<Array<Text>, _>(ids)?;
            if let Some(dataset) = dataset {
                out.push_sql(") AND named.dataset_source = ");
                out.push_bind_param::<Text, _>(dataset)?;
                out.push_sql(" UNION ALL SELECT item FROM chunks AS named WHERE named.cpe_id = ANY(");
            } else {
                out.push_sql(") UNION ALL SELECT item FROM chunks AS named WHERE named.cpe_id = ANY(");
            }
            out.push_bind_param::<Array<SqlUuid>, _>(&self.names)?;
            out.push_sql("))");
        }
        for (name, value) in metadata {
            out.push_sql(" AND chunks.metadata ->> ");
            out.push_bind_param::<Text, _>(name)?;
            out.push_sql(" = ");
            out.push_bind_param::<Text, _>(value)?;
        }
        out.push_sql(")");
        Ok(())
    }
}

/// The statement differs with the values that are there, so the type does not identify it.
impl QueryId for Selected<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Expression for Selected<'_> {
    type SqlType = Bool;
}

impl<GroupBy> ValidGrouping<GroupBy> for Selected<'_> {
    type IsAggregate = is_aggregate::No;
}

impl<Source> AppearsOnTable<Source> for Selected<'_> {}
impl<Source> SelectableExpression<Source> for Selected<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema::chunks;

    fn sql(selection: &Selection) -> String {
        let query = chunks::table.select(chunks::item).filter(selection.condition());
        diesel::debug_query::<Pg, _>(&query).to_string()
    }

    #[test]
    fn values_are_binds_and_stand_together() {
        let all = Selection::default();
        assert!(all.is_everything() && sql(&all).contains("WHERE (true)"), "{}", sql(&all));
        let selection = Selection {
            dataset: Some("d".into()),
            document: Some("e'".into()),
            ids: Some(vec!["x".into(), "6f1c9b1e-6f5b-8b0a-9d0b-1c0e7b6d2f11".into()]),
            metadata: vec![("k".into(), "v".into()), ("l".into(), "w".into())],
        };
        assert!(!selection.is_everything());
        let sql = sql(&selection);
        let conditions = "WHERE (true AND chunks.dataset_source = $1 AND chunks.document_id = $2 \
             AND chunks.item IN (SELECT item FROM chunks AS named WHERE named.id = ANY($3) \
             AND named.dataset_source = $4 UNION ALL SELECT item FROM chunks AS named WHERE named.cpe_id = ANY($5)) \
             AND chunks.metadata ->> $6 = $7 AND chunks.metadata ->> $8 = $9)";
        assert!(sql.contains(conditions), "{sql}");
        assert_eq!(selection.condition().names.len(), 1, "only one of the ids can be a public name");
    }

    #[test]
    fn an_empty_list_of_ids_is_not_everything() {
        assert!(!Selection { ids: Some(Vec::new()), ..Selection::default() }.is_everything());
    }
}
