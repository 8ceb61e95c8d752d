//! What the settings of an address mean here, with those that the address leaves to the environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::Config;

/// The `application_name` of the service's sessions in `pg_stat_activity`.
pub(super) const APPLICATION: &str = "lnsp-ingest";
/// The usual socket folders of a local server, tried when no host is named, as libpq does.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// The variables that libpq reads for settings that the address does not have.
const ENVIRONMENT: [(&str, &str); 13] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGSSLMODE", "sslmode"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Settings of libpq that change nothing here: the service always speaks UTF-8 and keeps its connections alive.
const WITHOUT_EFFECT: [&str; 10] = [
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "sslnegotiation",
    "tcp_user_timeout",
];

/// Names that are sure to be no part of a badly quoted password, so that they can be named: libpq's other settings, and
/// those that other programs put into such addresses.
const REFUSED: [(&str, &str); 25] = [
    ("service", "name the server itself"),
    ("servicefile", "name the server itself"),
    ("passfile", "put the password into PGPASSWORD"),
    ("requirepeer", "it is not supported"),
    ("require_auth", "it is not supported"),
    ("gsslib", "it is not supported"),
    ("krbsrvname", "it is not supported"),
    ("ssl_min_protocol_version", TLS),
    ("ssl_max_protocol_version", TLS),
    ("sslcert", TLS),
    ("sslkey", TLS),
    ("sslpassword", TLS),
    ("sslrootcert", TLS),
    ("sslcrl", TLS),
    ("sslcompression", TLS),
    ("sslsni", TLS),
    ("schema", SCHEMA),
    ("currentSchema", SCHEMA),
    ("search_path", SCHEMA),
    ("pgbouncer", "it is not PostgreSQL's: remove it"),
    ("connection_limit", "it is not PostgreSQL's: remove it"),
    ("pool_timeout", "it is not PostgreSQL's: remove it"),
    ("pool_size", "it is not PostgreSQL's: remove it"),
    ("statement_cache_size", "it is not PostgreSQL's: remove it"),
    ("prepareThreshold", "it is not PostgreSQL's: remove it"),
];
const TLS: &str = "TLS is not built in: remove it, and reach the server over a private network or a tunnel";
const SCHEMA: &str = "it is not PostgreSQL's: write options=-csearch_path=NAME";

/// A value, and the name under which a message can speak of it: the setting, or the variable it comes from.
struct Given {
    value: String,
    named: String,
}

/// Makes a configuration of the settings of an address and of the environment.
pub(super) fn configuration(
    settings: Vec<(String, String)>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, String> {
    let mut given = BTreeMap::new();
    for (place, (name, value)) in settings.into_iter().enumerate() {
        // JDBC's short form, which libpq takes too.
        let (name, value) = match (name.as_str(), value.as_str()) {
            ("ssl", "true" | "1") => ("sslmode".to_owned(), "require".to_owned()),
            ("ssl", _) => continue,
            _ => (name, value),
        };
        known(&name, place)?;
        if !value.is_empty() {
            given.insert(name.clone(), Given { value, named: name });
        }
    }
    for (variable_name, name) in ENVIRONMENT {
        if !given.contains_key(name)
            && let Some(value) = variable(variable_name).filter(|value| !value.is_empty())
        {
            given.insert(name.to_owned(), Given { value, named: variable_name.to_owned() });
        }
    }
    demands(&given)?;
    let mut config = Config::new();
    config.application_name(APPLICATION);
    for (name, Given { value, named }) in &given {
        match name.as_str() {
            "user" => _ = config.user(value),
            "password" => _ = config.password(value),
            "dbname" => _ = config.dbname(value),
            "options" => _ = config.options(value),
            "application_name" => _ = config.application_name(value),
            "connect_timeout" => {
                let seconds: i64 =
                    value.trim().parse().map_err(|_| format!("{named} is not a number of seconds"))?;
                // Zero and less mean the default, here as there.
                if let Ok(seconds @ 1..) = u64::try_from(seconds) {
                    config.connect_timeout(Duration::from_secs(seconds));
                }
            }
            _ => {}
        }
    }
    hosts(&mut config, &given)?;
    Ok(config)
}

fn known(name: &str, place: usize) -> Result<(), String> {
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("the option {name} cannot be used: {why}"));
    }
    let known = ENVIRONMENT.iter().map(|(_, known)| known).chain(&WITHOUT_EFFECT).any(|known| *known == name);
    if known {
        return Ok(());
    }
    Err(format!(
        "its option {} has a name that PostgreSQL does not know; a value with spaces is quoted in keywords \
         (password='a value') and escaped in a URL (a%20value)",
        place + 1
    ))
}

