//! Uploads as the world sends them: odd bytes, compressed ones, bombs, clients that break off or do not read.

use crate::support::database::Database;
use crate::support::process::Service;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides, stream_as, tally};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::http::Settings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// As a client sends it.
pub fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// As a client sends it.
pub fn zstd(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 3).unwrap()
}

/// What a malformed line is answered with: an error code, or `stored`.
pub fn malformed_lines() -> Vec<(Vec<u8>, &'static str)> {
    let text = |rest: &str| format!("{{\"text\":\"a\",{rest}}}");
    let metadata = |value: String| text(&format!("\"metadata\":{{\"k\":{value}}}"));
    let keys = |count: usize| (0..count).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(",");
    let nested = |levels: usize| metadata("[".repeat(levels - 2) + &"]".repeat(levels - 2));
    let named = |name: &str, rest: &str| format!("{{\"id\":\"{name}\",\"text\":\"Good.\"{rest}}}");
    // Not the same letter: it must not look like a bomb when it is compressed.
    let many_words: String = (0..300_000).map(|n| format!("word {n} ")).collect();
    let lines: Vec<(String, &str)> = vec![
        ("hello".into(), "invalid_json"),
        ("{\"text\":\"no end".into(), "invalid_json"),
        ("{\"text\":\"a\"} {\"text\":\"b\"}".into(), "invalid_json"),
        ("{\"text\":\"\\ud800\"}".into(), "invalid_json"),
        ("{\"text\":\"\\udc00\\ud800\"}".into(), "invalid_json"),
        ("{\"text\":\"tab\there\"}".into(), "invalid_json"),
        ("\u{feff}{\"text\":\"a mark that is not at the beginning\"}".into(), "invalid_json"),
        ("[1,2]".into(), "wrong_type"),
        ("null".into(), "wrong_type"),
        ("{\"text\":7}".into(), "wrong_type"),
        (text("\"chunk_index\":1.5"), "wrong_type"),
        (text("\"metadata\":[1]"), "wrong_type"),
        (text("\"chunk_index\":9223372036854775808"), "number_out_of_range"),
        (metadata("123456789012345678901234567890".into()), "number_out_of_range"),
        (metadata("1e999".into()), "number_out_of_range"),
        (text("\"domain_code\":16,\"task_code\":0,\"modifier_code\":0"), "code_out_of_range"),
        ("{\"txt\":\"a\"}".into(), "missing_field"),
        ("{}".into(), "missing_field"),
        (text("\"text\":\"b\""), "duplicate_key"),
        (text("\"metadata\":{\"k\":1,\"l\":{\"m\":1,\"m\":1}}"), "duplicate_key"),
        (text(&format!("\"metadata\":{{{}}}", keys(65))), "too_many_keys"),
        (nested(33), "nested_too_deep"),
        ("[".repeat(100_000), "nested_too_deep"),
        (text(&format!("\"concept_vec\":{}{}", "[".repeat(5000), "]".repeat(5000))), "nested_too_deep"),
        ("{\"text\":\"a\0b\"}".into(), "nul_character"),
        ("\0\0\0".into(), "nul_character"),
        ("{\"text\":\"a\\u0000b\"}".into(), "nul_character"),
        ("{\"text\":\" \\n \"}".into(), "text_empty"),
        (format!("{{\"text\":\"{}\"}}", "x".repeat(65_537)), "text_too_long"),
        (format!("{{\"text\":\"{many_words}\"}}"), "line_too_long"),
        (" ".repeat((1 << 20) + 1), "line_too_long"),
        (named("text", &format!(",\"article_title\":\"{}\"", "é".repeat(256))), "stored"),
        (named("keys", &format!(",\"metadata\":{{{}}}", keys(64))), "stored"),
        (named("numbers", ",\"metadata\":{\"k\":[18446744073709551615,-1,1e300]}"), "stored"),
        (named("pair", ",\"metadata\":{\"k\":\"\\ud83d\\ude00\"}"), "stored"),
    ];
    let mut lines: Vec<_> = lines.into_iter().map(|(line, code)| (line.into_bytes(), code)).collect();
    lines.push((b"{\"text\":\"\xff\"}".to_vec(), "invalid_utf8"));
    lines.push((b"\xc0\x80".to_vec(), "invalid_utf8"));
    lines
}

