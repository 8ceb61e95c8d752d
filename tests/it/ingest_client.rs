//! `lnsp ingest` against everything that happens to a long upload: each line is sent until its answer is known, and
//! not after. The client is a process of its own; most services are scripted, so that counts are exact.

use crate::streams::{gzip, zstd};
use crate::support::database::Database;
use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp};
use crate::support::scripted_service::{ScriptedService, Step};
use crate::support::test_service::client;
use crate::support::wait::until;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// A file of numbered chunks, and what the client makes of it.
struct Scene {
    _folder: TempDir,
    file: PathBuf,
}

/// What a run of the client left behind.
struct Told {
    code: i32,
    out: String,
    complaint: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Told {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Told { code, out: text(output.stdout), complaint: text(output.stderr) }
    }
}

impl Told {
    /// The exit code and the counts of the only file.
    fn says(&self, code: i32, tally: &str) {
        assert_eq!(self.code, code, "{}{}", self.out, self.complaint);
        assert!(self.out.contains(&format!(": {tally} in ")), "{}{}", self.out, self.complaint);
    }

    fn complains(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.complaint.contains(part), "'{part}' is not in: {}", self.complaint);
        }
    }
}

fn line(n: usize) -> String {
    format!("{{\"text\":\"Fact {n}.\"}}\n")
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(line).collect()
}

