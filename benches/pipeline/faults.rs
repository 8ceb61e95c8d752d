//! What the faults of a language model do to the chunks beside them: two services, each with a language model of its
//! own. One is healthy; of the other, for each fault in turn, every [`EVERY`]th answer is replaced by that fault.
//!
//! Clients send one chunk a request, the same texts to both services by turns, so both see the same machine. The healthy
//! model says what the codes of a text are. Which calls met the fault, the faulty model says itself; all other chunks are
//! their neighbours. The models are processes that begin anew, at the same address, with each fault; the services run
//! through all of them, and what they keep is seen in their memory. Both store the same rows, which take memory, so what
//! the faults take is the difference.

use super::child::ServiceProcess;
use super::llm::Simulated;
use super::service::Result;
use lnsp_ingest::classifier::LocalClassifier;
use lnsp_ingest::simulated_llm::Fault;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One call.
const LATENCY: &str = "50ms";
/// Calls at once, of the services and of the models.
const WORKERS: usize = 10;
/// Of so many calls one has the fault: 2 %.
const EVERY: usize = 50;
/// The time limit of a call, in seconds.
const TIMEOUT_S: &str = "5";
/// Clients that wait for their answers: so few that a chunk waits for its call and not for the machine.
const CLIENTS: usize = 8;
/// Chunks of one client for each fault, to each service.
const CHUNKS: usize = 80;
/// A request without an answer after so long is none any more: far beyond any deadline.
const UNANSWERED: Duration = Duration::from_secs(60);
/// How long a service may rest after a fault, before the next one is looked at.
const RESTS: Duration = Duration::from_secs(90);
/// Chunks in a row with codes of the model after which a service is taken to be as it was.
const SETTLED: usize = 16;

/// A service and its model.
struct Side {
    service: ServiceProcess,
    model: Option<Simulated>,
    port: String,
    client: reqwest::Client,
}

/// The codes of a chunk, and what came of it.
#[derive(Debug, Clone, PartialEq)]
struct Stored {
    source: String,
    codes: [u64; 3],
}

/// A chunk in both services.
struct Sent {
    text: String,
    healthy: (Option<Stored>, Duration),
    faulty: (Option<Stored>, Duration),
}

/// What one fault did.
#[derive(Default)]
struct Effects {
    /// Chunks whose own call had the fault.
    met: usize,
    p99_healthy_ms: f64,
    p99_beside_ms: f64,
    longest: Duration,
    /// Neighbours that have no codes of the model.
    fallen_back: usize,
    wrong_zero: usize,
    wrong: usize,
    unanswered: usize,
}

impl Effects {
    fn ratio(&self) -> f64 {
        self.p99_beside_ms / self.p99_healthy_ms.max(f64::MIN_POSITIVE)
    }
}

impl Side {
    fn start() -> Result<Side> {
        let model = start_model(&[])?;
        let port = model.url.rsplit(':').next().unwrap_or_default().to_owned();
        let workers = WORKERS.to_string();
        let flags = ["--tmd-backend", "llm", "--llm-endpoint", &model.url, "--llm-cache-mb", "0"];
        let limits = ["--llm-timeout-s", TIMEOUT_S, "--max-parallel-workers", &workers];
        let service = ServiceProcess::start(&[&flags[..], &limits].concat())?;
        let client = lnsp_ingest::endpoint::client_builder().timeout(UNANSWERED).build()?;
        Ok(Side { service, model: Some(model), port, client })
    }

    /// Another model process in the place of the one before.
    fn set_fault(&mut self, fault: Option<Fault>) -> Result<()> {
        // Its port has to be free first.
        drop(self.model.take());
        let every = EVERY.to_string();
        let mut flags = vec!["--port", &self.port];
        flags.extend(fault.iter().flat_map(|fault| ["--fault", fault.name(), "--fault-every", &every]));
        self.model = Some(start_model(&flags)?);
        Ok(())
    }

    /// Sends one chunk. No answer, or a chunk that is not stored, is `None`.
    async fn post(&self, text: &str) -> (Option<Stored>, Duration) {
        let body = json!({"chunks": [{ "text": text }], "dataset_source": "faults"});
        let request = self.client.post(format!("{}/ingest", self.service.url)).json(&body);
        let started = Instant::now();
        let answer: Option<Value> = match request.send().await {
            Ok(response) => response.json().await.ok(),
            Err(_) => None,
        };
        let took = started.elapsed();
        (answer.and_then(|answer| stored(&answer["results"][0])), took)
    }

    /// Waits until the model gives the codes again: some faults let a service rest for a while.
    async fn settle(&self, what: &str) -> Result<()> {
        let (began, mut in_a_row, mut n) = (Instant::now(), 0, 0);
        while in_a_row < SETTLED {
            if began.elapsed() > RESTS {
                return Err(format!("{what}: the service does not ask its language model again").into());
            }
            let (stored, _) = self.post(&format!("Before {what} comes note {n}.")).await;
            let by_model = stored.is_some_and(|stored| stored.source == "llm");
            (in_a_row, n) = (if by_model { in_a_row + 1 } else { 0 }, n + 1);
            if !by_model {
                actix_web::rt::time::sleep(Duration::from_millis(250)).await;
            }
        }
        Ok(())
    }

    /// The prompts of the calls that had the fault.
    async fn faulty_prompts(&self) -> Result<Vec<String>> {
        let model = self.model.as_ref().ok_or("no model runs")?;
        Ok(self.client.get(format!("{}/faulty", model.url)).send().await?.json().await?)
    }
}

fn start_model(flags: &[&str]) -> Result<Simulated> {
    Simulated::start_with(LATENCY, WORKERS, flags)
}

