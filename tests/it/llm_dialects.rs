//! The ways to ask servers of language models: what each speaks is found out, remembered, and found out again when the
//! server changes. Keys, TLS, models that think, answers in other forms.

use crate::support::process::{Service, lnsp};
use crate::support::scripted_http::{Asked, ScriptedHttp};
use crate::support::test_service::client;
use lnsp_ingest::endpoint::ApiKey;
use lnsp_ingest::llm::{
    AnswerForm, Dialect, Llm, LlmAnswer, LlmError, LlmSettings, ServerInfo, Thinking, Wanted,
};
use lnsp_ingest::simulated_llm::{Fault, Options, ServerApi, SimulatedKey, SimulatedLlm, ThinkingModel};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const TEXT: &str = "Honey never spoils, because it has hardly any water.";

fn simulated(options: Options) -> SimulatedLlm {
    SimulatedLlm::start(Options { latency: "1ms".parse().unwrap(), ..options }).unwrap()
}

fn settings(url: &str) -> LlmSettings {
    LlmSettings {
        endpoint: url.parse().unwrap(),
        model: "llama3.1:8b".to_owned(),
        calls: 4,
        timeout: Duration::from_secs(20),
        cpesh_timeout: Duration::from_secs(20),
        dialect: None,
        answer: AnswerForm::Names,
        api_key: None,
    }
}

/// What the handshake with one server finds.
async fn probe(settings: LlmSettings) -> (Llm, Result<Arc<ServerInfo>, LlmError>) {
    let llm = Llm::new(&[settings]).unwrap();
    let (_, answer) = llm.probe().await.pop().unwrap();
    (llm, answer)
}

async fn asked(settings: LlmSettings, wanted: Wanted) -> (Arc<ServerInfo>, LlmAnswer) {
    let (llm, info) = probe(settings).await;
    (info.unwrap(), llm.classify(TEXT, wanted).await.unwrap())
}

const FACES: [(ServerApi, Dialect, &str); 5] = [
    (ServerApi::Ollama, Dialect::Ollama, "Ollama 0"),
    (ServerApi::JsonSchema, Dialect::JsonSchema, "a server with OpenAI's API (json_schema)"),
    (ServerApi::JsonObject, Dialect::JsonObject, "a server with OpenAI's API (json_object)"),
    (ServerApi::Text, Dialect::JsonSchema, "a server with OpenAI's API (json_schema)"),
    (ServerApi::TextStrict, Dialect::Text, "a server with OpenAI's API (text)"),
];

#[actix_web::test]
async fn each_server_is_asked_in_the_first_dialect_that_gives_an_answer() {
    for (api, dialect, shown) in FACES {
        let server = simulated(Options { api, ..Options::default() });
        for answer in [AnswerForm::Names, AnswerForm::Short] {
            // The simulated server understands examples in prompts that are JSON, and numbers in general are none.
            if answer == AnswerForm::Short && matches!(api, ServerApi::Text | ServerApi::TextStrict) {
                continue;
            }
            for wanted in [Wanted::Codes, Wanted::CodesAndCpesh] {
                // As users of OpenAI's API write an address.
                let settings = LlmSettings { answer, ..settings(&format!("{}/v1", server.url())) };
                let (info, answered) = asked(settings, wanted).await;
                assert_eq!(info.dialect, dialect, "{api:?} {answer} {wanted:?}");
                assert!(info.to_string().starts_with(shown), "{info}");
                assert_eq!(info.digest.is_some(), api == ServerApi::Ollama);
                assert!(answered.confidence.is_some(), "{api:?} {answer} {wanted:?}");
                match wanted {
                    Wanted::Codes => assert_eq!(answered.cpesh, None),
                    Wanted::CodesAndCpesh => {
                        let cpesh = answered.cpesh.unwrap().unwrap();
                        assert!(cpesh.concept_text.is_some() && cpesh.probe_question.is_some());
                        assert_eq!((cpesh.soft_negatives.len(), cpesh.hard_negatives.len()), (3, 3));
                    }
                }
            }
        }
        let before = server.counts().generate;
        let (llm, _) = probe(settings(server.url())).await;
        let probes = server.counts().generate - before;
        for n in 0..10 {
            llm.classify(&format!("{TEXT} {n}"), Wanted::Codes).await.unwrap();
        }
        assert_eq!(server.counts().generate - before, probes + 10, "the dialect is remembered");
    }
}