/// The results by line; a line that is answered twice fails the test.
pub fn by_line(answer: &[Value]) -> BTreeMap<u64, String> {
    tally(answer);
    let mut lines = BTreeMap::new();
    for result in answer.iter().filter(|line| line["type"] == "result") {
        let said = result["error"]["code"].as_str().unwrap_or_else(|| result["status"].as_str().unwrap());
        let line = result["line"].as_u64().unwrap();
        assert!(lines.insert(line, said.to_owned()).is_none(), "line {line} was answered twice");
    }
    lines
}

#[actix_web::test]
async fn every_malformed_line_is_answered_exactly_once_in_every_encoding() {
    let service = TestService::scripted().await;
    let blanks: [&[u8]; 3] = [b"\n", b"\r\n", b" \t \r\n"];
    let mut body = b"\xef\xbb\xbf".to_vec();
    let mut expected = BTreeMap::new();
    for (n, (line, said)) in malformed_lines().into_iter().enumerate() {
        body.extend_from_slice(&line);
        body.extend_from_slice(if n % 2 == 0 { b"\r\n" } else { b"\n" });
        body.extend_from_slice(blanks[n % 3]);
        expected.insert(2 * n as u64 + 1, said.to_owned());
    }
    body.extend_from_slice(b"{\"id\":\"last\",\"text\":\"No end of line.\"}");
    expected.insert(2 * expected.len() as u64 + 1, "stored".to_owned());
    let stored = expected.values().filter(|said| *said == "stored").count() as u64;

    assert_eq!(by_line(&service.stream(body.clone()).await), expected);
    assert_eq!(service.stored().await, stored);
    for said in expected.values_mut().filter(|said| *said == "stored") {
        *said = "duplicate".to_owned();
    }
    assert_eq!(by_line(&stream_as(&service.url, "gzip", gzip(&body)).await), expected);
    assert_eq!(by_line(&stream_as(&service.url, "zstd", zstd(&body)).await), expected);
    assert_eq!(service.stored().await, stored);
    service.stop().await;
}

#[actix_web::test]
async fn compressed_uploads_are_counted_to_the_last_chunk() {
    let service = TestService::scripted().await;
    // Two members and two frames: what `cat a.gz b.gz` makes is one body.
    let members = [gzip(numbered(0..1500)), gzip(numbered(1500..3000))].concat();
    assert_eq!(tally(&stream_as(&service.url, "gzip", members).await), (3000, 0, 0));
    let frames = [zstd(numbered(2500..4000)), zstd(numbered(4000..5500))].concat();
    assert_eq!(tally(&stream_as(&service.url, "zstd", frames).await), (2500, 500, 0));
    assert_eq!(tally(&stream_as(&service.url, "identity", numbered(5000..6000)).await), (500, 500, 0));
    assert_eq!(service.stored().await, 6000);
    service.stop().await;
}

/// `POST /ingest` without a stream: status, `Accept-Encoding` of the answer, answer.
async fn post(service: &TestService, kind: &str, encoding: &str, body: Vec<u8>) -> (u16, String, Value) {
    let request = crate::support::test_service::client().post(format!("{}/ingest", service.url)).body(body);
    let request = request.header("Content-Type", kind).header("Content-Encoding", encoding);
    let response = request.send().await.unwrap();
    let accepted = response.headers().get("Accept-Encoding").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), accepted.unwrap_or_default(), response.json().await.unwrap())
}

