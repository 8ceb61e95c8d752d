//! The graceful shutdown: no new chunks, every accepted one answered, the index built; and the other ends.

use crate::streams::zstd;
use crate::support::database::Database;
use crate::support::process::{Service, lnsp};
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::{Scripted, TestService, numbered, overrides};
use crate::support::wait::until;
use lnsp_ingest::app::Overrides;
use lnsp_ingest::flow::Capacity;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

const CLOCK: &str = "SELECT seq FROM change_clock FOR UPDATE";

/// 36 slots.
async fn service() -> TestService {
    let mut overrides = Overrides { encoder: Some(Scripted::factory()), ..overrides() };
    let slots = |items| Capacity { items, bytes: 1 << 30 };
    (overrides.pipeline.tmd, overrides.pipeline.embed, overrides.pipeline.write) =
        (slots(8), slots(16), slots(12));
    TestService::build(overrides, &[]).await
}

/// An open upload with 300 lines: 36 are in the stages, 220 wait in the entrance, and 44 are in the decoder.
///
/// They are one block of zstd, which is inflated as a whole: however the socket delivers it, the lines come together.
async fn three_hundred(service: &TestService) -> RawConnection {
    let mut upload = RawConnection::upload_as(service, "zstd").await;
    upload.send(zstd(numbered(0..300))).await;
    let entrance = service.state.pipeline.entrance();
    until("the service is full", || {
        entrance.inside() == Some([0, 8, 16, 12]) && entrance.waiting() == 256 - 36
    })
    .await;
    upload
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[actix_web::test]
async fn accepted_chunks_are_finished_and_all_others_are_refused() {
    let service = service().await;
    let held = service.database.hold(CLOCK).await;
    let mut kept = RawConnection::connect(&service.url).await.unwrap();
    assert!(kept.ask("GET /ready", "", "").await.0.starts_with("http/1.1 200"));
    let mut half = RawConnection::connect(&service.url).await.unwrap();
    half.write(
        "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    )
    .await;
    let mut upload = three_hundred(&service).await;
    until("the request is being read", || service.state.admission.in_use() == 2).await;

    let end = async {
        until("it has begun", || service.state.pipeline.entrance().closed().is_cancelled()).await;
        let url = service.url.clone();
        let mut refused = false;
        while !refused {
            refused = RawConnection::connect(&url).await.is_err();
            tokio::task::yield_now().await;
        }
        // Open connections are answered, and so is half a request.
        let (head, body) = kept.ask("POST /ingest", "", "{\"chunks\":[{\"text\":\"Late.\"}]}").await;
        assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: "), "{head}");
        assert_eq!(body["error"]["code"], "draining");
        let (head, body) = kept.ask("GET /ready", "", "").await;
        assert!(head.starts_with("http/1.1 503") && body.to_string().contains("going down"), "{head}{body}");
        let (head, body) = half.answer().await;
        assert!(head.starts_with("http/1.1 503") && body["error"]["code"] == "draining", "{head}{body}");
        held.release().await;
        let seen = upload.read_until("\"type\":\"summary\"").await;
        // The first one that waited for a slot got it.
        assert_eq!(
            (count(&seen, "\"stored\",\"tmd\""), count(&seen, "\"code\":\"draining\"")),
            (37, 264),
            "{seen}"
        );
        assert_eq!(count(&seen, "\"line\":"), 300 + 263, "each line once, and once more in its error");
        assert!(seen.contains("\"complete\":false") && seen.contains("\"total_chunks\":300"), "{seen}");
    };
    let (left, ()) = futures_util::future::join(service.drain(Duration::from_secs(60)), end).await;
    assert_eq!(left, 0);
    assert_eq!(service.stored().await, 37);
    service.stop().await;
}

#[actix_web::test]
async fn at_the_deadline_the_number_of_unanswered_chunks_is_known() {
    let service = service().await;
    let held = service.database.hold(CLOCK).await;
    let upload = three_hundred(&service).await;
    assert_eq!(service.drain(Duration::from_millis(50)).await, 256);
    drop(upload);
    held.release().await;
    service.stop().await;
}

#[actix_web::test]
async fn an_idle_service_ends_at_once_and_open_connections_do_not_hold_it() {
    let service = TestService::scripted().await;
    let mut idle = RawConnection::connect(&service.url).await.unwrap();
    assert!(idle.ask("GET /ready", "", "").await.0.starts_with("http/1.1 200"));
    let mut open = RawConnection::upload(&service).await;
    open.send("{\"id\":\"a\",\"text\":\"A.\"}\n{\"id\":\"b\"").await;
    open.read_until("\"stored\"").await;
    // Far away, so that an end which waits for one of them is a hang.
    let drained = service.drain(Duration::from_secs(3600));
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), drained).await, Ok(0));
    let seen = open.rest().await;
    assert!(seen.contains("\"code\":\"draining\"") && seen.contains("\"complete\":false"), "{seen}");
    assert_eq!(idle.rest().await, "");
    service.stop().await;
}