#[actix_web::test]
async fn a_dialect_can_be_fixed() {
    let server = simulated(Options::default());
    for dialect in Dialect::ALL {
        let settings = LlmSettings { dialect: Some(dialect), ..settings(server.url()) };
        assert_eq!(asked(settings, Wanted::Codes).await.0.dialect, dialect);
    }
    assert_eq!(server.counts().chats, 6);
}

#[actix_web::test]
async fn the_names_of_models_are_compared_as_the_server_does() {
    let models = || vec!["llama3.1:8b".to_owned(), "tinyllama:latest".to_owned()];
    let server = simulated(Options { models: models(), ..Options::default() });
    for name in
        ["LLAMA3.1:8B", "tinyllama", "library/tinyllama", "registry.ollama.ai/library/TinyLlama:latest"]
    {
        let llm = Llm::new(&[LlmSettings { model: name.to_owned(), ..settings(server.url()) }]).unwrap();
        assert!(llm.inspect().await.pop().unwrap().1.is_ok(), "{name}");
    }
    let server = simulated(Options { models: models(), api: ServerApi::JsonSchema, ..Options::default() });
    for (name, there) in [("llama3.1:8b", true), ("LLAMA3.1:8b", false), ("tinyllama", false)] {
        let llm = Llm::new(&[LlmSettings { model: name.to_owned(), ..settings(server.url()) }]).unwrap();
        let answer = llm.inspect().await.pop().unwrap().1;
        assert_eq!(answer.is_ok(), there, "{name}");
        if let Err(error) = answer {
            let sentence = error.to_string();
            let expected = format!(
                "has no model '{name}' (it has llama3.1:8b, tinyllama:latest): set LNSP_TMD_LLM_MODEL"
            );
            assert_eq!(sentence, expected);
        }
    }
}

#[actix_web::test]
async fn a_model_that_thinks_is_told_not_to() {
    let thinks = |thinking, api, capabilities_in_tags| {
        simulated(Options { thinking, api, capabilities_in_tags, ..Options::default() })
    };
    for (api, in_tags) in
        [(ServerApi::Ollama, true), (ServerApi::Ollama, false), (ServerApi::JsonSchema, true)]
    {
        let server = thinks(ThinkingModel::Obedient, api, in_tags);
        let (info, _) = asked(settings(server.url()), Wanted::Codes).await;
        assert_eq!(info.parameters.thinking, Thinking::TurnedOff, "{api:?}");
        assert_eq!(
            server.last_request()["think"],
            if api == ServerApi::Ollama { json!(false) } else { Value::Null }
        );

        let server = thinks(ThinkingModel::IgnoresFalse, api, in_tags);
        let (info, _) = asked(settings(server.url()), Wanted::Codes).await;
        assert_eq!(info.parameters.thinking, Thinking::Always, "{api:?}");
        assert!(info.to_string().ends_with("thinking: always"), "{info}");

        let server = thinks(ThinkingModel::AnswersInThoughts, api, in_tags);
        let (_, answer) = probe(settings(server.url())).await;
        let error = answer.unwrap_err();
        let sentence = error.to_string();
        assert!(sentence.contains("thinks and gives no answer"), "{sentence}");
        assert!(sentence.contains("set LNSP_TMD_LLM_MODEL to"), "{sentence}");
        let kind = if api == ServerApi::Ollama { "thinking_only" } else { "no_dialect" };
        assert_eq!(error.kind(), kind);
    }
}

#[actix_web::test]
async fn an_answer_is_read_in_a_fence_after_thoughts_and_in_prose() {
    for (api, _, _) in FACES {
        let server = simulated(Options { api, ..Options::default() });
        let (llm, _) = probe(settings(server.url())).await;
        let plain = llm.classify(TEXT, Wanted::Codes).await.unwrap();
        for fault in [Fault::Fence, Fault::ThinkTag, Fault::InProse] {
            server.set_fault(Some((fault, 1)));
            let calls = server.counts().generate;
            let dressed = llm.classify(TEXT, Wanted::Codes).await.unwrap();
            assert_eq!((dressed.tmd, server.counts().generate - calls), (plain.tmd, 1), "{api:?} {fault}");
            assert!(dressed.confidence.is_some(), "{api:?} {fault}");
        }
        server.set_fault(Some((Fault::Thinking, 1)));
        let error = llm.classify(TEXT, Wanted::Codes).await.unwrap_err();
        assert_eq!(error.kind(), "thinking_only", "{error}");
    }
}

