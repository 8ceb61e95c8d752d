//! Figures with a language model that takes 887 ms a call, the seed's measurement. It is the simulated one, as a
//! process of its own over TCP, and it counts its calls: a figure whose calls differ from its chunks is an error.

use super::service::{Result, Service, median};
use lnsp_ingest::cli::bench::SENTENCES as TEN;
use lnsp_ingest::llm::Wanted;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The measurements of one call.
const CALL: Duration = Duration::from_millis(887);
/// Calls at once in the wide figure, and its chunks: twenty calls deep.
const WIDE: usize = 256;
const WIDE_CHUNKS: usize = 20 * WIDE;
/// Requests on each side of the figure beside hanging calls.
const CODED: usize = 400;

/// A simulated language model; ends with this process, whatever that ends of.
pub struct Simulated {
    child: Child,
    pub url: String,
}

impl Simulated {
    fn start(slots: usize, faults: &[&str]) -> Result<Simulated> {
        Simulated::start_with("887ms", slots, faults)
    }

    /// A server of another speed, with further flags.
    pub fn start_with(latency: &str, slots: usize, flags: &[&str]) -> Result<Simulated> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lnsp"));
        command.args(["simulate-llm", "--until-stdin-closes", "--latency", latency, "--slots"]);
        command.arg(slots.to_string()).args(flags).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("the simulated LLM has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let url = line.trim().split_once("ready on ").ok_or(format!("the simulated LLM said '{line}'"))?.1;
        Ok(Simulated { url: url.to_owned(), child })
    }

    pub async fn counts(&self) -> Result<Value> {
        Ok(client()?.get(format!("{}/counts", self.url)).send().await?.json().await?)
    }

    async fn calls(&self) -> Result<u64> {
        Ok(self.counts().await?["generate"].as_u64().ok_or("no count of calls")?)
    }

    /// A service that asks it, so many calls at once.
    async fn service(&self, workers: usize, wanted: Wanted, flags: &[&str]) -> Result<Service> {
        let workers = workers.to_string();
        let cpesh = if wanted == Wanted::CodesAndCpesh { "true" } else { "false" };
        let base = ["--tmd-backend", "llm", "--tmd-on-failure", "reject", "--llm-endpoint", &self.url];
        let rest = ["--max-parallel-workers", &workers, "--enable-cpesh", cpesh];
        Service::start(&[&base[..], &rest, flags].concat()).await
    }

