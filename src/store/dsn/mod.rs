//! The address of a database. Only this module sees the password, and it never prints it; a client program gets it in
//! its environment.

mod settings;
mod written;

use super::StoreError;
use settings::{APPLICATION, configuration};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use written::Written;

/// The address of a database: `postgres://user:password@host:port/name`, or `host=.. dbname=..` as libpq takes it. What
/// it leaves out comes from the variables that libpq reads, `PGPASSWORD` among them. It may name several hosts, of which
/// the first that takes writes is used. `Display` and `Debug` omit the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    config: Config,
    driver: Option<String>,
}

impl Dsn {
    /// The address of a database on the Unix socket in `folder`.
    pub fn socket(folder: &Path, port: u16, user: &str, name: &str) -> Dsn {
        let mut config = Config::new();
        config.host_path(folder).port(port).user(user).dbname(name).application_name(APPLICATION);
        Dsn { config, driver: None }
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Dsn {
        let mut dsn = self.clone();
        dsn.config.dbname(name);
        dsn
    }

    /// A driver that the address names for another program, and that has no meaning here: `psycopg2` in
    /// `postgresql+psycopg2://`.
    pub fn ignored_driver(&self) -> Option<&str> {
        self.driver.as_deref()
    }

    /// The address as the variables that libpq reads, `PGPASSWORD` among them: for a client program.
    pub fn libpq_variables(&self) -> Vec<(&'static str, OsString)> {
        let config = &self.config;
        let list = |parts: Vec<OsString>| (!parts.is_empty()).then(|| parts.join(",".as_ref()));
        let hosts = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.into(),
            Host::Unix(path) => path.as_os_str().to_owned(),
        });
        let addresses = config.get_hostaddrs().iter().map(|address| address.to_string().into());
        let ports = config.get_ports().iter().map(|port| port.to_string().into());
        let several = config.get_hosts().len() > 1;
        let password = config.get_password().map(|password| OsStr::from_bytes(password).to_owned());
        let wait = config.get_connect_timeout().map(|wait| wait.as_secs().max(1).to_string().into());
        let variables = [
            ("PGHOST", list(hosts.collect())),
            ("PGHOSTADDR", list(addresses.collect())),
            ("PGPORT", list(ports.collect())),
            ("PGUSER", config.get_user().map(Into::into)),
            ("PGDATABASE", config.get_dbname().map(Into::into)),
            ("PGPASSWORD", password),
            ("PGOPTIONS", config.get_options().map(Into::into)),
            ("PGCONNECT_TIMEOUT", wait),
            ("PGTARGETSESSIONATTRS", several.then(|| "read-write".into())),
        ];
        variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Dsn, StoreError> {
        let problem = |problem| StoreError::Dsn { problem };
        let Written { settings, driver } = Written::read(text).map_err(problem)?;
        Ok(Dsn { config: configuration(settings, variable).map_err(problem)?, driver })
    }
}

impl FromStr for Dsn {
    type Err = StoreError;

    /// Reads the address, and from the environment what it leaves out.
    fn from_str(text: &str) -> Result<Dsn, StoreError> {
        Dsn::read(text, |name| std::env::var(name).ok())
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let hosts = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
        let ports = config.get_ports().iter().map(ToString::to_string);
        let lists = [("host", hosts.collect()), ("hostaddr", addresses.collect()), ("port", ports.collect())];
        let lists = lists.into_iter().map(|(name, list): (_, Vec<String>)| (name, list.join(",")));
        let names = [("user", config.get_user()), ("dbname", config.get_dbname())];
        let names = names.into_iter().map(|(name, value)| (name, value.unwrap_or_default().to_owned()));
        let shown: Vec<String> = lists
            .chain(names)
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", quoted(&value)))
            .collect();
        f.write_str(&shown.join(" "))?;
        if config.get_password().is_some() { f.write_str(" password=***") } else { Ok(()) }
    }
}

