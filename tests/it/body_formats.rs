//! Bodies that are not what their request says: another encoding of characters, a table, a compressed file without its
//! name, a list in the place of lines. Each is refused once, with what to do; and what only looks odd is taken.

use crate::streams::{gzip, zstd};
use crate::support::process::lnsp;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{TestService, client, numbered, stream_as, tally};
use crate::support::wait::until;
use serde_json::{Value, json};

const LINES: &str = "{\"text\":\"wide\"}\n{\"text\":\"wide too\"}\n";

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

/// Bodies that are no lines of JSON, with a word of what is said about them.
fn no_lines() -> Vec<(Vec<u8>, &'static str)> {
    let marked = format!("\u{feff}{LINES}");
    let xz = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46".to_vec();
    vec![
        (utf16(&marked, u16::to_le_bytes), "UTF-16"),
        (utf16(&marked, u16::to_be_bytes), "UTF-16"),
        (utf16(LINES, u16::to_le_bytes), "UTF-16"),
        (utf16(LINES, u16::to_be_bytes), "UTF-16"),
        (gzip(LINES), "Content-Encoding: gzip"),
        (zstd(LINES), "Content-Encoding: zstd"),
        (xz, "xz"),
        (b"id,text,title\n1,Some text.,T\n2,More.,T\n".to_vec(), "table"),
        (b"\"text\";\"source\"\r\n\"Some text.\";\"a\"\r\n".to_vec(), "table"),
        (b"[\n{\"text\":\"a\"},\n{\"text\":\"b\"}\n]\n".to_vec(), "array"),
        (b"[{\"text\":\"a\"},{\"text\":\"b\"}]\n".to_vec(), "array"),
        (b"[\n  {\n    \"text\": \"a\"\n  }\n]\n".to_vec(), "array"),
        (b"{\n  \"chunks\": [\n    {\"text\": \"a\"}\n  ]\n}\n".to_vec(), "several lines"),
    ]
}

#[actix_web::test]
async fn a_body_in_another_format_is_refused_once_and_nothing_of_it_is_stored() {
    let service = TestService::scripted().await;
    for (body, word) in no_lines() {
        let answer = stream_as(&service.url, "identity", body.clone()).await;
        assert_eq!(answer.len(), 1, "{word}: only the summary");
        let summary = &answer[0];
        assert_eq!((&summary["complete"], &summary["total_chunks"]), (&json!(false), &json!(0)), "{summary}");
        assert_eq!(
            (&summary["error"]["code"], &summary["error"]["retryable"]),
            (&json!("wrong_format"), &json!(false))
        );
        assert!(summary["error"]["message"].as_str().unwrap().contains(word), "{word}: {summary}");
        let (status, summary) = service.post_as("/ingest", "application/x-ndjson", body).await;
        assert_eq!((status, &summary["error"]["code"]), (422, &json!("wrong_format")), "{word}");
    }
    assert_eq!(service.rows().await, 0);
    // One line that is wrong is one line.
    let body = "id, and some words that are no head of a table\n{\"text\":\"A line.\"}\n";
    assert_eq!(tally(&stream_as(&service.url, "identity", body).await), (1, 0, 1));
    // Compressed twice.
    let twice = stream_as(&service.url, "gzip", gzip(gzip(LINES))).await;
    assert!(twice[0]["error"]["message"].as_str().unwrap().contains("compress it once"), "{}", twice[0]);
    service.stop().await;
}

/// What `lnsp ingest` says about a file.
async fn ingested(service: &TestService, name: &str, content: &[u8]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    let command = lnsp(&["ingest", "--url", &service.url, file.to_str().unwrap()]);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[actix_web::test]
async fn the_command_line_tells_what_the_service_says_about_a_file() {
    let service = TestService::scripted().await;
    let (code, said) =
        ingested(&service, "a.ndjson", b"{\"text\":\"A.\",\"colour\":1}\n{\"text\":\"B.\"}\n").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 stored") && said.contains("not known") && said.contains("colour (1)"), "{said}");
    // Files of other kinds are read by the command; what none of it can read is refused with the way.
    for content in [&b"id,text\n1,Some text.\n"[..], b"[\n{\"text\":\"a\"}\n]\n"] {
        let (code, said) = ingested(&service, "b.ndjson", content).await;
        assert!(code == Some(0) && said.contains("1 stored"), "{code:?}: {said}");
    }
    let (code, said) = ingested(&service, "c.ndjson", b"PK\x03\x04 an archive").await;
    assert!(code == Some(2) && said.contains("zip"), "{code:?}: {said}");
    assert_eq!(service.stored().await, 4);
    service.stop().await;
}

#[actix_web::test]
async fn a_json_body_in_another_format_is_refused_with_what_it_is() {
    let service = TestService::scripted().await;
    let document = json!({"chunks": [{"text": "Wide."}]}).to_string();
    for path in ["/ingest", "/search", "/embed"] {
        for (body, word) in [
            (utf16(&document, u16::to_le_bytes), "UTF-16"),
            (utf16(&format!("\u{feff}{document}"), u16::to_be_bytes), "UTF-16"),
            (gzip(&document), "Content-Encoding: gzip"),
            (zstd(&document), "Content-Encoding: zstd"),
            (b"id,text\n1,Some text.\n".to_vec(), "table"),
        ] {
            let (status, answer) = service.post(path, body).await;
            assert_eq!((status, &answer["error"]["code"]), (422, &json!("wrong_format")), "{path} {word}");
            assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{path}: {answer}");
        }
    }
    let (_, answer) = service.post("/ingest", "[{\"text\":\"a\"}]").await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("`chunks`"), "{answer}");
    let (_, answer) = service.post("/ingest", "{\"chunks\":[{\"text\":\"a\"}]}\n{\"chunks\":[]}\n").await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("application/x-ndjson"), "{answer}");
    assert_eq!(service.rows().await, 0);
    service.stop().await;
}