#[actix_web::test]
async fn without_the_key_that_it_wants_a_server_is_left_out_with_a_sentence() {
    for api in [ServerApi::Ollama, ServerApi::JsonSchema] {
        let key = SimulatedKey("sk-right".to_owned());
        let server = simulated(Options { api, api_key: Some(key), ..Options::default() });
        let with = |key: &str| {
            let api_key = Some(key.parse::<ApiKey>().unwrap());
            LlmSettings { api_key, ..settings(server.url()) }
        };
        for wrong in [settings(server.url()), with("sk-wrong")] {
            let error = probe(wrong).await.1.unwrap_err();
            assert_eq!(error.kind(), "unauthorized");
            let sentence = error.to_string();
            assert!(sentence.contains("401") && sentence.contains("LNSP_LLM_API_KEY"), "{sentence}");
            assert!(!sentence.contains("sk-"), "{sentence}");
        }
        let right = with("sk-right");
        assert!(!format!("{right:?}").contains("sk-"), "{right:?}");
        asked(right, Wanted::Codes).await;
    }
}

#[test]
fn the_key_is_shown_nowhere() {
    let server =
        simulated(Options { api_key: Some(SimulatedKey("sk-right".to_owned())), ..Options::default() });
    let data = crate::support::postgres::DataFolder::new();
    let flags = ["--tmd-backend", "llm", "--llm-endpoint", server.url()];
    let base = ["serve", "--port", "0", "--dtype", "f32", "--data-dir", data.path().to_str().unwrap()];
    let mut command = lnsp(&[&base[..], &flags].concat());
    command.env("LNSP_LLM_API_KEY", "sk-right").env("RUST_LOG", "trace,h2=off");
    let service = Service::start_as(command);
    assert!(service.log.contains("✅ LLM ready"), "{}", service.log);
    assert_eq!(server.counts().unauthorized, 0);
    let (log, url) = (service.log.clone(), service.url.clone());
    let health =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            client().get(format!("{url}/health")).send().await.unwrap().text().await.unwrap()
        });
    let (_, complaints) = service.end();
    for text in [log, health, complaints] {
        assert!(!text.contains("sk-right"), "{text}");
    }
    // A key that cannot be sent is not repeated either.
    let mut command = lnsp(&["serve", "--port", "0", "--data-dir", data.path().to_str().unwrap()]);
    let (code, out, said) = crate::support::process::run(command.env("LNSP_LLM_API_KEY", "sk secret"));
    assert!(code != Some(0) && said.contains("LNSP_LLM_API_KEY"), "{out}{said}");
    assert!(!said.contains("secret") && !out.contains("secret"), "{out}{said}");
}

