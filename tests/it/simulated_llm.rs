//! The simulated language model server, tested over TCP with exact counters.

use crate::support::process::{lnsp, run};
use crate::support::test_service::client;
use crate::support::wait::until;
use lnsp_ingest::simulated_llm::{CallCounts, Fault, Latency, Options, SimulatedLlm};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;
use tokio::task::JoinHandle;

pub const DOMAINS: [&str; 3] = ["science", "law", "sports"];
const TASKS: [&str; 2] = ["fact_retrieval", "summarization"];

/// Longer than any test; such a call ends only when its client disconnects.
const HOURS: Latency = Latency::Constant(Duration::from_secs(10_000));

pub fn ms(number: u64) -> Latency {
    Latency::Constant(Duration::from_millis(number))
}

pub fn start(slots: usize, latency: Latency) -> SimulatedLlm {
    SimulatedLlm::start(Options { slots, latency, ..Options::default() }).unwrap()
}

pub fn ask(prompt: &str) -> Value {
    json!({
        "model": "llama3.1:8b", "prompt": prompt, "stream": false, "options": {"num_predict": 160, "temperature": 0},
        "format": {"type": "object", "required": ["domain", "task"], "properties": {
            "domain": {"enum": DOMAINS}, "task": {"enum": TASKS},
        }},
    })
}

pub fn with(mut ask: Value, name: &str, value: Value) -> Value {
    ask[name] = value;
    ask
}

pub async fn send(url: &str, body: String) -> reqwest::Result<reqwest::Response> {
    let client = lnsp_ingest::endpoint::client_builder().build();
    client.unwrap().post(format!("{url}/api/generate")).body(body).send().await
}

