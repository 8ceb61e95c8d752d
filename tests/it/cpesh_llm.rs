//! CPESH parts that a language model extracts: in the call that gives the codes, never invented when it fails.

use crate::support::gated_encoder::GatedEncoder;
use crate::support::test_service::{Scripted, TestService, overrides, tally};
use lnsp_ingest::app::Overrides;
use lnsp_ingest::simulated_llm::{Fault, Options, SimulatedLlm};
use serde_json::{Value, json};

const TEXT: &str = "Chlorophyll in the leaves of plants takes up light, and sugar is made of water and air with it. \
                    The oxygen that is left over goes into the air.";

/// The columns of a whole extraction by the model.
const WHOLE: &str = "source = 'llm' AND model = 'llama3.1:8b' AND took_us > 0 AND failure IS NULL AND concept_text <> '' \
                     AND probe_question <> '' AND expected_answer <> '' AND cardinality(soft_negatives) = 3 AND \
                     cardinality(hard_negatives) = 3";

fn quick() -> SimulatedLlm {
    SimulatedLlm::start(Options { slots: 64, latency: "3ms".parse().unwrap(), ..Options::default() }).unwrap()
}

async fn build(llm: &str, backend: &str, flags: &[&str], overrides: Overrides) -> TestService {
    let base = ["--tmd-backend", backend, "--llm-endpoint", llm, "--enable-cpesh", "true"];
    TestService::build(overrides, &[&base[..], flags].concat()).await
}

async fn service(llm: &SimulatedLlm) -> TestService {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    build(llm.url(), "llm", &[], overrides).await
}

async fn send(service: &TestService, options: Value, chunk: Value) -> Value {
    let mut body = json!({ "chunks": [chunk], "dataset_source": "d" });
    for (name, value) in options.as_object().unwrap() {
        body[name] = value.clone();
    }
    let (_, answer) = service.post("/ingest", body.to_string()).await;
    answer["results"][0].clone()
}

async fn count(service: &TestService, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM chunks LEFT JOIN chunk_cpesh USING (item) WHERE {condition}");
    service.database.number(&sql).await
}

/// A text of the CPESH row of a chunk.
async fn part(service: &TestService, id: &str, column: &str) -> String {
    let sql = format!("SELECT {column} FROM chunk_cpesh JOIN chunks USING (item) WHERE id = '{id}'");
    service.database.texts(&sql).await.remove(0)
}

/// The best result of a search.
async fn best(service: &TestService, query: &str, search_in: &str) -> Value {
    let body = json!({"query": query, "search_in": search_in, "top_k": 1}).to_string();
    service.post("/search", body).await.1["results"][0].clone()
}

#[actix_web::test]
async fn one_call_gives_codes_and_parts_and_both_of_their_texts_are_found() {
    let llm = quick();
    let service = service(&llm).await;
    let probes = llm.counts().generate;
    let result = send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
    assert_eq!(result["status"], "stored", "{result}");
    assert_eq!((result["tmd_source"].as_str(), llm.counts().generate), (Some("llm"), probes + 1));
    assert_eq!(
        (&result["backends"]["cpesh"], &result["cpesh_source"]),
        (&json!("llm:llama3.1:8b"), &json!("llm"))
    );
    assert!(result["timings_ms"]["cpesh_ms"].as_f64().unwrap() > 0.0, "{result}");
    assert_eq!(count(&service, WHOLE).await, 1);

    // The answer, the row and the old tables say the same.
    let (concept, probe) =
        (part(&service, "leaf", "concept_text").await, part(&service, "leaf", "probe_question").await);
    assert_eq!(result["concept_text"], concept.as_str());
    let entry = service.database.texts("SELECT to_jsonb(e) FROM cpe_entry e").await.remove(0);
    let entry: Value = serde_json::from_str(&entry).unwrap();
    assert_eq!((&entry["concept_text"], &entry["probe_question"]), (&json!(concept), &json!(probe)));
    assert_eq!(entry["soft_negatives"].as_array().map(Vec::len), Some(3));
    assert_eq!(result["quality_metrics"]["cpesh_completeness"], 1.0);
    for (name, value) in result["quality_metrics"].as_object().unwrap() {
        assert_eq!(entry["quality_metrics"][name].as_f64(), value.as_f64(), "{name}");
    }
    let scores =
        [&result["confidence_score"], &entry["confidence_score"]].map(|score| score.as_f64().unwrap());
    assert!((scores[0] - scores[1]).abs() < 1e-6 && scores[0] > 0.7, "{scores:?}");

    // The concept is what is embedded, and the question has its own vector.
    for (query, search_in) in [(&concept, "concept"), (&probe, "question")] {
        let found = best(&service, query, search_in).await;
        assert!(found["score"].as_f64().unwrap() > 0.999, "{search_in}: {found}");
        assert_eq!((&found["matched"], &found["probe_question"]), (&json!(search_in), &json!(probe)));
    }
    assert_eq!(service.stored().await, 1);
    let views = "SELECT count(*) FROM cpe_vectors WHERE question_vec <> concept_vec";
    assert_eq!(service.database.number(views).await, 1);

    // A repetition costs no call, and is answered with what is stored.
    let again = send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
    assert_eq!((&again["status"], &again["concept_text"]), (&json!("duplicate"), &json!(concept)));
    for field in ["confidence_score", "quality_metrics", "backends", "cpesh_source"] {
        assert_eq!(again[field], result[field], "{field}");
    }
    assert_eq!(llm.counts().generate, probes + 1);
    service.stop().await;
}