#[actix_web::test]
async fn json_bodies_may_be_compressed_and_other_encodings_are_refused() {
    let service = TestService::scripted().await;
    let chunks =
        |n: usize| json!({"chunks": [{"text": format!("Fact {n}.")}, {"text": "Shared."}]}).to_string();
    for (n, (encoding, body)) in
        [("gzip", gzip(chunks(1))), ("zstd", zstd(chunks(2)))].into_iter().enumerate()
    {
        let (status, _, answer) = post(&service, "application/json", encoding, body).await;
        assert_eq!((status, &answer["successful"]), (200, &json!(2)), "{answer}");
        assert_eq!(service.stored().await, 2 + n as u64);
    }
    let json = "application/json";
    for (kind, encoding, body, status, code) in [
        (json, "br", vec![], 415, "unsupported_encoding"),
        (json, "gzip, zstd", vec![], 415, "unsupported_encoding"),
        ("application/x-ndjson", "deflate", vec![], 415, "unsupported_encoding"),
        (json, "gzip", chunks(3).into_bytes(), 400, "corrupt_body"),
        (json, "zstd", zstd(chunks(3))[..20].to_vec(), 400, "corrupt_body"),
        (json, "gzip", gzip(vec![b' '; 7 << 20]), 413, "inflate_ratio"),
        (json, "zstd", vec![], 400, "corrupt_body"),
        ("application/x-ndjson", "gzip", gzip(vec![b'\n'; 64 << 20]), 413, "inflate_ratio"),
        (json, "identity", nested_request(33).into_bytes(), 422, "nested_too_deep"),
    ] {
        let (received, accepted, answer) = post(&service, kind, encoding, body).await;
        assert_eq!((received, &answer["error"]["code"]), (status, &json!(code)), "{encoding}: {answer}");
        assert_eq!(accepted == "gzip, zstd, identity", status == 415);
    }
    assert_eq!(post(&service, json, "identity", nested_request(32).into_bytes()).await.0, 200);
    assert_eq!(service.stored().await, 4);
    service.stop().await;
}

/// One chunk that nests so deep.
fn nested_request(levels: usize) -> String {
    let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
    format!("{{\"chunks\":[{{\"text\":\"Deep.\",\"metadata\":{{\"k\":{open}{close}}}}}]}}")
}

#[actix_web::test]
async fn a_body_that_cannot_be_inflated_to_its_end_says_so_after_the_results_of_its_lines() {
    let service = TestService::scripted().await;
    let (zeros, lines) = (vec![b'0'; 64 << 20], numbered(0..2000));
    let half = |body: Vec<u8>| body[..body.len() / 2].to_vec();
    let mut known = 0;
    for (encoding, body, code) in [
        ("gzip", half(gzip(&lines)), "corrupt_body"),
        ("zstd", [zstd(numbered(0..500)), half(zstd(&lines))].concat(), "corrupt_body"),
        ("gzip", [gzip(&lines), b"no member".to_vec()].concat(), "corrupt_body"),
        ("gzip", [gzip(&lines), gzip(&zeros)].concat(), "inflate_ratio"),
        ("zstd", [zstd(&lines), zstd(&zeros)].concat(), "inflate_ratio"),
    ] {
        let answer = stream_as(&service.url, encoding, body).await;
        let (stored, duplicates, failed) = tally(&answer);
        let summary = answer.last().unwrap();
        assert_eq!((&summary["complete"], &summary["error"]["code"]), (&json!(false), &json!(code)));
        assert!(stored + duplicates > 0, "{encoding}: the lines before the damage count");
        // Of the zeros a bomb is made of, one line was too long before the bomb was known.
        assert_eq!(failed, usize::from(code == "inflate_ratio"), "{summary}");
        known += stored as u64;
        assert_eq!(service.stored().await, known, "what was not answered was not stored");
    }
    assert_eq!(known, 2000);
    service.stop().await;
}

/// Nothing of any upload is left in the service.
async fn all_quiet(service: &TestService) {
    let entrance = service.state.pipeline.entrance();
    until("the uploads are over and their permits free", || {
        service.state.counts.active_uploads() == 0
            && entrance.inside() == Some([0, 0, 0, 0])
            && entrance.waiting() == 0
    })
    .await;
}

