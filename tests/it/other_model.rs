//! From one model to another: the store refuses to mix them, and its chunks go on as lines to a store of the other.

use crate::parity::t5_folder;
use crate::support::database::Database;
use crate::support::process::{Service, lnsp, run};
use std::fs;
use std::path::Path;

const LINES: &str = r#"{"text": "Ships leave the harbour at dawn.", "id": "one", "metadata": {"a": null, "b": 0.1}}
{"text": "Bread needs salt.", "document_id": "kitchen", "chunk_index": 7, "article_title": "Bread \"and\" water"}
{"text": "A compiler translates.", "domain_code": 2, "task_code": 3, "modifier_code": 4, "parent_cpe_ids": ["p"]}
"#;

fn ingest(service: &Service, file: &Path) -> String {
    let file = file.to_str().unwrap();
    let (code, out, complaint) = run(&mut lnsp(&["ingest", "--url", &service.url, "--dataset", "d", file]));
    assert_eq!(code, Some(0), "{out}{complaint}");
    out
}

async fn chunks(database: &Database) -> Vec<String> {
    let query =
        "SELECT (to_jsonb(c) - 'seq' - 'item' - 'content_hash' - 'created_at' - 'batch_id' - 'truncated'
                     - 'tmd_source' - 'tmd_model' - 'tmd_took_us' - 'domain_confidence' - 'task_confidence'
                     - 'modifier_confidence')::text
                 FROM chunks c ORDER BY text";
    database.texts(query).await
}

#[actix_web::test]
async fn the_chunks_of_a_store_are_embedded_again_by_another_model() {
    let (old, new) = (Database::new().await, Database::new().await);
    let (data, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::write(file.path(), LINES).unwrap();
    let service = Service::start(data.path(), &["--database-url", old.dsn()]);
    ingest(&service, file.path());
    assert!(service.terminate().success());

    let t5 = t5_folder("plain-dense");
    let t5 = t5.to_str().unwrap();
    let at = data.path().to_str().unwrap();
    let flags =
        ["serve", "--port", "0", "--data-dir", at, "--embedding-model", t5, "--database-url", old.dsn()];
    let (code, _, complaint) = run(&mut lnsp(&flags));
    assert_eq!(code, Some(1), "{complaint}");
    for word in ["all-minilm-l6-v2", "plain-dense", "lnsp reembed", "lnsp model use"] {
        assert!(complaint.contains(word), "{word} is not in: {complaint}");
    }

    let lines = old.texts("SELECT line::text FROM chunk_lines WHERE dataset_source = 'd' ORDER BY seq").await;
    fs::write(file.path(), lines.join("\n")).unwrap();
    let data = tempfile::tempdir().unwrap();
    let service = Service::start(data.path(), &["--database-url", new.dsn(), "--embedding-model", t5]);
    assert!(service.log.contains("plain-dense, 32 dimensions"), "{}", service.log);
    ingest(&service, file.path());
    assert_eq!(new.number("SELECT count(*) FROM chunk_vectors WHERE octet_length(vector) = 4 * 32").await, 3);
    assert_eq!(chunks(&new).await, chunks(&old).await);

    // The text itself finds its chunk: query and chunk go through the same network.
    let (code, out, complaint) = run(&mut lnsp(&["search", "--url", &service.url, "Bread needs salt."]));
    assert_eq!(code, Some(0), "{complaint}");
    assert!(out.contains("1.000") && out.contains("Bread needs salt."), "{out}");
    assert!(service.terminate().success());
}
