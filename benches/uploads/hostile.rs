//! What attackers cost the service and honest clients. Memory is the growth of anonymous memory over idle. Rates and
//! times are ratios: an upload and searches beside attackers over the same without them, in turns.

use super::body::{Packing, Words, lines};
use super::gigabyte::idle_memory;
use super::process::Process;
use super::watch::{Peak, mib};
use super::{Result, scaled, upload};
use futures_util::future::join_all;
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const JSON: &str = "Host: localhost\r\nContent-Type: application/json\r\n";
/// A silent connection must be closed by then.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
/// Lines of an honest upload.
const HONEST: usize = 20_000;
/// The same, where the real model reads them.
const HONEST_WITH_MODEL: usize = 1_500;
const ROUNDS: usize = 5;

pub async fn figures(scale: f64) -> Result<()> {
    let service = Process::scripted(&[])?;
    metadata(&service).await?;
    searches(&service, scaled(1_000, scale)).await?;
    announced(&service).await?;
    silent(&service).await?;
    // Where texts cost nothing, the builder of the index is what is short; with the model, it is the model.
    beside(&Process::scripted(&[])?, "", scaled(HONEST, scale)).await?;
    beside(&Process::real(&[])?, "_with_model", scaled(HONEST_WITH_MODEL, scale)).await
}

fn address(service: &Process) -> String {
    service.url.trim_start_matches("http://").to_owned()
}

/// Uploads of lines that are far too heavy, and of the heaviest that are taken.
async fn metadata(service: &Process) -> Result<()> {
    let idle = idle_memory(service).await?;
    let peak = Peak::of_memory(service.pid());
    let zeros = "0,".repeat(500_000);
    let heavy = [
        format!("{{\"text\":\"a\",\"metadata\":{{\"k\":[{zeros}0]}}}}\n"),
        format!("{{\"text\":\"a\",\"metadata\":{{\"k\":[{}0]}}}}\n", "{\"\":0},".repeat(140_000)),
        format!("{{\"text\":\"a\",\"metadata\":{{\"k\":[{}0]}}}}\n", "{\"\":0},".repeat(510)),
        format!("{{\"text\":\"a\",\"child_cpe_ids\":[{}\"\"]}}\n", "\"\",".repeat(300_000)),
    ];
    for (number, line) in heavy.into_iter().enumerate() {
        let body = lines(300, Packing::Gzip, move |_, to| to.extend_from_slice(line.as_bytes()))?;
        upload::talk(&service.url, &format!("heavy-{number}"), Packing::Gzip, body, |_| Ok(())).await?;
    }
    let growth = peak.end().saturating_sub(idle);
    println!("figure uploads.hostile.metadata_mib {:.1} MiB", mib(growth));
    Ok(())
}

/// Eight clients that ask for the longest answer there is and read none of it for a while.
async fn searches(service: &Process, count: usize) -> Result<()> {
    let body = lines(count, Packing::Identity, |n, to| {
        // A control character takes six bytes in JSON.
        let text = "\\u0001".repeat(60_000);
        writeln!(to, "{{\"text\":\"{n} {text}\",\"domain_code\":1,\"task_code\":1,\"modifier_code\":1}}")
            .unwrap_or_default();
    })?;
    upload::send(&service.url, "long-answers", Packing::Identity, body, count).await?;
    let idle = idle_memory(service).await?;
    let peak = Peak::of_memory(service.pid());
    let query = "{\"query\":\"x\",\"top_k\":1000}";
    let head = format!("POST /search HTTP/1.1\r\n{JSON}Content-Length: {}\r\n\r\n{query}", query.len());
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut reader = TcpStream::connect(address(service)).await?;
        reader.write_all(head.as_bytes()).await?;
        readers.push(reader);
    }
    sleep(Duration::from_secs(5)).await;
    drop(readers);
    println!("figure uploads.hostile.search_mib {:.1} MiB", mib(peak.end().saturating_sub(idle)));
    Ok(())
}

