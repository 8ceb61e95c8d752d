//! Whether the servers of the lanes are there.

use super::lane::SpecialistLane;
use crate::endpoint;
use crate::threads::lock;
use crate::tmd::Tmd;
use reqwest::Client;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// The time in which a server has to say that it is there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// How long its answer, or its silence, holds: a batch asks each server once.
const HOLDS_FOR: Duration = Duration::from_secs(10);

/// Asks the servers of the lanes whether they are there. A handle, cheap to clone.
#[derive(Clone)]
pub struct LaneServers(Arc<LaneServersInner>);

struct LaneServersInner {
    client: Client,
    host: String,
    known: Mutex<BTreeMap<u16, Arc<AsyncMutex<Option<LaneServer>>>>>,
}

/// What is known of the server at a port.
#[derive(Clone, Copy)]
struct LaneServer {
    is_there: bool,
    asked: Instant,
}

/// The lane for a triple.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenLane {
    /// The lane, with its own model or the fallback.
    pub lane: SpecialistLane,
    /// The server of its own model is not there, so the fallback stands in.
    pub is_fallback: bool,
}

impl LaneServers {
    /// For the servers on `host`; makes no call.
    ///
    /// # Errors
    /// The message of the HTTP client.
    pub fn new(host: impl Into<String>) -> Result<LaneServers, String> {
        let client = endpoint::plain_client(1)?;
        Ok(LaneServers(Arc::new(LaneServersInner { client, host: host.into(), known: Mutex::default() })))
    }

    /// The lane of a triple; the fallback, where that is permitted and the server of the lane is not there.
    pub async fn choose(&self, tmd: Tmd, allow_fallback: bool) -> ChosenLane {
        let lane = SpecialistLane::of(tmd);
        let is_fallback = allow_fallback && !self.is_there(lane.port).await;
        ChosenLane { lane: if is_fallback { lane.on_fallback() } else { lane }, is_fallback }
    }

    /// Whether an Ollama server answers at the port. Calls for the same port wait for one answer.
    async fn is_there(&self, port: u16) -> bool {
        let known = lock(&self.0.known).entry(port).or_default().clone();
        let mut known = known.lock().await;
        if let Some(server) = known.filter(|server| server.asked.elapsed() < HOLDS_FOR) {
            return server.is_there;
        }
        let url = format!("http://{}:{port}/api/tags", self.0.host);
        let answer = self.0.client.get(url).timeout(ANSWERS_WITHIN).send().await;
        let is_there = answer.is_ok_and(|answer| answer.status().is_success());
        *known = Some(LaneServer { is_there, asked: Instant::now() });
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::FALLBACK;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[tokio::test]
    async fn a_server_that_answers_keeps_its_lane_and_is_asked_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = socket.read(&mut request).unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let servers = LaneServers::new("127.0.0.1").unwrap();
        let (first, second) = tokio::join!(servers.is_there(port), servers.is_there(port));
        assert!(first && second);
        assert!(server.join().unwrap().starts_with("GET /api/tags "));
        assert!(servers.is_there(port).await, "the listener is gone, the answer holds");
    }

    #[tokio::test]
    async fn without_its_server_the_fallback_takes_the_lane() {
        // An address for documentation: nothing answers there, and the name is refused without a call.
        let servers = LaneServers::new("nowhere.invalid").unwrap();
        let law = Tmd::new(11, 0, 0).unwrap();
        let chosen = servers.choose(law, true).await;
        assert_eq!((chosen.is_fallback, chosen.lane.model, chosen.lane.port), (true, FALLBACK.0, FALLBACK.1));
        let chosen = servers.choose(Tmd::new(0, 0, 0).unwrap(), false).await;
        assert_eq!((chosen.is_fallback, chosen.lane.model), (false, "tinyllama:1.1b"));
    }
}
