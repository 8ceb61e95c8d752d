//! Recognises a database of the old service, in which this one must not make its tables: its views have the names of
//! the old tables.

use super::StoreError;
use super::connection::Connection;
use super::dsn::Dsn;
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

/// Only the schema in which the migrations make their tables counts: the old tables may be in another one. Views of
/// these names are those of the migrations.
const OLD_TABLES: &str = "
    SELECT relname::text AS name FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND relname IN ('cpe_entry', 'cpe_vectors', 'cpe_vectors_json') AND relkind <> 'v'
    ORDER BY relname LIMIT 1";

#[derive(QueryableByName)]
struct OldTable {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Refuses a database that has a table of the old service.
pub(super) async fn refuse(connection: &mut Connection, dsn: &Dsn) -> Result<(), StoreError> {
    let found = diesel::sql_query(OLD_TABLES).load::<OldTable>(connection.conn()).await;
    let table = connection.checked(found)?.into_iter().next().map(|table| table.name);
    table.map_or(Ok(()), |table| Err(StoreError::OldService { to: dsn.to_string(), table }))
}
