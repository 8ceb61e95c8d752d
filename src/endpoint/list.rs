//! A list of servers, each with the number of requests that it takes at once: `http://a:11434*10, http://b:11434*4`.

use super::{Endpoint, InvalidEndpoint};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How many requests at once may be written behind an address.
const SLOTS: RangeInclusive<usize> = 1..=1024;

/// One server of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedServer {
    /// Its base address.
    pub endpoint: Endpoint,
    /// The requests that it takes at once; `None` where the list does not say.
    pub slots: Option<usize>,
}

/// One or more servers that do the same work, each named once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointList(Vec<ListedServer>);

/// The text is no valid [`EndpointList`]; the message says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// An address is none.
    #[error("{error} (received '{received}'); several servers are separated by commas")]
    Address {
        /// The part of the list.
        received: String,
        /// What was expected.
        error: InvalidEndpoint,
    },
    /// What follows the asterisk is no number of slots.
    #[error(
        "a whole number from {} to {} after the * of '{received}': the requests that the server takes at once",
        SLOTS.start(),
        SLOTS.end()
    )]
    Slots {
        /// The part of the list.
        received: String,
    },
    /// A server stands in the list twice.
    #[error("each server once (received {endpoint} twice); for more requests at once write {endpoint}*N")]
    Twice {
        /// The address that stands there twice.
        endpoint: Endpoint,
    },
}

impl FromStr for EndpointList {
    type Err = InvalidList;

    fn from_str(text: &str) -> Result<EndpointList, InvalidList> {
        let mut servers: Vec<ListedServer> = Vec::new();
        for part in text.split(',') {
            let server = listed(part.trim())?;
            if servers.iter().any(|other| other.endpoint == server.endpoint) {
                return Err(InvalidList::Twice { endpoint: server.endpoint });
            }
            servers.push(server);
        }
        Ok(EndpointList(servers))
    }
}

fn listed(part: &str) -> Result<ListedServer, InvalidList> {
    let received = || part.to_owned();
    let (address, slots) = match part.rsplit_once('*') {
        // An asterisk with a path behind it belongs to the address.
        Some((address, count)) if !count.contains('/') => {
            let slots = count.trim().parse().ok().filter(|slots| SLOTS.contains(slots));
            (address, Some(slots.ok_or_else(|| InvalidList::Slots { received: received() })?))
        }
        _ => (part, None),
    };
    let endpoint = address.parse().map_err(|error| InvalidList::Address { received: received(), error })?;
    Ok(ListedServer { endpoint, slots })
}

impl From<Endpoint> for EndpointList {
    fn from(endpoint: Endpoint) -> Self {
        EndpointList(vec![ListedServer { endpoint, slots: None }])
    }
}

impl fmt::Display for EndpointList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, ListedServer { endpoint, slots }) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{endpoint}")?;
            if let Some(slots) = slots {
                write!(f, "*{slots}")?;
            }
        }
        Ok(())
    }
}

impl EndpointList {
    /// The servers, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &ListedServer> {
        self.0.iter()
    }

    /// Each server with its slots: those of the list, else `default`.
    pub fn with_slots(&self, default: usize) -> impl Iterator<Item = (&Endpoint, usize)> {
        self.0.iter().map(move |server| (&server.endpoint, server.slots.unwrap_or(default)))
    }

    /// The slots of all servers together.
    pub fn total_slots(&self, default: usize) -> usize {
        self.with_slots(default).map(|(_, slots)| slots).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_servers_with_and_without_slots() {
        let list: EndpointList = " http://a:1*10 , b:2 * 4,http://c/v*1/x ".parse().unwrap();
        let slots: Vec<(String, usize)> =
            list.with_slots(7).map(|(endpoint, slots)| (endpoint.to_string(), slots)).collect();
        let expected = [("http://a:1", 10), ("http://b:2", 4), ("http://c/v*1/x", 7)];
        assert_eq!(slots, expected.map(|(endpoint, slots)| (endpoint.to_owned(), slots)));
        assert_eq!((list.total_slots(7), list.iter().count()), (21, 3));
        assert_eq!(list.to_string(), "http://a:1*10,http://b:2*4,http://c/v*1/x");
        assert_eq!(list.to_string().parse::<EndpointList>().unwrap(), list);
        assert_eq!("localhost:11434".parse::<EndpointList>().unwrap().to_string(), "http://localhost:11434");
    }

    #[test]
    fn everything_else_is_explained() {
        for (wrong, why) in [
            ("", "base address"),
            ("http://a:1,", "received ''"),
            ("http://a:1*0", "from 1 to 1024 after the * of 'http://a:1*0'"),
            ("http://a:1*1025", "from 1 to 1024"),
            ("http://a:1*ten", "from 1 to 1024"),
            ("http://a:1*", "from 1 to 1024"),
            ("*4", "base address"),
            ("http://a:1*2,a:1/*3", "received http://a:1 twice"),
            ("http://a:1;http://b:1", "several servers are separated by commas"),
        ] {
            let error = wrong.parse::<EndpointList>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
