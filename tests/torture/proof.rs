//! Tests the judge and the client: each fault that they must find is made on purpose, in the tables, the index, the
//! ledger and the answers, and has to be found. Without this, twenty rounds in which nothing is found would prove nothing.

use crate::cluster::{Postmaster, postmaster};
use crate::judge::When;
use crate::oracle::{LedgerEntry, Oracle};
use crate::payload::Piece;
use crate::postgres::DataFolder;
use crate::round_state::RoundState;
use crate::scene::Scene;
use crate::upload::{Mode, Upload};
use lnsp_ingest::store::managed::ManagedPostgres;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A change of the tables, what undoes it, and what the judge has to say.
const TABLES: [(&str, &str, &str); 8] = [
    (
        "UPDATE chunks SET text = text || '!' WHERE seq = 7",
        "UPDATE chunks SET text = left(text, -1) WHERE seq = 7",
        "is stored with another text",
    ),
    (
        "UPDATE chunk_vectors SET vector = set_byte(vector, 5, 255 - get_byte(vector, 5)) WHERE item = 3",
        "UPDATE chunk_vectors SET vector = set_byte(vector, 5, 255 - get_byte(vector, 5)) WHERE item = 3",
        "has another vector in the index",
    ),
    (
        "INSERT INTO chunk_vectors SELECT item, model_id, 'question', vector FROM chunk_vectors WHERE item = 4",
        "DELETE FROM chunk_vectors WHERE kind = 'question'",
        "another number of vectors than one",
    ),
    (
        "UPDATE chunks SET seq = 1000 WHERE seq = 8; UPDATE change_clock SET seq = 1000",
        "UPDATE chunks SET seq = 8 WHERE seq = 1000",
        "after the drain the index stands at",
    ),
    (
        "ALTER TABLE chunks DROP CONSTRAINT chunks_seq_key; UPDATE chunks SET seq = 9 WHERE seq = 10",
        "UPDATE chunks SET seq = 10 WHERE seq = 9 AND item = (SELECT max(item) FROM chunks WHERE seq = 9)",
        "doubled: seq 9",
    ),
    (
        "INSERT INTO dead_letters (dataset_source, id, content_hash, stage, cause, message, attempts, input,
                                   first_failed_at, last_failed_at)
         SELECT dataset_source, id, content_hash, 'tmd', 'poison', '', 3, '{\"text\":\"another\"}', now(), now()
         FROM chunks WHERE seq = 5",
        "UPDATE dead_letters SET content_hash = decode(repeat('00', 32), 'hex')",
        "has a dead letter, and is stored\nthe dead letter of 4.0 makes another chunk",
    ),
    ("SELECT", "DELETE FROM dead_letters", "no client sent the dead letter"),
    ("DELETE FROM chunks WHERE seq = 11", "SELECT", "was acknowledged and is lost"),
];

/// A change of the ledger, and what the judge has to say.
const LEDGER: [(&str, &str, &str); 3] = [
    ("I 5.0", "I 905.0", "no client sent the row"),
    ("I 5.0", "I 905.0\nS 905.0\nI 5.0", "905.0 was acknowledged and is lost"),
    // Its row is gone by now.
    ("S 10.0", "R 10.0", "10.0 was refused, and has no dead letter"),
];

