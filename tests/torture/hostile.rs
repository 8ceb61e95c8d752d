//! Clients that nobody wants, over plain sockets: they go in the middle of a line, send a byte now and then, or read
//! nothing. They must harm nobody else, and nothing is stored that they did not send to its end.

use crate::payload::{DATASET, json_of};
use crate::world::World;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

async fn connect(world: &World) -> Option<TcpStream> {
    let url = timeout(Duration::from_secs(5), world.service()).await.ok()??;
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that a client that does not read is soon felt.
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.ok()
}

fn head() -> String {
    format!(
        "POST /ingest?dataset_source={DATASET} HTTP/1.1\r\nHost: torture\r\nContent-Type: application/x-ndjson\r\n\
         Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
}

fn framed(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n", body.len())
}

/// Sends some whole lines and a last one that is cut: in its text, or just before its end.
pub async fn disconnect(world: &World, dice: &mut StdRng) -> u64 {
    let mut struck = 0;
    for _ in 0..dice.random_range(2..8) {
        let Some(mut socket) = connect(world).await else { continue };
        let mut pieces = world.pieces(dice.random_range(1..60));
        let never_sent = json_of(world.seed, pieces.pop().unwrap()).to_string();
        let cut =
            if dice.random_bool(0.5) { never_sent.len() } else { dice.random_range(1..never_sent.len()) };
        let cut = never_sent.floor_char_boundary(cut);
        world.issue(&pieces).await;
        world.leave_over(&pieces);
        let lines: String = pieces.iter().map(|piece| format!("{}\n", json_of(world.seed, *piece))).collect();
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

/// Many at once, in the head or in the body, while the others go on. Counts those that were open when others were
/// answered.
pub async fn slow_loris(world: &World, dice: &mut StdRng) -> u64 {
    let mut slow = Vec::new();
    let line = framed(&format!("{{\"id\":\"never\",\"text\":\"{}", "never sent to its end ".repeat(20)));
    for number in 0..24 {
        let Some(mut socket) = connect(world).await else { continue };
        let slowly = if number % 2 == 0 { head() + &line } else { line.clone() };
        if number % 2 == 0 || socket.write_all(head().as_bytes()).await.is_ok() {
            slow.push((socket, slowly));
        }
    }
    let rounds = dice.random_range(50..150);
    let before = *world.acknowledged.borrow();
    for place in 0..rounds {
        for (socket, bytes) in &mut slow {
            // One that the service has given up takes nothing more, which is its right.
            drop(socket.write_all(&bytes.as_bytes()[place..=place]).await);
        }
        sleep(Duration::from_millis(20)).await;
    }
    if *world.acknowledged.borrow() > before { slow.len() as u64 } else { 0 }
}

/// Sends much, and reads nothing for a while; then it goes, or reads on to the end.
pub async fn deaf_client(world: &World, dice: &mut StdRng) -> u64 {
    let Some(mut socket) = connect(world).await else { return 0 };
    let pieces = world.pieces(dice.random_range(200..500));
    world.issue(&pieces).await;
    world.leave_over(&pieces);
    let mut body = head();
    pieces.iter().for_each(|piece| body += &framed(&format!("{}\n", json_of(world.seed, *piece))));
    body += "0\r\n\r\n";
    // It does not wait for its own sending either: a service that does not read stops it.
    let sending = timeout(Duration::from_secs(3), socket.write_all(body.as_bytes())).await;
    let deaf = Duration::from_millis(dice.random_range(500..2_000));
    sleep(deaf).await;
    if !matches!(sending, Ok(Ok(()))) || dice.random_bool(0.5) {
        return 1;
    }
    let mut answer = Vec::new();
    let heard = timeout(Duration::from_secs(40), async {
        let mut buffer = [0; 4096];
        while !answer.ends_with(b"0\r\n\r\n") {
            match socket.read(&mut buffer).await {
                Ok(size @ 1..) => answer.extend_from_slice(&buffer[..size]),
                _ => return,
            }
        }
    });
    let timely = heard.await.is_ok();
    let text = String::from_utf8_lossy(&answer);
    if !timely {
        world
            .fail(format!("a client that reads late gets no end of its answer, {} bytes so far", text.len()));
    }
    if text.contains("\"summary\"")
        && text.matches("\"type\":\"result\"").count() != pieces.len()
        && text.contains("\"complete\":true")
    {
        world.fail("a client that reads late gets a complete answer with answers missing".to_owned());
    }
    1
}
