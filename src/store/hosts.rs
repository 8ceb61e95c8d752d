//! The places at which a database may be, and how a socket is opened to one of them.

use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// One place of a server, before its name is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostAddress {
    Path(PathBuf),
    Name(String, u16),
    Address(SocketAddr),
}

/// One place of a server, as a socket takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketPlace {
    Path(PathBuf),
    Address(SocketAddr),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum ServerSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Hosts, addresses and ports are parallel lists. An address replaces the DNS look-up of its host; a single port
/// applies to all.
pub(super) fn hosts(config: &Config) -> Vec<HostAddress> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    (0..hosts.len().max(addresses.len()))
        .filter_map(|i| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match (addresses.get(i), hosts.get(i)) {
                (Some(address), _) => Some(HostAddress::Address(SocketAddr::new(*address, port))),
                (None, Some(Host::Unix(folder))) => {
                    Some(HostAddress::Path(folder.join(format!(".s.PGSQL.{port}"))))
                }
                (None, Some(Host::Tcp(name))) => Some(HostAddress::Name(name.clone(), port)),
                (None, None) => None,
            }
        })
        .collect()
}

impl HostAddress {
    /// All places that the host has: a name may have several addresses.
    pub async fn places(&self) -> io::Result<Vec<SocketPlace>> {
        Ok(match self {
            HostAddress::Path(path) => vec![SocketPlace::Path(path.clone())],
            HostAddress::Address(address) => vec![SocketPlace::Address(*address)],
            HostAddress::Name(name, port) => {
                lookup_host((name.as_str(), *port)).await?.map(SocketPlace::Address).collect()
            }
        })
    }
}

impl SocketPlace {
    pub async fn connect(&self) -> io::Result<ServerSocket> {
        let address = match self {
            SocketPlace::Path(path) => return UnixStream::connect(path).await.map(ServerSocket::Unix),
            SocketPlace::Address(address) => *address,
        };
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        watch(&socket)?;
        socket.set_nodelay(true)?;
        socket.connect(address).await.map(ServerSocket::Tcp)
    }
}

/// A peer that is gone without a word is noticed within 30 s, whatever the statement: while nothing is said the kernel
/// asks, and what is sent has to be acknowledged.
fn watch(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15));
    socket.set_tcp_keepalive(&keepalive.with_interval(Duration::from_secs(5)).with_retries(3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(())
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostAddress::Path(path) => path.display().fmt(f),
            HostAddress::Name(name, port) => write!(f, "{name}:{port}"),
            HostAddress::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_addresses_and_ports_are_parallel_lists() {
        let shown = |text: &str| {
            let hosts = hosts(&text.parse::<Config>().unwrap());
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown("host=a,b port=1,2"), ["a:1", "b:2"]);
        assert_eq!(shown("host=a,/run port=7"), ["a:7", "/run/.s.PGSQL.7"]);
        assert_eq!(shown("host=a,b hostaddr=127.0.0.1,::1"), ["127.0.0.1:5432", "[::1]:5432"]);
    }
}
