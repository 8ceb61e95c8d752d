//! What is stored is read back over HTTP: single chunks with everything that is known of them, documents in order and in
//! pages, and lists of documents and datasets.

use crate::support::test_service::{TestService, client};
use lnsp_ingest::tmd::Axis;
use serde_json::{Value, json};

/// `POST /ingest` of these chunks, all of which are stored; gives their public names.
pub async fn stored(service: &TestService, dataset: &str, chunks: Value) -> Vec<String> {
    let body = json!({ "dataset_source": dataset, "chunks": chunks }).to_string();
    let (status, answer) = service.post("/ingest", body).await;
    assert_eq!((status, &answer["failed"]), (200, &json!(0)), "{answer}");
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|result| result["global_id"].as_str().unwrap().to_owned()).collect()
}

/// A list of one field of the objects in an array.
pub fn column(rows: &Value, name: &str) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row[name].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list below `path`: its rows, and the lengths of the pages.
async fn pages(service: &TestService, path: &str, name: &str) -> (Vec<Value>, Vec<usize>) {
    let (mut rows, mut lengths, mut after) = (Vec::new(), Vec::new(), String::new());
    loop {
        let (status, page) = service.get(&format!("{path}{after}")).await;
        assert_eq!(status, 200, "{page}");
        let found = page[name].as_array().unwrap();
        lengths.push(found.len());
        rows.extend(found.iter().cloned());
        let Some(next) = page["next"].as_str() else { return (rows, lengths) };
        after = format!("&after={next}");
    }
}

