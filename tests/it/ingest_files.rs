//! `lnsp ingest` takes files as people have them: each kind, by its content, with the fields where they belong.

use crate::streams::{gzip, zstd};
use crate::support::process::{lnsp, run};
use crate::support::scripted_service::ScriptedService;
use crate::support::test_service::TestService;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Files in a folder of the test's own.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

/// What a run of the command left behind: exit code, output, complaints.
struct Told(i32, String, String);

fn ingest(url: &str, flags: &[&str], files: &[&Path]) -> Told {
    let mut command = lnsp(&[&["ingest", "--url", url], flags].concat());
    told(command.args(files))
}

fn told(command: &mut Command) -> Told {
    let (code, out, complaint) = run(command);
    Told(code.unwrap(), out, complaint)
}

impl Told {
    #[track_caller]
    fn is(&self, code: i32, words: &[&str]) -> &Told {
        let Told(found, out, complaint) = self;
        assert_eq!(*found, code, "{out}{complaint}");
        for word in words {
            assert!(out.contains(word) || complaint.contains(word), "'{word}' is not in:\n{out}{complaint}");
        }
        self
    }
}

const ROWS: usize = 3000;

/// A chunk with everything in its text that a table has to quote.
fn row(n: usize) -> Value {
    json!({
        "id": format!("{n:05}"), "document_id": format!("doc-{}", n / 10), "chunk_index": n % 10,
        "text": format!("Café n° {n}: \"quoted\", with a comma; a semicolon,\ta tab and\na line break."),
        "metadata": {"year": 1900 + n % 100, "code": format!("{:03}", n % 10), "score": n as f64 + 0.5},
    })
}

fn rows() -> Vec<Value> {
    (0..ROWS).map(row).collect()
}

fn ndjson() -> String {
    rows().iter().map(|row| format!("{row}\n")).collect()
}

/// The same rows as a table.
fn table(delimiter: u8, end: csv::Terminator) -> String {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).terminator(end).from_writer(Vec::new());
    writer.write_record(["id", "document_id", "chunk_index", "text", "year", "code", "score"]).unwrap();
    for row in rows() {
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let own = ["id", "document_id", "chunk_index", "text"].map(|name| cell(&row[name]));
        let metadata = ["year", "code", "score"].map(|name| cell(&row["metadata"][name]));
        writer.write_record(own.iter().chain(&metadata)).unwrap();
    }
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// Each character is one byte in windows-1252, too.
fn windows(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

/// The rows as Parquet, in row groups, with the index of pandas and a column without values.
fn parquet() -> Vec<u8> {
    let schema = "message rows { required binary id (UTF8); optional binary document_id (UTF8);
        required int64 chunk_index; required binary text (UTF8); required int64 year; required binary code (UTF8);
        required double score; optional binary nothing (UTF8); required int64 __index_level_0__; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    for group in rows().chunks(700) {
        let text = |name: &str| -> Vec<ByteArray> {
            group.iter().map(|row| ByteArray::from(row[name].as_str().unwrap())).collect()
        };
        let codes: Vec<ByteArray> =
            group.iter().map(|row| ByteArray::from(row["metadata"]["code"].as_str().unwrap())).collect();
        let numbers = |values: &dyn Fn(&Value) -> i64| -> Vec<i64> { group.iter().map(values).collect() };
        let indexes = numbers(&|row| row["chunk_index"].as_i64().unwrap());
        let years = numbers(&|row| row["metadata"]["year"].as_i64().unwrap());
        let scores: Vec<f64> = group.iter().map(|row| row["metadata"]["score"].as_f64().unwrap()).collect();
        let there = vec![1_i16; group.len()];
        let mut columns = writer.next_row_group().unwrap();
        let mut at = 0;
        while let Some(mut column) = columns.next_column().unwrap() {
            match at {
                0 => column.typed::<ByteArrayType>().write_batch(&text("id"), None, None),
                1 => column.typed::<ByteArrayType>().write_batch(&text("document_id"), Some(&there), None),
                2 => column.typed::<Int64Type>().write_batch(&indexes, None, None),
                3 => column.typed::<ByteArrayType>().write_batch(&text("text"), None, None),
                4 => column.typed::<Int64Type>().write_batch(&years, None, None),
                5 => column.typed::<ByteArrayType>().write_batch(&codes, None, None),
                6 => column.typed::<DoubleType>().write_batch(&scores, None, None),
                7 => column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; group.len()]), None),
                _ => column.typed::<Int64Type>().write_batch(&years, None, None),
            }
            .unwrap();
            column.close().unwrap();
            at += 1;
        }
        columns.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[actix_web::test]