pub async fn post(llm: &SimulatedLlm, body: &Value) -> (u16, Value) {
    let response = send(llm.url(), body.to_string()).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// A call in its own task; the task returns the response.
fn call(llm: &SimulatedLlm, prompt: &str) -> JoinHandle<Value> {
    let (url, body) = (llm.url().to_owned(), ask(prompt).to_string());
    tokio::spawn(async move { send(&url, body).await.unwrap().json().await.unwrap() })
}

pub fn read(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

#[actix_web::test]
async fn the_responses_are_those_of_ollama() {
    let options = Options { models: vec!["llama3.1:8b".into(), "tinyllama".into()], ..Options::default() };
    let llm = SimulatedLlm::start(options).unwrap();
    let get = async |path: &str| client().get(format!("{}{path}", llm.url())).send().await.unwrap();
    assert_eq!(get("/").await.text().await.unwrap(), "Ollama is running");
    assert!(client().head(llm.url()).send().await.unwrap().status().is_success());
    assert!(get("/api/version").await.json::<Value>().await.unwrap()["version"].is_string());
    let tags: Value = get("/api/tags").await.json().await.unwrap();
    let names: Vec<&Value> = tags["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["llama3.1:8b", "tinyllama:latest"]);
    for member in ["model", "digest", "size", "details", "capabilities"] {
        assert!(!tags["models"][0][member].is_null(), "{member} is missing");
    }
    assert_eq!(get("/counts").await.json::<CallCounts>().await.unwrap(), CallCounts::default());
    assert_eq!(get("/api/pull").await.status(), 404);
}

#[actix_web::test]
async fn an_answer_is_from_the_text_and_within_the_schema() {
    let llm = start(10, ms(2));
    let (status, first) = post(&llm, &ask("Honey never spoils.")).await;
    assert_eq!((status, &first["done"], &first["done_reason"]), (200, &json!(true), &json!("stop")));
    let named = read(&first["response"]);
    assert!(DOMAINS.iter().any(|name| named["domain"] == *name), "{named}");
    assert!(TASKS.iter().any(|name| named["task"] == *name), "{named}");
    assert!(first["response"].as_str().unwrap().starts_with(r#"{"domain": "#), "{first}");
    for duration in ["total_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(first[duration].as_u64().unwrap() > 0, "{duration}");
    }
    assert!(first["total_duration"].as_u64().unwrap() >= 2_000_000, "it takes at least its time: {first}");
    assert_eq!((&first["model"], &first["prompt_eval_count"]), (&json!("llama3.1:8b"), &json!(5)));
    let (_, again) = post(&llm, &ask("Honey never spoils.")).await;
    assert_eq!(again["response"], first["response"]);

    let short = with(ask("Honey never spoils."), "options", json!({"num_predict": 3}));
    let (_, short) = post(&llm, &short).await;
    assert_eq!((&short["done_reason"], &short["eval_count"]), (&json!("length"), &json!(3)));
    assert_eq!(short["response"].as_str().unwrap(), &first["response"].as_str().unwrap()[..12]);

    let (_, sure) = post(&llm, &with(ask("Honey never spoils."), "logprobs", json!(true))).await;
    let logprobs = sure["logprobs"].as_array().unwrap();
    let text: String = logprobs.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(
        (json!(text), logprobs.len() as u64),
        (first["response"].clone(), sure["eval_count"].as_u64().unwrap())
    );
    assert!(logprobs.iter().all(|token| (-0.7..0.0).contains(&token["logprob"].as_f64().unwrap())));

    let (_, prose) = post(&llm, &with(ask("Honey never spoils."), "format", Value::Null)).await;
    assert!(prose["response"].as_str().unwrap().ends_with('.'), "{prose}");
    let counts = CallCounts { generate: 5, answered: 5, most_in_flight: 1, ..CallCounts::default() };
    assert_eq!(llm.counts(), counts);
}

#[actix_web::test]
async fn a_streamed_answer_comes_in_lines() {
    let llm = start(10, ms(0));
    let (_, whole) = post(&llm, &ask("The sea is salty.")).await;
    for streamed in [json!(true), Value::Null] {
        let body = with(with(ask("The sea is salty."), "stream", streamed), "logprobs", json!(true));
        let response = send(llm.url(), body.to_string()).await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/x-ndjson");
        let text = response.text().await.unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (last, pieces) = lines.split_last().unwrap();
        assert!(
            pieces
                .iter()
                .all(|piece| piece["done"] == false && piece["logprobs"][0]["token"] == piece["response"])
        );
        let said: String = pieces.iter().map(|piece| piece["response"].as_str().unwrap()).collect();
        assert_eq!(json!(said), whole["response"]);
        assert_eq!(
            (&last["done"], &last["done_reason"], &last["response"]),
            (&json!(true), &json!("stop"), &json!(""))
        );
        assert_eq!(last["eval_count"].as_u64().unwrap(), pieces.len() as u64);
    }
    assert_eq!(llm.counts().answered, 3);
}

#[actix_web::test]
async fn only_calls_for_an_answer_are_counted_as_such() {
    let llm = start(10, ms(0));
    let (status, error) = post(&llm, &with(ask("x"), "model", json!("mistral"))).await;
    assert_eq!((status, &error["error"]), (404, &json!("model 'mistral' not found")));
    let (status, error) = post(&llm, &with(ask("x"), "format", json!("yaml"))).await;
    assert!(status == 500 && error["error"].as_str().unwrap().contains("invalid format"), "{error}");
    for malformed in ["", "{", "{\"model\": 7}", "[1]"] {
        let response = send(llm.url(), malformed.to_owned()).await.unwrap();
        assert_eq!(response.status(), 400, "{malformed}");
        assert!(response.json::<Value>().await.unwrap()["error"].is_string());
    }
    for empty in [json!(""), Value::Null] {
        let (status, loaded) = post(&llm, &with(ask("x"), "prompt", empty)).await;
        assert_eq!((status, &loaded["done"], &loaded["done_reason"]), (200, &json!(true), &json!("load")));
    }
    assert_eq!(llm.counts(), CallCounts { loads: 2, ..CallCounts::default() });
}

#[actix_web::test]
async fn slots_limit_the_calls_and_are_assigned_in_order() {
    let llm = start(1, HOURS);
    let holder = call(&llm, "holder");
    until("one call holds the slot", || llm.counts().in_flight == 1).await;
    let mut queue = Vec::new();
    for n in 0..5 {
        queue.push(call(&llm, &format!("number {n}")));
        until("the next one waits", || llm.counts().waiting == n + 1).await;
    }
    llm.set_latency(ms(2));
    queue.remove(2).abort();
    until("a client that waited has gone away", || llm.counts().waiting == 4).await;
    assert_eq!(
        llm.counts(),
        CallCounts { generate: 6, in_flight: 1, most_in_flight: 1, waiting: 4, ..CallCounts::default() }
    );
    holder.abort();
    let mut times = Vec::new();
    for call in queue {
        times.push(call.await.unwrap()["created_at"].as_str().unwrap().to_owned());
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(
        llm.counts(),
        CallCounts { generate: 6, answered: 4, most_in_flight: 1, ..CallCounts::default() }
    );
}

#[actix_web::test]
async fn many_calls_are_in_flight_at_once_and_no_more_than_the_slots() {
    let llm = start(200, HOURS);
    let prompt = "three thousand characters ".repeat(116);
    let calls: Vec<_> = (0..256).map(|n| call(&llm, &format!("{prompt}{n}"))).collect();
    until("the slots are taken and the others wait", || {
        let now = llm.counts();
        (now.in_flight, now.waiting) == (200, 56)
    })
    .await;
    calls.iter().for_each(JoinHandle::abort);
    until("all have gone away", || llm.counts().in_flight + llm.counts().waiting == 0).await;
    llm.set_latency(ms(1));
    for call in (0..256).map(|n| call(&llm, &format!("{prompt}{n}"))).collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap()["done_reason"], "stop");
    }
    assert_eq!(
        llm.counts(),
        CallCounts { generate: 512, answered: 256, most_in_flight: 200, ..CallCounts::default() }
    );
}

#[actix_web::test]
async fn each_fault_has_the_response_of_a_real_server() {
    let llm = start(1, ms(0));
    let (_, whole) = post(&llm, &ask("p")).await;
    let whole = whole["response"].as_str().unwrap();
    let later = [Fault::Hang, Fault::Reset, Fault::ResetMidBody, Fault::Dribble];
    for fault in Fault::ALL.into_iter().filter(|fault| !later.contains(fault)) {
        llm.set_fault(Some((fault, 1)));
        let response = send(llm.url(), ask("p").to_string()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let kind = headers.get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap());
        let body = response.bytes().await.unwrap();
        let json = serde_json::from_slice::<Value>(&body);
        let said = |name: &str| json.as_ref().unwrap()[name].clone();
        let names = || read(&said("response"));
        let fine = match fault {
            Fault::Error500 => status == 500 && said("error").is_string(),
            Fault::Busy503 => status == 503 && said("error").as_str().unwrap().starts_with("server busy"),
            Fault::Limited429 => status == 429 && headers["retry-after"] == "1" && said("error").is_string(),
            Fault::Html => status == 200 && kind.starts_with("text/html") && body.starts_with(b"<!DOCTYPE"),
            Fault::Garbage => status == 200 && kind.starts_with("application/json") && json.is_err(),
            Fault::HalfJson => {
                let half = said("response").as_str().unwrap().to_owned();
                let broken = whole.starts_with(&half) && serde_json::from_str::<Value>(&half).is_err();
                status == 200 && broken && said("done") == true && said("done_reason") == "stop"
            }
            Fault::Unfinished => status == 200 && said("done") == false && said("done_reason").is_null(),
            Fault::Cut => {
                let cut = said("response").as_str().unwrap().len();
                status == 200 && said("done") == true && said("done_reason") == "length" && cut < whole.len()
            }
            Fault::WrongName => {
                names()["task"].is_string() && !TASKS.iter().any(|name| names()["task"] == *name)
            }
            Fault::Numbers => names()["task"].is_u64() && names()["domain"].is_u64(),
            Fault::Huge => status == 200 && body.len() == 50_000_000 && json.is_ok(),
            Fault::Redirect => status == 302 && headers["location"].to_str().unwrap().contains("elsewhere"),
            Fault::ModelGone => status == 404 && said("error") == "model 'llama3.1:8b' not found",
            Fault::Echo => said("response") == "p",
            Fault::Thinking => said("response") == "" && said("thinking") == whole,
            Fault::ThinkTag => said("response").as_str().unwrap().ends_with(&format!("</think>\n\n{whole}")),
            Fault::Fence => said("response") == format!("```json\n{whole}\n```"),
            Fault::InProse => said("response").as_str().unwrap().contains(whole),
            Fault::Hang | Fault::Reset | Fault::ResetMidBody | Fault::Dribble => unreachable!(),
        };
        let start = String::from_utf8_lossy(&body[..body.len().min(300)]);
        assert!(fine, "{fault}: {status} {kind} {start}");
    }
    assert_eq!(
        llm.counts(),
        CallCounts { generate: 19, answered: 1, faulty: 18, most_in_flight: 1, ..CallCounts::default() }
    );
}

#[actix_web::test]
async fn a_hanging_call_holds_no_slot_and_faults_occur_on_every_nth_call() {
    let llm = start(1, ms(0));
    llm.set_fault(Some((Fault::Hang, 1)));
    let hanging = [call(&llm, "a"), call(&llm, "b")];
    until("both hang", || llm.counts().faulty == 2).await;
    llm.set_fault(Some((Fault::ModelGone, 3)));
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(post(&llm, &ask("p")).await.0);
    }
    assert_eq!(statuses, [200, 200, 404, 200, 200, 404]);
    assert!(hanging.iter().all(|call| !call.is_finished()));
    llm.set_fault(None);
    assert_eq!(post(&llm, &ask("p")).await.0, 200);
    assert_eq!(
        llm.counts(),
        CallCounts { generate: 9, answered: 5, faulty: 4, most_in_flight: 1, ..CallCounts::default() }
    );
}

#[actix_web::test]
async fn a_broken_body_ends_in_its_middle_and_a_dribbling_one_takes_its_time() {
    let llm = start(1, ms(0));
    llm.set_fault(Some((Fault::ResetMidBody, 1)));
    let response = send(llm.url(), ask("p").to_string()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    llm.set_fault(Some((Fault::Dribble, 1)));
    let mut response = send(llm.url(), ask("p").to_string()).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        received.extend(response.chunk().await.unwrap().unwrap());
    }
    assert_eq!(received, b"{\"c");
    assert_eq!(llm.counts().in_flight, 0, "a call that dribbles holds no slot");
}

/// Without an async runtime, with a socket of the standard library.
#[test]
fn it_resets_connections_and_closes_them_when_it_stops() {
    let llm = SimulatedLlm::start(Options { fault: Some((Fault::Reset, 1)), ..Options::default() }).unwrap();
    let address = llm.url().trim_start_matches("http://").to_owned();
    let send = || {
        let body = ask("p").to_string();
        let mut socket = TcpStream::connect(&address).unwrap();
        write!(
            socket,
            "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        socket
    };
    let mut seen = Vec::new();
    let error = send().read_to_end(&mut seen).unwrap_err();
    assert_eq!((error.kind(), seen.len()), (ErrorKind::ConnectionReset, 0));

    llm.set_fault(Some((Fault::Hang, 1)));
    let mut hanging = send();
    while llm.counts().faulty < 2 {
        std::thread::yield_now();
    }
    llm.stop();
    // Closed or reset: in any case without an answer.
    drop(hanging.read_to_end(&mut seen));
    assert_eq!(seen.len(), 0);
    assert!(TcpStream::connect(&address).is_err());
}

/// Starts the program; returns the process, its address, and its output.
fn program(flags: &[&str]) -> (Child, String, BufReader<std::process::ChildStdout>) {
    let mut command = lnsp(&[&["simulate-llm", "--latency", "1ms"], flags].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("simulated LLM ready on ").unwrap().to_owned();
    (child, url, output)
}

#[actix_web::test]
async fn the_program_prints_its_address_and_stops_on_a_signal() {
    let (mut child, url, mut output) =
        program(&["--until-stdin-closes", "--models", "a:1b,b", "--slots", "2"]);
    let answer = send(&url, json!({"model": "b", "prompt": "p", "stream": false}).to_string()).await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["done_reason"], "stop");
    let port = url.rsplit(':').next().unwrap();
    let (code, _, complaint) = run(&mut lnsp(&["simulate-llm", "--port", port]));
    assert!(code == Some(1) && complaint.contains(port) && complaint.contains("--port"), "{complaint}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");

    // Without the flag the input may close; a signal ends it.
    let (mut child, url, _output) = program(&[]);
    drop(child.stdin.take());
    assert!(send(&url, ask("p").to_string()).await.unwrap().status().is_success());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_program_rejects_invalid_options() {
    let refused = |flags: &[&str], word: &str| {
        let (code, _, complaint) = run(&mut lnsp(&[&["simulate-llm"], flags].concat()));
        assert!(code == Some(2) && complaint.contains(word), "{flags:?}: {complaint}");
    };
    refused(&["--latency", "fast"], "887ms~0.2");
    refused(&["--fault", "fire"], "half-json");
    refused(&["--fault", "cut", "--fault-every", "0"], "0");
    refused(&["--slots", "0"], "0");
    refused(&["--fault-every", "2"], "--fault");
    refused(&["--fault-shares", "hang=2"], "hang=0.02");
    refused(&["--fault-shares", "hang=0.1", "--fault", "cut"], "--fault");
    refused(&["--api", "soap"], "json-object");
}
