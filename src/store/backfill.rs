//! One transaction that changes stored rows in place: codes, CPESH parts, vectors of concepts and questions.

use super::changes::ChangedChunk;
use super::clock::{BEGIN_AS_WRITER, locked_clock};
use super::connection::PooledConnection;
use super::filter_fields::{FieldTypes, FieldsFound, filter_fields};
use super::read::{floats, item_number};
use super::{Store, StoreError};
use diesel::pg::Pg;
use diesel::query_builder::{Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Nullable};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

/// A committed transaction that changed rows in place.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfilledRows {
    /// The history that counted them; see [`super::ClockReading::history`].
    pub history: String,
    /// The clock before the transaction.
    pub after: i64,
    /// The clock after it. Equal to `after` when no row was changed.
    pub upto: i64,
    /// The changed rows, with the concept vectors that they have.
    pub concepts: Vec<ChangedChunk>,
    /// Those of them that have a question vector.
    pub questions: Vec<ChangedChunk>,
}

/// `seq`, `item`, the vectors of concept and question, and the fields of a changed row.
pub(super) type BackfilledTypes = (BigInt, BigInt, Nullable<Binary>, Nullable<Binary>, FieldTypes);
type BackfilledRow = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, FieldsFound);

impl Store {
    /// Runs a statement that takes as many numbers of the clock as it changes rows, in one flushed transaction.
    pub(super) async fn backfill<Q>(&self, update: Q) -> Result<BackfilledRows, StoreError>
    where
        Q: Query<SqlType = BackfilledTypes> + QueryFragment<Pg> + QueryId + Send,
    {
        let mut connection = self.pool.get().await?;
        match apply(&mut connection, update).await {
            Ok(rows) => {
                connection.commit().await?;
                Ok(rows)
            }
            Err(error) => {
                connection.roll_back().await;
                Err(error)
            }
        }
    }
}

/// Everything but the commit.
async fn apply<Q>(connection: &mut PooledConnection, update: Q) -> Result<BackfilledRows, StoreError>
where
    Q: Query<SqlType = BackfilledTypes> + QueryFragment<Pg> + QueryId + Send,
{
    let begun = connection.conn().batch_execute(BEGIN_AS_WRITER).await;
    connection.checked(begun)?;
    let (history, after) = locked_clock(connection).await?;
    let changed = update.load::<BackfilledRow>(connection.conn()).await;
    let (mut concepts, mut questions) = (Vec::new(), Vec::new());
    for (seq, item, concept, question, fields) in connection.checked(changed)? {
        let (item, fields) = (item_number(item)?, filter_fields(fields)?);
        let missing = || StoreError::Unreadable { problem: format!("vector of item {item}") };
        let vector = floats(&concept.ok_or_else(missing)?)?;
        concepts.push(ChangedChunk { seq, item, vector, fields: fields.clone() });
        if let Some(question) = question {
            questions.push(ChangedChunk { seq, item, vector: floats(&question)?, fields });
        }
    }
    Ok(BackfilledRows { history, after, upto: after + concepts.len() as i64, concepts, questions })
}