/// Answers to two lines, and what is wrong with each.
const ANSWERS: [(&str, &str); 6] = [
    (r#"{"type":"result","line":1,"status":"stored"}"#, "without a summary"),
    (
        r#"{"type":"result","line":1,"status":"stored"}
{"type":"result","line":1,"status":"stored"}"#,
        "a second answer to one line",
    ),
    (r#"{"type":"result","line":3,"status":"stored"}"#, "an answer to no line"),
    (
        r#"{"type":"result","line":2,"status":"stored"}
{"type":"summary","complete":true,"total_chunks":1,"failed":0}"#,
        "2 lines, 1 answers",
    ),
    (r#"{"type":"result","line":1,"status":"duplicate"}"#, "was issued once only"),
    (
        r#"{"type":"result","line":1,"status":"error","error":{"code":"id_conflict","retryable":false}}"#,
        "no other content was issued",
    ),
];

/// Says what was not found.
pub async fn run(seed: u64) -> Vec<String> {
    let folder = DataFolder::new();
    let state = Arc::new(RoundState::new(seed, Oracle::start(folder.path()).await));
    let scene = Scene::set(state.clone(), &[], 0).await.unwrap();
    let kept = tokio::spawn(scene.service.clone().keep());
    // One to an upload, so that the ledger has a line for each.
    for number in 0..20 {
        let piece = Piece::new(number);
        let lines = vec![crate::client::line(&state, piece)];
        let upload = Upload { lines, mode: Mode::Stream, packed: false, pieces: None };
        upload.send(&state, &state.service().await.unwrap()).await;
    }
    scene.service.stop().await;
    kept.await.unwrap();
    let mut missed = found(&state.numbers().failures, None, "in a whole round");
    missed.extend(judge_is_deaf_to(&scene, &state).await);
    for (answer, finding) in ANSWERS {
        missed.extend(found(&answered(seed, answer).await, Some(finding), answer));
    }
    missed
}

/// The complaints have what was looked for, or there are none where none should be.
fn found(complaints: &[String], finding: Option<&str>, when: &str) -> Vec<String> {
    let good = match finding {
        Some(finding) => complaints.iter().any(|complaint| complaint.contains(finding)),
        None => complaints.is_empty(),
    };
    if good { Vec::new() } else { vec![format!("{when}: expected {finding:?}, found {complaints:?}")] }
}

async fn judge_is_deaf_to(scene: &Scene, state: &RoundState) -> Vec<String> {
    let server = ManagedPostgres::start(&scene.data).unwrap();
    let tables = postmaster(&scene.data).unwrap();
    let mut missed = Vec::new();
    for (change, undo, finding) in TABLES {
        execute(&tables, change).await;
        missed.extend(found(&complaints(scene).await, Some(finding), change));
        execute(&tables, undo).await;
    }
    for (line, other, finding) in LEDGER {
        let whole = change_file(&state.oracle.ledger, |text| {
            let lines = text.lines().map(|found| if found == line { other } else { found });
            // What was answered to a line that is gone goes too.
            let gone = line.trim_start_matches("I ");
            let kept = lines.filter(|found| other.contains(line) || !found.ends_with(&format!(" {gone}")));
            kept.map(|line| format!("{line}\n")).collect()
        });
        missed.extend(found(&complaints(scene).await, Some(finding), other));
        std::fs::write(&state.oracle.ledger, whole).unwrap();
    }
    std::fs::remove_file(scene.data.join("index/CURRENT")).unwrap();
    missed.extend(found(&complaints(scene).await, Some("the index cannot be read"), "without an index"));
    server.stop().unwrap();
    missed
}

async fn complaints(scene: &Scene) -> Vec<String> {
    scene.service.findings(When::Over).await.into_iter().collect()
}

/// Without the triggers, which would refuse the fault or make it a change like any other.
async fn execute(server: &Postmaster, statement: &str) {
    let statement = format!("SET session_replication_role = replica; {statement}");
    server.connect().await.unwrap().batch_execute(&statement).await.unwrap();
}

/// Gives what it was before.
fn change_file(path: &Path, change: impl Fn(&str) -> String) -> String {
    let whole = std::fs::read_to_string(path).unwrap();
    let changed = change(&whole);
    assert_ne!(changed, whole);
    std::fs::write(path, changed).unwrap();
    whole
}

/// What a client complains about that gets this answer, over a connection that ends in order.
async fn answered(seed: u64, answer: &'static str) -> Vec<String> {
    let folder = DataFolder::new();
    let state = RoundState::new(seed, Oracle::start(folder.path()).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains("Fact 1 of") {
            socket.read_buf(&mut heard).await.unwrap();
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n";
        let whole = format!("{head}Content-Length: {}\r\n\r\n{answer}\n", answer.len() + 1);
        socket.write_all(whole.as_bytes()).await.unwrap();
    });
    let lines = vec![crate::client::line(&state, Piece::new(0)), crate::client::line(&state, Piece::new(1))];
    Upload { lines, mode: Mode::Stream, packed: false, pieces: None }.send(&state, &url).await;
    let untold = state.oracle.tell(LedgerEntry::Stored, &[Piece::new(77)]).await;
    assert!(untold.is_err_and(|wrong| wrong.contains("never issued")));
    state.numbers().failures
}
