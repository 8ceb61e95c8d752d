//! Figures of several servers of a language model: what is left when one of three is killed, how soon it is used again,
//! and what a server does that works on fewer calls at once than configured. The servers are processes of their own.

use super::llm::Simulated;
use super::local::free_encoder;
use super::service::{Result, Service, data_folder};
use serde_json::Value;
use std::time::{Duration, Instant};

/// One call.
const LATENCY: Duration = Duration::from_millis(200);
const SLOTS: usize = 10;
/// The window of a rate.
const WINDOW: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);

/// Prints the figures.
pub async fn figures() -> Result<()> {
    killed_and_returned().await?;
    fewer_slots_than_configured().await
}

fn latency() -> String {
    format!("{}ms", LATENCY.as_millis())
}

async fn service(list: &str) -> Result<Service> {
    let flags = ["--tmd-backend", "llm", "--tmd-on-failure", "reject", "--llm-endpoint", list];
    Service::start_in(data_folder()?, free_encoder()?, &flags).await
}

/// An upload of so many chunks; returns its summary.
async fn upload(service: &Service, chunks: usize, dataset: &str) -> Result<Value> {
    let body: String = (0..chunks)
        .map(|n| format!("{{\"text\":\"Chunk {n} of {dataset} waits for its codes.\"}}\n"))
        .collect();
    let request = service
        .client
        .post(format!("{}/ingest?dataset_source={dataset}", service.url))
        .header("Content-Type", "application/x-ndjson")
        .body(body);
    Ok(request.send().await?.json().await?)
}

/// Chunks that were stored, over time.
struct Watch<'a> {
    service: &'a Service,
    began: Instant,
    samples: Vec<(Duration, u64)>,
}

impl Watch<'_> {
    /// Looks on for so long.
    async fn look(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            actix_web::rt::time::sleep(TICK).await;
            let stored = self.service.state().counts.tally().stored;
            self.samples.push((self.began.elapsed(), stored));
        }
    }

    /// Chunks per second between two moments.
    fn rate(&self, from: Duration, to: Duration) -> f64 {
        let inside = || self.samples.iter().filter(|(at, _)| (from..=to).contains(at));
        let (Some((began, first)), Some((ended, last))) = (inside().next(), inside().next_back()) else {
            return 0.0;
        };
        (last - first) as f64 / (*ended - *began).as_secs_f64().max(1e-3)
    }

    /// The time after `from` at which the first window begins that has this rate.
    fn reaches(&self, from: Duration, rate: f64) -> Option<Duration> {
        let last = self.samples.last()?.0;
        let starts = self.samples.iter().map(|(at, _)| *at).filter(|at| *at >= from && *at + WINDOW <= last);
        starts.into_iter().find(|at| self.rate(*at, *at + WINDOW) >= rate).map(|at| at - from)
    }
}

async fn killed_and_returned() -> Result<()> {
    let start = |flags: &[&str]| Simulated::start_with(&latency(), SLOTS, flags);
    let (first, second, third) = (start(&[])?, start(&[])?, start(&[])?);
    let (killed, port) = (second.url.clone(), second.url.rsplit(':').next().unwrap_or_default().to_owned());
    let service = service(&format!("{},{killed},{}", first.url, third.url)).await?;
    let per_second = 3 * SLOTS * 1000 / LATENCY.as_millis() as usize;
    let seconds = Duration::from_secs;
    let mut watch = Watch { service: &service, began: Instant::now(), samples: Vec::new() };
    let story = async {
        watch.look(seconds(6)).await;
        let dead_at = watch.began.elapsed();
        drop(second);
        watch.look(seconds(10)).await;
        let back_at = watch.began.elapsed();
        let second = start(&["--port", &port]);
        watch.look(seconds(14)).await;
        (dead_at, back_at, second)
    };
    let (summary, (dead_at, back_at, second)) =
        futures_util::future::join(upload(&service, per_second * 32, "killed"), story).await;
    let (summary, second) = (summary?, second?);
    let before = watch.rate(seconds(2), dead_at);
    let share = |from, to| watch.rate(from, to) / before;
    println!("three servers: {before:.1} chunks/s of {per_second} possible");
    println!("figure pool.three_servers.efficiency {:.3} ratio", before / per_second as f64);
    println!("figure pool.killed.failed_chunks {} chunks", summary["failed"]);
    print_time("pool.killed.two_thirds_after_s", watch.reaches(dead_at, 0.95 * before * 2.0 / 3.0));
    println!("figure pool.killed.throughput_after_2s {:.3} ratio", share(dead_at + seconds(2), back_at));
    print_time("pool.returned.full_after_s", watch.reaches(back_at, 0.95 * before));
    println!(
        "figure pool.returned.throughput_after_10s {:.3} ratio",
        share(back_at + seconds(10), back_at + seconds(13))
    );
    println!("the server that was killed saw {}", second.counts().await?);
    drop((first, second, third));
    service.stop().await;
    Ok(())
}

fn print_time(name: &str, time: Option<Duration>) {
    match time {
        Some(time) => println!("figure {name} {:.2} s", time.as_secs_f64()),
        None => println!("figure {name} inf s"),
    }
}

async fn fewer_slots_than_configured() -> Result<()> {
    const REAL: usize = 4;
    let server = Simulated::start_with(&latency(), REAL, &[])?;
    let service = service(&server.url).await?;
    let chunks = 50 * REAL * 1000 / LATENCY.as_millis() as usize;
    let limit = || {
        let llm = service.state().llm.as_ref();
        llm.and_then(|llm| llm.servers().first().map(|server| server.status.limit)).unwrap_or_default()
    };
    let mut watch = Watch { service: &service, began: Instant::now(), samples: Vec::new() };
    let mut limits = Vec::new();
    let story = async {
        for _ in 0..40 {
            watch.look(Duration::from_secs(1)).await;
            limits.push(limit());
        }
    };
    let (summary, ()) = futures_util::future::join(upload(&service, chunks, "limited"), story).await;
    let best = REAL as f64 / LATENCY.as_secs_f64();
    let seconds = Duration::from_secs;
    println!("a server with {REAL} slots, {SLOTS} configured; the limit second by second: {limits:?}");
    println!("figure pool.limited.failed_chunks {} chunks", summary?["failed"]);
    let settled = &limits[20..];
    let within = settled.iter().filter(|limit| (REAL..=REAL + 1).contains(*limit)).count();
    println!("figure pool.limited.at_4_or_5 {:.3} ratio", within as f64 / settled.len() as f64);
    println!(
        "figure pool.limited.efficiency_on_the_way {:.3} ratio",
        watch.rate(seconds(1), seconds(20)) / best
    );
    println!("figure pool.limited.efficiency {:.3} ratio", watch.rate(seconds(20), seconds(39)) / best);
    drop(server);
    service.stop().await;
    Ok(())
}
