//! The address of a database. Only this module sees the password, and it never prints it.

use super::StoreError;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// The `application_name` of the service's sessions in `pg_stat_activity`.
const APPLICATION: &str = "lnsp-ingest";
/// The usual socket folders of a local server, tried when no host is named, as libpq does.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The address of a database: `postgres://user:password@host:port/name`, or `host=.. dbname=..` as libpq takes it.
/// `Display` and `Debug` omit the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn(Config);

impl Dsn {
    /// The address of a database on the Unix socket in `folder`.
    pub fn socket(folder: &Path, port: u16, user: &str, name: &str) -> Dsn {
        let mut config = Config::new();
        config.host_path(folder).port(port).user(user).dbname(name).application_name(APPLICATION);
        Dsn(config)
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Dsn {
        let mut config = self.0.clone();
        config.dbname(name);
        Dsn(config)
    }

    pub(super) fn config(&self) -> &Config {
        &self.0
    }
}

impl FromStr for Dsn {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Dsn, StoreError> {
        let mut config =
            Config::from_str(text.trim()).map_err(|error| StoreError::Dsn { problem: explain(&error) })?;
        if config.get_ssl_mode() == SslMode::Require {
            let problem = "sslmode=require, but TLS is not built in; use a local server or a tunnel";
            return Err(StoreError::Dsn { problem: problem.to_owned() });
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let port = config.get_ports().first().copied().unwrap_or(5432);
            let local = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
            config.host(SOCKET_FOLDERS.into_iter().find(local).unwrap_or("localhost"));
        }
        if config.get_application_name().is_none() {
            config.application_name(APPLICATION);
        }
        Ok(Dsn(config))
    }
}

/// The parser quotes an unknown option name, which may be a part of a badly quoted password.
fn explain(error: &tokio_postgres::Error) -> String {
    let problem = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    match problem.strip_prefix("unknown option ").map(|name| name.trim_matches('`')) {
        None => problem,
        Some(name)
            if ["ssl", "gss", "krb", "service", "pass", "require"].iter().any(|p| name.starts_with(p)) =>
        {
            format!("the option {name} is not supported")
        }
        Some(_) => "it has an unknown option".to_owned(),
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self
            .0
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let hosts = if hosts.is_empty() {
            self.0.get_hostaddrs().iter().map(ToString::to_string).collect()
        } else {
            hosts
        };
        write!(f, "host={}", hosts.join(","))?;
        let ports: Vec<String> = self.0.get_ports().iter().map(ToString::to_string).collect();
        if !ports.is_empty() {
            write!(f, " port={}", ports.join(","))?;
        }
        for (name, value) in [("user", self.0.get_user()), ("dbname", self.0.get_dbname())] {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        if self.0.get_password().is_some() { f.write_str(" password=***") } else { Ok(()) }
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_neither_shows_its_password() {
        let url: Dsn = "postgresql://lnsp:s3cret@db.example:6432/chunks?connect_timeout=3".parse().unwrap();
        let keywords: Dsn =
            "host=db.example port=6432 dbname=chunks user=lnsp password='s3cret'".parse().unwrap();
        for dsn in [url, keywords] {
            let shown = "host=db.example port=6432 user=lnsp dbname=chunks password=***";
            assert_eq!((dsn.to_string(), format!("{dsn:?}")), (shown.to_owned(), format!("Dsn({shown})")));
            assert_eq!(dsn.config().get_password(), Some(b"s3cret".as_slice()));
        }
    }

    #[test]
    fn a_dsn_without_a_host_means_this_machine() {
        let dsn: Dsn = "dbname=lnsp user=lnsp".parse().unwrap();
        assert_eq!(dsn.config().get_hosts().len(), 1);
    }

    #[test]
    fn a_bad_dsn_is_refused_without_being_repeated() {
        for bad in [
            "postgres://lnsp:s3cret@host:notaport/x",
            "host=h password=s3cret colour=red",
            "s3cret",
            "host=h password=a s3cret=b",
        ] {
            let error = bad.parse::<Dsn>().unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("DATABASE_URL"), "{error}");
        }
    }
}