fn stored(result: &Value) -> Option<Stored> {
    let code = |axis: &str| result["tmd_codes"][axis].as_u64();
    let codes = [code("domain")?, code("task")?, code("modifier")?];
    let source = result["tmd_source"].as_str()?.to_owned();
    (result["status"] == "stored").then_some(Stored { source, codes })
}

/// Prints the figures.
pub async fn figures() -> Result<()> {
    let (mut healthy, mut faulty) = (Side::start()?, Side::start()?);
    let classifier = LocalClassifier::embedded()?;
    println!("{CLIENTS} clients, {CHUNKS} chunks each for each fault; every {EVERY}th call has the fault");
    // Warm, and how much the two differ when nothing goes wrong.
    let (_, _) = (both(&healthy, &faulty, "warm-up").await, both(&healthy, &faulty, "warmer").await);
    let before = [healthy.service.memory_mib()?, faulty.service.memory_mib()?];
    let alike = effects(&both(&healthy, &faulty, "nothing").await, &[], &classifier);
    let grown = |healthy: &Side, faulty: &Side| -> Result<[f64; 2]> {
        Ok([healthy.service.memory_mib()? - before[0], faulty.service.memory_mib()? - before[1]])
    };
    report("nothing", &alike, grown(&healthy, &faulty)?);
    let (mut all, mut growth): (Vec<Effects>, f64) = (Vec::new(), 0.0);
    for fault in Fault::ALL {
        healthy.set_fault(None)?;
        faulty.set_fault(Some(fault))?;
        healthy.settle(fault.name()).await?;
        faulty.settle(fault.name()).await?;
        let sent = both(&healthy, &faulty, fault.name()).await;
        let effects = effects(&sent, &faulty.faulty_prompts().await?, &classifier);
        let grown = grown(&healthy, &faulty)?;
        growth = growth.max(grown[1] - grown[0]);
        report(fault.name(), &effects, grown);
        all.push(effects);
    }
    let sum = |of: fn(&Effects) -> usize| all.iter().map(of).sum::<usize>();
    let most = |of: fn(&Effects) -> f64| all.iter().map(of).fold(0.0, f64::max);
    println!("figure faults.neighbours_p99_ratio {:.2} ratio", most(Effects::ratio));
    println!("figure faults.neighbours_fallen_back {} chunks", sum(|one| one.fallen_back));
    println!("figure faults.longest_s {:.2} s", most(|one| one.longest.as_secs_f64()));
    println!("figure faults.wrong_zero_codes {} chunks", sum(|one| one.wrong_zero));
    println!("figure faults.wrong_codes {} chunks", sum(|one| one.wrong));
    println!("figure faults.unanswered {} chunks", sum(|one| one.unanswered));
    println!("figure faults.memory_growth_mib {growth:.1} MiB");
    println!("figure faults.memory_growth_healthy_mib {:.1} MiB", grown(&healthy, &faulty)?[0]);
    Ok(())
}

/// Sends the same chunks to both services: each client one after the other, first to one and then to the other by turns.
async fn both(healthy: &Side, faulty: &Side, name: &str) -> Vec<Sent> {
    let client = async |client: usize| {
        let mut sent = Vec::new();
        for n in 0..CHUNKS {
            let text =
                format!("Client {client} of {name} writes note {n}: rivers carry sediment to the sea.");
            let (in_healthy, in_faulty) = if n % 2 == 0 {
                let first = healthy.post(&text).await;
                (first, faulty.post(&text).await)
            } else {
                let first = faulty.post(&text).await;
                (healthy.post(&text).await, first)
            };
            sent.push(Sent { text, healthy: in_healthy, faulty: in_faulty });
        }
        sent
    };
    futures_util::future::join_all((0..CLIENTS).map(client)).await.into_iter().flatten().collect()
}

fn effects(sent: &[Sent], faulty_prompts: &[String], classifier: &LocalClassifier) -> Effects {
    let mut effects = Effects::default();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for Sent { text, healthy, faulty } in sent {
        let met = faulty_prompts.iter().any(|prompt| prompt.contains(text));
        effects.met += usize::from(met);
        effects.longest = effects.longest.max(faulty.1);
        alone.push(healthy.1);
        if !met {
            beside.push(faulty.1);
        }
        let (Some(said), Some(stored)) = (&healthy.0, &faulty.0) else {
            effects.unanswered += 1;
            continue;
        };
        let by_model = stored.source == "llm";
        effects.fallen_back += usize::from(!met && !by_model);
        let local = classifier.classify(text).tmd;
        let local = [local.domain(), local.task(), local.modifier()].map(u64::from);
        if stored.codes != (if by_model { said.codes } else { local }) {
            effects.wrong += 1;
            effects.wrong_zero += usize::from(stored.codes == [0; 3]);
        }
    }
    (effects.p99_healthy_ms, effects.p99_beside_ms) = (p99_ms(&mut alone), p99_ms(&mut beside));
    effects
}

fn p99_ms(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn report(name: &str, effects: &Effects, [healthy, faulty]: [f64; 2]) {
    println!(
        "{name:>14}: {} met it; p99 of the others {:.0} ms beside {:.0} ms, ratio {:.2}; longest {:.2} s; {} fell back, \
         {} wrong, {} unanswered; memory {faulty:+.1} MiB beside {healthy:+.1} MiB",
        effects.met,
        effects.p99_beside_ms,
        effects.p99_healthy_ms,
        effects.ratio(),
        effects.longest.as_secs_f64(),
        effects.fallen_back,
        effects.wrong,
        effects.unanswered
    );
}
