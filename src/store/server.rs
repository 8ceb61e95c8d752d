//! What a server is asked on every new connection, and when it is refused.

use super::dsn::Dsn;
use super::error::{ReadOnlyCause, StoreError};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The oldest server version that runs the migrations, in the form of `server_version_num`.
const OLDEST: i32 = 140_000;

/// As text, in one round trip and without a prepared statement: it also has to work through a pooler that is refused
/// afterwards.
const QUESTION: &str = "
    SELECT current_setting('server_version_num'), current_setting('server_version'),
           current_setting('server_encoding'), pg_is_in_recovery(), current_setting('transaction_read_only'),
           current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
           pg_backend_pid()";

/// What a session says about its server.
#[derive(Debug, Clone)]
pub(super) struct ServerFacts {
    pub version: String,
    /// The process of the server that runs the session.
    pub backend: i32,
    number: i32,
    encoding: String,
    in_recovery: bool,
    read_only: bool,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
}

impl ServerFacts {
    pub async fn ask(client: &Client) -> Result<ServerFacts, tokio_postgres::Error> {
        let answer = client.simple_query(QUESTION).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = |column| row.and_then(|row| row.get(column)).unwrap_or_default();
        let number = |column| text(column).parse().unwrap_or_default();
        Ok(ServerFacts {
            number: number(0),
            version: text(1).to_owned(),
            encoding: text(2).to_owned(),
            in_recovery: text(3) == "t",
            read_only: text(4) == "on",
            fsync: text(5).to_owned(),
            full_page_writes: text(6).to_owned(),
            synchronous_commit: text(7).to_owned(),
            backend: number(8),
        })
    }

    /// Names and values of the settings that decide whether a commit survives a crash.
    pub fn durability(self) -> [(&'static str, String); 3] {
        [
            ("fsync", self.fsync),
            ("full_page_writes", self.full_page_writes),
            ("synchronous_commit", self.synchronous_commit),
        ]
    }

    /// Refuses a server that cannot hold the store. Asked before the session has its settings.
    pub fn check_server(&self, dsn: &Dsn) -> Result<(), StoreError> {
        let to = || dsn.to_string();
        if self.number < OLDEST {
            return Err(StoreError::TooOld { found: self.version.clone() });
        }
        if self.in_recovery {
            return Err(StoreError::ReadOnly { to: to(), cause: ReadOnlyCause::Standby });
        }
        if self.read_only {
            return Err(StoreError::ReadOnly { to: to(), cause: ReadOnlyCause::Setting });
        }
        if self.encoding != "UTF8" {
            return Err(StoreError::Encoding { to: to(), found: self.encoding.clone() });
        }
        on("fsync", &self.fsync)?;
        on("full_page_writes", &self.full_page_writes)
    }

    /// As [`Self::check_server`], with what the session itself sets.
    pub fn check_session(&self, dsn: &Dsn) -> Result<(), StoreError> {
        self.check_server(dsn)?;
        on("synchronous_commit", &self.synchronous_commit)
    }
}

fn on(setting: &'static str, found: &str) -> Result<(), StoreError> {
    if found == "on" { Ok(()) } else { Err(StoreError::Unsafe { setting, found: found.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn server() -> ServerFacts {
        let on = || "on".to_owned();
        ServerFacts {
            version: "15.18".into(),
            backend: 1,
            number: 150_018,
            encoding: "UTF8".into(),
            in_recovery: false,
            read_only: false,
            fsync: on(),
            full_page_writes: on(),
            synchronous_commit: on(),
        }
    }

    fn dsn() -> Dsn {
        Dsn::socket(Path::new("/run/pg"), 5432, "lnsp", "chunks")
    }

    fn refused(facts: &ServerFacts, words: &[&str]) {
        let error = facts.check_session(&dsn()).unwrap_err();
        let sentence = error.to_string();
        assert!(!error.is_transient() && words.iter().all(|word| sentence.contains(word)), "{sentence}");
    }

    #[test]
    fn a_server_that_loses_what_it_commits_is_refused() {
        assert!(server().check_session(&dsn()).is_ok());
        refused(&ServerFacts { fsync: "off".into(), ..server() }, &["fsync=off"]);
        refused(&ServerFacts { full_page_writes: "off".into(), ..server() }, &["full_page_writes=off"]);
        let lazy = ServerFacts { synchronous_commit: "off".into(), ..server() };
        refused(&lazy, &["synchronous_commit=off"]);
        assert!(lazy.check_server(&dsn()).is_ok(), "the session sets it");
        refused(&ServerFacts { number: 130_012, version: "13.12".into(), ..server() }, &["13.12"]);
    }

    #[test]
    fn a_server_that_cannot_hold_every_text_is_refused() {
        for found in ["LATIN1", "SQL_ASCII"] {
            let facts = ServerFacts { encoding: found.into(), ..server() };
            refused(&facts, &[found, "expected UTF8", "CREATE DATABASE", "host=/run/pg"]);
        }
    }

    #[test]
    fn a_server_that_takes_no_writes_is_refused() {
        // In recovery every transaction is read-only, too.
        let standby = ServerFacts { in_recovery: true, read_only: true, ..server() };
        refused(&standby, &["is a standby", "name the primary"]);
        refused(&ServerFacts { read_only: true, ..server() }, &["default_transaction_read_only is on"]);
    }
}
