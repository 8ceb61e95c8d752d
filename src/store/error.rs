//! The errors of the store, by what to do about them.

use crate::model::ModelIdentity;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use std::fmt;

/// An SQLSTATE: five ASCII letters or digits, for example `23505`. The first two are its class (PostgreSQL, appendix
/// A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    pub(super) fn new(code: &[u8]) -> Option<SqlState> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(u8::is_ascii_alphanumeric).then_some(SqlState(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // `new` accepts ASCII only.
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// The first two characters.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }

    /// The server or the connection is at fault, and may recover.
    fn passes(self) -> bool {
        match self.class() {
            "08" | "40" | "53" => true,
            "57" => self.as_str() != "57P04",
            // Idle-in-transaction timeout, lock timeout.
            _ => self.ends_session() || matches!(self.as_str(), "25P03" | "55P03"),
        }
    }

    /// The session is of no further use, while another one may be: after a failover the server takes no writes (25006),
    /// or its backend is not the one that prepared the statements (26000, 42P05).
    pub(super) fn ends_session(self) -> bool {
        matches!(self.as_str(), "25006" | "26000" | "42P05")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({self})")
    }
}

/// Why a server takes no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnlyCause {
    /// It follows another server.
    Standby,
    /// `default_transaction_read_only` is on.
    Setting,
}

impl ReadOnlyCause {
    fn remedy(self) -> &'static str {
        match self {
            ReadOnlyCause::Standby => {
                "name the primary in DATABASE_URL, or all hosts of the cluster, separated by commas"
            }
            ReadOnlyCause::Setting => {
                "turn it off for the server, the database and the role, or name another server in DATABASE_URL"
            }
        }
    }
}

impl fmt::Display for ReadOnlyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadOnlyCause::Standby => "it is a standby",
            ReadOnlyCause::Setting => "default_transaction_read_only is on",
        })
    }
}