/// Honest requests beside eight clients that announce the largest body and send a byte now and then.
async fn announced(service: &Process) -> Result<()> {
    let mut dribblers = JoinSet::new();
    for number in 0..8 {
        let mut socket = TcpStream::connect(address(service)).await?;
        let length = if number % 2 == 0 { "Content-Length: 8388608" } else { "Transfer-Encoding: chunked" };
        socket.write_all(format!("POST /ingest HTTP/1.1\r\n{JSON}{length}\r\n\r\n").as_bytes()).await?;
        dribblers.spawn(async move {
            while socket.write_all(b"1\r\n \r\n").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let client = lnsp_ingest::endpoint::client_builder().build()?;
    let mut refused = 0;
    for n in 0..300 {
        let body = json!({"chunks": [{"text": format!("Honest {n}.")}]});
        let response = client.post(format!("{}/ingest", service.url)).json(&body).send().await?;
        refused += usize::from(!response.status().is_success());
    }
    println!("figure uploads.hostile.announced_refused {refused} requests");
    Ok(())
}

/// Connections that stop in the middle, in every place where one can.
async fn silent(service: &Process) -> Result<()> {
    let mut sends =
        vec!["GET /sta".to_owned(), "GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\nGET /st".to_owned()];
    for path in ["/ingest", "/search", "/embed", "/embed/single", "/stats", "/nowhere"] {
        for length in [
            "Content-Length: 9999",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue\r\nContent-Length: 99",
        ] {
            sends.push(format!("POST {path} HTTP/1.1\r\n{JSON}{length}\r\n\r\n"));
            sends.push(format!("GET {path} HTTP/1.1\r\n{JSON}{length}\r\n\r\n"));
        }
    }
    let count = sends.len();
    let stay = sends.into_iter().map(|bytes| async move {
        let mut socket = TcpStream::connect(address(service)).await?;
        socket.write_all(bytes.as_bytes()).await?;
        let mut seen = Vec::new();
        let ended = timeout(CLOSED_WITHIN, socket.read_to_end(&mut seen)).await;
        Ok::<bool, std::io::Error>(ended.is_err())
    });
    let mut left = 0;
    for open in join_all(stay).await {
        left += usize::from(open?);
    }
    println!("{count} connections fell silent");
    println!("figure uploads.hostile.silent_sockets_left {left} sockets");
    Ok(())
}

/// An honest upload and honest searches, with and without attackers beside them.
async fn beside(service: &Process, kind: &str, chunks: usize) -> Result<()> {
    let (mut rates, mut times) = ([vec![], vec![]], [vec![], vec![]]);
    for round in 0..ROUNDS {
        for side in [round % 2, (round + 1) % 2] {
            let attack = async {
                if side == 0 {
                    std::future::pending::<()>().await;
                }
                join_all((0..8).map(|number| attack(service, number))).await;
            };
            let honest = honest(service, format!("honest-{round}-{side}"), chunks);
            tokio::select! {
                done = honest => {
                    let (rate, mut searches) = done?;
                    rates[side].push(rate);
                    times[side].append(&mut searches);
                }
                () = attack => return Err("the attackers have ended".into()),
            }
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let p99 = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() * 99 / 100].as_secs_f64() * 1e3
    };
    let [alone, attacked] = &mut rates;
    let (alone, attacked) = (median(alone), median(attacked));
    println!("honest upload: {alone:.0} lines/s alone, {attacked:.0} lines/s beside attackers");
    println!("figure uploads.hostile.honest_share{kind} {:.3} ratio", attacked / alone);
    let [alone, attacked] = &mut times;
    let (alone, attacked) = (p99(alone), p99(attacked));
    println!("search p99: {alone:.1} ms alone, {attacked:.1} ms beside attackers");
    println!("figure uploads.hostile.search_p99_ratio{kind} {:.2} ratio", attacked / alone);
    Ok(())
}

/// The lines a second of an upload, and the times of the searches beside it.
async fn honest(service: &Process, dataset: String, chunks: usize) -> Result<(f64, Vec<Duration>)> {
    let name = dataset.clone();
    let body = lines(chunks, Packing::Identity, move |n, to| {
        write!(to, "{{\"domain_code\":1,\"task_code\":2,\"modifier_code\":3,\"text\":\"{name} {n}: ")
            .unwrap_or_default();
        Words::new(n).write(320, to);
        to.extend_from_slice(b"\"}\n");
    })?;
    let uploading = upload::send(&service.url, &dataset, Packing::Identity, body, chunks);
    let client = lnsp_ingest::endpoint::client_builder().build()?;
    let mut times = Vec::new();
    let searching = async {
        loop {
            let started = Instant::now();
            let query = json!({"query": "facts about rivers", "top_k": 10});
            let answer = client.post(format!("{}/search", service.url)).json(&query).send().await;
            match answer.and_then(reqwest::Response::error_for_status) {
                Ok(_) => times.push(started.elapsed()),
                Err(error) => return error,
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let report = tokio::select! {
        report = uploading => report?,
        error = searching => return Err(error.into()),
    };
    Ok((chunks as f64 / report.took.as_secs_f64(), times))
}

/// Attacks again and again, a few times a second.
async fn attack(service: &Process, number: usize) {
    let zeros = "0,".repeat(30_000);
    let line = format!("{{\"text\":\"a\",\"metadata\":{{\"k\":[{zeros}0]}}}}\n");
    let sends = match number % 4 {
        0 => format!(
            "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\n\r\n{line}",
            line.len()
        ),
        1 => format!("POST /ingest HTTP/1.1\r\n{JSON}Content-Length: 8388608\r\n\r\n{{"),
        2 => format!(
            "POST /search HTTP/1.1\r\n{JSON}Content-Length: 26\r\n\r\n{{\"query\":\"x\",\"top_k\":1000}}"
        ),
        _ => format!(
            "POST /ingest HTTP/1.1\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\nGET /"
        ),
    };
    loop {
        if let Ok(mut socket) = TcpStream::connect(address(service)).await
            && socket.write_all(sends.as_bytes()).await.is_ok()
        {
            drop(timeout(Duration::from_millis(250), socket.read_to_end(&mut Vec::new())).await);
        }
        sleep(Duration::from_millis(250)).await;
    }
}
