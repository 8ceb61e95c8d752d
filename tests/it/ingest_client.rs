//! `lnsp ingest` against everything that happens to a long upload: each line is sent until its answer is known, and
//! not after. The client is a process of its own; most services are scripted, so that counts are exact.

use crate::streams::{gzip, zstd};
use crate::support::database::Database;
use crate::support::postgres::DataFolder;
use crate::support::process::{Service, lnsp};
use crate::support::scripted_service::{ScriptedService, Step};
use crate::support::wait::until;
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
async fn a_client_that_is_killed_is_run_again_and_nothing_is_stored_twice() {
    for (name, pack) in [
        ("chunks.ndjson", (|plain: String| plain.into_bytes()) as fn(String) -> Vec<u8>),
        ("chunks.ndjson.gz", |plain| gzip(plain)),
        // What a file is called says nothing.
        ("chunks", |plain| zstd(plain)),
    ] {
        // Blank lines and one that fails for good lie among them; the last line has no end.
        let content = lines(0..700) + "\n\r\n{\"text\":\"\"}\n" + &lines(700..5000) + line(5000).trim_end();
        let scene = Scene::of(name, pack(content));
        // The first answers as far as that, then neither answers nor ends.
        let never = Arc::new(Notify::new());
        let service = ScriptedService::start([Step::CutAfter(3000, never)]);
        let mut client = scene.spawn(&service.url, &[]);
        until("so much is answered", || service.answered() == 3000).await;
        client.kill().unwrap();
        client.wait().unwrap();

        for (stored, duplicates) in [(2002, 2999), (0, 5001)] {
            let told = scene.run(&service.url, &[]).await;
            told.says(1, &format!("{stored} stored, {duplicates} duplicates, 1 failed"));
            told.complains(&["line 703: text_empty"]);
            assert_eq!(service.stored(), 5001);
            assert_eq!(numbers(service.uploads().last().unwrap()), {
                let mut all: Vec<u64> = (1..=5004).collect();
                all.retain(|number| ![701, 702].contains(number));
                all
            });
        }
        let beside = fs::read_dir(scene.file.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1, "nothing is left beside the file");
    }
}

