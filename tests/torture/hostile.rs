//! Hostile clients over plain sockets: they disconnect in the middle of a line, send a byte now and then, or read
//! nothing. They must harm no other client, and nothing is stored that they did not send to its end.

use crate::payload::{DATASET, json_of};
use crate::round_state::RoundState;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// By then the service has ended the connection of such a client; its own limits are a second each.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(15);
/// After each chunk of a client that does not read. Their answers are a hundred times as long, so that they fill every
/// buffer on the way.
const BAD_LINES: usize = 300;

async fn connect(state: &RoundState) -> Option<TcpStream> {
    let url = timeout(Duration::from_secs(5), state.service()).await.ok()??;
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that a client that does not read is soon felt.
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.ok()
}

fn head() -> String {
    format!(
        "POST /ingest?dataset_source={DATASET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
         Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
}

fn framed(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n", body.len())
}

/// Sends some whole lines and a last one that is cut: in its text, or just before its end.
pub async fn disconnect(state: &RoundState, dice: &mut StdRng) -> u64 {
    let mut struck = 0;
    for _ in 0..dice.random_range(2..8) {
        let Some(mut socket) = connect(state).await else { continue };
        let mut pieces = state.pieces(dice.random_range(1..60));
        let never_sent = json_of(state.seed, pieces.pop().unwrap()).to_string();
        let cut =
            if dice.random_bool(0.5) { never_sent.len() } else { dice.random_range(1..never_sent.len()) };
        let cut = never_sent.floor_char_boundary(cut);
        state.issue(&pieces).await;
        state.leave_over(&pieces);
        let lines: String = pieces.iter().map(|piece| format!("{}\n", json_of(state.seed, *piece))).collect();
        let body = head() + &framed(&format!("{lines}{}", &never_sent[..cut]));
        let sent = socket.write_all(body.as_bytes()).await;
        sleep(Duration::from_millis(dice.random_range(0..30))).await;
        struck += u64::from(sent.is_ok());
        if dice.random_bool(0.5) {
            // A reset instead of an end.
            drop(socket.set_zero_linger());
        }
    }
    struck
}

/// Many at once, in the head or in the body, a byte now and then. They take every permit for uploads, so the others
/// get on only when these are given up, which must come soon. Counts them.
pub async fn slow_loris(state: &RoundState, dice: &mut StdRng) -> u64 {
    let mut slow = Vec::new();
    let line = framed(&format!("{{\"id\":\"never\",\"text\":\"{}", "never sent to its end ".repeat(1_000)));
    for number in 0..24 {
        let Some(mut socket) = connect(state).await else { continue };
        let slowly = if number % 2 == 0 { head() + &line } else { line.clone() };
        if number % 2 == 0 || socket.write_all(head().as_bytes()).await.is_ok() {
            slow.push((socket, slowly.into_bytes().into_iter()));
        }
    }
    let many = slow.len() as u64;
    let pause = Duration::from_millis(dice.random_range(10..40));
    let given_up = timeout(GIVEN_UP_WITHIN, async {
        while !slow.is_empty() {
            slow.retain_mut(|(socket, bytes)| goes_on(socket, bytes.next()));
            sleep(pause).await;
        }
    });
    if given_up.await.is_err() {
        state
            .fail(format!("of {many} clients that send a byte now and then {} are still served", slow.len()));
    }
    many
}

/// Sends the byte; says whether the service still takes bytes and has not said a word.
fn goes_on(socket: &TcpStream, byte: Option<u8>) -> bool {
    let waits = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    let sent = byte.is_some_and(|byte| socket.try_write(&[byte]).map_or_else(waits, |_| true));
    let silent = socket.try_read(&mut [0; 64]).is_err_and(waits);
    sent && silent
}

/// Sends much whose answers are long, and reads nothing for a while, then on to the end. Strikes when the service has
/// lost its patience: it then says so, or the connection is cut.
pub async fn deaf_client(state: &RoundState, dice: &mut StdRng) -> u64 {
    let Some(mut socket) = connect(state).await else { return 0 };
    let pieces = state.pieces(dice.random_range(150..300));
    state.issue(&pieces).await;
    state.leave_over(&pieces);
    let mut body = head();
    let bad = "x\n".repeat(BAD_LINES);
    pieces.iter().for_each(|piece| body += &framed(&format!("{}\n{bad}", json_of(state.seed, *piece))));
    body += "0\r\n\r\n";
    let lines = pieces.len() * (1 + BAD_LINES);
    // It does not wait for its own sending either: a service that does not read stops it.
    let sending = timeout(Duration::from_secs(3), socket.write_all(body.as_bytes())).await;
    sleep(Duration::from_millis(dice.random_range(1_200..3_000))).await;
    let mut answer = Vec::new();
    let ended = timeout(GIVEN_UP_WITHIN, async {
        let mut buffer = [0; 4096];
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            match socket.read(&mut buffer).await {
                Ok(size @ 1..) => answer.extend_from_slice(&buffer[..size]),
                _ => return false,
            }
        }
        true
    });
    let Ok(in_order) = ended.await else {
        let so_far = answer.len();
        state.fail(format!("a client that reads late gets no end of its answer, {so_far} bytes so far"));
        return 0;
    };
    let text = String::from_utf8_lossy(&answer);
    let results = text.matches("\"type\":\"result\"").count();
    let complete = text.contains("\"complete\":true");
    let named = text.contains("\"code\":\"client_not_reading\"") && text.contains("\"complete\":false");
    let excused = !matches!(sending, Ok(Ok(())));
    match (in_order, complete, named) {
        (true, true, false) if results == lines => 0,
        (true, false, true) => 1,
        (false, ..) => 1,
        (true, false, false) if excused => 1,
        _ => {
            state.fail(format!(
                "a client that reads late gets an answer with {results} results for {lines} lines, which ends {:?}",
                &text[text.len().saturating_sub(300)..]
            ));
            0
        }
    }
}