async fn every_kind_brings_the_same_chunks_and_brings_them_once() {
    let service = TestService::scripted().await;
    let files = Files::new();
    let pretty: String = rows().iter().map(|row| serde_json::to_string_pretty(row).unwrap() + "\n").collect();
    let kinds: Vec<(&str, Vec<u8>)> = vec![
        ("lines", ndjson().into_bytes()),
        ("lines-gzip", gzip(ndjson())),
        ("array-zstd", zstd(serde_json::to_string(&rows()).unwrap())),
        ("array-pretty", serde_json::to_vec_pretty(&rows()).unwrap()),
        ("objects", pretty.into_bytes()),
        ("request", json!({"chunks": rows(), "skip_cpesh": true}).to_string().into_bytes()),
        ("comma", table(b',', csv::Terminator::Any(b'\n')).into_bytes()),
        ("tab", table(b'\t', csv::Terminator::CRLF).into_bytes()),
        ("semicolon", ("sep=;\r\n".to_owned() + &table(b';', csv::Terminator::CRLF)).into_bytes()),
        ("wide", utf16(&table(b',', csv::Terminator::CRLF))),
        ("parquet", parquet()),
    ];
    let all = format!("{ROWS} stored, 0 duplicates, 0 failed in ");
    let known = format!("0 stored, {ROWS} duplicates, 0 failed in ");
    for (kind, content) in &kinds {
        let file = files.write(&format!("folder/{kind}"), content);
        let flags = ["--dataset", kind];
        let url = service.url.clone();
        let run = move |flags: [&str; 2]| {
            let mut command = lnsp(&["ingest", "--url", &url, flags[0], flags[1]]);
            command.arg(&file);
            tokio::process::Command::from(command)
        };
        for words in [&all, &known] {
            let output = run(flags).output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains(words.as_str()), "{kind}: {said}");
            assert!(!said.contains("not known"), "every field has its place: {said}");
        }
        let same = format!(
            "SELECT count(*) FROM chunks AS one JOIN chunks AS other USING (id, text, document_id, chunk_index, metadata)
             WHERE one.dataset_source = 'lines' AND other.dataset_source = '{kind}'"
        );
        assert_eq!(service.database.number(&same).await, ROWS as i64, "{kind}");
    }
    let year =
        "SELECT count(*) FROM chunks WHERE metadata @> '{\"year\": 1907, \"code\": \"007\", \"score\": 7.5}'";
    assert_eq!(service.database.number(year).await, kinds.len() as i64);

    // All of them in one folder, and what is none of them.
    files.write("folder/read me.txt", "These are the files.\nOf all kinds.\n");
    files.write("folder/.hidden", "no chunks");
    let mut command = lnsp(&["ingest", "--url", &service.url, "--dataset", "together"]);
    command.arg(files.0.path());
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{complaint}");
    let again = (kinds.len() - 1) * ROWS;
    assert!(out.contains(&format!("all files: {ROWS} stored, {again} duplicates, 0 failed")), "{out}");
    assert!(complaint.contains("read me.txt is skipped: it is plain text"), "{complaint}");
    assert!(out.contains("because they hold no chunks: 1"), "{out}");
    service.stop().await;
}

