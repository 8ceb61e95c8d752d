//! Takes an address apart: a URL, or keywords as libpq takes them. Knows no names of settings but those that the parts
//! of a URL have.
//!
//! A problem never repeats what was written: a badly quoted password may be anywhere in it.

use percent_encoding::percent_decode_str;

const SHAPES: &str =
    "expected a URL such as postgres://user:password@host:5432/name, or keywords such as host=.. dbname=..";
const UNESCAPED: &str = "a user name or password with one of the characters @ / ? : # % has to be escaped in a URL: \
                         write @ as %40, / as %2F, ? as %3F, : as %3A, # as %23, % as %25";

/// The settings of an address, in the order of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Names and values.
    pub settings: Vec<(String, String)>,
    /// What the address has for other programs: `postgresql+psycopg2` names a driver of Python's.
    pub driver: Option<String>,
}

impl Written {
    /// Takes the text apart.
    pub fn read(text: &str) -> Result<Written, String> {
        let text = unquoted(text.trim())?;
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(Written { settings: keywords(text)?, driver: None });
        };
        let scheme = scheme.to_ascii_lowercase();
        let (driver, database) = match (scheme.strip_prefix("jdbc:"), scheme.split_once('+')) {
            (Some(database), _) => (Some("jdbc"), database),
            (None, Some((database, driver))) => (Some(driver), database),
            (None, None) => (None, scheme.as_str()),
        };
        if !["postgres", "postgresql"].contains(&database) {
            return Err("it does not begin with postgres:// or postgresql://".to_owned());
        }
        Ok(Written { settings: url(rest)?, driver: driver.map(str::to_owned) })
    }
}

/// The letters of a scheme, so that `password=a://b` is not taken for one.
fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:_".contains(c))
}

/// Without the quotes that a shell would have removed, and a file of variables does not.
fn unquoted(text: &str) -> Result<&str, String> {
    match text.chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => text
            .strip_prefix(quote)
            .and_then(|text| text.strip_suffix(quote))
            .map(str::trim)
            .ok_or_else(|| format!("it begins with {quote} and does not end with it: remove the quotes")),
        _ => Ok(text),
    }
}

/// Escapes that are none stay as they are: `100%` can only mean itself.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// `user:password@host:port,host:port/name?setting=value&..`, all parts optional.
fn url(rest: &str) -> Result<Vec<(String, String)>, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = place.split_once('/').unwrap_or((place, ""));
    // A host has no @, so the last one ends the password. One in the name of the database or behind it means that the
    // password has a / or a ?.
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    if name.contains('@') {
        return Err(UNESCAPED.to_owned());
    }
    let mut settings = Vec::new();
    let mut add = |name: &str, value: &str| settings.push((name.to_owned(), decoded(value)));
    if let Some(credentials) = credentials {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        add("user", user);
        add("password", password);
    }
    let (hosts, ports) = hosts_and_ports(hosts)
        .map_err(|problem| if query.contains('@') { UNESCAPED.to_owned() } else { problem })?;
    add("host", &hosts);
    add("port", &ports);
    add("dbname", name);
    for setting in query.split('&').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some((name, _)) if name.contains('@') => return Err(UNESCAPED.to_owned()),
            None if setting.contains('@') => return Err(UNESCAPED.to_owned()),
            Some((name, value)) => add(&decoded(name), value),
            None => return Err("a setting behind the ? has no =".to_owned()),
        }
    }
    Ok(settings)
}

/// Two lists of the same length, separated by commas. Where no host has a port, there are none.
fn hosts_and_ports(text: &str) -> Result<(String, String), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in text.split(',') {
        let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
            Some((host, "")) => (host, ""),
            Some((host, rest)) => (host, rest.strip_prefix(':').ok_or("a host has something behind its ]")?),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        if port.contains(':') {
            return Err("an IPv6 address is written in brackets: [::1]:5432".to_owned());
        }
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err("the port of a host is not a number from 1 to 65535".to_owned());
        }
        hosts.push(host);
        ports.push(port);
    }
    let ports = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };
    Ok((if hosts == [""] { String::new() } else { hosts.join(",") }, ports))
}