/// A service whose database is held, and an upload with 100 chunks in the stages.
pub async fn stuck(
    flags: &[&str],
) -> (Service, Database, crate::support::database::Held, RawConnection, tempfile::TempDir) {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let service = Service::start(data.path(), &[&["--database-url", database.dsn()], flags].concat());
    let held = database.hold(CLOCK).await;
    let accept = "Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    let mut upload = RawConnection::upload_with(&service.url, accept).await;
    upload.send(numbered(0..100)).await;
    let mut health = RawConnection::connect(&service.url).await.unwrap();
    loop {
        let (_, body) = health.ask("GET /health", "", "").await;
        let inside = body["pipeline"]["inside"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
        if inside.sum::<u64>() == 100 {
            return (service, database, held, upload, data);
        }
    }
}

/// Sends the signal and waits until connections are refused.
async fn told(service: &Service, signal: Signal) {
    service.signal(signal);
    while RawConnection::connect(&service.url).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[actix_web::test]
async fn a_signal_ends_the_service_in_order_and_the_index_is_built() {
    let (service, database, held, mut upload, data) = stuck(&[]).await;
    told(&service, Signal::SIGTERM).await;
    held.release().await;
    let seen = upload.read_until("\"type\":\"summary\"").await;
    assert_eq!(
        (count(&seen, "\"stored\",\"tmd\""), count(&seen, "\"code\":\"draining\"")),
        (100, 1),
        "{seen}"
    );
    let (status, complaints) = service.end();
    assert_eq!((status.code(), complaints.contains("unanswered")), (Some(0), false), "{complaints}");
    assert_eq!(database.number("SELECT count(*) FROM chunks").await, 100);

    let again = Service::start(data.path(), &["--database-url", database.dsn()]);
    let mut raw = RawConnection::connect(&again.url).await.unwrap();
    let (_, health) = raw.ask("GET /health", "", "").await;
    assert_eq!(
        (&health["index"]["items"], &health["index"]["in_memory"]),
        (&100.into(), &0.into()),
        "{health}"
    );
    drop(raw);
    assert!(again.terminate().success());
}

/// A terminal that is closed takes what would be printed with it, and the shell may send a second signal.
#[actix_web::test]
async fn a_closed_terminal_ends_the_service_in_order() {
    let (database, data) = (Database::new().await, tempfile::tempdir().unwrap());
    let flags = ["serve", "--port", "0", "--dtype", "f32", "--data-dir", data.path().to_str().unwrap()];
    let mut command = lnsp(&[&flags[..], &["--database-url", database.dsn()]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready on ") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it has ended");
    }
    let url = line.trim().split_once("ready on ").unwrap().1.to_owned();
    let held = database.hold(CLOCK).await;
    let accept = "Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    let mut upload = RawConnection::upload_with(&url, accept).await;
    upload.send(numbered(0..10)).await;
    let mut health = RawConnection::connect(&url).await.unwrap();
    while health.ask("GET /health", "", "").await.1["pipeline"]["inside"] != serde_json::json!([0, 0, 0, 10])
    {
    }
    drop((output, child.stderr.take(), health));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGHUP).unwrap();
    while RawConnection::connect(&url).await.is_ok() {
        tokio::task::yield_now().await;
    }
    nix::sys::signal::kill(pid, Signal::SIGHUP).unwrap();
    held.release().await;
    let seen = upload.read_until("\"type\":\"summary\"").await;
    assert_eq!(count(&seen, "\"stored\",\"tmd\""), 10, "{seen}");
    assert!(child.wait().unwrap().success());
    assert_eq!(database.number("SELECT count(*) FROM chunks").await, 10);
}

#[cfg(target_os = "linux")]
#[test]
fn started_by_nohup_it_ignores_the_end_of_its_terminal() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" simulate-llm --port 0", env!("CARGO_BIN_EXE_lnsp")]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready on "), "{line}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored >> (Signal::SIGHUP as u32 - 1) & 1, 1, "{status}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[actix_web::test]
async fn a_second_signal_ends_it_at_once() {
    let (service, _database, held, _upload, _data) = stuck(&[]).await;
    told(&service, Signal::SIGINT).await;
    service.signal(Signal::SIGTERM);
    let (status, _) = service.end();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    held.release().await;
}

#[actix_web::test]
async fn at_its_deadline_it_says_what_is_left_and_fails() {
    let (service, database, held, mut upload, data) = stuck(&["--drain-s", "1"]).await;
    service.signal(Signal::SIGTERM);
    let (status, complaints) = service.end();
    assert_eq!(status.code(), Some(1), "{complaints}");
    assert!(complaints.contains("100 chunks unanswered"), "{complaints}");
    let mut seen = Vec::new();
    // However the connection ends, nothing was acknowledged.
    drop(tokio::io::AsyncReadExt::read_to_end(&mut upload.socket, &mut seen).await);
    assert!(!String::from_utf8(seen).unwrap().contains("stored"));
    held.release().await;

    let again = Service::start(data.path(), &["--database-url", database.dsn()]);
    let answer = crate::support::test_service::stream_to(again.url.clone(), numbered(0..100)).await;
    let summary: &Value = answer.last().unwrap();
    assert_eq!((&summary["successful"], &summary["complete"]), (&100.into(), &true.into()), "{summary}");
    assert!(again.terminate().success());
}