#[test]
fn columns_go_where_the_flags_say() {
    let service = ScriptedService::start([]);
    let files = Files::new();
    let file = files.write(
        "posts",
        "{\"uuid\":1,\"post\":{\"body\":\"One.\",\"lang\":\"en\"},\"title\":\"T\",\"tags\":[\"x\"],\"secret\":9}\n\n\
         {\"uuid\":2,\"post\":{\"body\":\"Two.\"},\"metadata\":{\"kept\":true}}\n",
    );
    service.keep_bodies();
    let flags = [
        "--text",
        "post.body",
        "--id",
        "uuid",
        "--map",
        "title=article_title",
        "--drop",
        "secret",
        "--set",
        "source_document=blog",
        "--metadata",
        "tags,post.lang",
    ];
    ingest(&service.url, &flags, &[&file]).is(0, &["2 stored"]);
    assert_eq!(
        service.bodies(),
        [
            json!({"text": "One.", "id": 1, "article_title": "T", "source_document": "blog",
                   "metadata": {"tags": ["x"], "post.lang": "en"}}),
            json!({"text": "Two.", "id": 2, "source_document": "blog", "metadata": {"kept": true}}),
        ]
    );
    for (flags, words) in [
        (&["--text", "body"][..], &["has no `body` for the text; its fields: `uuid`, `post`"][..]),
        (&["--text", "post.body", "--id", "uid"], &["has no `uid`, which a flag names"]),
        (&[], &["has no `text`; its fields: `uuid`", "--text NAME"]),
        (&["--text", "a", "--map", "b=text"], &["two columns are to become `text`"]),
        (&["--set", "dataset_source=x"], &["name it with --dataset"]),
        (&["--map", "a"], &["expected two names with = between them"]),
        (&["--encoding", "latin-99"], &["expected a label like windows-1252"]),
    ] {
        ingest(&service.url, flags, &[&file]).is(2, words);
    }
    assert_eq!(service.uploads().len(), 1, "nothing else was sent");
}

#[test]
fn what_cannot_be_taken_says_in_which_way_it_can() {
    let service = ScriptedService::start([]);
    let files = Files::new();
    let latin = windows("text;n\nCafé;1\n");
    for (name, content, words) in [
        ("prose", &b"It was a dark and stormy night.\n"[..], &["is plain text", "jq -Rc"][..]),
        ("zip", b"PK\x03\x04....", &["is a zip archive or a workbook", "CSV"]),
        ("xz", b"\xfd7zXZ\0...", &["xzcat FILE | lnsp ingest -"]),
        ("sqlite", b"SQLite format 3\0", &["sqlite3 -header -csv"]),
        ("web", b"<!doctype html>", &["is XML or HTML"]),
        (
            "table",
            b"title,content\na,b\n",
            &["has no `text`; its columns: `title`, `content`", "--text content"],
        ),
        ("twice", b"text,a,a\nx,1,2\n", &["two columns with the name `a`"]),
        ("latin", &latin, &["is not UTF-8 (line 2)", "--encoding windows-1252"]),
        (
            "dataset",
            b"{\"dataset_source\":\"old\",\"chunks\":[{\"text\":\"a\"}]}",
            &["the dataset 'old'", "--dataset"],
        ),
        ("cut", b"[{\"text\":\"whole\"},{\"text\":\"cu", &["is no JSON after value 1", "1 stored"]),
        ("parquet", b"PAR1 and nothing else", &["cannot be read as Parquet"]),
    ] {
        ingest(&service.url, &[], &[&files.write(name, content)]).is(2, words);
    }
    let latin = files.0.path().join("latin");
    service.keep_bodies();
    ingest(&service.url, &["--encoding", "windows-1252"], &[&latin]).is(0, &["1 stored"]);
    assert_eq!(service.bodies(), [json!({"text": "Café", "metadata": {"n": 1}})]);
    ingest(&service.url, &[], &[Path::new("/nowhere/at/all")]).is(2, &["/nowhere/at/all: No such file"]);
    for (url, words) in [("127.0.0.1:8004", "with a scheme"), ("https://127.0.0.1:8004", "speaks no TLS")] {
        ingest(url, &[], &[&latin]).is(2, &[words]);
    }
}