#[actix_web::test]
async fn a_client_that_breaks_off_leaves_its_whole_lines_and_nothing_else() {
    let service = TestService::scripted().await;
    let headers = [
        "Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n",
        "Accept: application/x-ndjson\r\nContent-Length: 100000\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 100000\r\n",
    ];
    let mut stored = 0;
    for (n, header) in headers.iter().enumerate() {
        for reset in [false, true] {
            let mut upload = RawConnection::upload_with(&service.url, header).await;
            // The last line is whole as JSON, but nothing says that it ends here.
            let body = format!(
                "{{\"id\":\"{n}{reset}\",\"text\":\"Whole.\"}}\n{{\"id\":\"{n}{reset}half\",\"text\":\"Half.\"}}"
            );
            if header.contains("chunked") {
                upload.send(&body).await;
            } else {
                upload.socket.get_mut().write_all(body.as_bytes()).await.unwrap();
            }
            stored += 1;
            until("the whole line is answered", || service.state.counts.tally().stored == stored).await;
            assert_eq!(service.state.counts.active_uploads(), 1);
            if reset {
                upload.socket.get_ref().set_zero_linger().unwrap();
            } else {
                upload.socket.shutdown().await.unwrap();
                let seen = upload.read_until("incomplete_body").await;
                assert!(seen.contains("\"complete\":false"), "{seen}");
            }
            drop(upload);
            all_quiet(&service).await;
            assert_eq!(service.stored().await, stored, "{header}, reset: {reset}");
        }
    }
    service.stop().await;
}

/// The lines of an answer as it came from the socket, in the pieces of its transfer.
fn lines_of(seen: &str) -> Vec<Value> {
    let (_head, mut rest) = seen.split_once("\r\n\r\n").unwrap();
    let mut body = String::new();
    while let Some((size, piece)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body += &piece[..size.min(piece.len())];
        rest = piece.get(size + 2..).unwrap_or_default();
    }
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// So many bad lines that their answers fill every buffer on the way to a client that does not read.
const UNREAD: usize = 80_000;

#[actix_web::test]
async fn a_client_that_does_not_read_is_not_read_and_loses_nothing_when_it_does() {
    let service = TestService::scripted().await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send(&"x\n".repeat(UNREAD)).await;
    upload.end().await;
    let (mut seen, mut same) = (0, 0);
    until("nothing more is answered", || {
        let failed = service.state.counts.tally().failed;
        same = if failed == seen && seen > 0 { same + 1 } else { 0 };
        seen = failed;
        same > 250
    })
    .await;
    assert!(seen < UNREAD as u64, "all {UNREAD} lines were read for a client that reads nothing");

    let answer = lines_of(&upload.read_until("\"type\":\"summary\"").await);
    let failed = (1..=UNREAD as u64).map(|line| (line, "invalid_json".to_owned())).collect();
    assert_eq!(by_line(&answer), failed);
    assert_eq!(answer.last().unwrap()["complete"], true);
    all_quiet(&service).await;
    service.stop().await;
}

#[actix_web::test]
async fn a_client_that_never_reads_gets_a_named_end_and_gives_its_room_back() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let settings = Settings { read_timeout: Duration::from_millis(100), ..Settings::default() };
    let service = TestService::build_with(overrides, &[], settings).await;
    let mut upload = RawConnection::upload(&service).await;
    // Neither does it end its body: the service must not wait for that either.
    upload.send(numbered(0..50) + &"x\n".repeat(UNREAD)).await;
    until("the upload has begun", || service.state.counts.tally().failed > 0).await;
    all_quiet(&service).await;
    assert_eq!(service.stored().await, 50);
    assert!(service.state.counts.tally().failed < UNREAD as u64);

    let answer = lines_of(&upload.read_until("\"type\":\"summary\"").await);
    let summary = answer.last().unwrap();
    assert_eq!((&summary["complete"], &summary["stored"]), (&json!(false), &json!(50)));
    assert_eq!(summary["error"]["code"], "client_not_reading");
    assert!(answer.len() < UNREAD, "what it did not read is dropped");
    assert_eq!(summary["error"]["retryable"], true);
    service.stop().await;
}