impl Scene {
    fn of(name: &str, content: impl AsRef<[u8]>) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        Scene { _folder: folder, file }
    }

    fn plain(content: impl AsRef<[u8]>) -> Scene {
        Scene::of("chunks.ndjson", content)
    }

    fn journal(&self) -> PathBuf {
        format!("{}.lnsp-journal", self.file.display()).into()
    }

    /// Lines that the journal calls settled.
    fn kept(&self) -> u64 {
        let Ok(bytes) = fs::read(self.journal()) else { return 0 };
        let page = bytes.split(|byte| *byte == b'\n').nth(1).unwrap();
        let page: Value = serde_json::from_slice(page).unwrap();
        ["stored", "duplicates", "failed"].iter().map(|name| page[*name].as_u64().unwrap()).sum()
    }

    fn command(&self, url: &str, flags: &[&str]) -> std::process::Command {
        let file = self.file.to_str().unwrap();
        lnsp(&[&["ingest", "--url", url], flags, &[file]].concat())
    }

    async fn run(&self, url: &str, flags: &[&str]) -> Told {
        tokio::process::Command::from(self.command(url, flags)).output().await.unwrap().into()
    }

    fn spawn(&self, url: &str, flags: &[&str]) -> Child {
        self.command(url, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Waits for a client that ends by itself.
async fn end(child: Child) -> Told {
    // The output is small: it fits into the pipes.
    let mut child = child;
    until("the client has ended", || child.try_wait().unwrap().is_some()).await;
    child.wait_with_output().unwrap().into()
}

/// The numbers of the lines of an upload.
fn numbers(upload: &[(u64, String)]) -> Vec<u64> {
    upload.iter().map(|(number, _)| *number).collect()
}

#[actix_web::test]
async fn a_client_that_is_killed_goes_on_where_it_was() {
    for (name, pack) in [
        ("chunks.ndjson", (|plain: String| plain.into_bytes()) as fn(String) -> Vec<u8>),
        ("chunks.ndjson.gz", |plain| gzip(plain)),
        ("chunks.ndjson.zst", |plain| zstd(plain)),
    ] {
        // Blank lines and one that fails for good lie among them; the last line has no end.
        let content = lines(0..700) + "\n\r\n{\"text\":\"\"}\n" + &lines(700..5000) + line(5000).trim_end();
        let scene = Scene::of(name, pack(content));
        // The first answers as far as that, then neither answers nor ends.
        let never = Arc::new(Notify::new());
        let service = ScriptedService::start([Step::CutAfter(3000, never)]);
        let mut client = scene.spawn(&service.url, &[]);
        until("the journal has what was answered", || scene.kept() == 3000).await;
        client.kill().unwrap();
        client.wait().unwrap();

        let told = scene.run(&service.url, &[]).await;
        told.says(1, "5001 stored, 0 duplicates, 1 failed");
        told.complains(&["was begun before: 2999 stored, 0 duplicates, 1 failed", "line 703: text_empty"]);
        assert_eq!(service.stored(), 5001);
        let uploads = service.uploads();
        assert_eq!(numbers(&uploads[0]).len(), 3000);
        assert_eq!(
            numbers(&uploads[1]),
            (3003..=5004).collect::<Vec<_>>(),
            "what was settled is not sent again"
        );
        assert_eq!(uploads.len(), 2);

        // Nothing is left to send; what failed for good is reported again.
        let told = scene.run(&service.url, &[]).await;
        told.says(1, "5001 stored, 0 duplicates, 1 failed");
        told.complains(&["line 703: text_empty"]);
        assert_eq!(service.uploads().len(), 2);
        fs::remove_file(scene.journal()).unwrap();
        scene.run(&service.url, &[]).await.says(1, "0 stored, 5001 duplicates, 1 failed");
    }
}

#[actix_web::test]
async fn a_connection_that_breaks_costs_only_what_was_under_way() {
    let scene = Scene::plain(lines(0..2000));
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = ScriptedService::start([
        Step::CutAfter(500, first.clone()),
        Step::EndAfter(600),
        Step::CutAfter(0, second.clone()),
        Step::Refuse(500),
        Step::Refuse(503),
    ]);
    let client = scene.spawn(&service.url, &[]);
    until("all answers are heard", || scene.kept() == 500).await;
    first.notify_one();
    second.notify_one();
    let told = end(client).await;
    told.says(0, "2000 stored, 0 duplicates, 0 failed");
    let uploads = service.uploads();
    assert_eq!(uploads.iter().map(Vec::len).collect::<Vec<_>>(), [500, 600, 0, 900]);
    assert_eq!(numbers(&uploads[1]), (501..=1100).collect::<Vec<_>>());
    assert_eq!(numbers(&uploads[3]), (1101..=2000).collect::<Vec<_>>());
    assert_eq!((service.stored(), service.refused()), (2000, 2));
    assert!(!scene.journal().exists(), "a file that is done needs none");
}

#[actix_web::test]
async fn a_service_that_is_full_is_asked_again_when_it_says_and_not_before() {
    let scene = Scene::plain(lines(0..100));
    let service = ScriptedService::start([Step::PutOff(1)]);
    let told = scene.run(&service.url, &[]).await;
    told.says(0, "100 stored, 0 duplicates, 0 failed");
    told.complains(&["waits: as the script says (429); next try in 1.0 s"]);
    assert_eq!((service.refused(), service.uploads().len()), (1, 1));

    let service = ScriptedService::start([Step::PutOff(1)]);
    let told = scene.run(&service.url, &["--patience", "0"]).await;
    told.says(2, "0 stored, 0 duplicates, 0 failed");
    told.complains(&["the service has no room", "run the same command again"]);
    assert_eq!((service.refused(), service.uploads().len()), (1, 0));

    let service = ScriptedService::start([Step::Refuse(415)]);
    let told = scene.run(&service.url, &[]).await;
    assert_eq!((told.code, service.refused()), (2, 1), "what would be refused again is not asked again");
    told.complains(&["refused the upload: 415 as the script says"]);
}

#[actix_web::test]
async fn chunks_that_are_not_taken_are_sent_again_and_only_they() {
    let scene = Scene::plain(lines(0..1000));
    let service = ScriptedService::start([]);
    for n in [3, 500, 999] {
        service.refuse_text(&format!("Fact {n}."), 1);
    }
    let told = scene.run(&service.url, &[]).await;
    told.says(0, "1000 stored, 0 duplicates, 0 failed");
    told.complains(&["has 3 chunks to send again, the last one line 1000 (llm_failed: as the script says)"]);
    let uploads = service.uploads();
    assert_eq!(uploads.iter().map(|upload| upload.len()).collect::<Vec<_>>(), [1000, 3]);
    assert_eq!(numbers(&uploads[1]), [4, 501, 1000]);
    assert_eq!(service.stored(), 1000);
}

#[actix_web::test]
async fn chunks_that_are_never_taken_are_given_up_and_remembered() {
    let scene = Scene::plain(lines(0..10) + "{\"text\":\"\"}\n");
    let service = ScriptedService::start([]);
    service.refuse_text("Fact 4.", 3);
    let told = scene.run(&service.url, &["--tries", "2"]).await;
    told.says(2, "9 stored, 0 duplicates, 1 failed");
    told.complains(&["1 chunks are not taken (line 5: llm_failed", "run the same command again"]);
    assert_eq!(service.uploads().iter().map(Vec::len).collect::<Vec<_>>(), [11, 1]);
    // Without patience everything is tried once.
    let told = scene.run(&service.url, &["--patience", "0"]).await;
    told.says(2, "9 stored, 0 duplicates, 1 failed");
    assert_eq!(service.uploads().iter().map(Vec::len).collect::<Vec<_>>(), [11, 1, 1]);
    scene.run(&service.url, &[]).await.says(1, "10 stored, 0 duplicates, 1 failed");
    assert_eq!(service.uploads().last().unwrap().as_slice(), [(5, "Fact 4.".to_owned())]);
}

#[actix_web::test]
async fn a_journal_counts_only_for_the_same_bytes_dataset_and_database() {
    let scene = Scene::plain(lines(0..10));
    let service = ScriptedService::start([Step::EndAfter(6), Step::EndAfter(0)]);
    service.set_store("one");
    scene.run(&service.url, &["--patience", "0"]).await.says(2, "6 stored, 0 duplicates, 0 failed");
    assert_eq!(scene.kept(), 6);
    let journal = fs::read(scene.journal()).unwrap();
    scene.run(&service.url, &["--patience", "0"]).await.says(2, "6 stored, 0 duplicates, 0 failed");

    service.set_store("another");
    let told = scene.run(&service.url, &[]).await;
    told.says(0, "4 stored, 6 duplicates, 0 failed");
    told.complains(&["the service has another database now"]);
    service.set_store("one");
    for (flags, changed, why) in [
        (&["--dataset", "other"][..], false, "another service or dataset"),
        (&[], true, "other contents of this file"),
    ] {
        fs::write(scene.journal(), &journal).unwrap();
        if changed {
            fs::write(&scene.file, lines(0..11)).unwrap();
        }
        let told = scene.run(&service.url, flags).await;
        told.says(
            0,
            if changed { "1 stored, 10 duplicates, 0 failed" } else { "0 stored, 10 duplicates, 0 failed" },
        );
        told.complains(&["begins at its first line", why]);
    }
    fs::write(scene.journal(), &journal).unwrap();
    scene.run(&service.url, &["--no-journal"]).await.says(0, "0 stored, 11 duplicates, 0 failed");
    assert_eq!(fs::read(scene.journal()).unwrap(), journal, "it was not read");
}

#[actix_web::test]
async fn a_file_is_sent_all_the_same_where_no_journal_can_be_written() {
    let scene = Scene::plain(lines(0..10));
    // Something is in its way that even root cannot write over.
    fs::create_dir(scene.journal()).unwrap();
    let service = ScriptedService::start([Step::EndAfter(6)]);
    let told = scene.run(&service.url, &[]).await;
    told.says(0, "10 stored, 0 duplicates, 0 failed");
    told.complains(&["has no journal, because"]);
    assert_eq!(service.uploads().iter().map(Vec::len).collect::<Vec<_>>(), [6, 4]);
    assert_eq!(told.complaint.matches("has no journal").count(), 1);
}

async fn pipe(service: &ScriptedService, content: &str, flags: &[&str]) -> Told {
    let arguments = [&["ingest", "--url", &service.url], flags, &["-"]].concat();
    let mut command = tokio::process::Command::from(lnsp(&arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    // A client that gave up does not read to the end.
    let _written: std::io::Result<()> = input.write_all(content.as_bytes()).await;
    drop(input);
    client.wait_with_output().await.unwrap().into()
}

#[actix_web::test]
async fn standard_input_is_sent_once() {
    // What is refused before its first byte was not read: that can be tried again.
    let service = ScriptedService::start([Step::PutOff(1)]);
    let told = pipe(&service, &lines(0..100), &[]).await;
    told.says(0, "100 stored, 0 duplicates, 0 failed");
    told.complains(&["- can be read only once"]);
    assert_eq!((service.refused(), service.stored()), (1, 100));

    let service = ScriptedService::start([]);
    service.refuse_text("Fact 7.", 1);
    let told = pipe(&service, &lines(0..100), &[]).await;
    told.says(2, "99 stored, 0 duplicates, 0 failed");
    told.complains(&["1 chunks are not taken (line 8: llm_failed", "send it again"]);
    assert_eq!(service.uploads().len(), 1);

    let service = ScriptedService::start([Step::EndAfter(60)]);
    let told = pipe(&service, &lines(0..100), &[]).await;
    told.says(2, "60 stored, 0 duplicates, 0 failed");
    told.complains(&["cut by the script", "send it again"]);
    assert_eq!(service.uploads().len(), 1);
}

#[actix_web::test]
async fn files_that_cannot_be_sent_do_not_hold_up_those_that_can() {
    let scene = Scene::plain(lines(0..10));
    let damaged = Scene::of("damaged.gz", &gzip(lines(1000..2000))[..400]);
    let service = ScriptedService::start([]);
    let missing = scene.run(&service.url, &["no-such-file.ndjson"]).await;
    assert_eq!((missing.code, service.uploads().len()), (2, 0), "nothing is sent before all are there");
    missing.complains(&["no-such-file.ndjson"]);

    let told = scene.run(&service.url, &[damaged.file.to_str().unwrap()]).await;
    assert_eq!((told.code, service.uploads().len()), (2, 2), "the damaged one is not tried again");
    told.complains(&["the service took only a part of the file: the gzip body ends in the middle"]);
    let good = format!("{}: 10 stored, 0 duplicates, 0 failed in ", scene.file.display());
    assert!(told.out.contains(&good), "{}", told.out);

    // No server listens there; the first says so, and the second is not tried.
    let told = scene.run("http://127.0.0.1:1", &["--patience", "0", damaged.file.to_str().unwrap()]).await;
    assert_eq!(told.code, 2);
    told.complains(&[
        "no answer from http://127.0.0.1:1; is the service running?",
        "1 more files were not sent",
    ]);
}

/// The state of a service's pipeline, when nothing of any upload is left in it.
async fn quiet(service: &Service) -> bool {
    let text = |path: &'static str| async move {
        client().get(format!("{}{path}", service.url)).send().await.unwrap().text().await.unwrap()
    };
    let health: Value = serde_json::from_str(&text("/health").await).unwrap();
    let pipeline = &health["pipeline"];
    let inside = pipeline["inside"].as_array().unwrap().iter().all(|stage| stage == 0);
    inside && pipeline["waiting"] == 0 && text("/metrics").await.contains("lnsp_http_uploads_active 0")
}

fn own_server(data: &Path) -> Database {
    let folder = data.join("postgres").canonicalize().unwrap();
    Database::at(lnsp_ingest::store::Dsn::socket(&folder.join("run"), 5432, "lnsp", "lnsp"))
}

#[actix_web::test]
async fn client_and_service_are_killed_in_turn_and_every_chunk_is_stored_once() {
    const CHUNKS: usize = 3000;
    let data = DataFolder::new();
    let service = Service::start(data.path(), &[]);
    let url = service.url.clone();
    let port = url.rsplit(':').next().unwrap().to_owned();
    let scene = Scene::of("chunks.ndjson.gz", gzip(lines(0..CHUNKS)));

    let mut client = scene.spawn(&url, &[]);
    until("the client has got somewhere", || scene.kept() >= 100).await;
    client.kill().unwrap();
    client.wait().unwrap();
    let kept = scene.kept();
    // The service commits what it has taken; not all of these results have reached the client.
    while !quiet(&service).await {
        tokio::task::yield_now().await;
    }
    let rows = own_server(data.path()).number("SELECT count(*) FROM chunks").await.unsigned_abs();
    assert!(kept <= rows && rows < CHUNKS as u64, "{kept} heard of, {rows} stored");

    let client = scene.spawn(&url, &[]);
    until("the client has gone on", || scene.kept() >= rows + 100).await;
    service.kill();
    let service = Service::start_on(&port, data.path(), &[]);
    let told = end(client).await;
    assert_eq!(told.code, 0, "{}{}", told.out, told.complaint);
    told.complains(&["was begun before", "next try in"]);
    let (_path, tally) = told.out.rsplit_once(": ").unwrap();
    let answered: Vec<u64> =
        tally.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    assert_eq!(answered[0] + answered[1], CHUNKS as u64, "{}", told.out);
    assert!(answered[1] >= rows - kept, "what was stored and not heard of is known: {}", told.out);
    let database = own_server(data.path());
    for count in ["count(*)", "count(DISTINCT text)"] {
        let sql = format!("SELECT {count} FROM chunks JOIN chunk_vectors USING (item)");
        assert_eq!(database.number(&sql).await, CHUNKS as i64);
    }
    assert!(!scene.journal().exists());
    assert!(service.terminate().success());
}