/// Why a call to the store failed. The messages hold neither row contents nor passwords. [`Self::is_transient`] and
/// [`Self::is_data_error`] say what to do; an error that is neither needs an operator.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address cannot be parsed or asks for something unsupported. Permanent.
    #[error("the database address is not usable: {problem}; check DATABASE_URL (or PG_DSN)")]
    Dsn {
        /// What is wrong with the address.
        problem: String,
    },
    /// Transient, unless the server answered with a refusal.
    #[error("cannot connect to the database {to}: {problem}")]
    Connect {
        /// The address, without its password.
        to: String,
        /// The SQLSTATE of the server's answer, if it answered.
        state: Option<SqlState>,
        /// The message of the server or of the operating system.
        problem: String,
    },
    /// Transient: every connection of the pool is in use.
    #[error(
        "connection pool limit exceeded: all {limit} database connections of this service were in use for {seconds} s; \
         send fewer requests at once, or find out why the database is slow"
    )]
    NoConnection {
        /// The number of connections.
        limit: usize,
        /// How long the call waited, in seconds.
        seconds: u64,
    },
    /// Transient. A transaction whose commit was sent may be committed: check before sending it again.
    #[error(
        "the connection to the database was lost; the transaction in progress may or may not be committed"
    )]
    Lost,
    /// Transient, as [`Self::Lost`]: the network or the server is silent, and the connection was given up.
    #[error(
        "the database did not answer within {seconds} s; the transaction in progress may or may not be committed"
    )]
    NoAnswer {
        /// How long it was silent, in seconds.
        seconds: u64,
    },
    /// Transient: the server ended a transaction without storing it, and named no error.
    #[error("the database rolled the transaction back instead of committing it")]
    RolledBack,
    /// The database refuses a row for its content. Permanent for that row only: bisect the batch to find it.
    #[error(
        "the database refused a row ({state}{})",
        constraint.as_ref().map(|name| format!(", {name}")).unwrap_or_default()
    )]
    Refused {
        /// The SQLSTATE, of class 22 or 23.
        state: SqlState,
        /// The constraint or column it violates.
        constraint: Option<String>,
    },
    /// Any other error of the server; its SQLSTATE says whether it is transient.
    #[error("the database answered {}: {problem}", state.map_or_else(|| "an error".to_owned(), |s| s.to_string()))]
    Database {
        /// The SQLSTATE; absent for an error on the client's side.
        state: Option<SqlState>,
        /// The message of the server.
        problem: String,
    },
    /// Permanent: there is nothing to read.
    #[error(
        "the database {to} has no tables of this version of the service; name another one, or start the service with \
         it once"
    )]
    NoStore {
        /// The address, without its password.
        to: String,
    },
    /// Permanent: acknowledged chunks would not survive a crash.
    #[error(
        "the database runs with {setting}={found}, which loses acknowledged chunks in a crash; set {setting}=on"
    )]
    Unsafe {
        /// The name of the setting.
        setting: &'static str,
        /// The value it has.
        found: String,
    },
    /// Permanent: not every text could be stored.
    #[error(
        "the database {to} has the encoding {found}, which cannot hold every text: expected UTF8; make one with \
         CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0, and name it in DATABASE_URL"
    )]
    Encoding {
        /// The address, without its password.
        to: String,
        /// The encoding of the database.
        found: String,
    },
    /// Permanent: the views of the migrations have the names of its tables.
    #[error(
        "the database {to} is one of the old service, with its table {table}, and nothing in it was changed: start \
         with a database of its own, and bring the rows over with `lnsp import --from` and this address"
    )]
    OldService {
        /// The address, without its password.
        to: String,
        /// The table of the old service.
        table: String,
    },
    /// Permanent until the server takes writes.
    #[error("the database {to} takes no writes: {cause}; {}", cause.remedy())]
    ReadOnly {
        /// The address, without its password.
        to: String,
        /// Why it takes none.
        cause: ReadOnlyCause,
    },
    /// Permanent: transactions would lose the settings and the prepared statements of their session.
    #[error(
        "at {to} there is a connection pooler that gives each transaction another session, as PgBouncer does with \
         pool_mode=transaction: expected a session for each connection; set pool_mode=session for this database, or \
         name the server itself in DATABASE_URL"
    )]
    SharedSession {
        /// The address, without its password.
        to: String,
    },
    /// Permanent: the server lacks what the migrations need.
    #[error("the database is PostgreSQL {found}; version 14 or newer is needed")]
    TooOld {
        /// The version of the server.
        found: String,
    },
    /// Permanent: the database was migrated by a later version of this program.
    #[error(
        "the database has the migration {found}, which this program does not know; use the newer program"
    )]
    TooNew {
        /// The first unknown migration.
        found: String,
    },
    /// Permanent until the reported problem is solved.
    #[error("the tables could not be brought up to date: {problem}")]
    Migration {
        /// The message of the server.
        problem: String,
    },
    /// Permanent: vectors of two models cannot be compared.
    #[error(
        "the store holds vectors of {stored}, but {wanted} is configured; leave LNSP_EMBEDDING_MODEL unset to go on with \
         the stored model, or give the chunks vectors of the other one and put it to use: lnsp reembed, then lnsp model \
         use (docs/models.md: Changing the model)"
    )]
    OtherModel {
        /// The model of the stored vectors.
        stored: Box<ModelIdentity>,
        /// The model that was to be adopted.
        wanted: Box<ModelIdentity>,
    },
    /// Permanent for this call: another model was put to use. [`super::Store::adopt_model`] says which it is.
    #[error("another model was put to use since this service started")]
    ModelChanged,
    /// Permanent: all item numbers are used.
    #[error("the store is full: all of its 4,294,967,295 item numbers are used; start a new one")]
    Full,
    /// Permanent: a later version or another program wrote the row.
    #[error("a stored row cannot be read: {problem}")]
    Unreadable {
        /// The column that cannot be read.
        problem: String,
    },
    /// Permanent: the store was closed.
    #[error("the store is closed")]
    Closed,
    /// Permanent: the operating system refuses a thread.
    #[error("could not start the thread of the store: {problem}")]
    Thread {
        /// The message of the operating system.
        problem: String,
    },
}

