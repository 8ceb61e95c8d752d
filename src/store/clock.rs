//! How transactions begin that hold the lock of the clock for longer than a statement.
//!
//! Their holder is the only writer of all services. So the server ends the session of a client that sends nothing for
//! 4 s meanwhile: it is frozen or gone, and the transaction is rolled back.

use super::StoreError;
use super::connection::PooledConnection;
use super::schema::change_clock;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

/// Begins a transaction that takes the lock, and leaves the numbers to the triggers.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
                                SET LOCAL idle_in_transaction_session_timeout = '4s'";

/// The same, and tells the triggers that the program takes the numbers and that its rows are true.
pub(super) const BEGIN_AS_WRITER: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lnsp.writer = on; \
                                          SET LOCAL idle_in_transaction_session_timeout = '4s'";

/// The same, with the lock: the next statement sees the commits that it waited for.
pub(super) const BEGIN_AS_ONLY_WRITER: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lnsp.writer = on; \
                                               SET LOCAL idle_in_transaction_session_timeout = '4s'; \
                                               SELECT FROM change_clock FOR UPDATE";

/// Takes the lock in a transaction that began without it; gives the history and the clock. The next statement sees the
/// commits that it waited for.
pub(super) async fn locked_clock(connection: &mut PooledConnection) -> Result<(String, i64), StoreError> {
    let clock = change_clock::table.select((sql::<Text>("store_history()"), change_clock::seq));
    let locked = clock.for_update().first(connection.conn()).await;
    connection.checked(locked)
}
