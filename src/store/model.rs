//! The one embedding model of a store, fixed before its first row.

use super::clock::BEGIN;
use super::schema::{change_clock, chunk_vectors, models};
use super::{Store, StoreError};
use crate::model::ModelIdentity;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

/// The primary key of a model in the table `models` of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelId(pub(super) i32);

impl ModelId {
    /// The value of the column `models.model_id`.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// A model of which the store has vectors, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Its key in this store.
    pub id: ModelId,
    /// The identity of its vectors.
    pub identity: ModelIdentity,
    /// The folder or name under which it was last found.
    pub location: Option<String>,
    /// Its vectors are written and searched.
    pub in_use: bool,
}

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
        // A longer vector does not fit into a row.
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
    /// Makes this the model of the store. While the store holds no vectors, it replaces an earlier choice.
    ///
    /// # Errors
    /// [`StoreError::OtherModel`], permanent, when the store holds vectors of another model.
    pub async fn adopt_model(&self, model: &ModelIdentity) -> Result<ModelId, StoreError> {
        let mut connection = self.pool.get().await?;
        let begun = connection.conn().batch_execute(BEGIN).await;
        connection.checked(begun)?;
        let adopted = adopt(connection.conn(), model).await;
        match connection.checked(adopted) {
            Ok(Ok(id)) => {
                connection.commit().await?;
                Ok(id)
            }
            Ok(Err(stored)) => {
                connection.roll_back().await;
                let (stored, wanted) = (Box::new(stored), Box::new(model.clone()));
                Err(StoreError::OtherModel { stored, wanted })
            }
            Err(error) => {
                connection.roll_back().await;
                Err(error)
            }
        }
    }

    /// All models that the store knows, in the order of their keys.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn models(&self) -> Result<Vec<StoredModel>, StoreError> {
        let mut connection = self.pool.get().await?;
        let current = change_clock::table.select(change_clock::model_id).first(connection.conn()).await;
        let current: Option<i32> = connection.done(current)?;
        let query = models::table.select((models::model_id, ModelRow::as_select(), models::location));
        let found = query.order(models::model_id).load(connection.conn()).await;
        let stored = |(id, row, location): (i32, ModelRow, Option<String>)| StoredModel {
            id: ModelId(id),
            identity: row.into(),
            location,
            in_use: current == Some(id),
        };
        connection.done(found).map(|rows| rows.into_iter().map(stored).collect())
    }

    /// Notes a model and where it was found, so that the store can have vectors of it. It is not put to use.
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn register_model(&self, model: &ModelIdentity, location: &str) -> Result<ModelId, StoreError> {
        let mut connection = self.pool.get().await?;
        let insert = diesel::insert_into(models::table)
            .values((ModelRow::from(model), models::location.eq(location)))
            .on_conflict(models::fingerprint)
            .do_update()
            .set(models::location.eq(location))
            .returning(models::model_id);
        let id = insert.get_result(connection.conn()).await;
        connection.done(id).map(ModelId)
    }

    /// The model of the store; `None` before the first [`Self::adopt_model`].
    ///
    /// # Errors
    /// As any query: transient while the server is away.
    pub async fn model(&self) -> Result<Option<(ModelId, ModelIdentity)>, StoreError> {
        let mut connection = self.pool.get().await?;
        let found = current_model(connection.conn()).await;
        connection.done(found)
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

/// Sets the model; the inner error is the store's model when it is another one.
async fn adopt(
    conn: &mut AsyncPgConnection,
    model: &ModelIdentity,
) -> QueryResult<Result<ModelId, ModelIdentity>> {
    // With the lock of the clock no insert is in progress.
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
