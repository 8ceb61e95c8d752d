//! Looking at a database without changing it: no migration, no adoption of a model.

use super::connection::Pool;
use super::model::current_model;
use super::schema::chunk_vectors;
use super::{Dsn, StoreError, check, settings};
use crate::model::ModelIdentity;
use diesel::OptionalExtension;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

/// No table of that name: the database is still empty.
const NO_TABLE: &str = "42P01";

/// What a database is.
#[derive(Debug)]
pub struct DatabaseInfo {
    /// Of the server, for example `15.18`.
    pub version: String,
    /// The settings that decide whether what is committed survives a crash, as our sessions have them.
    pub flushing: [(&'static str, String); 3],
    /// Why the service would refuse the server.
    pub refused: Option<StoreError>,
    /// Whose vectors it takes; absent when nobody's yet.
    pub model: Option<ModelIdentity>,
    /// There are some.
    pub has_vectors: bool,
}

/// Connects and looks, over one connection that is closed afterwards.
///
/// # Errors
/// When the server cannot be reached, or does not answer a query.
pub async fn inspect(dsn: Dsn) -> Result<DatabaseInfo, StoreError> {
    let pool = Pool::new(dsn, 1)?;
    let looked = look_over(&pool).await;
    pool.close().await;
    looked
}

async fn look_over(pool: &Pool) -> Result<DatabaseInfo, StoreError> {
    let mut link = pool.dial().await?;
    let found = settings(link.conn()).await;
    let found = link.done(found)?;
    let refused = check(&found).err();
    let current = current_model(link.conn()).await;
    let model = match link.done(current) {
        Ok(model) => model.map(|(_, identity)| identity),
        Err(error) if error.sqlstate().is_some_and(|state| state.as_str() == NO_TABLE) => None,
        Err(error) => return Err(error),
    };
    let has_vectors = if model.is_some() {
        let first = chunk_vectors::table.select(chunk_vectors::item).first::<i64>(link.conn()).await;
        link.done(first.optional())?.is_some()
    } else {
        false
    };
    let flushing = [
        ("fsync", found.fsync),
        ("full_page_writes", found.full_page_writes),
        ("synchronous_commit", found.synchronous_commit),
    ];
    Ok(DatabaseInfo { version: found.version, flushing, refused, model, has_vectors })
}