    /// Runs `work`, which ingests `chunks` new chunks, and refuses its result when that were not as many calls.
    async fn counted(&self, chunks: usize, work: impl Future<Output = Result<Duration>>) -> Result<Duration> {
        let before = self.calls().await?;
        let took = work.await?;
        let calls = self.calls().await? - before;
        if calls != chunks as u64 {
            return Err(format!("{chunks} chunks made {calls} calls").into());
        }
        Ok(took)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Its input closes with the handle; killing it is only quicker.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Prints the figures of `plain`, an NDJSON corpus of which up to 200 chunks are used.
pub async fn figures(plain: &str, rounds: usize) -> Result<()> {
    for wanted in [Wanted::Codes, Wanted::CodesAndCpesh] {
        ten_workers(plain, rounds, wanted).await?;
        wide(rounds, wanted).await?;
    }
    beside_hanging_calls().await
}

/// The first words of the names of the figures.
fn group(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Codes => "pipeline.llm887",
        Wanted::CodesAndCpesh => "pipeline.llm887_cpesh",
    }
}

/// How long the calls alone take, `workers` at a time.
fn calls_alone(chunks: usize, workers: usize) -> Duration {
    CALL * u32::try_from(chunks.div_ceil(workers)).unwrap_or(u32::MAX)
}

async fn ten_workers(plain: &str, rounds: usize, wanted: Wanted) -> Result<()> {
    let group = group(wanted);
    let lines: Vec<&str> = plain.lines().filter(|line| !line.trim().is_empty()).take(200).collect();
    let (corpus, chunks) = (lines.join("\n"), lines.len());
    let llm = Simulated::start(10, &[])?;
    let parallel = llm.service(10, wanted, &[]).await?;
    let sequential = llm.service(10, wanted, &["--enable-parallel", "false"]).await?;
    let (mut whole, mut ten, mut one_by_one) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let dataset = format!("llm-{round}");
        whole.push(llm.counted(chunks, parallel.upload(&corpus, &dataset)).await?);
        for n in 0..3 {
            ten.push(llm.counted(TEN.len(), parallel.post_ten(&TEN, &format!("ten-{round}-{n}"))).await?);
        }
        one_by_one.push(llm.counted(TEN.len(), sequential.post_ten(&TEN, &format!("one-{round}"))).await?);
        println!(
            "round {round}: {chunks} chunks in {:.2} s, ten in {:.0} ms, ten one by one in {:.0} ms",
            whole[round].as_secs_f64(),
            ten[3 * round + 2].as_secs_f64() * 1e3,
            one_by_one[round].as_secs_f64() * 1e3
        );
    }
    parallel.stop().await;
    sequential.stop().await;
    let (floor, whole) = (calls_alone(chunks, 10), median(&mut whole));
    println!("{chunks} chunks, ten calls at once: {:.2} s of calls alone", floor.as_secs_f64());
    println!("figure {group}.workers10.seconds {:.2} s", whole.as_secs_f64());
    println!("figure {group}.workers10.chunks_per_s {:.2} chunks/s", chunks as f64 / whole.as_secs_f64());
    println!("figure {group}.workers10.efficiency {:.3} ratio", floor.as_secs_f64() / whole.as_secs_f64());
    println!("figure {group}.ten_chunks_ms {:.0} ms", median(&mut ten).as_secs_f64() * 1e3);
    println!("figure {group}.sequential_ten_ms {:.0} ms", median(&mut one_by_one).as_secs_f64() * 1e3);
    Ok(())
}

/// Distinct texts as long as the seed's.
fn short_texts(count: usize, round: usize) -> Vec<String> {
    (0..count).map(|n| format!("{} Note {n}, edition {round}.", TEN[n % TEN.len()])).collect()
}

async fn wide(rounds: usize, wanted: Wanted) -> Result<()> {
    let group = group(wanted);
    let llm = Simulated::start(WIDE, &[])?;
    let service = llm.service(WIDE, wanted, &[]).await?;
    let (mut encoding, mut whole) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let texts = short_texts(WIDE_CHUNKS, round);
        let corpus: String = texts.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
        let dataset = format!("wide-{round}");
        whole.push(llm.counted(WIDE_CHUNKS, service.upload(&corpus, &dataset)).await?);
        let embedded = match wanted {
            Wanted::Codes => texts,
            Wanted::CodesAndCpesh => service.concepts_and_questions(&dataset).await?,
        };
        encoding.push(service.encoder_alone(&embedded).await?);
        println!("round {round}: {WIDE_CHUNKS} short chunks in {:.2} s", whole[round].as_secs_f64());
    }
    println!("the LLM saw {}", llm.counts().await?);
    service.stop().await;
    let (calls, encoding, whole) =
        (calls_alone(WIDE_CHUNKS, WIDE), median(&mut encoding), median(&mut whole));
    println!(
        "{:.2} s of calls alone, {:.2} s of encoding alone",
        calls.as_secs_f64(),
        encoding.as_secs_f64()
    );
    println!(
        "figure {group}.workers256.chunks_per_s {:.1} chunks/s",
        WIDE_CHUNKS as f64 / whole.as_secs_f64()
    );
    println!(
        "figure {group}.workers256.efficiency {:.3} ratio",
        calls.max(encoding).as_secs_f64() / whole.as_secs_f64()
    );
    Ok(())
}