#[actix_web::test]
async fn what_the_client_gives_or_declines_is_not_extracted() {
    let llm = quick();
    let service = service(&llm).await;
    let probes = llm.counts().generate;
    let text = |id: &str| format!("{TEXT} This is the chunk {id}.");
    // Its codes stay; the one call is for the parts.
    let coded = json!({"id": "coded", "text": TEXT, "domain_code": 3, "task_code": 4, "modifier_code": 5});
    let result = send(&service, json!({}), coded).await;
    assert_eq!(result["tmd_codes"], json!({"domain": 3, "task": 4, "modifier": 5}));
    assert_eq!(
        (&result["tmd_source"], &result["cpesh_source"]),
        (&json!("client"), &json!("llm")),
        "{result}"
    );
    // Its parts stay; the one call is for the codes.
    let parts = json!({"id": "parts", "text": TEXT, "probe_question": "What is made of water and air?"});
    let result = send(&service, json!({}), parts).await;
    assert_eq!(
        (&result["tmd_source"], &result["cpesh_source"]),
        (&json!("llm"), &json!("client")),
        "{result}"
    );
    // Nothing is extracted where the request says so, in a field or in a parameter.
    let result =
        send(&service, json!({"skip_cpesh": true}), json!({"id": "skipped", "text": text("skipped")})).await;
    assert_eq!(
        (&result["backends"]["cpesh"], result.get("cpesh_source")),
        (&json!("disabled"), None),
        "{result}"
    );
    assert_eq!(result["concept_text"], text("skipped"));
    let line = json!({"id": "line", "text": text("line")}).to_string();
    let (status, _) =
        service.post_as("/ingest?dataset_source=d&skip_cpesh=true", "application/x-ndjson", line).await;
    assert_eq!((status, llm.counts().generate), (200, probes + 4), "one call each");
    assert_eq!(count(&service, "id IN ('skipped', 'line') AND source IS NULL").await, 2);
    // Codes and parts: no call.
    let whole = json!({"id": "both", "text": TEXT, "concept_text": "Plants make sugar.", "domain_code": 0,
                       "task_code": 0, "modifier_code": 0});
    assert_eq!(send(&service, json!({}), whole).await["status"], "stored");
    assert_eq!(llm.counts().generate, probes + 4);
    service.stop().await;
}