#[test]
fn refused_lines_are_counted_by_code_kept_for_mending_and_can_be_sent_again() {
    let service = ScriptedService::start([]);
    let files = Files::new();
    let file = files.write("table", "text,id\nGood.,1\n,2\n\"Two\nlines.\",3\nx,4,too,many\n,5\nLast.,6\n");
    let rejects = files.0.path().join("rejects");
    let flags = ["--rejects", rejects.to_str().unwrap()];
    let told = ingest(&service.url, &flags, &[&file]);
    told.is(
        1,
        &[
            "3 stored, 0 duplicates, 3 failed",
            "text_empty",
            "ragged_row",
            "line 6: ragged_row: expected 2 cells",
        ],
    );
    assert!(told.1.contains("leave the chunk out") && told.1.contains("table line 3"), "{}", told.1);
    let lines: Vec<Value> = fs::read_to_string(&rejects)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut said: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| (line["rejected"]["line"].as_u64().unwrap(), line["rejected"]["code"].as_str().unwrap()))
        .collect();
    said.sort_unstable();
    assert_eq!(said, [(3, "text_empty"), (6, "ragged_row"), (7, "text_empty")]);
    let empty = lines.iter().find(|line| line["rejected"]["line"] == 3).unwrap();
    assert_eq!(empty["chunk"], json!({"text": "", "id": "2"}));
    assert_eq!(empty["rejected"]["file"], file.display().to_string());
    let ragged = lines.iter().find(|line| line["rejected"]["line"] == 6).unwrap();
    assert_eq!(ragged["chunk"], "x,4,too,many");

    // Without texts there is nothing to mend.
    ingest(&service.url, &["--skip-empty"], &[&file]).is(1, &["0 stored, 3 duplicates, 1 failed, 2 skipped"]);
    let only =
        files.write("empty", "{\"text\":null}\n{\"text\":\"Good.\"}\n{\"text\":\" \"}\n{\"text\":\"\"}\n");
    // The scripted service stores a blank text.
    ingest(&service.url, &["--skip-empty"], &[&only]).is(0, &["1 stored, 1 duplicates, 0 failed, 2 skipped"]);

    // Mended and sent again, as it is.
    let mended = fs::read_to_string(&rejects).unwrap().replace("\"text\":\"\"", "\"text\":\"Mended.\"");
    let mended = mended.replace("\"x,4,too,many\"", "{\"text\":\"Mended too.\",\"id\":\"4\"}");
    let mended = files.write("mended", mended);
    service.keep_bodies();
    ingest(&service.url, &flags, &[&mended]).is(0, &["2 stored, 1 duplicates, 0 failed"]);
    assert_eq!(service.bodies()[0].as_object().unwrap().len(), 2, "nothing of the reason is sent");
    assert_eq!(fs::read_to_string(&rejects).unwrap(), "", "what an earlier run has refused is gone");
    ingest(&service.url, &["--rejects", mended.to_str().unwrap()], &[&mended]).is(2, &["name another file"]);
    assert!(fs::metadata(&mended).unwrap().len() > 0);
}

#[test]
fn a_pipe_brings_every_kind_but_parquet() {
    let service = ScriptedService::start([]);
    let files = Files::new();
    for (content, words, code) in [
        (gzip("text,id\nOne.,1\n"), "1 stored", 0),
        (b"[{\"text\":\"Two.\"}]".to_vec(), "1 stored", 0),
        (utf16("text\tid\nThree.\t3\n"), "1 stored", 0),
        (parquet(), "save it, and send the file", 2),
        (Vec::new(), "0 stored", 0),
    ] {
        let file = files.write("piped", content);
        let mut command = lnsp(&["ingest", "--url", &service.url, "-"]);
        command.stdin(fs::File::open(file).unwrap());
        told(&mut command).is(code, &[words]);
    }
}

#[actix_web::test]
async fn a_changed_file_replaces_what_it_has_changed() {
    let service = TestService::scripted().await;
    let files = Files::new();
    let file = files.write("faq.csv", "id,text\n1,Old answer.\n2,Same answer.\n");
    let run = |flags: &[&str]| {
        let mut command = lnsp(&[&["ingest", "--url", &service.url], flags].concat());
        command.arg(&file);
        let mut command = tokio::process::Command::from(command);
        async move {
            let output = command.output().await.unwrap();
            let code = output.status.code().unwrap();
            Told(code, String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
        }
    };
    run(&[]).await.is(0, &["2 stored, 0 duplicates, 0 failed"]);
    files.write("faq.csv", "id,text\n1,New answer.\n2,Same answer.\n");
    run(&[]).await.is(1, &["0 stored, 1 duplicates, 1 failed", "id_conflict"]);
    run(&["--on-conflict", "replace"]).await.is(0, &["0 stored, 1 replaced, 1 duplicates, 0 failed"]);
    run(&[]).await.is(0, &["0 stored, 2 duplicates, 0 failed"]);
    let texts = service.database.texts("SELECT text FROM chunks ORDER BY id").await;
    assert_eq!(texts, ["New answer.", "Same answer."]);
    service.stop().await;
}
