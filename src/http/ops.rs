//! The state of the service: `/health`, `/ready`, `/stats`, `/metrics`.

use crate::error_code::ErrorCode;
use crate::http::error::ApiError;
use crate::http::servers;
use crate::http::state::State;
use crate::index::{Effort, Index};
use crate::metrics::{self, IndexGauges};
use crate::pipeline::{Bottleneck, Deaths, Stage};
use crate::router::TmdRouter;
use crate::threads::Lane;
use crate::vectorizer::Remote;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError, web};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Handles `GET /health`: always 200; the fields of the old contract, each a fact at this moment, and the pipeline.
pub async fn health(state: web::Data<State>) -> HttpResponse {
    let info = &state.info;
    let postgresql = state.store.ping().await.is_ok();
    let pipeline = state.pipeline.health();
    let (index, questions) = (state.index.status(), state.questions.status());
    let no_codes = state.no_codes().is_some();
    let server = state.vectorizer.server();
    let embeds_not = server.and_then(Remote::problem);
    let embeds = pipeline.open && embeds_not.is_none();
    let sound = postgresql && embeds && index.degraded.is_none() && questions.degraded.is_none() && !no_codes;
    HttpResponse::Ok().json(json!({
        "status": if sound { "healthy" } else { "degraded" },
        "postgresql": postgresql, "faiss": index_answers(&state).await, "gtr_t5_api": embeds,
        "tmd_router_api": codes_answer(&state).await,
        "llm_endpoint": info.llm_endpoint.as_deref().unwrap_or_default(),
        "parallel": {
            "enabled": info.parallel, "max_workers": info.max_workers, "batch_embeddings": info.batch_embeddings,
        },
        "pipeline": {
            "generation": pipeline.generation, "open": pipeline.open, "last_death": pipeline.last_death,
            "poisoned": pipeline.deaths.iter().map(|deaths| deaths.poisoned).sum::<u64>(),
            "inside": state.pipeline.entrance().inside(),
            "waiting": state.pipeline.entrance().waiting(), "slots": state.pipeline.slots(),
            "stages": stages(&state, &pipeline.deaths), "threads_at_work": threads(&state),
        },
        "tmd": {"backend": info.tmd_backend, "source": state.tmd_source()},
        "cpesh": {"enabled": info.cpesh},
        "llm": state.llm.as_ref().map(servers::of_llm),
        "router": state.router.as_ref().map(|router| router.servers().iter().map(servers::one).collect::<Vec<_>>()),
        // Fields of the old embedding service, whose `model` was a name: here it is an object.
        "encoder": info.model.name, "dimension": info.model.dims, "device": info.device,
        "embedding": {
            "server": server.map(Remote::endpoint), "problem": embeds_not,
            "servers": server.map(|remote| remote.servers().iter().map(servers::one).collect::<Vec<_>>()),
        },
        "model": {
            "name": info.model.name, "recipe": info.model.recipe, "fingerprint": info.model.fingerprint,
            "dimensions": info.model.dims,
            "device": info.device, "dtype": info.dtype, "encoders": info.encoders,
            "pass_tokens": info.pass_tokens, "devices": info.devices,
        },
        "index": {
            "items": index.items, "in_memory": index.delta_len, "applied_seq": index.applied_seq,
            "built_seq": index.built_seq, "degraded": index.degraded,
            "questions": {
                "items": questions.items, "in_memory": questions.delta_len, "applied_seq": questions.applied_seq,
                "built_seq": questions.built_seq, "degraded": questions.degraded,
            },
        },
    }))
}

/// The time in which a part of the service has to answer `GET /health`.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Whether the indexes are open and answer a search.
async fn index_answers(state: &State) -> bool {
    let mut query = vec![0.0; state.info.model.dims];
    query[0] = 1.0;
    let query: Arc<[f32]> = query.into();
    let answers = async |index: &Index| {
        let search = index.search_async(query.clone(), Arc::default(), 1, Effort::default());
        index.is_open() && matches!(timeout(ANSWERS_WITHIN, search).await, Ok(Ok(_)))
    };
    answers(&state.index).await && answers(&state.questions).await
}

/// Whether a source of codes answers: the local classifier, or the language model where no other source may give codes.
async fn codes_answer(state: &State) -> bool {
    if state.info.llm_required {
        return (state.llm.is_some() || state.router.is_some()) && state.no_codes().is_none();
    }
    let classify = state.searcher.classifier.run(Lane::Express, |classifier| classifier.classify("health"));
    matches!(timeout(ANSWERS_WITHIN, classify).await, Ok(Ok(_)))
}

