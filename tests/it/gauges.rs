//! What the gauges say while clients are here, and that nothing is left of clients that are gone.

use crate::drain::stuck;
use crate::support::raw_connection::RawConnection;
use crate::support::test_service::client;
use std::collections::BTreeMap;
use std::time::Duration;

/// The gauges that count what is taken and given back.
const TAKEN: [&str; 6] = [
    "lnsp_admission_used{kind=\"request\"}",
    "lnsp_admission_used{kind=\"request_bytes\"}",
    "lnsp_admission_used{kind=\"upload\"}",
    "lnsp_http_connections",
    "lnsp_http_uploads_active",
    "lnsp_stage_queue_length",
];

/// Their values; those of all stages together.
async fn taken(url: &str) -> [u64; 6] {
    let text = client().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let values: BTreeMap<_, _> = lines.collect();
    TAKEN.map(|name| {
        let same = |full: &str| full == name || full.split('{').next() == Some(name);
        let values: Vec<f64> =
            values.iter().filter(|(full, _)| same(full)).map(|(_, value)| value.parse().unwrap()).collect();
        values.iter().sum::<f64>() as u64
    })
}

/// Looks until the gauges say this.
async fn until_taken(url: &str, expected: [u64; 6]) {
    let mut last = [0; 6];
    let looks = async {
        while last != expected {
            last = taken(url).await;
        }
    };
    let came_true = tokio::time::timeout(Duration::from_secs(60), looks).await.is_ok();
    assert!(came_true, "{TAKEN:?}: expected {expected:?}, the last was {last:?}");
}

#[actix_web::test]
async fn every_gauge_comes_back_to_nothing_and_what_was_accepted_is_stored() {
    let (service, database, held, upload, _data) = stuck(&[]).await;
    let body = "{\"chunks\":[{\"text\":\"One.\"}]}";
    let length = body.len() as u64;
    let head = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut whole = RawConnection::connect(&service.url).await.unwrap();
    whole.write(format!("{head}Content-Length: {length}\r\n\r\n{body}")).await;
    let mut half = RawConnection::connect(&service.url).await.unwrap();
    half.write(format!("{head}Content-Length: 1000\r\n\r\n{body}")).await;
    // The connection of the test itself counts too.
    // A chunk weighs its text, its source, its id and 1,024 bytes, and needs room for its text and more in the answer.
    // Its body counts only while it is read, as the other one is.
    let weight = 1024 + "One.".len() + "web_input".len() + 36;
    let taken = weight as u64 + "One.".len() as u64 + 1536 + length;
    until_taken(&service.url, [2, taken, 1, 4, 3, 101]).await;

    upload.reset();
    half.reset();
    drop(whole);
    held.release().await;
    until_taken(&service.url, [0, 0, 0, 1, 0, 0]).await;
    assert_eq!(database.number("SELECT count(*) FROM chunks").await, 101);
    assert!(service.terminate().success());
}