#[actix_web::test]
async fn a_byte_order_mark_before_json_is_no_content() {
    let service = TestService::scripted().await;
    let marked = |value: Value| format!("\u{feff}{value}");
    assert_eq!(service.post("/ingest", marked(json!({"chunks": [{"text": "Marked."}]}))).await.0, 200);
    assert_eq!(service.post("/search", marked(json!({"query": "Marked."}))).await.0, 200);
    assert_eq!(service.post("/embed", marked(json!({"texts": ["Marked."]}))).await.0, 200);
    let lines = format!("\u{feff}{LINES}");
    assert_eq!(tally(&stream_as(&service.url, "identity", lines).await), (2, 0, 0));
    service.stop().await;
}

#[actix_web::test]
async fn every_json_route_takes_every_encoding() {
    let service = TestService::scripted().await;
    for (path, body) in [
        ("/ingest", json!({"chunks": [{"text": "Compressed."}]})),
        ("/search", json!({"query": "Compressed."})),
        ("/embed", json!({"texts": ["Compressed."]})),
    ] {
        let body = body.to_string();
        for (encoding, body) in
            [("gzip", gzip(&body)), ("zstd", zstd(&body)), ("identity", body.into_bytes())]
        {
            let request =
                client().post(format!("{}{path}", service.url)).header("Content-Encoding", encoding);
            let answer = request.header("Content-Type", "application/json").body(body).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path} {encoding}");
        }
    }
    service.stop().await;
}

#[actix_web::test]
async fn lines_before_damaged_bytes_have_their_results_and_padding_is_no_damage() {
    let service = TestService::scripted().await;
    let zeros = vec![0; 512];
    let padded = [gzip(numbered(0..500)), zeros.clone(), gzip(numbered(500..700)), zeros].concat();
    let answer = stream_as(&service.url, "gzip", padded).await;
    assert_eq!((tally(&answer), &answer.last().unwrap()["complete"]), ((700, 0, 0), &json!(true)));
    for (encoding, whole) in [("gzip", gzip(numbered(1000..1500))), ("zstd", zstd(numbered(2000..2500)))] {
        let answer = stream_as(&service.url, encoding, [whole, b"rubbish behind it".to_vec()].concat()).await;
        let summary = answer.last().unwrap();
        assert_eq!(
            (tally(&answer), &summary["error"]["code"]),
            ((500, 0, 0), &json!("corrupt_body")),
            "{encoding}"
        );
    }
    assert_eq!(service.stored().await, 1700);
    service.stop().await;
}

#[actix_web::test]
async fn old_vectors_are_passed_over_and_count_for_nothing() {
    let service = TestService::scripted().await;
    let vector = vec!["0.123456789012345"; 768].join(",");
    let chunks: Vec<String> =
        (0..2000).map(|n| format!("{{\"text\":\"Old client {n}.\",\"concept_vec\":[{vector}]}}")).collect();
    let body = format!("{{\"chunks\":[{}],\"dataset_source\":\"old\"}}", chunks.join(","));
    assert!(body.len() > 26 << 20, "{} bytes", body.len());
    let (status, answer) = service.post("/ingest", body).await;
    assert_eq!((status, &answer["successful"], &answer["failed"]), (200, &json!(2000), &json!(0)));
    assert_eq!((service.stored().await, answer.get("unknown_fields")), (2000, None));
    service.stop().await;
}

#[actix_web::test]
async fn texts_without_a_visible_character_are_empty() {
    let service = TestService::scripted().await;
    for text in
        ["\u{200b}", "\u{feff}\u{ad}", "\u{2060}\u{200d}", "\u{202e}", "\u{fe0f}", "\u{3164}", "\u{7}"]
    {
        for (path, body) in [
            ("/ingest", json!({"chunks": [{"text": text}]})),
            ("/search", json!({"query": text})),
            ("/embed", json!({"texts": [text]})),
        ] {
            let (status, answer) = service.post(path, body.to_string()).await;
            assert_eq!(
                (status, &answer["error"]["code"]),
                (422, &json!("text_empty")),
                "{path} {text:?}: {answer}"
            );
        }
    }
    service.stop().await;
}

#[actix_web::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let service = TestService::scripted().await;
    assert_eq!(tally(&service.stream(numbered(0..3)).await), (3, 0, 0));
    for (path, kind, accept, body, end) in [
        (
            "/search",
            "application/json",
            "*/*",
            json!({"query": "fact"}).to_string(),
            "\"truncated_results\":false}",
        ),
        ("/embed", "application/json", "*/*", json!({"texts": ["a"]}).to_string(), "]}"),
        (
            "/ingest",
            "application/x-ndjson",
            "application/x-ndjson",
            numbered(3..5),
            "\"type\":\"summary\"}\n",
        ),
        ("/ingest", "application/json", "*/*", json!({"chunks": [{"text": "Old."}]}).to_string(), "}"),
    ] {
        let mut raw = RawConnection::connect(&service.url).await.unwrap();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.0\r\nContent-Type: {kind}\r\nAccept: {accept}\r\nContent-Length: {length}\r\n"
        );
        raw.write(format!("{head}\r\n{body}")).await;
        let seen = raw.rest().await;
        let (head, answer) = seen.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(" 200 ") && !head.to_lowercase().contains("transfer-encoding"),
            "{path}: {head}"
        );
        assert!(answer.starts_with('{') && answer.ends_with(end), "{path}: {answer}");
    }
    until("nothing is left", || service.state.admission.in_use() == 0).await;
    service.stop().await;
}