/// As keywords need it.
fn quoted(value: &str) -> String {
    if value.contains([' ', '\'', '\\']) {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    } else {
        value.to_owned()
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_is_repeated_in_a_refusal(before in "\\PC{0,30}", after in "[@/?=:&%,' a-z]{0,30}") {
            for scheme in ["", "postgres://", "postgresql+driver://u:", "host=h password="] {
                let text = format!("{scheme}{before}s3cret{after}");
                if let Err(error) = Dsn::read(&text, |_| None) {
                    assert!(!error.to_string().contains("s3cret"), "{text}: {error}");
                }
            }
        }
    }

    /// An address in an environment without variables.
    fn read(text: &str) -> Dsn {
        Dsn::read(text, |_| None).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn problem(text: &str) -> String {
        Dsn::read(text, |_| None).expect_err(text).to_string()
    }

    #[test]
    fn both_forms_are_read_and_neither_shows_its_password() {
        let url = read("postgresql://lnsp:s3cret@db.example:6432/chunks?connect_timeout=3");
        let keywords = read("host=db.example port=6432 dbname=chunks user=lnsp password='s3cret'");
        for dsn in [url, keywords] {
            let shown = "host=db.example port=6432 user=lnsp dbname=chunks password=***";
            assert_eq!((dsn.to_string(), format!("{dsn:?}")), (shown.to_owned(), format!("Dsn({shown})")));
            assert_eq!(dsn.config().get_password(), Some(b"s3cret".as_slice()));
        }
    }

    #[test]
    fn what_is_shown_is_an_address_again() {
        for text in
            ["postgres://a:1,b/my%20data", "host=h user='it\\'s'", "hostaddr=127.0.0.1 port=1", "dbname=x"]
        {
            assert_eq!(read(&read(text).to_string()), read(text), "{text}");
        }
    }

    #[test]
    fn an_address_without_a_host_means_this_machine() {
        assert_eq!(read("dbname=lnsp user=lnsp").config().get_hosts().len(), 1);
        assert_eq!(read("postgres://").config().get_hosts().len(), 1);
    }

    #[test]
    fn the_environment_gives_what_the_address_leaves_out() {
        let variable = |name: &str| {
            let value = match name {
                "PGHOST" => "elsewhere",
                "PGPORT" => "7777",
                "PGUSER" => "somebody",
                "PGDATABASE" => "other",
                "PGPASSWORD" => "s3cret",
                "PGCONNECT_TIMEOUT" => "7",
                _ => "",
            };
            Some(value.to_owned())
        };
        let shown = |text: &str| Dsn::read(text, variable).unwrap().to_string();
        let all = "host=elsewhere port=7777 user=somebody dbname=other password=***";
        assert_eq!(shown("postgresql://"), all);
        assert_eq!(shown("postgresql://h:1/x"), "host=h port=1 user=somebody dbname=x password=***");
        assert_eq!(shown("host=h user=u"), "host=h port=7777 user=u dbname=other password=***");
        let dsn = Dsn::read("postgres://u:own@h/x", variable).unwrap();
        assert_eq!(dsn.config().get_password(), Some(b"own".as_slice()));
        assert_eq!(dsn.config().get_connect_timeout().map(|time| time.as_secs()), Some(7));
        let tls = |name: &str| (name == "PGSSLMODE").then(|| "verify-full".to_owned());
        let error = Dsn::read("postgres://h/x", tls).unwrap_err().to_string();
        assert!(error.contains("PGSSLMODE=verify-full"), "{error}");
    }

    #[test]
    fn a_driver_of_another_program_is_reported_and_has_no_effect() {
        let dsn = read("postgresql+psycopg2://u@h/x");
        assert_eq!(
            (dsn.to_string().as_str(), dsn.ignored_driver()),
            ("host=h user=u dbname=x", Some("psycopg2"))
        );
        assert_eq!(read("postgresql://u@h/x").ignored_driver(), None);
    }

    #[test]
    fn what_needs_no_tls_is_accepted_and_what_needs_it_is_refused() {
        for mode in ["disable", "allow", "prefer"] {
            read(&format!("postgres://h/x?sslmode={mode}"));
        }
        for setting in
            ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full", "ssl=true", "sslrootcert=a"]
        {
            let problem = problem(&format!("postgres://h/x?{setting}"));
            assert!(problem.contains("TLS is not built in"), "{problem}");
        }
        assert!(problem("host=h sslmode=perhaps").contains("disable, allow and prefer"));
        assert!(problem("host=h channel_binding=require").contains("channel_binding=require"));
    }

    #[test]
    fn hosts_may_be_many_and_have_to_take_writes() {
        for role in ["any", "read-write", "primary"] {
            let dsn = read(&format!("postgres://a:1,b:2/x?target_session_attrs={role}"));
            assert_eq!(dsn.to_string(), "host=a,b port=1,2 dbname=x");
        }
        for role in ["standby", "read-only", "prefer-standby"] {
            let problem = problem(&format!("host=a,b target_session_attrs={role}"));
            assert!(problem.contains("the service writes"), "{problem}");
        }
        assert!(problem("host=a,b,c port=1,2").contains("3 hosts and 2 ports"));
        assert!(problem("host=a,b hostaddr=127.0.0.1").contains("2 hosts and 1 numeric"));
    }

    #[test]
    fn a_bad_address_is_refused_without_being_repeated() {
        for bad in [
            "postgres://lnsp:s3cret@host:notaport/x",
            "postgres://lnsp:a@host:s3cret/x",
            "postgres://lnsp:s3@cret/word@host/x",
            "postgres://lnsp:s3@cret?word=x@host/x",
            "host=h password=s3cret colour=red",
            "s3cret",
            "s3cret://h",
            "host=h password=a s3cret=b",
            "host=h port=s3cret",
            "host=h sslmode=s3cret",
            "host=h target_session_attrs=s3cret connect_timeout=s3cret",
        ] {
            let error = problem(bad);
            assert!(!error.contains("s3cret") && !error.contains("cret"), "{error}");
            assert!(error.contains("DATABASE_URL"), "{error}");
        }
        let schema = problem("postgres://h/x?schema=public");
        assert!(schema.contains("schema") && schema.contains("search_path"), "{schema}");
    }
}
