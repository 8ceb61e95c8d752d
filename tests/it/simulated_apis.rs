//! The other faces of the simulated language model server, over TCP: the OpenAI-compatible API as different servers
//! have it, keys, thinking models, and shares of faults.

use crate::simulated_llm::{DOMAINS, ask, ms, post, read, send, start, with};
use crate::support::test_service::client;
use lnsp_ingest::simulated_llm::{
    CallCounts, Fault, FaultShare, Options, ServerApi, SimulatedKey, SimulatedLlm, ThinkingModel,
};
use serde_json::{Value, json};

fn api(api: ServerApi) -> Options {
    Options { api, latency: ms(0), ..Options::default() }
}

/// `POST path` with a JSON body, and a key if there is one.
async fn post_to(llm: &SimulatedLlm, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
    let mut request = client().post(format!("{}{path}", llm.url())).body(body.to_string());
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn chat(prompt: &str, format: Value) -> Value {
    json!({
        "model": "llama3.1:8b", "max_tokens": 160, "temperature": 0, "logprobs": true, "response_format": format,
        "messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": prompt}],
    })
}

fn schema_format(prompt: &str) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "labels", "strict": true, "schema": ask(prompt)["format"]}})
}

fn object_format(prompt: &str) -> Value {
    json!({"type": "json_object", "schema": ask(prompt)["format"]})
}

const CHAT: &str = "/v1/chat/completions";

#[actix_web::test]
async fn both_apis_of_ollama_give_the_same_answer() {
    let llm = start(10, ms(0));
    let (_, native) = post(&llm, &ask("Honey never spoils.")).await;
    let body = chat("Honey never spoils.", schema_format("Honey never spoils."));
    let (status, answer) = post_to(&llm, CHAT, None, &body).await;
    let choice = &answer["choices"][0];
    assert_eq!((status, &choice["message"]["content"]), (200, &native["response"]));
    assert_eq!((&choice["finish_reason"], &answer["object"]), (&json!("stop"), &json!("chat.completion")));
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let said: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(json!(said), native["response"]);
    assert_eq!(answer["usage"]["completion_tokens"], tokens.len());
    assert_eq!(llm.last_request(), body);

    let (_, models) = post_models(&llm).await;
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("llama3.1:8b")));
    let (status, error) = post_to(&llm, CHAT, None, &with(body.clone(), "model", json!("mistral"))).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    let streamed =
        client().post(format!("{}{CHAT}", llm.url())).body(with(body, "stream", json!(true)).to_string());
    let events = streamed.send().await.unwrap().text().await.unwrap();
    assert!(events.ends_with("data: [DONE]\n\n") && events.starts_with("data: {"), "{events}");
    let counts =
        CallCounts { generate: 3, chats: 2, answered: 3, most_in_flight: 1, ..CallCounts::default() };
    assert_eq!(llm.counts(), counts);
}

