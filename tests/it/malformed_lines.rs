//! Everything odd at once, to a process of its own: one result for every line that is not blank, a summary, and a
//! memory that does not notice, also not for a moment.

use crate::streams::{by_line, generated, malformed_lines};
use crate::support::database::Database;
use crate::support::process::Service;
use crate::support::test_service::{stream_as, stream_to, tally};
use serde_json::json;
use std::collections::BTreeMap;

/// The most memory that a process has had, as the kernel counts it.
struct Peak {
    pid: u32,
    before: u64,
}

impl Peak {
    /// From now on.
    fn of(service: &Service) -> Peak {
        let mut peak = Peak { pid: service.pid(), before: 0 };
        peak.forget();
        peak.before = peak.most();
        peak
    }

    /// How far it has ever been above the memory at first, since the last question.
    fn above(&self) -> u64 {
        let most = self.most();
        self.forget();
        most.saturating_sub(self.before)
    }

    fn most(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// The peak is what there is now.
    fn forget(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap();
    }
}

/// Every malformed line `times` times, with blank lines between, a mark before and no end behind; and what is to
/// be said about it.
fn body_and_outcomes(times: usize) -> (Vec<u8>, BTreeMap<u64, String>) {
    let blanks: [&[u8]; 4] = [b"\n", b"\r\n", b" \t \r\n", b"\x0c\n"];
    let (mut body, mut expected, mut number) = (b"\xef\xbb\xbf".to_vec(), BTreeMap::new(), 0);
    for round in 0..times {
        for (n, (line, said)) in malformed_lines().into_iter().enumerate() {
            body.extend_from_slice(&line);
            body.extend_from_slice(if n % 2 == 0 { b"\r\n" } else { b"\n" });
            body.extend_from_slice(blanks[(n + round) % blanks.len()]);
            expected.insert(number + 1, said.to_owned());
            number += 2;
        }
    }
    body.extend_from_slice(b"{\"id\":\"last\",\"text\":\"No end of line.\"}");
    expected.insert(number + 1, "stored".to_owned());
    (body, expected)
}

#[actix_web::test]
async fn malformed_lines_are_answered_one_by_one_and_leave_no_trace_in_memory() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let service = Service::start(data.path(), &["--database-url", database.dsn()]);
    let url = service.url.clone();
    // Warm: once through everything, so that allocators and caches have what they keep.
    let (body, mut expected) = body_and_outcomes(1);
    assert_eq!(by_line(&stream_to(url.clone(), body).await), expected);
    for said in expected.values_mut().filter(|said| *said == "stored") {
        *said = "duplicate".to_owned();
    }
    let peak = Peak::of(&service);
    let flat = |what: &str| {
        let above = peak.above();
        println!("{what}: {} KiB above idle", above >> 10);
        assert!(above < 16 << 20, "{what}: {above} bytes above idle");
    };

    let (body, mut many) = body_and_outcomes(10);
    for said in many.values_mut().filter(|said| *said == "stored") {
        *said = "duplicate".to_owned();
    }
    assert_eq!(by_line(&stream_to(url.clone(), body.clone()).await), many);
    flat("all malformed lines, ten times");

    // The same a byte at a time would take long; pieces of a prime size cut everything in two somewhere.
    let pieces: Vec<_> =
        body.chunks(8191).map(|piece| Ok::<_, std::convert::Infallible>(piece.to_vec())).collect();
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    assert_eq!(by_line(&stream_to(url.clone(), body).await), many);
    flat("all malformed lines in pieces");

    let answer = stream_as(&url, "identity", generated(vec![b'['; 1 << 20], 1 << 10)).await;
    assert_eq!((tally(&answer), &answer[0]["error"]["code"]), ((0, 0, 1), &json!("line_too_long")));
    flat("a line of 1 GiB");

    let mut deep = vec![b'['; 1 << 20];
    deep[(1 << 20) - 1] = b'\n';
    let answer = stream_as(&url, "identity", generated(deep, 128)).await;
    let said = by_line(&answer);
    assert!(said.len() == 128 && said.values().all(|said| said == "nested_too_deep"), "{said:?}");
    flat("128 lines of 1 MiB, as deep as they are long");

    let escaped = format!("{{\"text\":\"{}\"}}\n", "\\u0061".repeat(170_000)).into_bytes();
    let said = by_line(&stream_as(&url, "identity", generated(escaped, 128)).await);
    assert!(said.len() == 128 && said.values().all(|said| said == "text_too_long"), "{said:?}");
    flat("128 lines of 1 MiB that are nothing but escapes");

    let metadata: Vec<String> = (0..40_000).map(|n| format!("[{n},\"\\u00e9\",{{}}]")).collect();
    let metadata =
        format!("{{\"text\":\" \",\"metadata\":{{\"k\":[{}]}}}}\n", metadata.join(",")).into_bytes();
    let said = by_line(&stream_as(&url, "identity", generated(metadata, 64)).await);
    assert!(said.len() == 64 && said.values().all(|said| said == "metadata_too_large"), "{said:?}");
    flat("64 lines of 120,000 small values");

    assert_eq!(tally(&stream_to(url.clone(), "\n".repeat(1_000_000)).await), (0, 0, 0));
    flat("a million blank lines");
    assert_eq!(tally(&stream_to(url.clone(), " \t \r\n".repeat(1_000_000)).await), (0, 0, 0));
    flat("a million lines of white space");
    let stored = expected.values().filter(|said| *said == "duplicate").count();
    assert_eq!(database.number("SELECT count(*) FROM chunks").await, stored as i64);
    service.kill();
}