impl StoreError {
    /// The same call may succeed later; retry it as a whole. After [`Self::Lost`] and [`Self::NoAnswer`] check first what is committed (an
    /// insert does so itself: its rows come back as present).
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::NoConnection { .. }
            | StoreError::Lost
            | StoreError::NoAnswer { .. }
            | StoreError::RolledBack => true,
            StoreError::Connect { state, .. } => state.is_none_or(SqlState::passes),
            StoreError::Database { state, .. } => state.is_some_and(SqlState::passes),
            _ => false,
        }
    }

    /// Some row of the batch is refused for its content; the other rows are not at fault.
    pub fn is_data_error(&self) -> bool {
        matches!(self, StoreError::Refused { .. })
    }

    /// The SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            StoreError::Connect { state, .. } | StoreError::Database { state, .. } => *state,
            StoreError::Refused { state, .. } => Some(*state),
            _ => None,
        }
    }

    /// The first two characters of [`Self::sqlstate`].
    pub fn sqlstate_class(&self) -> Option<String> {
        self.sqlstate().map(|state| state.class().to_owned())
    }

    /// `state` comes from the connection's bytes, see [`super::sqlstate_sniffer`]: diesel does not pass it on.
    pub(super) fn from_diesel(error: &DieselError, state: Option<SqlState>) -> StoreError {
        let DieselError::DatabaseError(kind, info) = error else {
            return match error {
                DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
                    StoreError::Lost
                }
                other => StoreError::Database { state, problem: other.to_string() },
            };
        };
        match (state, kind) {
            (None, DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection) => {
                StoreError::Lost
            }
            (Some(state), _) if matches!(state.class(), "22" | "23") => {
                let constraint = info.constraint_name().or(info.column_name()).map(str::to_owned);
                match constraint.as_deref() {
                    Some("change_clock_items_left") => StoreError::Full,
                    _ => StoreError::Refused { state, constraint },
                }
            }
            (state, _) => StoreError::Database { state, problem: info.message().to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(code: &str) -> StoreError {
        let info: Box<String> = Box::new("secret row contents".to_owned());
        let error = DieselError::DatabaseError(DatabaseErrorKind::Unknown, info);
        StoreError::from_diesel(&error, SqlState::new(code.as_bytes()))
    }

    #[test]
    fn the_state_decides_what_to_do() {
        for code in [
            "08006", "40001", "40P01", "53100", "53300", "57P01", "57P02", "57P03", "57014", "25006", "26000",
        ] {
            assert!(database(code).is_transient() && !database(code).is_data_error(), "{code}");
        }
        for code in ["22021", "22003", "23505", "23514", "23503"] {
            let error = database(code);
            assert!(error.is_data_error() && !error.is_transient(), "{code}");
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(error.sqlstate_class().as_deref(), Some(&code[..2]));
        }
        for code in ["42P01", "XX001", "57P04", "0A000", "28P01"] {
            assert!(!database(code).is_transient() && !database(code).is_data_error(), "{code}");
        }
    }

    #[test]
    fn a_server_that_answers_no_is_another_thing_than_one_that_does_not_answer() {
        let connect = |state: Option<&str>| StoreError::Connect {
            to: String::new(),
            state: state.and_then(|code| SqlState::new(code.as_bytes())),
            problem: String::new(),
        };
        assert!(connect(None).is_transient() && connect(Some("57P03")).is_transient());
        assert!(!connect(Some("28P01")).is_transient() && !connect(Some("3D000")).is_transient());
    }

    #[test]
    fn only_whole_states_are_states() {
        assert_eq!(SqlState::new(b"2202"), None);
        assert_eq!(SqlState::new("22é2".as_bytes()), None);
    }
}