async fn post_models(llm: &SimulatedLlm) -> (u16, Value) {
    let response = client().get(format!("{}/v1/models", llm.url())).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[actix_web::test]
async fn each_server_enforces_the_forms_that_it_knows() {
    let within = |answer: &Value| {
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        serde_json::from_str::<Value>(text)
            .is_ok_and(|named| DOMAINS.iter().any(|name| named["domain"] == *name))
    };
    for (server, schema, object) in [
        (ServerApi::Ollama, (200, true), (200, false)),
        (ServerApi::JsonSchema, (200, true), (200, false)),
        (ServerApi::JsonObject, (500, false), (200, true)),
        (ServerApi::Text, (200, false), (200, false)),
        (ServerApi::TextStrict, (400, false), (400, false)),
    ] {
        let llm = SimulatedLlm::start(api(server)).unwrap();
        for (format, expected) in [(schema_format("p"), schema), (object_format("p"), object)] {
            let (status, answer) = post_to(&llm, CHAT, None, &chat("p", format)).await;
            assert_eq!((status, status == 200 && within(&answer)), expected, "{server:?}: {answer}");
        }
        let mut told = chat("p", Value::Null);
        told["messages"][0]["content"] =
            json!("Reply with {\"domain\": \"...\"}.\ndomain - the field: science, law, sports.");
        assert!(within(&post_to(&llm, CHAT, None, &told).await.1), "{server:?} keeps to its instructions");
        let native = send(llm.url(), ask("p").to_string()).await.unwrap().status();
        assert_eq!(native.as_u16(), if server == ServerApi::Ollama { 200 } else { 404 });
        let malformed =
            client().post(format!("{}{CHAT}", llm.url())).body("{").send().await.unwrap().status();
        assert_eq!(malformed.as_u16(), if server == ServerApi::JsonObject { 500 } else { 400 });
    }
}

#[actix_web::test]
async fn without_the_key_no_call_is_answered() {
    let key = Some(SimulatedKey("secret".to_owned()));
    let llm = SimulatedLlm::start(Options { api_key: key.clone(), ..api(ServerApi::Ollama) }).unwrap();
    let body = chat("p", Value::Null);
    let (status, error) = post_to(&llm, CHAT, None, &body).await;
    assert_eq!((status, &error["error"]["code"]), (401, &json!("invalid_api_key")));
    let (status, error) = post_to(&llm, "/api/generate", Some("guess"), &ask("p")).await;
    assert!(status == 401 && error["error"].is_string());
    assert_eq!(post_models(&llm).await.0, 401);
    assert_eq!(llm.counts(), CallCounts { unauthorized: 3, ..CallCounts::default() });
    assert_eq!(post_to(&llm, CHAT, Some("secret"), &body).await.0, 200);
    assert!(!format!("{key:?}").contains("secret"));
}

#[actix_web::test]
async fn a_thinking_model_says_so_and_has_to_be_told() {
    let options = |thinking| Options { thinking, capabilities_in_tags: false, ..api(ServerApi::Ollama) };
    let llm = SimulatedLlm::start(options(ThinkingModel::Obedient)).unwrap();
    let (_, shown) = post_to(&llm, "/api/show", None, &json!({"model": "llama3.1:8b"})).await;
    assert_eq!(shown["capabilities"], json!(["completion", "thinking"]));
    assert_eq!(post_to(&llm, "/api/show", None, &json!({"model": "x"})).await.0, 404);
    let tags = client().get(format!("{}/api/tags", llm.url())).send().await.unwrap();
    assert!(tags.json::<Value>().await.unwrap()["models"][0]["capabilities"].is_null());
    let (_, untold) = post(&llm, &ask("p")).await;
    assert!(untold["response"] == "" && read(&untold["thinking"])["domain"].is_string(), "{untold}");
    let (_, told) = post(&llm, &with(ask("p"), "think", json!(false))).await;
    assert!(read(&told["response"])["domain"].is_string() && told["thinking"].is_null(), "{told}");
    let body = with(chat("p", schema_format("p")), "reasoning_effort", json!("none"));
    let (_, told) = post_to(&llm, CHAT, None, &body).await;
    assert!(read(&told["choices"][0]["message"]["content"])["domain"].is_string(), "{told}");

    let llm = SimulatedLlm::start(options(ThinkingModel::AnswersInThoughts)).unwrap();
    let (_, told) = post(&llm, &with(ask("p"), "think", json!(false))).await;
    assert!(told["response"] == "" && read(&told["thinking"])["domain"].is_string(), "{told}");
    let (_, told) = post_to(&llm, CHAT, None, &body).await;
    assert!(read(&told["choices"][0]["message"]["reasoning"])["domain"].is_string(), "{told}");

    let llm = start(1, ms(0));
    assert_eq!(post(&llm, &with(ask("p"), "think", json!(true))).await.0, 400);
}

#[actix_web::test]
async fn shares_of_faults_are_the_same_in_each_run() {
    let run = async || {
        let llm = SimulatedLlm::start(Options { seed: 7, ..api(ServerApi::JsonSchema) }).unwrap();
        let share = |fault| FaultShare { fault, share: 0.25 };
        llm.set_fault_shares(&[share(Fault::Error500), share(Fault::Limited429)]);
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(post_to(&llm, CHAT, None, &chat("p", schema_format("p"))).await.0);
        }
        assert_eq!(llm.counts().faulty, statuses.iter().filter(|status| **status != 200).count() as u64);
        statuses
    };
    let first = run().await;
    assert!([200, 429, 500].iter().all(|status| first.contains(status)), "{first:?}");
    assert_eq!(first, run().await);
}