#[actix_web::test]
async fn a_chunk_is_read_with_everything_that_is_stored_of_it() {
    let service = TestService::scripted().await;
    let intro = json!([{"id": "intro", "text": "Plants make sugar.", "document_id": "leaf/1"}]);
    let intro = stored(&service, "wiki", intro).await.remove(0);
    let body = json!([
        {
            "id": "a b/\u{fc}", "text": "Light drives it.", "document_id": "leaf/1", "chunk_index": 1,
            "source_document": "crawl", "article_title": "Leaf", "article_index": 3, "batch_id": "b1",
            "metadata": {"lang": "de", "n": 1.5}, "parent_cpe_ids": ["intro", intro, "gone"], "child_cpe_ids": ["end"],
            "domain_code": 1, "task_code": 2, "modifier_code": 3, "concept_text": "Light drives photosynthesis.",
            "probe_question": "What drives it?", "expected_answer": "Light.", "soft_negatives": ["Water."],
            "hard_negatives": ["Iron."],
        },
        {"id": "end", "text": "Leaves fall.", "document_id": "leaf/1", "chunk_index": 2},
    ]);
    let names = stored(&service, "wiki", body).await;
    let (status, mut chunk) = service.get("/chunks/a%20b%2F%C3%BC?dataset_source=wiki").await;
    assert_eq!(status, 200, "{chunk}");
    let created_at =
        service.database.texts("SELECT created_at::text FROM chunks WHERE chunk_index = 1").await.remove(0);
    let shown = chunk["created_at"].as_str().unwrap().replace('T', " ").replace('Z', "");
    assert!(
        created_at.trim_end_matches("+00").starts_with(shown.trim_end_matches('0')),
        "{created_at} {shown}"
    );
    chunk.as_object_mut().unwrap().remove("created_at");
    let link = |id: &str, name: Option<&String>| json!({"id": id, "cpe_id": name});
    let name = |axis: Axis, code: usize| axis.names()[code];
    let seq = service.database.number("SELECT seq FROM chunks WHERE chunk_index = 1").await;
    let expected = json!({
        "id": "a b/\u{fc}", "cpe_id": names[0], "text": "Light drives it.", "document_id": "leaf/1", "chunk_index": 1,
        "dataset_source": "wiki", "source_document": "crawl", "article_title": "Leaf", "article_index": 3,
        "batch_id": "b1", "metadata": {"lang": "de", "n": 1.5},
        "parent_cpe_ids": ["intro", intro, "gone"], "child_cpe_ids": ["end"],
        "parents": [link("intro", Some(&intro)), link(&intro, Some(&intro)), link("gone", None)],
        "children": [link("end", Some(&names[1]))],
        "concept_text": "Light drives photosynthesis.", "probe_question": "What drives it?",
        "expected_answer": "Light.", "soft_negatives": ["Water."], "hard_negatives": ["Iron."],
        "cpesh_source": "client",
        "tmd": {
            "domain": 1, "task": 2, "modifier": 3, "source": "client", "model": null, "failure": null,
            "confidence": null, "took_us": null,
        },
        "names": {
            "domain": name(Axis::Domain, 1), "task": name(Axis::Task, 2), "modifier": name(Axis::Modifier, 3),
        },
        "truncated": false, "seq": seq,
        "previous": link("intro", Some(&intro)), "next": link("end", Some(&names[1])),
        "access": {"count": 0, "last_at": null},
    });
    assert_eq!(chunk, expected);

    // By its public name, without its dataset, and with its vectors.
    let (status, by_name) = service.get(&format!("/chunks/{}?vectors=true", names[0])).await;
    assert_eq!((status, &by_name["id"], &by_name["seq"]), (200, &json!("a b/\u{fc}"), &json!(seq)));
    let (_, health) = service.get("/health").await;
    let model = &health["model"]["fingerprint"];
    let vectors = by_name["vectors"].as_array().unwrap();
    let kinds: Vec<_> = vectors.iter().map(|vector| (&vector["model"], &vector["kind"])).collect();
    assert_eq!(kinds, [(model, &json!("concept")), (model, &json!("question"))]);
    let lengths = vectors.iter().map(|vector| vector["vector"].as_array().unwrap().len());
    assert!(lengths.eq([384, 384]) && vectors[0]["vector"] != vectors[1]["vector"]);
    // The ends of a document, and a chunk without one.
    let (_, first) = service.get("/chunks/intro").await;
    assert_eq!((&first["previous"], &first["next"]["id"]), (&Value::Null, &json!("a b/\u{fc}")));
    assert_eq!(
        (&first["metadata"], &first["parents"], &first["children"]),
        (&Value::Null, &json!([]), &json!([]))
    );
    assert_eq!((&first["tmd"]["source"], first.get("cpesh_source")), (&json!("local"), None));
    stored(&service, "wiki", json!([{"id": "alone", "text": "Alone."}])).await;
    let (_, alone) = service.get("/chunks/alone").await;
    assert_eq!(
        (&alone["document_id"], &alone["previous"], &alone["next"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    service.stop().await;
}

#[actix_web::test]
async fn a_name_that_means_no_one_chunk_is_answered_with_the_reason() {
    let service = TestService::scripted().await;
    for dataset in ["a", "b"] {
        let chunk = json!([{"id": "same", "text": "A fact.", "document_id": "d"}]);
        stored(&service, dataset, chunk).await;
    }
    let long = "n".repeat(513);
    for (path, status, code, param) in [
        ("/chunks/none", 404, "not_stored", ""),
        ("/chunks/none?dataset_source=a", 404, "not_stored", ""),
        ("/chunks/same?dataset_source=c", 404, "not_stored", ""),
        ("/chunks/6f1c9b1e-6f5b-8b0a-9d0b-1c0e7b6d2f11", 404, "not_stored", ""),
        ("/chunks/same", 409, "ambiguous_id", "dataset_source"),
        ("/chunks/%FF", 422, "invalid_utf8", "id"),
        ("/chunks/a%00", 422, "nul_character", "id"),
        (&format!("/chunks/{long}"), 422, "invalid_name", "id"),
        (&format!("/chunks/same?dataset_source={long}"), 422, "invalid_name", "dataset_source"),
        ("/chunks/same?vectors=perhaps", 422, "invalid_query", "vectors"),
        ("/chunks/same?colour=red", 422, "unknown_field", "colour"),
        ("/documents/none/chunks", 404, "not_stored", ""),
        ("/documents/d/chunks?dataset_source=c", 404, "not_stored", ""),
        ("/documents/d/chunks?limit=0", 422, "invalid_query", "limit"),
        ("/documents/d/chunks?limit=1001", 422, "invalid_query", "limit"),
        ("/documents/d/chunks?after=x", 422, "invalid_query", "after"),
        ("/documents/a%00/chunks", 422, "nul_character", "id"),
        ("/documents?after=x", 422, "invalid_query", "after"),
        // A place that the database cannot compare with.
        ("/documents?after=WyJkb2N1bWVudHMiLFsiYVx1MDAwMCIsImIiXV0", 422, "invalid_query", ""),
        ("/documents?dataset_source=%00", 422, "nul_character", "dataset_source"),
        ("/datasets?limit=x", 422, "invalid_query", "limit"),
        ("/chunks/", 404, "not_found", ""),
        ("/documents/d/e/chunks", 404, "not_found", ""),
    ] {
        let (found, answer) = service.get(path).await;
        let error = &answer["error"];
        let named = (found, error["code"].as_str().unwrap(), error["param"].as_str().unwrap_or_default());
        assert_eq!(named, (status, code, param), "{path:.60}: {error}");
    }
    let (_, answer) = service.get("/chunks/same").await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("'a', 'b'") && message.contains("dataset_source"), "{message}");
    assert_eq!(service.get("/chunks/same?dataset_source=b").await.1["dataset_source"], "b");
    // The label in the metrics is the pattern of the path.
    let metrics =
        client().get(format!("{}/metrics", service.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("route=\"/chunks/{id}\"") && !metrics.contains("route=\"/chunks/same\""));
    service.stop().await;
}

#[actix_web::test]
async fn a_document_is_read_in_its_order_and_in_pages() {
    let service = TestService::scripted().await;
    // Places that repeat: the id decides between them, by its bytes.
    let places = [("z", 0), ("B", 1), ("a", 1), ("e", 5), ("c", 2), ("d", 2), ("A", 1)];
    let chunks: Vec<Value> = places
        .iter()
        .map(|(id, index)| json!({"id": id, "text": format!("Fact {id}."), "document_id": "d/1", "chunk_index": index}))
        .collect();
    stored(&service, "one", json!(chunks)).await;
    stored(&service, "two", json!([{"id": "x", "text": "Other.", "document_id": "d/1", "chunk_index": -1}]))
        .await;
    let order = ["z", "A", "B", "a", "c", "d", "e"];
    for (limit, lengths) in [(1, vec![1; 7]), (3, vec![3, 3, 1]), (7, vec![7]), (100, vec![7])] {
        let path = format!("/documents/d%2F1/chunks?dataset_source=one&limit={limit}");
        let (rows, found) = pages(&service, &path, "chunks").await;
        assert_eq!((column(&json!(rows), "id"), found), (order.map(str::to_owned).to_vec(), lengths));
        for (at, row) in rows.iter().enumerate() {
            let beside =
                |at: Option<usize>| at.and_then(|at| order.get(at)).map_or(Value::Null, |id| json!(id));
            let (previous, next) = (beside(at.checked_sub(1)), beside(Some(at + 1)));
            assert_eq!((&row["previous"]["id"], &row["next"]["id"]), (&previous, &next), "{limit} {at}");
        }
    }
    // All datasets, one after the other; nothing leads from one to the other.
    let (rows, _) = pages(&service, "/documents/d%2F1/chunks?limit=2", "chunks").await;
    assert_eq!(column(&json!(rows), "id"), ["z", "A", "B", "a", "c", "d", "e", "x"]);
    assert_eq!((&rows[6]["next"], &rows[7]["previous"]), (&Value::Null, &Value::Null));
    // A cursor outlives its chunk.
    let (_, page) = service.get("/documents/d%2F1/chunks?dataset_source=one&limit=3&vectors=1").await;
    assert_eq!(page["chunks"][2]["vectors"][0]["vector"].as_array().unwrap().len(), 384);
    service.database.run("DELETE FROM chunks WHERE id = 'B'").await;
    let after = page["next"].as_str().unwrap();
    let (_, page) = service.get(&format!("/documents/d%2F1/chunks?dataset_source=one&after={after}")).await;
    assert_eq!(column(&page["chunks"], "id"), ["a", "c", "d", "e"]);
    assert_eq!((&page["chunks"][0]["previous"]["id"], &page["next"]), (&json!("A"), &Value::Null));
    service.stop().await;
}

#[actix_web::test]
async fn a_page_is_bounded_in_bytes() {
    let service = TestService::scripted().await;
    let text = "m ".repeat(32 * 1024);
    let chunks: Vec<Value> = (0..40)
        .map(|n| json!({"id": format!("{n:02}"), "text": text, "document_id": "long", "chunk_index": n}))
        .collect();
    stored(&service, "one", json!(chunks)).await;
    let (rows, lengths) = pages(&service, "/documents/long/chunks?limit=1000", "chunks").await;
    // 31 texts of 64 KiB and their empty links fit into 2 MiB.
    assert_eq!((rows.len(), lengths), (40, vec![31, 9]));
    assert!(rows.iter().all(|row| row["text"] == text.as_str()));
    service.stop().await;
}

#[actix_web::test]
async fn documents_and_datasets_are_listed_with_counts() {
    let service = TestService::scripted().await;
    assert_eq!(service.get("/documents").await, (200, json!({"documents": [], "next": null})));
    assert_eq!(service.get("/datasets").await, (200, json!({"datasets": [], "next": null})));
    for (dataset, documents) in [("a", 3), ("b/ \u{e9}", 2)] {
        for n in 0..documents {
            let chunks: Vec<Value> = (0..=n)
                .map(|index| json!({"text": format!("Fact {n} {index}."), "document_id": format!("d{n}"), "chunk_index": index}))
                .collect();
            stored(&service, dataset, json!(chunks)).await;
        }
    }
    stored(&service, "a", json!([{"text": "Without a document."}])).await;
    stored(&service, "c", json!([{"text": "Without a document."}])).await;
    let (rows, lengths) = pages(&service, "/documents?limit=2", "documents").await;
    let listed = |rows: &[Value]| {
        let row = |row: &Value| {
            let [document, dataset] =
                ["document_id", "dataset_source"].map(|name| row[name].as_str().unwrap());
            format!("{document} {dataset} {}", row["chunks"])
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let all = ["d0 a 1", "d0 b/ \u{e9} 1", "d1 a 2", "d1 b/ \u{e9} 2", "d2 a 3"];
    assert_eq!((listed(&rows), lengths), (all.map(str::to_owned).to_vec(), vec![2, 2, 1]));
    let last = &rows[4];
    assert!(last["first_created_at"].as_str().unwrap() < last["last_created_at"].as_str().unwrap(), "{last}");
    assert_eq!(rows[0]["first_created_at"], rows[0]["last_created_at"]);
    let (rows, _) = pages(&service, "/documents?limit=1&dataset_source=b%2F%20%C3%A9", "documents").await;
    assert_eq!(listed(&rows), ["d0 b/ \u{e9} 1", "d1 b/ \u{e9} 2"]);
    let (rows, lengths) = pages(&service, "/datasets?limit=2", "datasets").await;
    let expected = [("a", 7, 3), ("b/ \u{e9}", 3, 2), ("c", 1, 0)].map(
        |(name, chunks, documents)| json!({"dataset_source": name, "chunks": chunks, "documents": documents}),
    );
    assert_eq!((rows, lengths), (expected.to_vec(), vec![2, 1]));
    service.stop().await;
}
