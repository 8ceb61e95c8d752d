//! Clients that attack everything but the flow of chunks: heavy metadata, long lists, announced and silent bodies, heads
//! that never end, smuggled requests, and answers that nobody reads. The service may refuse or cut them; it must not
//! grow, and must close their connections.

use crate::payload::DATASET;
use crate::round_state::RoundState;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Every connection of an attacker has to be closed by then.
const CLOSED_WITHIN: Duration = Duration::from_secs(45);
/// What the anonymous memory of the service may grow by, beside honest clients.
const MAX_GROWTH_MIB: u64 = 200;
/// Attackers at once.
const ATTACKERS: usize = 24;

const JSON: &str = "Host: localhost\r\nContent-Type: application/json\r\n";

/// One attack: what is sent at once, and whether bytes follow one by one.
fn attack(number: usize, dice: &mut StdRng) -> (Vec<u8>, bool) {
    let with_length = |path: &str, kind: &str, body: String| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let lines = |line: &str, count: usize| {
        let path = format!("/ingest?dataset_source={DATASET}");
        with_length(&path, "application/x-ndjson", format!("{line}\n").repeat(count))
    };
    let bytes = match number % 12 {
        0 => lines(&format!("{{\"text\":\" \",\"metadata\":{{\"k\":[{}0]}}}}", "0,".repeat(500_000)), 20),
        1 => {
            lines(&format!("{{\"text\":\" \",\"metadata\":{{\"k\":[{}1]}}}}", "{\"\":0},".repeat(1_000)), 300)
        }
        2 => lines(&format!("{{\"text\":\" \",\"child_cpe_ids\":[{}\"\"]}}", "\"\",".repeat(300_000)), 20),
        3 => {
            let chunks = "{\"text\":\"\"},".repeat(600_000);
            with_length("/ingest", "application/json", format!("{{\"chunks\":[{chunks}{{}}]}}"))
        }
        4 => {
            let (batch, chunks) = ("b".repeat(7 << 20), "{\"text\":\"x\"},".repeat(9_000));
            let body = format!("{{\"batch_id\":\"{batch}\",\"chunks\":[{chunks}{{\"text\":\"x\"}}]}}");
            with_length("/ingest", "application/json", body)
        }
        5 => format!("POST /ingest HTTP/1.1\r\n{JSON}Content-Length: 8388608\r\n\r\n{{"),
        6 => format!("POST /search HTTP/1.1\r\n{JSON}Content-Length: 4096\r\n\r\n{{"),
        7 => format!("POST /search HTTP/1.1\r\n{JSON}Expect: 100-continue\r\nContent-Length: 4096\r\n\r\n"),
        8 => format!("GET /stats HTTP/1.1\r\n{JSON}\r\nGET /stats HTTP/1.1\r\nHo"),
        9 => {
            let smuggled = "{\"chunks\":[{\"text\":\"smuggled\"}]}";
            format!(
                "POST /ingest HTTP/1.1\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\nPOST /ingest \
                 HTTP/1.1\r\n{JSON}Content-Length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            )
        }
        10 => with_length("/search", "application/json", "{\"query\":\"x\",\"top_k\":1000}".to_owned()),
        _ => format!("POST /health HTTP/1.1\r\n{JSON}Transfer-Encoding: chunked\r\n\r\nffffff\r\n"),
    };
    (bytes.into_bytes(), dice.random_bool(0.5))
}

/// Attacks with all of them at once. Counts the attackers that were closed in time.
pub async fn attack_all(state: &RoundState, memory: impl Fn() -> Option<u64>, dice: &mut StdRng) -> u64 {
    let before = memory();
    let first = dice.random_range(0..12);
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        let Some(url) = timeout(Duration::from_secs(5), state.service()).await.ok().flatten() else { break };
        let (bytes, dribbles) = attack(first + number, dice);
        attackers.spawn(async move {
            let address = url.trim_start_matches("http://").to_owned();
            let Ok(socket) = TcpStream::connect(address).await else { return Some(number) };
            let closed = timeout(CLOSED_WITHIN, stay(socket, bytes, dribbles)).await;
            closed.is_ok().then_some(number)
        });
    }
    let (mut closed, mut most, started) = (0, 0, Instant::now());
    while !attackers.is_empty() {
        let look = Duration::from_millis(20);
        match timeout(look, attackers.join_next()).await {
            Ok(Some(Ok(Some(_)))) => closed += 1,
            Ok(_) => state.fail(format!("a hostile connection is open after {:?}", started.elapsed())),
            Err(_) => most = most.max(memory().unwrap_or(0)),
        }
    }
    // Another process, after a kill by another fault, says nothing about growth.
    if let Some(growth) = before.map(|before| most.saturating_sub(before) >> 20)
        && growth > MAX_GROWTH_MIB
    {
        state.fail(format!("the service grew by {growth} MiB under attack"));
    }
    closed
}

/// Sends, perhaps a byte more now and then, reads slowly, and returns when the connection has ended.
async fn stay(socket: TcpStream, bytes: Vec<u8>, dribbles: bool) {
    let (mut reader, mut writer) = socket.into_split();
    let sending = async {
        if writer.write_all(&bytes).await.is_ok() && dribbles {
            while writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        // Reading alone notices the end.
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(reader.read(&mut buffer).await, Ok(1..)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
    }
}
