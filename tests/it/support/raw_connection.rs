//! HTTP by hand, for what no client library lets one do.

use crate::support::test_service::TestService;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// The header lines of a chunked upload whose answers are streamed.
const STREAMED: &str = "Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";

/// Until then the end of a connection must have come: long enough for a busy machine, and shorter than the 30 s after
/// which the service ends a connection because of its silence.
const LATEST_END: Duration = Duration::from_secs(25);

/// A connection to a service.
pub struct RawConnection {
    /// Both ways.
    pub socket: BufReader<TcpStream>,
}

impl RawConnection {
    /// Opens a chunked NDJSON upload that wants its answers streamed.
    pub async fn upload(service: &TestService) -> RawConnection {
        RawConnection::upload_with(&service.url, STREAMED).await
    }

    /// As [`Self::upload`], with a `Content-Encoding`.
    pub async fn upload_as(service: &TestService, encoding: &str) -> RawConnection {
        let headers = format!("{STREAMED}Content-Encoding: {encoding}\r\n");
        RawConnection::upload_with(&service.url, &headers).await
    }

    /// Opens an NDJSON upload with these header lines.
    pub async fn upload_with(url: &str, headers: &str) -> RawConnection {
        let mut raw = RawConnection::connect(url).await.unwrap();
        let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
        raw.write(format!("{head}{headers}\r\n")).await;
        raw
    }

    /// Opens a connection.
    pub async fn connect(url: &str) -> std::io::Result<RawConnection> {
        let socket = TcpSocket::new_v4()?;
        // Small, so that a client that does not read is soon felt.
        socket.set_recv_buffer_size(64 * 1024)?;
        let socket = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await?;
        Ok(RawConnection { socket: BufReader::new(socket) })
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request with a JSON body, in one piece; gives the answer's head and body, which says its length.
    pub async fn ask(&mut self, line: &str, headers: &str, body: &str) -> (String, Value) {
        let head =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}");
        self.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
        self.answer().await
    }

    /// Reads an answer that says its length.
    pub async fn answer(&mut self) -> (String, Value) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                self.socket.read_line(&mut head).await.unwrap(),
                0,
                "the connection ended after: {head}"
            );
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).unwrap().split_once('\r').unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        self.socket.read_exact(&mut body).await.unwrap();
        (lower, serde_json::from_slice(&body).unwrap())
    }

    /// Reads to the end of the connection, which must be an orderly one.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let read = self.socket.read_to_end(&mut rest);
        let ended = tokio::time::timeout(LATEST_END, read).await;
        assert!(ended.is_ok(), "no end after: {}", String::from_utf8_lossy(&rest));
        String::from_utf8(rest).unwrap()
    }

    /// Sends a byte from time to time until the connection ends; gives everything read.
    pub async fn dribble(&mut self) -> String {
        let mut seen = Vec::new();
        loop {
            let pause = Duration::from_millis(20);
            match tokio::time::timeout(pause, self.socket.read_buf(&mut seen)).await {
                Ok(Ok(0) | Err(_)) => return String::from_utf8(seen).unwrap(),
                Ok(Ok(_)) => {}
                // After the end the other side may answer with a reset, which the next read tells.
                Err(_) => drop(self.socket.get_mut().write_all(b"x").await),
            }
        }
    }

    /// Breaks off without a word.
    pub fn reset(self) {
        self.socket.get_ref().set_zero_linger().unwrap();
    }

    /// Sends a piece of the body.
    pub async fn send(&mut self, body: impl AsRef<[u8]>) {
        let head = format!("{:x}\r\n", body.as_ref().len());
        let piece = [head.as_bytes(), body.as_ref(), b"\r\n"].concat();
        self.socket.get_mut().write_all(&piece).await.unwrap();
    }

    /// Ends the body.
    pub async fn end(&mut self) {
        self.socket.get_mut().write_all(b"0\r\n\r\n").await.unwrap();
    }

    /// What has arrived, or arrives within `time`; nothing of it is lost. The connection must be open.
    pub async fn read_within(&mut self, time: Duration) -> String {
        let mut buffer = vec![0; 64 * 1024];
        let Ok(read) = tokio::time::timeout(time, self.socket.read(&mut buffer)).await else {
            return String::new();
        };
        let read = read.unwrap();
        assert_ne!(read, 0, "the connection has ended");
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    /// Reads until `wanted` has been seen; gives everything read.
    pub async fn read_until(&mut self, wanted: &str) -> String {
        let (mut seen, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        let mut looked = 0;
        while !String::from_utf8_lossy(&seen[looked..]).contains(wanted) {
            // Whatever part of it is there already lies in the last bytes.
            looked = seen.len().saturating_sub(wanted.len());
            let read = self.socket.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "the connection ended after: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8(seen).unwrap()
    }
}
