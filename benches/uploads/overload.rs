//! Ten times more than the service can do, for a minute, from clients that do not wait for each other: a refusal
//! comes at once, an admitted request is served as without overload, and afterwards all is as before.
//!
//! Requests are sent by the clock (an open loop) and hold [`CHUNKS`] chunks each, with the real model and the local
//! classifier. The capacity is that of a closed loop of [`CROWD`] clients that repeat what is refused. It falls by a
//! quarter within the minute, because the index works more the more it holds; so after the minute both loops take
//! turns, and the share is that of the turns. What was stored in a stretch of time is asked of the service itself: an
//! answer speaks of [`CHUNKS`] chunks at once, and the last ones come after the end.

use super::process::Process;
use super::watch::processor_time;
use super::{Result, scaled};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CHUNKS: usize = 20;
const CROWD: usize = 32;
const FACTOR: f64 = 10.0;
const SECONDS: usize = 60;
/// Of both loops, each for such a part of that.
const TURNS: u32 = 4;
/// Requests under way at the same time at most: a driver that runs out of sockets measures itself.
const UNDER_WAY: usize = 8_000;

/// Before the count of them.
const STORED: &str = "lnsp_ingest_chunks_total{result=\"stored\"}";

/// How one request ended.
enum Ending {
    Served,
    Refused { with_retry_after: bool },
    Failed(String),
}

#[derive(Default)]
struct Sums {
    refused: Vec<Duration>,
    failed: usize,
    without_retry_after: usize,
    skipped: usize,
    last_failure: Option<String>,
}

impl Sums {
    fn add(&mut self, ending: Ending, took: Duration) {
        match ending {
            Ending::Served => {}
            Ending::Refused { with_retry_after } => {
                self.refused.push(took);
                self.without_retry_after += usize::from(!with_retry_after);
            }
            Ending::Failed(why) => {
                self.failed += 1;
                self.last_failure = Some(why);
            }
        }
    }
}

/// What the processors work in a stretch of time, for the service and for its clients.
struct Work {
    started: Instant,
    service: Duration,
    clients: Duration,
}

impl Work {
    fn begins(service: u32) -> Result<Work> {
        let clients = processor_time(std::process::id())?;
        Ok(Work { started: Instant::now(), service: processor_time(service)?, clients })
    }

    /// Says how many processors each had since, and what came of it.
    fn report(&self, what: &str, stored: f64, service: u32) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let share = |before: Duration, pid| -> Result<f64> {
            Ok((processor_time(pid)? - before).as_secs_f64() / seconds)
        };
        let (service, clients) = (share(self.service, service)?, share(self.clients, std::process::id())?);
        println!(
            "{what}: {stored:.1} chunks/s; {service:.2} processors for the service, {clients:.2} for its clients"
        );
        Ok(())
    }
}

/// Makes requests that were not sent before.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    service: Arc<str>,
    count: Arc<AtomicUsize>,
}

impl Client {
    async fn request(&self) -> Ending {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let text =
            |k| format!("Request {n} of the crowd says its sentence number {k} about rivers and machines.");
        let chunks: Vec<Value> = (0..CHUNKS).map(|k| json!({ "text": text(k) })).collect();
        let response = match self
            .http
            .post(format!("{}/ingest", self.service))
            .json(&json!({ "chunks": chunks }))
            .send()
            .await
        {
            Ok(response) => response,
            Err(error) => return Ending::Failed(format!("{error:?}")),
        };
        let (status, waits) = (response.status().as_u16(), response.headers().contains_key("Retry-After"));
        match (status, response.json::<Value>().await) {
            (429 | 503, _) => Ending::Refused { with_retry_after: waits },
            (200, Ok(answer)) if answer["successful"] == CHUNKS => Ending::Served,
            (status, answer) => Ending::Failed(format!("{status}: {answer:?}")),
        }
    }

    /// How many chunks the service has stored so far; it names no count before the first.
    async fn stored(&self) -> Result<f64> {
        let metrics = self.http.get(format!("{}/metrics", self.service)).send().await?.text().await?;
        let sample = metrics.lines().find_map(|line| line.strip_prefix(STORED));
        Ok(sample.map_or(Ok(0.0), |count| count.trim().parse())?)
    }
}