/// A server with OpenAI's API that answers every question in the same way, after `refuse` has had a look.
fn chat_server(
    refuse: impl Fn(&Value) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static {
    let answer =
        json!({"domain": "Medicine", "task": "Causal Inference", "modifier": "Role-based"}).to_string();
    move |asked| match asked.path.as_str() {
        "/v1/models" => (200, json!({"object": "list", "data": [{"id": "llama3.1:8b"}]})),
        "/v1/chat/completions" => refuse(&asked.body).unwrap_or_else(|| {
            let message = json!({"role": "assistant", "content": answer});
            (200, json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
        }),
        _ => (404, json!({"detail": "Not Found"})),
    }
}

#[actix_web::test]
async fn a_parameter_that_a_server_refuses_is_left_out() {
    // As OpenAI's reasoning models and others refuse.
    let refuse = |body: &Value| {
        let refusal =
            |said: &str| Some((400, json!({"error": {"message": said, "type": "invalid_request_error"}})));
        if body.get("logprobs").is_some() {
            return refusal("You are not allowed to request logprobs from this model");
        }
        if body.get("max_tokens").is_some() {
            return refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.");
        }
        body.get("temperature").and_then(|_| refusal("Unsupported value: 'temperature' does not support 0"))
    };
    let server = ScriptedHttp::start(chat_server(refuse));
    let (info, answer) = asked(settings(&server.url()), Wanted::Codes).await;
    assert_eq!((info.dialect, answer.tmd.to_string().as_str()), (Dialect::JsonSchema, "4.3.59"));
    let last = server.asked().pop().unwrap().body;
    assert_eq!((last.get("logprobs"), last.get("temperature"), last.get("max_tokens")), (None, None, None));
    assert_eq!((&last["max_completion_tokens"], &last["seed"]), (&json!(160), &json!(1)));
    assert_eq!(last["response_format"]["json_schema"]["strict"], true);
}

#[actix_web::test]
async fn errors_of_every_server_become_the_same_errors() {
    let cases = [
        (429, json!({"error": {"message": "Rate limit reached"}}), "http_429"),
        (400, json!({"error": {"message": "too long", "code": "context_length_exceeded"}}), "context"),
        (400, json!({"error": {"message": "the request exceeds the available context size"}}), "context"),
        (404, json!({"error": {"message": "The model `x` does not exist"}}), "no_model"),
        (403, json!({"detail": "Forbidden"}), "unauthorized"),
        (503, json!({"error": {"message": "Loading model", "code": 503}}), "http_5xx"),
        (200, json!({"error": {"message": "upstream failed"}}), "foreign"),
    ];
    let at = Arc::new(AtomicUsize::new(usize::MAX));
    let (now, answers) = (at.clone(), cases.clone());
    let refuse = move |_: &Value| {
        let (status, body, _) = answers.get(now.load(Ordering::SeqCst))?;
        Some((*status, body.clone()))
    };
    let server = ScriptedHttp::start(chat_server(refuse));
    for (case, (status, body, kind)) in cases.iter().enumerate() {
        at.store(usize::MAX, Ordering::SeqCst);
        let (llm, info) = probe(settings(&server.url())).await;
        info.unwrap();
        at.store(case, Ordering::SeqCst);
        let error = llm.classify(TEXT, Wanted::Codes).await.unwrap_err();
        assert_eq!(error.kind(), *kind, "{status} {body}: {error}");
    }
}

#[actix_web::test]
async fn a_server_that_becomes_another_one_is_asked_in_its_dialect() {
    let first = simulated(Options::default());
    let port = first.url().rsplit(':').next().unwrap().parse().unwrap();
    let (llm, info) = probe(settings(first.url())).await;
    assert_eq!(info.unwrap().dialect, Dialect::Ollama);
    first.stop();
    let second = simulated(Options { port, api: ServerApi::JsonSchema, ..Options::default() });
    let mut failed = 0;
    while llm.classify(TEXT, Wanted::Codes).await.is_err() {
        failed += 1;
        assert!(failed < 10, "it is still asked in the dialect of the first one");
    }
    assert!(second.counts().chats >= 2, "a handshake and the call");
    assert_eq!(llm.servers()[0].info.as_ref().unwrap().dialect, Dialect::JsonSchema);
}

#[test]
fn a_server_behind_tls_needs_a_certificate_of_a_known_authority() {
    let (server, certificate) = ScriptedHttp::start_tls(chat_server(|_| None));
    let data = crate::support::postgres::DataFolder::new();
    let authority = data.path().join("authority.pem");
    std::fs::write(&authority, certificate).unwrap();
    let endpoint = format!("https://localhost:{}/v1", server.port);
    let flags = ["--tmd-backend", "llm", "--llm-endpoint", &endpoint];
    let base = ["serve", "--port", "0", "--dtype", "f32", "--data-dir", data.path().to_str().unwrap()];
    let start = |authority: Option<&std::path::Path>| {
        let mut command = lnsp(&[&base[..], &flags].concat());
        command.env("LNSP_LLM_API_KEY", "sk-right").env_remove("SSL_CERT_FILE");
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", authority);
        }
        Service::start_as(command)
    };
    let service = start(None);
    assert!(service.log.contains("has a certificate that is not trusted"), "{}", service.log);
    assert!(service.log.contains("SSL_CERT_FILE"), "{}", service.log);
    assert!(service.terminate().success());
    assert!(server.asked().is_empty(), "nothing was sent, the key least of all");

    let service = start(Some(&authority));
    let ready = "✅ LLM ready: llama3.1:8b on a server with OpenAI's API (json_schema)";
    assert!(service.log.contains(ready), "{}", service.log);
    assert!(service.terminate().success());
    assert!(server.asked().iter().all(|asked| asked.authorization.as_deref() == Some("Bearer sk-right")));
}
