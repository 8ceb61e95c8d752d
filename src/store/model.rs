//! Which model's vectors a store holds. There is one, and it is decided before the first row.

use super::schema::{change_clock, chunk_vectors, models};
use super::{Store, StoreError};
use crate::model::ModelIdentity;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

/// A model inside one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(pub(super) i32);

impl ModelId {
    /// The number in the table `models`.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// A row of `models`.
#[derive(Queryable, Insertable, Selectable)]
#[diesel(table_name = models, check_for_backend(diesel::pg::Pg))]
struct ModelRow {
    name: String,
    recipe: String,
    fingerprint: String,
    dims: i32,
}

impl From<&ModelIdentity> for ModelRow {
    fn from(model: &ModelIdentity) -> Self {
        let ModelIdentity { name, recipe, fingerprint, dims } = model.clone();
        // A vector that long would not fit a row anyway.
        ModelRow { name, recipe, fingerprint, dims: i32::try_from(dims).unwrap_or(i32::MAX) }
    }
}

impl From<ModelRow> for ModelIdentity {
    fn from(row: ModelRow) -> Self {
        let ModelRow { name, recipe, fingerprint, dims } = row;
        ModelIdentity { name, recipe, fingerprint, dims: usize::try_from(dims).unwrap_or_default() }
    }
}

impl Store {
    /// Makes this the model of the store. A store without vectors takes it, whatever it was told before.
    ///
    /// # Errors
    /// [`StoreError::OtherModel`], permanent, when there are vectors of another model.
    pub async fn adopt_model(&self, model: &ModelIdentity) -> Result<ModelId, StoreError> {
        let mut link = self.pool.get().await?;
        let begun = link.conn().batch_execute("BEGIN").await;
        link.checked(begun)?;
        let adopted = adopt(link.conn(), model).await;
        match link.checked(adopted) {
            Ok(Ok(id)) => {
                let committed = link.conn().batch_execute("COMMIT").await;
                link.done(committed).map(|()| id)
            }
            Ok(Err(stored)) => {
                link.roll_back().await;
                let (stored, wanted) = (Box::new(stored), Box::new(model.clone()));
                Err(StoreError::OtherModel { stored, wanted })
            }
            Err(error) => {
                link.roll_back().await;
                Err(error)
            }
        }
    }

    /// The model of the store, once it has one.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn model(&self) -> Result<Option<(ModelId, ModelIdentity)>, StoreError> {
        let mut link = self.pool.get().await?;
        let found = current_model(link.conn()).await;
        link.done(found)
    }
}

pub(super) async fn current_model(
    conn: &mut AsyncPgConnection,
) -> QueryResult<Option<(ModelId, ModelIdentity)>> {
    let found = models::table
        .inner_join(change_clock::table)
        .select((models::model_id, ModelRow::as_select()))
        .first::<(i32, ModelRow)>(conn)
        .await
        .optional()?;
    Ok(found.map(|(id, row)| (ModelId(id), row.into())))
}

/// The model in charge when it is another one.
async fn adopt(
    conn: &mut AsyncPgConnection,
    model: &ModelIdentity,
) -> QueryResult<Result<ModelId, ModelIdentity>> {
    // The lock of the clock: no writer is between its first and its last statement.
    let current = change_clock::table.select(change_clock::model_id).for_update();
    let current: Option<i32> = current.first(conn).await?;
    diesel::insert_into(models::table)
        .values(ModelRow::from(model))
        .on_conflict(models::fingerprint)
        .do_nothing()
        .execute(conn)
        .await?;
    let same = models::table.filter(models::fingerprint.eq(&model.fingerprint)).select(models::model_id);
    let wanted: i32 = same.first(conn).await?;
    if current == Some(wanted) {
        return Ok(Ok(ModelId(wanted)));
    }
    let any_vector =
        chunk_vectors::table.select(chunk_vectors::item).limit(1).first::<i64>(conn).await.optional()?;
    if let (Some(stored), Some(_)) = (current, any_vector) {
        let stored = models::table.find(stored).select(ModelRow::as_select());
        return Ok(Err(stored.first::<ModelRow>(conn).await?.into()));
    }
    diesel::update(change_clock::table).set(change_clock::model_id.eq(wanted)).execute(conn).await?;
    Ok(Ok(ModelId(wanted)))
}