pub async fn figures(scale: f64) -> Result<()> {
    let time = Duration::from_secs(scaled(SECONDS, scale) as u64);
    let service = Process::real(&[])?;
    let http = lnsp_ingest::endpoint::client_builder().build()?;
    let client = Client { http, service: service.url.as_str().into(), count: Arc::default() };
    // Warm.
    closed_loop(&client, Duration::from_secs(2)).await?;
    let before = alone(&client).await?;
    let capacity = closed_loop(&client, time / TURNS).await?;
    println!("capacity {capacity:.1} chunks/s in requests of {CHUNKS}; one alone takes {:.0} ms", ms(before));
    let per_second = capacity * FACTOR / CHUNKS as f64;
    let (sums, _) = open_loop(&client, per_second, time).await?;
    let recovered = recover(&client, before).await?;

    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let work = Work::begins(service.pid())?;
        let capacity = closed_loop(&client, time / TURNS).await?;
        work.report("capacity", capacity, service.pid())?;
        let work = Work::begins(service.pid())?;
        let (_, goodput) = open_loop(&client, per_second, time / TURNS).await?;
        work.report("overload", goodput, service.pid())?;
        turns.push((goodput, capacity));
    }
    let sum = |of: fn(&(f64, f64)) -> f64| turns.iter().map(of).sum::<f64>();
    println!("figure uploads.overload.goodput_share {:.3} ratio", sum(|turn| turn.0) / sum(|turn| turn.1));
    report(sums, recovered)
}

/// How long it takes until a request is served as fast as one alone, give or take what a busy machine adds.
async fn recover(client: &Client, alone: Duration) -> Result<Duration> {
    let ended = Instant::now();
    while ended.elapsed() < Duration::from_secs(120) {
        let started = Instant::now();
        if let Ending::Served = client.request().await
            && started.elapsed() < alone * 2 + Duration::from_millis(100)
        {
            return Ok(ended.elapsed());
        }
    }
    Err("the service has not recovered within two minutes".into())
}

fn report(mut sums: Sums, recovered: Duration) -> Result<()> {
    sums.refused.sort_unstable();
    println!(
        "{} requests refused, {} failed, {} not sent because {UNDER_WAY} were under way",
        sums.refused.len(),
        sums.failed,
        sums.skipped
    );
    println!("figure uploads.overload.recovered_s {:.2} s", recovered.as_secs_f64());
    match sums.refused.len() {
        0 => println!("nothing was refused"),
        count => {
            let p99 = sums.refused[count * 99 / 100];
            println!("figure uploads.overload.refused_p99_ms {:.1} ms", ms(p99));
        }
    }
    if let Some(why) = sums.last_failure {
        return Err(format!("{} requests failed, the last one so: {why}", sums.failed).into());
    }
    if sums.without_retry_after > 0 {
        return Err(format!("{} refusals did not say when to come again", sums.without_retry_after).into());
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One request when nothing else happens: the middle of some.
async fn alone(client: &Client) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..9 {
        let started = Instant::now();
        match client.request().await {
            Ending::Served => times.push(started.elapsed()),
            Ending::Refused { .. } => return Err("a request alone was refused".into()),
            Ending::Failed(why) => return Err(why.into()),
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Chunks a second for [`CROWD`] clients, each of which waits for its answer.
async fn closed_loop(client: &Client, time: Duration) -> Result<f64> {
    let (before, started) = (client.stored().await?, Instant::now());
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let client = client.clone();
        crowd.spawn(async move {
            while started.elapsed() < time {
                match client.request().await {
                    Ending::Served => {}
                    Ending::Refused { .. } => tokio::time::sleep(Duration::from_millis(100)).await,
                    Ending::Failed(why) => return Err(why),
                }
            }
            Ok(())
        });
    }
    tokio::time::sleep(time).await;
    let (stored, took) = (client.stored().await? - before, started.elapsed());
    while let Some(one) = crowd.join_next().await {
        one??;
    }
    Ok(stored / took.as_secs_f64())
}

/// So many requests a second, whatever becomes of them; and the chunks a second that were stored meanwhile.
async fn open_loop(client: &Client, per_second: f64, time: Duration) -> Result<(Sums, f64)> {
    let before = client.stored().await?;
    let mut sums = Sums::default();
    let mut under_way = JoinSet::new();
    let started = Instant::now();
    let mut sent = 0_u64;
    while started.elapsed() < time {
        let due = (started.elapsed().as_secs_f64() * per_second) as u64;
        for _ in sent..due {
            if under_way.len() >= UNDER_WAY {
                sums.skipped += 1;
                continue;
            }
            let client = client.clone();
            under_way.spawn(async move {
                let started = Instant::now();
                let ending = client.request().await;
                (ending, started.elapsed())
            });
        }
        sent = due;
        // Its own answers come meanwhile.
        let next = tokio::time::sleep(Duration::from_millis(2));
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                Some(Ok((ending, took))) = under_way.join_next() => sums.add(ending, took),
            }
        }
    }
    let goodput = (client.stored().await? - before) / started.elapsed().as_secs_f64();
    while let Some(ended) = under_way.join_next().await {
        if let Ok((ending, took)) = ended {
            sums.add(ending, took);
        }
    }
    Ok((sums, goodput))
}
