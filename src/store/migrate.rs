//! The migrations, run when the store is opened.

use super::StoreError;
use diesel::connection::SimpleConnection;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::sync::oneshot;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");
/// Serializes services that start together on one database. Each waits as long as the migrations of the first take.
const LOCK: &str = "SET lock_timeout = 0; SELECT pg_advisory_lock(7308613741325971)";

/// Runs the pending migrations over a connection that is closed afterwards. On a thread of its own, because diesel's
/// harness is synchronous and panics inside a runtime.
pub(super) async fn run(conn: AsyncPgConnection) -> Result<(), StoreError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("lnsp-migrate".into())
        .spawn(move || tell.send(run_here(conn)))
        .map_err(|e| StoreError::Thread { problem: e.to_string() })?;
    told.await.unwrap_or_else(|_| Err(StoreError::Migration { problem: "the migration panicked".to_owned() }))
}

fn run_here(conn: AsyncPgConnection) -> Result<(), StoreError> {
    let mut conn = AsyncConnectionWrapper::<AsyncPgConnection>::from(conn);
    conn.batch_execute(LOCK).map_err(|e| StoreError::from_diesel(&e, None))?;
    let problem =
        |e: Box<dyn std::error::Error + Send + Sync>| StoreError::Migration { problem: e.to_string() };
    refuse_later_versions(&mut conn).map_err(problem)??;
    let done = conn.run_pending_migrations(MIGRATIONS).map_err(problem)?;
    if !done.is_empty() {
        tracing::info!(count = done.len(), "migrated the database");
    }
    Ok(())
}

/// The versions of the migrations that this program knows, in their order.
///
/// # Errors
/// [`StoreError::Migration`], when the program was built with a migration that has no name.
pub fn known_migrations() -> Result<Vec<String>, StoreError> {
    use diesel::migration::MigrationSource;
    let known = MigrationSource::<diesel::pg::Pg>::migrations(&MIGRATIONS);
    let known = known.map_err(|error| StoreError::Migration { problem: error.to_string() })?;
    let mut versions: Vec<String> = known.iter().map(|known| known.name().version().to_string()).collect();
    versions.sort();
    Ok(versions)
}

type Harness = AsyncConnectionWrapper<AsyncPgConnection>;

fn refuse_later_versions(conn: &mut Harness) -> diesel::migration::Result<Result<(), StoreError>> {
    use diesel::migration::MigrationSource;
    let known = MigrationSource::<diesel::pg::Pg>::migrations(&MIGRATIONS)?;
    let applied = conn.applied_migrations()?;
    let unknown = applied.iter().find(|version| !known.iter().any(|m| m.name().version() == **version));
    Ok(unknown.map_or(Ok(()), |version| Err(StoreError::TooNew { found: version.to_string() })))
}