/// `name=value name='a value'`, with backslashes as escapes.
fn keywords(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(value) = after.trim_start().strip_prefix('=').filter(|_| !name.is_empty()) else {
            return Err(match settings.len() {
                0 => SHAPES.to_owned(),
                before => format!(
                    "there is no = behind the name of setting {}; a value with spaces is quoted: name='a value'",
                    before + 1
                ),
            });
        };
        let (value, after) = value_of(value.trim_start())?;
        settings.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// The value in front, and what follows it.
fn value_of(text: &str) -> Result<(String, &str), String> {
    let quoted = text.starts_with('\'');
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("a value begins with ' and does not end with it".to_owned()) } else { Ok((value, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that are not empty, as `name=value`.
    fn read(text: &str) -> Vec<String> {
        let written = Written::read(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let given = written.settings.into_iter().filter(|(_, value)| !value.is_empty());
        given.map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn problem(text: &str) -> String {
        Written::read(text).expect_err(text)
    }

    #[test]
    fn a_url_is_taken_apart() {
        assert_eq!(
            read("postgres://u%40corp:p%2Fw@db.example:6432/chunks?connect_timeout=3&sslmode=disable"),
            [
                "user=u@corp",
                "password=p/w",
                "host=db.example",
                "port=6432",
                "dbname=chunks",
                "connect_timeout=3",
                "sslmode=disable"
            ]
        );
        assert_eq!(read("postgresql://a:1,b,[::1]:3/x"), ["host=a,b,::1", "port=1,,3", "dbname=x"]);
        assert_eq!(read("postgresql://%2Frun%2Fpg/x"), ["host=/run/pg", "dbname=x"]);
        assert_eq!(read("postgres:///x?host=/run/pg"), ["dbname=x", "host=/run/pg"]);
        assert_eq!(read("postgres://"), [""; 0]);
        assert_eq!(
            read("postgres://h/x?application_name=a@b"),
            ["host=h", "dbname=x", "application_name=a@b"]
        );
        assert_eq!(read("POSTGRES://h"), ["host=h"]);
    }

    #[test]
    fn keywords_are_taken_apart() {
        assert_eq!(
            read(r"host = a,b port=1,2 password='it\'s = a \\' user=u\ v dbname="),
            ["host=a,b", "port=1,2", r"password=it's = a \", "user=u v"]
        );
        assert_eq!(read("password=a://b@c host=h"), ["password=a://b@c", "host=h"]);
    }

    #[test]
    fn quotes_around_the_address_are_those_of_a_shell() {
        for text in ["\"postgres://h/x\"", "'postgres://h/x'", " ` postgres://h/x ` "] {
            assert_eq!(read(text), ["host=h", "dbname=x"]);
        }
        assert_eq!(read("'host=h password=\\'x\\''"), ["host=h", "password='x'"]);
        assert!(problem("\"postgres://h/x").contains("remove the quotes"));
    }

    #[test]
    fn the_name_of_a_driver_is_left_out_and_reported() {
        for (text, driver) in [
            ("postgresql+psycopg2://h/x", "psycopg2"),
            ("postgres+asyncpg://h/x", "asyncpg"),
            ("jdbc:postgresql://h/x", "jdbc"),
        ] {
            assert_eq!(read(text), ["host=h", "dbname=x"]);
            assert_eq!(Written::read(text).unwrap().driver.as_deref(), Some(driver));
        }
        assert!(problem("mysql://h/x").contains("postgres://"));
        assert!(problem("mysql+pymysql://h/x").contains("postgresql://"));
    }

    #[test]
    fn a_password_that_is_not_escaped_is_taken_where_it_can_be_and_explained_where_not() {
        let host = ["host=host", "dbname=db"];
        for (written, password) in [("p@ss", "p@ss"), ("p#ss", "p#ss"), ("100%", "100%"), ("p:ss", "p:ss")] {
            let read = read(&format!("postgres://u:{written}@host/db"));
            assert_eq!(read, [&["user=u", &format!("password={password}")], &host[..]].concat());
        }
        for text in [
            "postgres://u:s3@cret/word@host/db",
            "postgres://u:s3cret/word@host/db",
            "postgres://u:s3cret?word@host/db",
            "postgres://u:s3@cret?word@host/db",
            "postgres://u:123?s3cret@host/db",
        ] {
            let problem = problem(text);
            assert!(problem.contains("write @ as %40") && !problem.contains("s3"), "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_what_one_looks_like() {
        for text in ["s3cret", "localhost:5432/x", "= x", "host", ""] {
            if !text.is_empty() {
                assert!(problem(text).contains("postgres://user:password@host:5432/name"), "{text}");
            }
        }
        for (text, words) in [
            ("postgres://h:port/x", "not a number"),
            ("postgres://::1/x", "in brackets"),
            ("postgres://h/x?sslmode", "has no ="),
            ("host=h password=two words", "quoted"),
            ("host=h password='two words", "does not end with it"),
        ] {
            assert!(problem(text).contains(words), "{text}: {}", problem(text));
        }
    }
}