/// Each stage by name: its deaths, and the age of its oldest piece of work.
fn stages(state: &State, deaths: &[Deaths]) -> Value {
    let oldest = state.pipeline.oldest_work();
    let each = Stage::ALL.iter().zip(deaths).zip(oldest).map(|((stage, deaths), oldest)| {
        let state = json!({
            "restarts": deaths.count, "last_cause": deaths.last_cause, "suspects": deaths.suspects,
            "poisoned": deaths.poisoned, "oldest_work_s": oldest.map(|oldest| oldest.age.as_secs_f64()),
            "waits_for": oldest.and_then(|oldest| oldest.waits_for),
        });
        (stage.name().to_owned(), state)
    });
    Value::Object(each.collect())
}

/// The threads that are busy, and with what.
fn threads(state: &State) -> Value {
    let at_work = state.pipeline.threads_at_work();
    at_work
        .iter()
        .map(|(who, what, age)| json!({"who": who, "what": what, "for_s": age.as_secs_f64()}))
        .collect()
}

/// Handles `GET /ready`: 200 when chunks and searches are served, else 503 with the reasons.
pub async fn ready(state: web::Data<State>) -> HttpResponse {
    let mut reasons = Vec::new();
    if state.pipeline.entrance().closed().is_cancelled() {
        reasons.push("the service is going down".to_owned());
    }
    if let Err(error) = state.store.ping().await {
        reasons.push(format!("PostgreSQL does not answer: {error}"));
    }
    let pipeline = state.pipeline.health();
    match pipeline.healing {
        Some((stage, cause)) => {
            reasons.push(format!("the pipeline is healing: the {} stage died ({cause})", stage.name()));
        }
        None if !pipeline.open => reasons.push("the pipeline is starting".to_owned()),
        None => {}
    }
    reasons.extend(state.no_codes());
    reasons.extend(state.model_switch.reason());
    reasons.extend(state.vectorizer.server().and_then(Remote::problem));
    let degraded = [&state.index, &state.questions].into_iter().filter_map(|index| index.status().degraded);
    for why in degraded {
        reasons.push(format!("search is degraded: {why}"));
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let warnings: Vec<String> =
        [&state.index, &state.questions].into_iter().filter_map(nearly_full).collect();
    HttpResponse::build(status)
        .json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "warnings": warnings }))
}

/// What is said of an index that needs a larger map soon. A build needs room for pages that it replaces, too.
fn nearly_full(index: &Index) -> Option<String> {
    let status = index.status();
    let (used, size) = (status.map_used, status.map_size as u64);
    let kind = index.identity().kind.name();
    (used >= size / 10 * 8).then(|| {
        let percent = used * 100 / size.max(1);
        format!(
            "the index of {kind} vectors takes {percent} % of its map of {} GiB: raise LNSP_INDEX_MAP_GB and restart \
             before it is full; chunks are stored all the same, but searches then fall behind",
            size >> 30
        )
    })
}

/// Handles `GET /stats`: counts since the start, and what is held.
pub async fn stats(state: web::Data<State>) -> HttpResponse {
    let tally = state.counts.tally();
    let (good, total) = (tally.successful(), tally.total());
    let rate = if total == 0 { 0.0 } else { good as f64 * 100.0 / total as f64 };
    HttpResponse::Ok().json(json!({
        "total_chunks_processed": total, "successfully_ingested": good, "failed": tally.failed, "success_rate": rate,
        "stored": tally.stored, "replaced": tally.replaced, "duplicates": tally.duplicate, "dead_letters": state.store.dead_letter_count(),
        "limited_by": state.pipeline.bottleneck().map(Bottleneck::name),
        "store": state.store.store_id(), "held": state.held.get(&state.store, &state.indexes()).await,
    }))
}

/// Handles `GET /metrics`: the text format of Prometheus.
pub async fn metrics(state: web::Data<State>) -> HttpResponse {
    metrics::arbiter_busy(state.pipeline.busy());
    metrics::dead_letters(state.store.dead_letter_count());
    for (stage, oldest) in Stage::ALL.iter().zip(state.pipeline.oldest_work()) {
        metrics::oldest_work(stage.name(), oldest.map_or(Duration::ZERO, |oldest| oldest.age));
    }
    if let Some(llm) = &state.llm {
        llm.servers().iter().for_each(|server| metrics::llm_server(&servers::gauges(&server.status)));
    }
    for server in state.router.iter().flat_map(TmdRouter::servers) {
        metrics::llm_server(&servers::gauges(&server));
    }
    for server in state.vectorizer.server().map(Remote::servers).unwrap_or_default() {
        metrics::embed_server(&servers::gauges(&server));
    }
    for index in [&state.index, &state.questions] {
        let status = index.status();
        let gauges = IndexGauges {
            applied_seq: status.applied_seq,
            lag_rows: status.delta_len,
            items: status.items,
            map_used: status.map_used,
            map_size: status.map_size as u64,
            memory: status.memory,
            builds: status.builds,
            last_build: status.last_build,
        };
        metrics::index(index.identity().kind.name(), &gauges);
    }
    match metrics::render() {
        Some(text) => HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text),
        None => {
            let message = "another recorder of metrics is installed in this process";
            ApiError::new(ErrorCode::Internal, message).error_response()
        }
    }
}
