//! What clients can do to the HTTP framework: fill neither the log nor the queue of new connections.

use crate::support::database::Database;
use crate::support::process::{Service, lnsp};
use crate::support::test_service::{TestService, client};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A number in a scrape.
fn number(scrape: &str, series: &str) -> u64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}

#[actix_web::test]
async fn malformed_heads_are_counted_and_fill_no_log() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    let address: SocketAddr = service.url.trim_start_matches("http://").parse().unwrap();
    let send = |head: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(head).unwrap();
        let mut answer = String::new();
        // The end may be a reset, after the answer.
        drop(socket.read_to_string(&mut answer));
        answer
    };
    for n in 0..500 {
        assert!(send(format!("\u{1b}[31m {n}\r\n\r\n").as_bytes()).starts_with("HTTP/1.1 400"));
    }
    assert!(send(&[b"GET /".as_slice(), &[b'x'; 200_000]].concat()).starts_with("HTTP/1.1 431"));
    let scrape = async || client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await;
    let mut text = scrape().await.unwrap();
    let of =
        |text: &str, cause| number(text, &format!("lnsp_http_connection_errors_total{{cause=\"{cause}\"}}"));
    // A connection is counted when it has ended, a moment after its answer.
    while of(&text, "malformed") < 500 || of(&text, "head_too_large") < 1 {
        text = scrape().await.unwrap();
    }
    assert_eq!((of(&text, "malformed"), of(&text, "head_too_large")), (500, 1));

    // The orderly stop shuts the listening socket down, which the framework takes for a failure.
    service.signal(Signal::SIGTERM);
    let (status, complaint) = service.end();
    assert!(status.success(), "{complaint}");
    assert!(!complaint.contains("ERROR") && !complaint.contains("stream error"), "{complaint}");
}

/// One line in a hundred tells of the others, also if no further one comes.
#[actix_web::test]
async fn what_a_flood_of_lines_left_out_is_told_at_the_end() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let flags = ["serve", "--port", "0", "--dtype", "f32", "--data-dir", data.path().to_str().unwrap()];
    let mut command = lnsp(&[&flags[..], &["--database-url", database.dsn()]].concat());
    command.env("LNSP_LOG", "warn,lnsp_ingest=debug");
    let service = Service::start_as(command);
    let address: SocketAddr = service.url.trim_start_matches("http://").parse().unwrap();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"no request\r\n\r\n").unwrap();
        drop(socket.read_to_end(&mut Vec::new()));
    }
    service.signal(Signal::SIGTERM);
    let (status, complaint) = service.end();
    assert!(status.success(), "{complaint}");
    // Some may be told by lines between, if this takes more than ten seconds.
    let lines = complaint.lines().filter(|line| line.contains("a connection ended: ")).count();
    assert!(lines < 100, "{complaint}");
    let told = complaint.lines().filter_map(|line| line.split("suppressed=").nth(1)?.split(' ').next());
    let told: usize = told.map(|number| number.parse::<usize>().unwrap()).sum();
    let last = "more lines like this were left out: a connection ended: {error}";
    assert!(complaint.contains(last), "{complaint}");
    // That line is no line of the kind.
    assert_eq!(told + lines - 1, 100, "{complaint}");
}

/// The first message of a client that takes the port for one with TLS.
fn tls_hello() -> Vec<u8> {
    let name = b"localhost";
    let server_name = [&[0, 0, 0, 14, 0, 12, 0, 0, 9], &name[..]].concat();
    let extensions = [&(server_name.len() as u16).to_be_bytes()[..], &server_name].concat();
    let suites = [0, 4, 0x13, 1, 0x13, 2, 1, 0];
    let body = [&[3, 3], &[7; 32][..], &[0], &suites, &extensions].concat();
    let handshake = [&[1, 0], &(body.len() as u16).to_be_bytes()[..], &body].concat();
    [&[22, 3, 1], &(handshake.len() as u16).to_be_bytes()[..], &handshake].concat()
}

#[actix_web::test]
async fn port_scans_and_clients_of_other_protocols_are_no_errors() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    let address: SocketAddr = service.url.trim_start_matches("http://").parse().unwrap();
    let hello = tls_hello();
    let probes: [&[u8]; 7] = [
        &hello,
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",
        b"GET / HTTP/1.1\r\nHost: loc",
    ];
    for probe in probes {
        // They close in order, read what comes, or reset.
        for end in [Shutdown::Write, Shutdown::Both] {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(probe).unwrap();
            drop(socket.shutdown(end));
            drop(socket.read_to_end(&mut Vec::new()));
        }
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(probe).await.unwrap();
        socket.set_zero_linger().unwrap();
    }
    service.signal(Signal::SIGTERM);
    let (status, complaint) = service.end();
    // A new data folder has no index yet.
    let worse = |line: &&str| line.contains("ERROR") || line.contains("WARN") && !line.contains("rebuilding");
    assert!(status.success() && !complaint.lines().any(|line| worse(&line)), "{complaint}");
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn more_connections_can_wait_than_the_standard_library_allows() {
    let service = TestService::scripted().await;
    let address: SocketAddr = service.url.trim_start_matches("http://").parse().unwrap();
    service.pause().await;
    // The standard library listens with room for 128. Connections beyond the room are not made: their time runs out.
    let mut waiting = Vec::new();
    while in_line(address.port()) < 300 {
        waiting.push(TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap());
    }
    drop(waiting);
    service.stop().await;
}

/// Connections of a listening socket that are made and not accepted, as the kernel counts them.
#[cfg(target_os = "linux")]
fn in_line(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    const LISTENING: &str = "0A";
    let ours = format!("0100007F:{port:04X}");
    let socket =
        sockets.find(|fields| fields.get(1) == Some(&ours.as_str()) && fields[3] == LISTENING).unwrap();
    u64::from_str_radix(socket[4].split_once(':').unwrap().1, 16).unwrap()
}
