//! An NDJSON upload that reads its answers while it sends, and refuses to be a figure when one is missing or doubled.

use super::Result;
use super::body::Packing;
use futures_util::{Stream, StreamExt};
use lnsp_ingest::wire::LineDecoder;
use memchr::memmem;
use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};

/// How an upload went.
pub struct Report {
    /// From the request to the summary.
    pub took: Duration,
    pub summary: Value,
}

/// Sends a body; every one of its `chunks` lines, which are numbered from 1, must be answered exactly once.
pub async fn send(
    url: &str,
    dataset: &str,
    packing: Packing,
    body: impl Stream<Item = io::Result<bytes::Bytes>> + Send + 'static,
    chunks: usize,
) -> Result<Report> {
    let mut answered = Answered::new(chunks);
    let report = talk(url, dataset, packing, body, |line| answered.note(line)).await?;
    answered.check()?;
    let summary = &report.summary;
    if summary["complete"] != true || summary["total_chunks"] != chunks || summary["stored"] != chunks {
        return Err(format!("expected {chunks} stored, received {summary}").into());
    }
    Ok(report)
}

/// Sends a body, and calls `on_line` with each result line.
pub async fn talk(
    url: &str,
    dataset: &str,
    packing: Packing,
    body: impl Stream<Item = io::Result<bytes::Bytes>> + Send + 'static,
    mut on_line: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Report> {
    let client = lnsp_ingest::endpoint::client_builder().build()?;
    let request = client
        .post(format!("{url}/ingest?dataset_source={dataset}"))
        .header("Content-Type", "application/x-ndjson")
        .header("Content-Encoding", packing.name())
        .header("Accept", "application/x-ndjson")
        .body(reqwest::Body::wrap_stream(body));
    let started = Instant::now();
    let response = request.send().await?;
    if !response.status().is_success() {
        return Err(format!("{}: {}", response.status(), response.text().await?).into());
    }
    let (mut lines, mut answer) = (LineDecoder::default(), response.bytes_stream());
    while let Some(piece) = answer.next().await {
        lines.feed(&piece?);
        while let Some((_, line)) = lines.next_line() {
            let line = line?;
            if memmem::find(&line, b"\"type\":\"summary\"").is_some() {
                return Ok(Report { took: started.elapsed(), summary: serde_json::from_slice(&line)? });
            }
            on_line(&line)?;
        }
    }
    Err("the answer ended before its summary".into())
}

/// Which lines were answered: a bit each.
struct Answered {
    bits: Vec<u64>,
    count: usize,
    chunks: usize,
}

impl Answered {
    fn new(chunks: usize) -> Self {
        Answered { bits: vec![0; chunks / 64 + 1], count: 0, chunks }
    }

    fn note(&mut self, result: &[u8]) -> Result<()> {
        let said = || String::from_utf8_lossy(result).into_owned();
        const NAME: &[u8] = b"\"line\":";
        let at =
            memmem::find(result, NAME).ok_or_else(|| format!("a result without its line: {}", said()))?;
        let digits = result[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let line = digits.fold(0_usize, |number, digit| number * 10 + usize::from(digit - b'0'));
        let index = line.checked_sub(1).filter(|index| *index < self.chunks);
        let index = index.ok_or_else(|| format!("a result for a line that was not sent: {}", said()))?;
        let (word, bit) = (&mut self.bits[index / 64], 1 << (index % 64));
        if *word & bit != 0 {
            return Err(format!("line {line} was answered twice").into());
        }
        *word |= bit;
        self.count += 1;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.count != self.chunks {
            return Err(format!("{} of {} lines were answered", self.count, self.chunks).into());
        }
        Ok(())
    }
}
