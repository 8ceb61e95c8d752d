//! Errors of reading the tables of the old service.

use tokio_postgres::Error;

/// Why the old tables cannot be read. Messages have no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OldTablesError {
    /// The server cannot be reached, or refuses the connection.
    #[error("cannot connect to the old database {to}: {problem}")]
    Connect {
        /// The address, without its password.
        to: String,
        /// The message of the server or of the operating system.
        problem: String,
    },
    /// There is no table `cpe_entry` with a column `cpe_id`.
    #[error(
        "the database {to} has no table of the old service: expected cpe_entry with its key cpe_id; check --from, and \
         the search_path of its user"
    )]
    NoTable {
        /// The address, without its password.
        to: String,
    },
    /// The database is one of this service, in which the old tables are views.
    #[error(
        "the database {to} is one of this service, in which cpe_entry is a view: expected one of the old service; \
         chunks of this service are copied as lines of the view chunk_lines"
    )]
    OwnDatabase {
        /// The address, without its password.
        to: String,
    },
    /// The server ended the connection.
    #[error(
        "the connection to the old database was lost ({problem}); run the same command again: what is stored is known and \
         not stored twice"
    )]
    Lost {
        /// The reason, as far as it is known.
        problem: String,
    },
    /// The server refused a query.
    #[error("the old database answered {state}: {problem}")]
    Database {
        /// The SQLSTATE of the answer.
        state: String,
        /// The message of the server.
        problem: String,
    },
    /// The server sent something unexpected.
    #[error("an old row cannot be read: {problem}")]
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
}

impl From<Error> for OldTablesError {
    fn from(error: Error) -> Self {
        let problem = sentence(&error);
        let state = error.as_db_error().map(|answer| answer.code().code().to_owned());
        let by_io = || std::error::Error::source(&error).is_some_and(|cause| cause.is::<std::io::Error>());
        match state {
            // It is shut down, or the session was ended.
            Some(state) if state.starts_with("57P") => OldTablesError::Lost { problem },
            Some(state) => OldTablesError::Database { state, problem },
            None if error.is_closed() || by_io() => OldTablesError::Lost { problem },
            None => OldTablesError::Unreadable { problem },
        }
    }
}

/// The message of the server, or of what is below.
pub(super) fn sentence(error: &Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(answer), _) => answer.message().to_owned(),
        (None, Some(cause)) if cause.to_string() == "password missing" => {
            "it asks for a password; put one into the address or into PGPASSWORD".to_owned()
        }
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}