#[actix_web::test]
async fn a_failed_extraction_leaves_no_parts_says_so_and_scores_low() {
    for fault in [Fault::HalfJson, Fault::WrongName, Fault::Echo, Fault::Error500] {
        let llm = quick();
        let service = service(&llm).await;
        llm.set_fault(Some((fault, 1)));
        let result = send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
        assert_eq!(
            (&result["status"], &result["concept_text"]),
            (&json!("stored"), &json!(TEXT)),
            "{result}"
        );
        let reason = part(&service, "leaf", "failure").await;
        assert_eq!(result["cpesh_failure"], reason.as_str());
        assert_eq!(result["backends"]["cpesh"], format!("none (llm:llama3.1:8b: {reason})"));
        assert_eq!(result["tmd_source"], "fallback");
        let score = result["confidence_score"].as_f64().unwrap();
        assert!((score - 0.09).abs() < 1e-9, "{fault:?}: {score}");
        let entry =
            "SELECT round(confidence_score::numeric, 6) FROM cpe_entry WHERE concept_text = source_chunk";
        assert_eq!(service.database.texts(entry).await, ["0.090000"]);
        let marked = "source = 'llm' AND model IS NOT NULL AND failure <> '' AND concept_text IS NULL AND \
                      soft_negatives = '{}'";
        assert_eq!(count(&service, marked).await, 1, "{fault:?}");
        assert_eq!((service.stored().await, service.state.questions.len()), (1, 0));

        // Once it answers, the same chunk in its place gets parts of another text only.
        llm.set_fault(None);
        service.stop().await;
    }
}

#[actix_web::test]
async fn another_text_is_extracted_again_and_the_same_one_keeps_its_parts() {
    let llm = quick();
    let gate = GatedEncoder::default();
    let overrides = Overrides { encoder: Some(gate.factory()), ..overrides() };
    let service = build(llm.url(), "llm", &[], overrides).await;
    let replace = json!({"on_conflict": "replace"});
    send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
    let (concept, texts, calls) =
        (part(&service, "leaf", "concept_text").await, gate.texts(), llm.counts().generate);
    assert_eq!(texts, 2, "concept and question");

    let labelled = json!({"id": "leaf", "text": TEXT, "metadata": {"k": 1}});
    let result = send(&service, replace.clone(), labelled).await;
    assert_eq!(
        (&result["status"], &result["concept_text"]),
        (&json!("replaced"), &json!(concept)),
        "{result}"
    );
    assert_eq!((gate.texts(), llm.counts().generate), (texts, calls), "nothing is computed again");
    assert_eq!(count(&service, WHOLE).await, 1);
    assert_eq!(service.stored().await, 1);

    let result =
        send(&service, replace.clone(), json!({"id": "leaf", "text": "The moon moves the sea."})).await;
    assert_eq!((&result["status"], llm.counts().generate), (&json!("replaced"), calls + 1), "{result}");
    assert_ne!(part(&service, "leaf", "concept_text").await, concept);
    assert_eq!(
        best(&service, &part(&service, "leaf", "probe_question").await, "question").await["id"],
        "leaf"
    );

    // With parts of the client, those of the model go, and so does what was embedded of them.
    let own = json!({"id": "leaf", "text": "The moon moves the sea.", "expected_answer": "The moon"});
    assert_eq!(send(&service, replace, own).await["status"], "replaced");
    assert_eq!(count(&service, "source = 'client' AND concept_text IS NULL AND model IS NULL").await, 1);
    let found = best(&service, "The moon moves the sea.", "concept").await;
    assert!(found["score"].as_f64().unwrap() > 0.999, "{found}");
    assert_eq!((service.stored().await, service.state.questions.len()), (1, 0));
    service.stop().await;
}

#[actix_web::test]
async fn many_chunks_are_one_call_each_and_none_of_their_parts_is_mixed_up() {
    let llm = quick();
    let service = service(&llm).await;
    let lines: String = (0..200)
        .map(|n| {
            json!({"id": format!("n{n}"), "text": format!("This is fact number {n}.")}).to_string() + "\n"
        })
        .collect();
    let probes = llm.counts().generate;
    let answer = service.stream(lines).await;
    assert_eq!(tally(&answer), (200, 0, 0));
    assert!(answer[..200].iter().all(|line| line["cpesh_source"] == "llm"));
    assert_eq!(
        (llm.counts().generate - probes, count(&service, WHOLE).await, service.stored().await),
        (200, 200, 200)
    );
    for n in (0..200).step_by(23) {
        let id = format!("n{n}");
        for (column, search_in) in [("concept_text", "concept"), ("probe_question", "question")] {
            let found = best(&service, &part(&service, &id, column).await, search_in).await;
            assert_eq!((found["id"].as_str(), &found["matched"]), (Some(id.as_str()), &json!(search_in)));
        }
    }
    service.stop().await;
}

