//! Texts of other people reach a terminal only as characters: names of files, files of models, answers of servers.

use crate::support::process::{lnsp, run};
use crate::support::scripted_embedder::{DIMS, ScriptedEmbedder};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;

/// Sets the title of the window and the colour by C0 and C1, turns the direction of text, and writes a line over.
const BAD: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\r\nlnsp: all is well";

/// Runs a command; what it printed must hold `words` and nothing that changes a terminal.
#[track_caller]
fn harmless(command: &mut Command, words: &[&str]) {
    let (_, out, complaint) = run(command);
    let text = out + &complaint;
    for word in words {
        assert!(text.contains(word), "{word} is not in: {text:?}");
    }
    let commands = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}');
    assert!(!text.contains(commands), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("lnsp: all is well")), "{text:?}");
}

/// A server that answers each request with this status and JSON.
fn answering(status: u16, body: &serde_json::Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = body.to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(socket);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap());
                line.clear();
            }
            std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).unwrap();
            let head =
                format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            drop(reader.get_mut().write_all(answer.as_bytes()));
        }
    });
    url
}

#[test]
fn an_argument_and_the_name_of_a_file_are_shown_as_characters() {
    let folder = tempfile::tempdir().unwrap();
    harmless(lnsp(&["serve"]).arg(format!("--{BAD}")), &["unexpected argument", "\\u{1b}]0;owned"]);
    let file = folder.path().join(format!("x{BAD}.ndjson"));
    harmless(lnsp(&["ingest"]).arg(&file), &["\\u{1b}]0;owned", "\\u{202e}\\r\\nlnsp: all is well"]);
    fs::write(&file, "{\"text\":\"a\"}\n").unwrap();
    let nowhere = ["ingest", "--patience", "0", "--url", "http://127.0.0.1:1"];
    harmless(lnsp(&nowhere).arg(&file), &["\\u{1b}]0;owned", "0 stored"]);
}

#[test]
fn answers_of_a_service_are_shown_as_characters() {
    let refusing = answering(400, &json!({"error": {"code": BAD, "message": BAD}}));
    harmless(&mut lnsp(&["search", "--url", &refusing, "x"]), &["the service refused the search: \\u{1b}"]);
    harmless(&mut lnsp(&["replay", "--url", &refusing]), &["the service refused: 400 \\u{1b}"]);
    let result = json!({
        "score": 0.5, "text": BAD, "article_title": BAD, "names": {"domain": BAD, "task": BAD, "modifier": BAD},
    });
    let finding = answering(200, &json!({"results": [result]}));
    harmless(&mut lnsp(&["search", "--url", &finding, "x"]), &["0.500", "\\u{1b}", "\\u{202e}"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.ndjson");
    fs::write(&file, "{\"text\":\"a\"}\n").unwrap();
    let ingest = ["ingest", "--patience", "0", "--url", &refusing, file.to_str().unwrap()];
    harmless(&mut lnsp(&ingest), &["the service refused the upload: 400 \\u{1b}"]);
}

#[actix_web::test]
async fn an_embedding_server_and_a_model_are_shown_as_characters() {
    let health = json!({"encoder": BAD, "dimension": DIMS, "model": BAD, "device": BAD});
    let embedder = ScriptedEmbedder::saying(health, []);
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().to_str().unwrap();
    let doctor = ["doctor", "--no-measure", "--port", "0", "--data-dir", data_dir];
    let url = embedder.url.clone();
    let with = |flags: &[&str]| lnsp(&[&doctor[..], flags].concat());
    harmless(&mut with(&["--embedding-endpoint", &url]), &["model", "\\u{1b}]0;owned"]);

    let model = data.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), json!({"model_type": BAD}).to_string()).unwrap();
    let model = model.to_str().unwrap();
    harmless(&mut with(&["--embedding-model", model]), &["model type `\\u{1b}]0;owned", "not supported yet"]);
    fs::create_dir_all(data.path().join(format!("models/m{BAD}"))).unwrap();
    harmless(&mut lnsp(&["model", "list", "--data-dir", data_dir]), &["\\u{1b}]0;owned"]);
}
