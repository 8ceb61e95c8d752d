//! Ten thousand idle connections and two hundred that work: what they cost, and what they leave behind. The idle ones
//! have sent one request each: a connection without any is closed early.

use super::process::Process;
use super::watch::{Peak, anonymous_memory, descriptors, mib};
use super::{Result, scaled};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const IDLE: usize = 10_000;
const ACTIVE: usize = 200;
/// Requests of each active one.
const REQUESTS: usize = 20;
/// Connections that are being made at the same time: more than the listener's queue would only wait for the kernel.
const AT_ONCE: usize = 100;
/// The time the service has to close unused connections.
const CLOSED: Duration = Duration::from_secs(120);

pub async fn figures(scale: f64) -> Result<()> {
    let (idle, active) = (scaled(IDLE, scale), scaled(ACTIVE, scale));
    let service = Process::scripted(&[])?;
    let url = service.url.clone();
    work(&url, "warm", active).await?;
    settle(&service, descriptors(service.pid())?).await;
    let (memory, before) = (anonymous_memory(service.pid())?, descriptors(service.pid())?);
    let peak = Peak::of_memory(service.pid());
    let pid = service.pid();
    let open = Peak::of(move || descriptors(pid).ok().map(|count| count as u64));

    let started = Instant::now();
    let address = url.trim_start_matches("http://").to_owned();
    let mut connections = Vec::with_capacity(idle);
    while connections.len() < idle {
        let mut making = JoinSet::new();
        for _ in 0..AT_ONCE.min(idle - connections.len()) {
            making.spawn(connection(address.clone()));
        }
        while let Some(made) = making.join_next().await {
            connections.push(made??);
        }
    }
    println!("{idle} connections made in {:.1} s", started.elapsed().as_secs_f64());
    work(&url, "active", active).await?;
    let most = open.end().saturating_sub(before as u64);
    drop(connections);
    settle(&service, before).await;
    let (growth, after) = (peak.end().saturating_sub(memory), descriptors(service.pid())?);
    println!("figure uploads.idle.open_at_once {most} connections");
    println!("figure uploads.idle.growth_mib {:.1} MiB", mib(growth));
    println!("figure uploads.idle.descriptors_left {} descriptors", after as i64 - before as i64);
    if most < (idle + active) as u64 * 9 / 10 {
        return Err(format!("only {most} of {} connections were open at the same time", idle + active).into());
    }
    Ok(())
}

/// One that was used and stays open.
async fn connection(address: String) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(&address).await?;
    let request = format!("GET /stats HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The answer is one short object, and nothing is in its head that looks like the end of one.
    let mut answer = Vec::new();
    while !answer.contains(&b'}') {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(stream)
}

/// Waits until it has as many descriptors as that, or for as long as it may take.
async fn settle(service: &Process, expected: usize) {
    let started = Instant::now();
    while started.elapsed() < CLOSED && descriptors(service.pid()).is_ok_and(|count| count > expected) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// So many clients, each with a connection of its own, send one chunk after the other.
async fn work(url: &str, name: &str, clients: usize) -> Result<()> {
    let mut working = JoinSet::new();
    for client in 0..clients {
        let (url, name) = (format!("{url}/ingest"), format!("{name} {client}"));
        working.spawn(async move {
            let connection = lnsp_ingest::endpoint::client_builder().build()?;
            let mut stored = 0;
            let mut sent = 0;
            while sent < REQUESTS {
                let chunk = json!({"text": format!("Client {name} says {sent}."),
                    "domain_code": 1, "task_code": 1, "modifier_code": 1});
                let response = connection.post(&url).json(&json!({"chunks": [chunk]})).send().await?;
                if matches!(response.status().as_u16(), 429 | 503) {
                    let wait = response.headers().get("Retry-After").and_then(|value| value.to_str().ok());
                    let wait = wait.and_then(|value| value.parse().ok()).unwrap_or(1);
                    tokio::time::sleep(Duration::from_secs(wait)).await;
                    continue;
                }
                let answer: Value = response.json().await?;
                stored += usize::from(answer["successful"] == 1);
                sent += 1;
            }
            Ok::<_, reqwest::Error>(stored)
        });
    }
    while let Some(stored) = working.join_next().await {
        let stored = stored??;
        if stored != REQUESTS {
            return Err(format!("{stored} of {REQUESTS} chunks of a client were stored").into());
        }
    }
    Ok(())
}