#[actix_web::test]
async fn the_local_classifier_can_give_the_codes_beside_a_model_that_extracts() {
    let llm = quick();
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = build(llm.url(), "local", &[], overrides).await;
    let probes = llm.counts().generate;
    let result = send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
    assert_eq!(
        (&result["tmd_source"], &result["cpesh_source"]),
        (&json!("local"), &json!("llm")),
        "{result}"
    );
    assert_eq!(llm.counts().generate, probes + 1);
    service.stop().await;
}

#[actix_web::test]
async fn without_a_model_at_the_start_nothing_is_marked_as_failed() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let service = build("http://127.0.0.1:9", "auto", &[], overrides).await;
    let result = send(&service, json!({}), json!({"id": "leaf", "text": TEXT})).await;
    assert_eq!(
        (&result["tmd_source"], &result["backends"]["cpesh"]),
        (&json!("local"), &json!("none")),
        "{result}"
    );
    assert_eq!(count(&service, "source IS NULL").await, 1);
    service.stop().await;
}

#[actix_web::test]
async fn what_a_model_extracted_is_exported_and_restored_as_what_it_is() {
    let llm = quick();
    let first = service(&llm).await;
    let sent = json!({"id": "leaf", "text": TEXT, "metadata": {"k": 1}});
    send(&first, json!({}), sent.clone()).await;
    llm.set_fault(Some((Fault::WrongName, 1)));
    send(&first, json!({}), json!({"id": "sea", "text": "The moon moves the sea."})).await;
    let export = async |service: &TestService| {
        let url = format!("{}/export?vectors=true&encoding_format=base64", service.url);
        let text =
            crate::support::test_service::client().get(url).send().await.unwrap().text().await.unwrap();
        // Without the summary.
        let (lines, summary) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(summary.contains("\"complete\":true"), "{summary}");
        lines.to_owned()
    };
    let lines = export(&first).await;
    assert_eq!(lines.lines().count(), 2);
    assert!(lines.contains("\"cpesh_source\":\"llm\"") && lines.contains("\"cpesh_failure\":"), "{lines}");

    // No language model is asked for them again, and the concept vector is not computed again.
    let gate = GatedEncoder::default();
    let overrides = Overrides { encoder: Some(gate.factory()), ..overrides() };
    llm.set_fault(None);
    let second = build(llm.url(), "llm", &[], overrides).await;
    let calls = llm.counts().generate;
    let answer = second.stream(lines.clone()).await;
    assert_eq!(tally(&answer), (2, 0, 0), "{answer:?}");
    assert_eq!((gate.texts(), llm.counts().generate), (1, calls), "the question alone is embedded");
    assert_eq!(export(&second).await, lines);
    let rows = "SELECT to_jsonb(p) - 'item' FROM chunk_cpesh p JOIN chunks USING (item) ORDER BY id";
    assert_eq!(second.database.texts(rows).await, first.database.texts(rows).await);
    let probe = part(&second, "leaf", "probe_question").await;
    assert!(best(&second, &probe, "question").await["score"].as_f64().unwrap() > 0.999);
    assert_eq!((second.stored().await, second.state.questions.len()), (2, 1));

    // What was sent at first is a repetition there too, and so is the line.
    let again = send(&second, json!({}), sent).await;
    assert_eq!((&again["status"], again.get("differs")), (&json!("duplicate"), None), "{again}");
    assert_eq!(tally(&second.stream(lines).await), (0, 2, 0));
    // A line of the view is one too.
    let line = "SELECT line || jsonb_build_object('dataset_source', dataset_source) FROM chunk_lines WHERE line ->> 'id' = 'leaf'";
    let line = second.database.texts(line).await.remove(0);
    assert_eq!(tally(&second.stream(line).await), (0, 1, 0));
    for (fields, param) in [
        (json!({"cpesh_source": "oracle"}), "cpesh_source"),
        (json!({"cpesh_source": "llm"}), "cpesh_model"),
        (json!({"cpesh_model": "m"}), "cpesh_model"),
        (
            json!({"cpesh_source": "llm", "cpesh_model": "m", "cpesh_failure": "f", "concept_text": "c"}),
            "cpesh_failure",
        ),
    ] {
        let mut chunk = json!({"text": "A text."});
        chunk.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let refused = send(&second, json!({}), chunk).await;
        assert_eq!(refused["error_detail"]["code"], "invalid_provenance", "{refused}");
        assert_eq!(refused["error_detail"]["param"], param, "{refused}");
    }
    second.stop().await;
    first.stop().await;
}
