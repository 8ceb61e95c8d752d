//! What can go wrong with the store, sorted by what to do about it.

use crate::model::ModelIdentity;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use std::fmt;

/// The five characters by which PostgreSQL names a condition, for example `23505`. The first two are its class.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    pub(super) fn new(code: &[u8]) -> Option<SqlState> {
        let code: [u8; 5] = code.try_into().ok()?;
        code.iter().all(u8::is_ascii_alphanumeric).then_some(SqlState(code))
    }

    /// All five characters.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// The first two.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }

    /// The server or the connection is at fault, and may be well again in a moment.
    fn passes(self) -> bool {
        match self.class() {
            "08" | "40" | "53" => true,
            "57" => self.as_str() != "57P04",
            // Read-only after a failover, idle for too long inside a transaction, a lock not had in time.
            _ => matches!(self.as_str(), "25006" | "25P03" | "55P03"),
        }
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

/// Why the store could not do something. The sentences hold neither row contents nor passwords. Ask
/// [`Self::is_transient`] and [`Self::is_data_error`] what to do; what is neither needs a person.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Permanent.
    #[error("the database address is not usable: {problem}; check DATABASE_URL (or PG_DSN)")]
    Dsn {
        /// What is wrong with it.
        problem: String,
    },
    /// Transient, except when the server answered and said no.
    #[error("cannot connect to the database {to}: {problem}")]
    Connect {
        /// The address, without its password.
        to: String,
        /// What the server answered, if it did.
        state: Option<SqlState>,
        /// What happened.
        problem: String,
    },
    /// Transient: every connection is in use, or none can be had.
    #[error("no database connection was free within {seconds} s")]
    NoConnection {
        /// How long was waited.
        seconds: u64,
    },
    /// Transient. A transaction that was being committed may have been: look before sending it again.
    #[error("the connection to the database was lost; what was under way may or may not be committed")]
    Lost,
    /// The database refuses a row for its content. Permanent for that row, no fault of its neighbours: bisect.
    #[error("the database refused a row ({state}{})", constraint.as_ref().map(|name| format!(", {name}")).unwrap_or_default())]
    Refused {
        /// Class 22 or 23.
        state: SqlState,
        /// The rule it broke.
        constraint: Option<String>,
    },
    /// Anything else the server answered; see its state.
    #[error("the database answered {}: {problem}", state.map_or_else(|| "an error".to_owned(), |s| s.to_string()))]
    Database {
        /// The condition; absent for a defect on our side of the connection.
        state: Option<SqlState>,
        /// In the words of the server.
        problem: String,
    },
    /// Permanent: what is acknowledged would not survive a crash.
    #[error(
        "the database runs with {setting}={found}, which loses acknowledged chunks in a crash; set {setting}=on"
    )]
    Unsafe {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: String,
    },
    /// Permanent.
    #[error("the database is PostgreSQL {found}; version 14 or newer is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// Permanent: the database was used by a later version of this program.
    #[error(
        "the database has the migration {found}, which this program does not know; use the newer program"
    )]
    TooNew {
        /// The first unknown migration.
        found: String,
    },
    /// Permanent until what it says is mended.
    #[error("the tables could not be brought up to date: {problem}")]
    Migration {
        /// In the words of the server.
        problem: String,
    },
    /// Permanent: vectors of two models cannot be compared.
    #[error(
        "the store holds vectors of {stored}, but {wanted} was asked for; choose the stored model, or start the new \
         one with another data folder or database and send it the lines of the view chunk_lines (README: Another \
         model)"
    )]
    OtherModel {
        /// Whose vectors are there.
        stored: Box<ModelIdentity>,
        /// Whose were to be added.
        wanted: Box<ModelIdentity>,
    },
    /// Permanent: somebody else decided the model of this store in the meantime. Adopt again to learn which.
    #[error("the store was given another model since this service started; restart it")]
    ModelChanged,
    /// Permanent: all 2^32 item numbers were given out.
    #[error("the store is full: every one of its 4,294,967,295 item numbers was used; start a new one")]
    Full,
    /// Permanent: the row was written by a later version or by hand.
    #[error("a stored row cannot be read: {problem}")]
    Unreadable {
        /// Which part of it.
        problem: String,
    },
    /// Permanent: the store was closed.
    #[error("the store is closed")]
    Closed,
    /// Permanent: the machine refuses a thread.
    #[error("could not start the thread of the store: {problem}")]
    Thread {
        /// What it said.
        problem: String,
    },
}

impl StoreError {
    /// The same call may succeed later; repeat it as a whole. After [`Self::Lost`] look first (an insert does that
    /// by itself: its rows come back as present).
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::NoConnection { .. } | StoreError::Lost => true,
            StoreError::Connect { state, .. } => state.is_none_or(SqlState::passes),
            StoreError::Database { state, .. } => state.is_some_and(SqlState::passes),
            _ => false,
        }
    }

    /// Some row of the batch is refused for its content; its neighbours are not at fault.
    pub fn is_data_error(&self) -> bool {
        matches!(self, StoreError::Refused { .. })
    }

    /// The condition, where the server named one.
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

    /// `state` is what the connection saw the server answer; diesel keeps it to itself.
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
        for code in ["08006", "40001", "40P01", "53100", "53300", "57P01", "57P02", "57P03", "57014", "25006"]
        {
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