#[actix_web::test]
async fn a_connection_that_breaks_costs_only_what_was_under_way() {
    // The last line that is answered before the connection breaks fails, and so stands in the rejects: then all answers
    // are heard.
    let scene = Scene::plain(lines(0..499) + "{\"text\":\"\"}\n" + &lines(500..2000));
    let rejects = scene.file.with_file_name("rejects");
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = ScriptedService::start([
        Step::CutAfter(500, first.clone()),
        Step::EndAfter(600),
        Step::CutAfter(0, second.clone()),
        Step::Refuse(500),
        Step::Refuse(503),
    ]);
    let client = scene.spawn(&service.url, &["--rejects", rejects.to_str().unwrap()]);
    until("all answers are heard", || fs::read(&rejects).is_ok_and(|bytes| bytes.ends_with(b"\n"))).await;
    first.notify_one();
    second.notify_one();
    let told = end(client).await;
    told.says(1, "1999 stored, 0 duplicates, 1 failed");
    let uploads = service.uploads();
    assert_eq!(uploads.iter().map(Vec::len).collect::<Vec<_>>(), [500, 600, 0, 900]);
    assert_eq!(numbers(&uploads[1]), (501..=1100).collect::<Vec<_>>());
    assert_eq!(numbers(&uploads[3]), (1101..=2000).collect::<Vec<_>>());
    assert_eq!((service.stored(), service.refused()), (1999, 2));
    let rejects = fs::read_to_string(&rejects).unwrap();
    assert_eq!(rejects.lines().count(), 1, "{rejects}");
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
async fn chunks_that_are_never_taken_are_given_up() {
    let scene = Scene::plain(lines(0..10) + "{\"text\":\"\"}\n");
    let service = ScriptedService::start([]);
    service.refuse_text("Fact 4.", 3);
    let told = scene.run(&service.url, &["--tries", "2"]).await;
    told.says(2, "9 stored, 0 duplicates, 1 failed");
    told.complains(&["1 chunks are not taken (line 5: llm_failed", "run the same command again"]);
    assert_eq!(service.uploads().iter().map(Vec::len).collect::<Vec<_>>(), [11, 1]);
    // Without patience everything is tried once.
    let told = scene.run(&service.url, &["--patience", "0"]).await;
    told.says(2, "0 stored, 9 duplicates, 1 failed");
    assert_eq!(service.uploads().iter().map(Vec::len).collect::<Vec<_>>(), [11, 1, 11]);
    scene.run(&service.url, &[]).await.says(1, "1 stored, 9 duplicates, 1 failed");
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
    let packed = gzip(lines(1000..5000));
    let damaged = Scene::of("damaged.gz", &packed[..packed.len() / 2]);
    let service = ScriptedService::start([]);
    let missing = scene.run(&service.url, &["no-such-file.ndjson"]).await;
    assert_eq!((missing.code, service.uploads().len()), (2, 0), "nothing is sent before all are there");
    missing.complains(&["no-such-file.ndjson"]);

    let told = scene.run(&service.url, &[damaged.file.to_str().unwrap()]).await;
    assert_eq!((told.code, service.uploads().len()), (2, 2), "the damaged one is not tried again");
    let whole = service.uploads()[0].len();
    assert!((100..4000).contains(&whole), "what is whole is sent: {whole}");
    assert!(told.out.contains(&format!(": {whole} stored, 0 duplicates, 0 failed")), "{}", told.out);
    told.complains(&["the gzip data ends in the middle"]);
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

fn own_server(data: &Path) -> Database {
    let folder = data.join("postgres").canonicalize().unwrap();
    Database::at(lnsp_ingest::store::Dsn::socket(&folder.join("run"), 5432, "lnsp", "lnsp"))
}

/// Chunks that are stored with their vectors.
async fn stored(database: &Database) -> i64 {
    database.number("SELECT count(*) FROM chunks JOIN chunk_vectors USING (item)").await
}

#[actix_web::test]
async fn a_client_that_is_killed_twenty_times_and_a_service_that_is_killed_once_store_every_chunk_once() {
    const CHUNKS: usize = 3000;
    const KILLS: i64 = 20;
    let data = DataFolder::new();
    let service = Service::start(data.path(), &[]);
    let url = service.url.clone();
    let port = url.rsplit(':').next().unwrap().to_owned();
    let scene = Scene::of("chunks", gzip(lines(0..CHUNKS)));
    let database = own_server(data.path());
    let mut service = Some(service);

    for kill in 0..KILLS {
        let mut client = scene.spawn(&url, &[]);
        // Some are killed before anything is stored, some in the middle of it.
        let enough = (kill * 97) % 61;
        let before = stored(&database).await;
        while stored(&database).await < (before + enough).min(CHUNKS as i64) {
            tokio::task::yield_now().await;
        }
        client.kill().unwrap();
        client.wait().unwrap();
        if kill == KILLS / 2 {
            service.take().unwrap().kill();
            service = Some(Service::start_on(&port, data.path(), &[]));
        }
    }
    let told = scene.run(&url, &[]).await;
    assert_eq!(told.code, 0, "{}{}", told.out, told.complaint);
    let database = own_server(data.path());
    for count in ["count(*)", "count(DISTINCT text)"] {
        let sql = format!("SELECT {count} FROM chunks JOIN chunk_vectors USING (item)");
        assert_eq!(database.number(&sql).await, CHUNKS as i64);
    }
    scene.run(&url, &[]).await.says(0, &format!("0 stored, {CHUNKS} duplicates, 0 failed"));
    assert!(service.take().unwrap().terminate().success());
}