/// Chunks with codes of their own, one a request, in two services: in one nothing else happens, in the other half of
/// the LLM's calls hang while an upload waits for them. Requests alternate, so both see the same machine.
async fn beside_hanging_calls() -> Result<()> {
    let llm = Simulated::start(10, &["--fault", "hang", "--fault-every", "2"])?;
    let (idle, beside) = {
        let service = || llm.service(10, Wanted::Codes, &[]);
        (service().await?, service().await?)
    };
    let many: String =
        (0..100_000).map(|n| format!("{{\"text\":\"Chunk {n} waits for its codes.\"}}\n")).collect();
    let upload =
        client()?.post(format!("{}/ingest", beside.url)).header("Content-Type", "application/x-ndjson");
    let upload = actix_web::rt::spawn(upload.body(many).send());
    while llm.counts().await?["faulty"].as_u64().unwrap_or_default() < 10 {
        actix_web::rt::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut alone, mut loaded) = (Vec::new(), Vec::new());
    for n in 0..CODED {
        alone.push(idle.post_coded(&format!("Alone {n}.")).await?);
        loaded.push(beside.post_coded(&format!("Beside {n}.")).await?);
    }
    println!("while these ran the LLM saw {}", llm.counts().await?);
    upload.abort();
    let p99 = |times: &mut [Duration]| {
        times.sort_unstable();
        times[times.len() * 99 / 100].as_secs_f64() * 1e3
    };
    let (alone, loaded) = (p99(&mut alone), p99(&mut loaded));
    println!("figure pipeline.llm887.coded_p99_idle_ms {alone:.1} ms");
    println!("figure pipeline.llm887.coded_p99_beside_hanging_ms {loaded:.1} ms");
    println!("figure pipeline.llm887.coded_p99_ratio {:.2} ratio", loaded / alone);
    // Hanging calls are not waited for: the processes go first.
    drop(llm);
    idle.stop().await;
    beside.stop().await;
    Ok(())
}

fn client() -> Result<reqwest::Client> {
    Ok(lnsp_ingest::endpoint::client_builder().build()?)
}

impl Service {
    /// The ten as the seed sends them: one JSON request; from sending it to the end of its answer.
    async fn post_ten(&self, texts: &[&str], dataset: &str) -> Result<Duration> {
        let chunks: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
        let body = json!({"chunks": chunks, "dataset_source": dataset});
        self.post(&body, texts.len()).await
    }

    /// The texts of a dataset that were embedded where each chunk has CPESH parts.
    async fn concepts_and_questions(&self, dataset: &str) -> Result<Vec<String>> {
        let url = format!("{}/export?dataset_source={dataset}", self.url);
        let lines = self.client.get(url).send().await?.error_for_status()?.text().await?;
        let lines =
            lines.lines().map(serde_json::from_str).collect::<std::result::Result<Vec<Value>, _>>()?;
        // The last line is the summary.
        let lines = lines.iter().filter(|line| line["type"] != "summary");
        let parts = lines.flat_map(|line| [(line, "concept_text"), (line, "probe_question")]);
        let text = |(line, part): (&Value, &str)| {
            let text = line[part].as_str().ok_or_else(|| format!("no {part}: {line}"))?;
            Ok(text.to_owned())
        };
        parts.map(text).collect()
    }

    async fn post_coded(&self, text: &str) -> Result<Duration> {
        let chunk = json!({"text": text, "domain_code": 1, "task_code": 1, "modifier_code": 1});
        self.post(&json!({ "chunks": [chunk] }), 1).await
    }

    async fn post(&self, body: &Value, chunks: usize) -> Result<Duration> {
        let request = self.client.post(format!("{}/ingest", self.url)).json(body);
        let started = Instant::now();
        let answer: Value = request.send().await?.json().await?;
        let took = started.elapsed();
        let stored = answer["results"]
            .as_array()
            .map_or(0, |results| results.iter().filter(|result| result["status"] == "stored").count());
        if stored != chunks {
            return Err(format!("expected {chunks} stored, received {answer}").into());
        }
        Ok(took)
    }
}