#[cfg(target_os = "linux")]
#[actix_web::test]
async fn the_connection_of_a_client_that_takes_nothing_is_closed_under_it() {
    let overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let read_timeout = Duration::from_millis(100);
    let settings = Settings { read_timeout, unacknowledged: 3 * read_timeout, ..Settings::default() };
    let service = TestService::build_with(overrides, &[], settings).await;
    let mut upload = RawConnection::upload(&service).await;
    upload.send("x\n".repeat(UNREAD)).await;
    // The kernel says nothing to the client any more, so only its own list of connections tells.
    let port: u16 = service.url.rsplit(':').next().unwrap().parse().unwrap();
    let connected = || {
        let list = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut established = fields.filter(|fields| fields[3] == "01");
        established.any(|fields| fields[1].ends_with(&format!(":{port:04X}")))
    };
    assert!(connected());
    until("the connection is closed", || !connected()).await;
    all_quiet(&service).await;
    service.stop().await;
}

/// A body that is made while it is sent.
pub fn generated(piece: Vec<u8>, times: usize) -> reqwest::Body {
    let piece = bytes::Bytes::from(piece);
    let pieces = std::iter::repeat_n(piece, times).map(Ok::<_, std::convert::Infallible>);
    reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
}

#[actix_web::test]
async fn no_upload_makes_the_service_grow() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    let url = service.url.clone();
    // Warm: allocators and caches have what they keep.
    let coded: String = (0..500)
        .map(|n| {
            format!("{{\"text\":\"Fact {n}.\",\"domain_code\":1,\"task_code\":1,\"modifier_code\":1}}\n")
        })
        .collect();
    assert_eq!(tally(&stream_as(&url, "identity", coded.clone()).await), (500, 0, 0));
    let before = service.anonymous_memory();
    let grown = |what: &str, limit: u64| {
        let growth = service.anonymous_memory().saturating_sub(before);
        println!("{what}: {growth} bytes of growth");
        assert!(growth < limit << 20, "{what}: {growth} bytes of growth");
    };

    let answer = stream_as(&url, "identity", generated(vec![b'x'; 1 << 20], 1 << 10)).await;
    assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!("line_too_long")));
    grown("a line of 1 GiB", 16);
    assert_eq!(tally(&stream_as(&url, "identity", "\n".repeat(1_000_000)).await), (0, 0, 0));
    grown("a million blank lines", 16);

    // A mebibyte of it and a gibibyte inside: its zeros are made once, and repeated as members and frames.
    let zeros = vec![0; 16 << 20];
    for (encoding, member) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros))] {
        let answer = stream_as(&url, encoding, generated(member, 64)).await;
        let summary = answer.last().unwrap();
        assert_eq!(summary["error"]["code"], "inflate_ratio", "{summary}");
        assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!("line_too_long")));
        grown(encoding, 32);
    }

    let (small, one) = (gzip(&coded), zstd(&coded));
    let metrics = || async {
        let text = reqwest_text(&format!("{url}/metrics")).await;
        ["gzip", "zstd"].map(|encoding| {
            let name = format!("lnsp_http_request_body_bytes_total{{encoding=\"{encoding}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse::<usize>().unwrap()
        })
    };
    let earlier = metrics().await;
    assert_eq!(tally(&stream_as(&url, "gzip", small.clone()).await), (0, 500, 0));
    assert_eq!(tally(&stream_as(&url, "zstd", one.clone()).await), (0, 500, 0));
    assert_eq!(metrics().await, [earlier[0] + small.len(), earlier[1] + one.len()]);
    service.kill();
}

async fn reqwest_text(url: &str) -> String {
    crate::support::test_service::client().get(url).send().await.unwrap().text().await.unwrap()
}