/// Refuses what asks for more than there is: TLS, and sessions that do not write.
fn demands(given: &BTreeMap<String, Given>) -> Result<(), String> {
    let one_of = |name: &str, fine: &[&str], else_: &dyn Fn(&str, &str) -> String| match given.get(name) {
        Some(Given { value, named }) if !fine.contains(&value.as_str()) => Err(else_(named, value)),
        _ => Ok(()),
    };
    one_of("sslmode", &["disable", "allow", "prefer"], &|named, value| match value {
        "require" | "verify-ca" | "verify-full" => format!(
            "{named}={value}, but TLS is not built in: use sslmode=disable over a private network, or a tunnel"
        ),
        _ => format!("{named} is not one of disable, allow and prefer"),
    })?;
    one_of("target_session_attrs", &["any", "read-write", "primary"], &|named, value| match value {
        "read-only" | "standby" | "prefer-standby" => {
            format!("{named}={value}, but the service writes: expected any, read-write or primary")
        }
        _ => format!("{named} is not one of any, read-write and primary"),
    })?;
    for name in ["channel_binding", "gssencmode"] {
        one_of(name, &["disable", "prefer"], &|named, value| match value {
            "require" => {
                format!("{named}=require, but encryption is not built in: expected disable or prefer")
            }
            _ => format!("{named} is not one of disable and prefer"),
        })?;
    }
    Ok(())
}

/// Hosts, numeric addresses and ports are parallel lists; one port serves all hosts.
fn hosts(config: &mut Config, given: &BTreeMap<String, Given>) -> Result<(), String> {
    let list =
        |name: &str| given.get(name).map(|given| given.value.split(',').map(str::trim).collect::<Vec<_>>());
    let ports = list("port").unwrap_or_default().into_iter().map(|port| match port {
        "" => Ok(5432),
        port => port.parse().ok().filter(|port| *port > 0).ok_or("a port is not a number from 1 to 65535"),
    });
    let ports = ports.collect::<Result<Vec<u16>, _>>()?;
    let addresses = list("hostaddr").unwrap_or_default().into_iter().map(str::parse);
    let addresses = addresses.collect::<Result<Vec<std::net::IpAddr>, _>>();
    let addresses = addresses.map_err(|_| "hostaddr is not a list of numeric addresses")?;
    let hosts = list("host").unwrap_or_default();
    let count = match (hosts.len(), addresses.len()) {
        (0, 0) => 1,
        (hosts, 0) => hosts,
        (0, addresses) => addresses,
        (hosts, addresses) if hosts == addresses => hosts,
        (hosts, addresses) => return Err(format!("it has {hosts} hosts and {addresses} numeric addresses")),
    };
    if ports.len() > 1 && ports.len() != count {
        return Err(format!(
            "it has {count} hosts and {} ports: expected one port, or one for each",
            ports.len()
        ));
    }
    let port_of = |nth: usize| ports.get(nth).or(ports.first()).copied().unwrap_or(5432);
    if addresses.is_empty() {
        let named = if hosts.is_empty() { vec![""] } else { hosts };
        for (nth, host) in named.into_iter().enumerate() {
            let local = |folder: &&str| Path::new(folder).join(format!(".s.PGSQL.{}", port_of(nth))).exists();
            config.host(match host {
                "" => SOCKET_FOLDERS.into_iter().find(local).unwrap_or("localhost"),
                host => host,
            });
        }
    } else {
        hosts.iter().for_each(|host| _ = config.host(*host));
        addresses.into_iter().for_each(|address| _ = config.hostaddr(address));
    }
    ports.iter().for_each(|port| _ = config.port(*port));
    Ok(())
}
