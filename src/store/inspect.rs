//! Reads the state of a database without changing it: no migration, no adoption of a model.

use super::connection::Pool;
use super::model::current_model;
use super::schema::chunk_vectors;
use super::{Dsn, StoreError, StoreTimeouts, old_service};
use crate::model::ModelIdentity;
use diesel::OptionalExtension;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

/// SQLSTATE `undefined_table`: the migrations have not run yet.
const NO_TABLE: &str = "42P01";

/// The state of a database, see [`inspect`].
#[derive(Debug)]
pub struct DatabaseInfo {
    /// The server's version, for example `15.18`.
    pub version: String,
    /// Names and values of the settings that decide whether a commit survives a crash, as seen by a session of the
    /// service.
    pub durability: [(&'static str, String); 3],
    /// The model of the store; `None` before the first one is adopted.
    pub model: Option<ModelIdentity>,
    /// Whether the store holds any vectors.
    pub has_vectors: bool,
    /// The connections that the server has left for this role.
    pub free_connections: i64,
}

/// What is left of the connections of all roles. A role has fewer of its own if it was given a limit.
const FREE_CONNECTIONS: &str = "SELECT current_setting('max_connections')::bigint \
    - current_setting('superuser_reserved_connections')::bigint \
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS free";

#[derive(diesel::QueryableByName)]
struct FreeConnections {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    free: i64,
}

/// Connects and reads, over one connection that is closed afterwards.
///
/// # Errors
/// When the server cannot be reached, does not answer a query, or is one that [`super::Store::open`] refuses.
pub async fn inspect(dsn: Dsn) -> Result<DatabaseInfo, StoreError> {
    let pool = Pool::new(dsn.clone(), 1, StoreTimeouts::default())?;
    let info = read_info(&pool, &dsn).await;
    pool.close().await;
    info
}

async fn read_info(pool: &Pool, dsn: &Dsn) -> Result<DatabaseInfo, StoreError> {
    let (mut connection, facts) = pool.connect().await?;
    old_service::refuse(&mut connection, dsn).await?;
    let current = current_model(connection.conn()).await;
    let model = match connection.done(current) {
        Ok(model) => model.map(|(_, identity)| identity),
        Err(error) if error.sqlstate().is_some_and(|state| state.as_str() == NO_TABLE) => None,
        Err(error) => return Err(error),
    };
    let has_vectors = if model.is_some() {
        let first = chunk_vectors::table.select(chunk_vectors::item).first::<i64>(connection.conn()).await;
        connection.done(first.optional())?.is_some()
    } else {
        false
    };
    let free = diesel::sql_query(FREE_CONNECTIONS).get_result::<FreeConnections>(connection.conn()).await;
    let free_connections = connection.done(free)?.free;
    let version = facts.version.clone();
    Ok(DatabaseInfo { version, durability: facts.durability(), model, has_vectors, free_connections })
}
