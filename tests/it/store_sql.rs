//! What other programs read in the database is right: the functions for old codes and vectors, the views in the
//! shape of the old tables, and the tables themselves, as `schema.rs` and the migrations describe them.

use crate::store::{count, draft, embedded, fresh, plain};
use crate::support::postgres::{connect, database};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Float, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use lnsp_ingest::chunk::{BatchId, Metadata, Placement};
use lnsp_ingest::tmd::{Tmd, packing, projection};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(QueryableByName)]
struct Floats {
    #[diesel(sql_type = Array<Float>)]
    floats: Vec<f32>,
}

async fn floats(conn: &mut AsyncPgConnection, expression: &str) -> Vec<f32> {
    let query = diesel::sql_query(format!("SELECT {expression} AS floats"));
    query.get_result::<Floats>(conn).await.unwrap().floats
}

fn assert_close(found: &[f32], expected: &[f32]) {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(close),
        "{found:?} is not {expected:?}"
    );
}

#[tokio::test]
async fn the_code_functions_agree_with_the_published_values_and_with_ours() {
    #[derive(QueryableByName)]
    struct Packed {
        #[diesel(sql_type = Integer)]
        bits: i32,
        #[diesel(sql_type = Integer)]
        lane: i32,
    }
    let mut conn = connect(&database().await).await;
    let published =
        [((0, 0, 1), 2), ((4, 5, 9), 17042), ((15, 14, 9), 63250), ((15, 31, 63), 65534), ((2, 5, 10), 8852)];
    for ((d, t, m), bits) in published {
        let tmd = Tmd::new(d, t, m).unwrap();
        let query =
            format!("SELECT tmd_bits_canonical({d},{t},{m}) AS bits, tmd_lane_index({d},{t},{m}) AS lane");
        let packed: Packed = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
        assert_eq!((packed.bits, packed.lane), (bits, bits / 2), "{tmd}");
        assert_eq!(packed.lane, i32::from(packing::lane_index(tmd)));
    }
    let head = floats(&mut conn, "(tmd_16d_canonical(4, 5, 9))[1:3]").await;
    assert_close(&head, &[0.571_803_7, -0.252_801_1, 0.042_821_4]);

    for (d, t, m) in [(0, 0, 0), (0, 0, 1), (8, 16, 32), (4, 5, 9), (15, 14, 9), (15, 31, 63), (1, 2, 32)] {
        let tmd = Tmd::new(d, t, m).unwrap();
        let canonical = floats(&mut conn, &format!("tmd_16d_canonical({d},{t},{m})")).await;
        assert_close(&canonical, &projection::canonical_16d(tmd));
        let ingest = floats(&mut conn, &format!("tmd_16d_ingest({d},{t},{m})")).await;
        assert_eq!(ingest, projection::ingest_16d(tmd), "{tmd}");
    }
}

#[tokio::test]
async fn every_float_is_readable_in_sql_bit_for_bit() {
    let mut conn = connect(&database().await).await;
    // One of each exponent, both signs, the ends of the fraction; NaN keeps no payload and is left out.
    let values: Vec<f32> = (0..=254u32)
        .flat_map(|exponent| [0, 1, 0x40_0000, 0x7f_ffff].map(|fraction| exponent << 23 | fraction))
        .chain([255 << 23])
        .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
        .collect();
    let hex: String = values.iter().flat_map(|x| x.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    let read = floats(&mut conn, &format!("bytea_to_real_array('\\x{hex}')")).await;
    let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read), bits(&values));
    assert_eq!(floats(&mut conn, "bytea_to_real_array('')").await, Vec::<f32>::new());
}

#[tokio::test]
async fn the_old_tables_are_views_with_the_old_values() {
    let (store, model, dsn) = fresh().await;
    let mut sent = draft("wiki", "1", "Photosynthesis converts light energy.");
    sent.placement = Placement {
        document_id: Some("doc".into()),
        chunk_index: 3,
        source_document: Some("web_input".into()),
        article_title: Some("Photosynthesis".into()),
        article_index: Some(12),
        parent_cpe_ids: vec!["p".into()],
        child_cpe_ids: vec![],
    };
    sent.batch = Some(BatchId::Named("b-1".into()));
    sent.metadata =
        Some(Metadata::new([("episode_id".to_owned(), "e1".into())].into_iter().collect()).unwrap());
    let row = embedded(sent, (15, 14, 9), &[0.6, 0.8, 0.0, 0.0]);
    store.insert(model, &[&row]).await.unwrap();
    let mut conn = connect(&dsn).await;

    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        row: String,
    }
    let query = "SELECT (to_jsonb(e) - 'created_at')::text AS row FROM cpe_entry e";
    let found: Row = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
    let text = "Photosynthesis converts light energy.";
    let expected = json!({
        "cpe_id": row.chunk.cpe_id, "mission_text": text, "source_chunk": text, "concept_text": text,
        "probe_question": "", "expected_answer": "", "soft_negatives": [], "hard_negatives": [],
        "domain_code": 15, "task_code": 14, "modifier_code": 9, "content_type": "factual", "dataset_source": "wiki",
        "chunk_position": {"article_title": "Photosynthesis", "article_index": 12, "chunk_index": 3, "source": "web_input"},
        "relations_text": [], "echo_score": null, "validation_status": "pending", "batch_id": "b-1",
        "tmd_bits": 31625, "tmd_bits_canonical": 63250, "tmd_lane": "lane_15",
        "lane_index": 15, "lane_index_canonical": 31625, "confidence_score": 0.09,
        "quality_metrics": {
            "cpesh_completeness": 0.2, "vector_norm": 1, "vector_dimension": 4, "text_length": 37,
            "concept_length": 37, "soft_negatives_count": 0, "hard_negatives_count": 0, "total_negatives": 0,
        },
        "parent_cpe_ids": ["p"], "child_cpe_ids": [], "last_accessed_at": null, "access_count": 0,
        "document_id": "doc", "sequence_index": 3, "episode_id": "e1",
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&found.row).unwrap(), expected);

    let concept = row.embedding.vector.to_vec();
    let tmd = row.tagging.tmd.unwrap();
    let (a, b) = (projection::canonical_16d(tmd), projection::ingest_16d(tmd));
    let texts = diesel::sql_query("SELECT to_jsonb(v)::text AS row FROM cpe_vectors v");
    let texts: Row = texts.get_result(&mut conn).await.unwrap();
    let texts: serde_json::Value = serde_json::from_str(&texts.row).unwrap();
    let mut column = async |name: &str| {
        let text = texts[name].as_str().unwrap();
        assert!(is_pgvector_input(text), "{text}");
        let read = format!("ARRAY(SELECT x::real FROM jsonb_array_elements_text(({name}::jsonb)) x)");
        let read = floats(&mut conn, &format!("{read} AS floats FROM cpe_vectors --")).await;
        let written: Vec<f32> = text[1..text.len() - 1].split(',').map(|x| x.parse().unwrap()).collect();
        assert_eq!(read, written, "as JSON, and as its digits");
        read
    };
    let mut read = BTreeMap::new();
    for name in [
        "concept_vec",
        "question_vec",
        "tmd_dense",
        "tmd_dense_canonical",
        "fused_vec",
        "fused_vec_canonical",
    ] {
        read.insert(name, column(name).await);
    }
    read.insert("fused_norm", floats(&mut conn, "ARRAY[fused_norm] AS floats FROM cpe_vectors --").await);
    assert_eq!((&read["concept_vec"], &read["question_vec"]), (&concept, &concept));
    assert_eq!(read["tmd_dense"], b);
    assert_close(&read["tmd_dense_canonical"], &a);
    assert_eq!(read["fused_vec"], [concept.as_slice(), &b].concat());
    let popcount = packing::lane_index(tmd).count_ones() as f32;
    assert_close(&read["fused_norm"], &[(1.0 + popcount).sqrt()]);
    let halved = |x: &f32| x / 2f32.sqrt();
    assert_close(&read["fused_vec_canonical"], &a.iter().chain(&concept).map(halved).collect::<Vec<_>>());
}

/// The syntax that pgvector documents for its input: numbers between brackets, as C writes floats.
fn is_pgvector_input(text: &str) -> bool {
    let number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "+00"));
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or_default();
        !mantissa.is_empty()
            && mantissa.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && !exponent.is_empty()
            && exponent.bytes().all(|byte| byte.is_ascii_digit())
    };
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.is_some_and(|inner| inner.split(',').all(number))
}

#[tokio::test]
async fn the_text_of_a_vector_reads_back_as_the_same_floats_whatever_the_session_has_set() {
    let mut conn = connect(&database().await).await;
    let values: Vec<f32> = (0..=254u32)
        .flat_map(|exponent| [1, 0x12_3456, 0x7f_ffff].map(|fraction| exponent << 23 | fraction))
        .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
        .collect();
    let hex: String = values.iter().flat_map(|x| x.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    for digits in [-15, 0, 3] {
        conn.batch_execute(&format!("SET extra_float_digits = {digits}")).await.unwrap();
        #[derive(QueryableByName)]
        struct Written {
            #[diesel(sql_type = Text)]
            vector: String,
        }
        let query = format!("SELECT vector_text(bytea_to_real_array('\\x{hex}')) AS vector");
        let written: Written = diesel::sql_query(query).get_result(&mut conn).await.unwrap();
        assert!(is_pgvector_input(&written.vector), "{}", written.vector);
        let read: Vec<f32> = serde_json::from_str(&written.vector).unwrap();
        let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&values), "{digits}");
    }
}

#[tokio::test]
async fn a_question_vector_is_used_where_there_is_one() {
    let (store, model, dsn) = fresh().await;
    store.insert(model, &[plain("a")]).await.unwrap();
    let mut conn = connect(&dsn).await;
    let question = "INSERT INTO chunk_vectors SELECT item, model_id, 'question', '\\x0000803f000000000000000000000000' FROM chunk_vectors";
    conn.batch_execute(question).await.unwrap();
    assert_eq!(
        floats(&mut conn, "translate(question_vec, '[]', '{}')::real[] AS floats FROM cpe_vectors --").await,
        [1.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(count(&mut conn, "cpe_vectors").await, 1);
    let same =
        "cpe_vectors_json JOIN cpe_vectors USING (cpe_id, fused_vec, question_vec, concept_vec, tmd_dense)";
    assert_eq!(count(&mut conn, same).await, 1);
    // Each follower is shown its own.
    let concepts = store.changes_after(0, 10, model).await.unwrap();
    let questions = store.question_changes_after(0, 10, model).await.unwrap();
    let vectors = [concepts, questions].map(|changes| changes.rows[0].vector.clone());
    assert_eq!(vectors, [[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]);
}

#[tokio::test]
async fn schema_rs_is_what_the_migrations_make() {
    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        primary_key: String,
        #[diesel(sql_type = Text)]
        columns: String,
        #[diesel(sql_type = BigInt)]
        uncommented: i64,
    }
    let tables = diesel::sql_query(
        "SELECT t.relname::text AS name,
                (SELECT string_agg(a.attname, ', ' ORDER BY array_position(i.indkey, a.attnum))
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = t.oid AND i.indisprimary) AS primary_key,
                string_agg(a.attname || ' ' || y.typname || CASE WHEN a.attnotnull THEN '' ELSE '?' END, E'\\n'
                           ORDER BY a.attnum) AS columns,
                count(*) FILTER (WHERE col_description(t.oid, a.attnum) IS NULL)
                    + (obj_description(t.oid) IS NULL)::integer AS uncommented
         FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid JOIN pg_type y ON y.oid = a.atttypid
         WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
           AND t.relname <> '__diesel_schema_migrations'
         GROUP BY t.oid, t.relname ORDER BY t.relname",
    );
    let tables: Vec<Table> = tables.load(&mut connect(&database().await).await).await.unwrap();
    let mut expected = "// @generated automatically by Diesel CLI.\n".to_owned();
    for table in &tables {
        assert_eq!(table.uncommented, 0, "{} and its columns have comments", table.name);
        expected += &format!("\ndiesel::table! {{\n    {} ({}) {{\n", table.name, table.primary_key);
        for column in table.columns.lines() {
            let (name, kind) = column.split_once(' ').unwrap();
            expected += &format!("        {name} -> {},\n", diesel_type(kind));
        }
        expected += "    }\n}\n";
    }
    let written =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/schema.rs")).unwrap();
    let (written, _) = written.split_once("\ndiesel::joinable!").unwrap();
    assert_eq!(written, expected, "run `diesel print-schema` after changing a migration");
}

/// As `diesel print-schema` writes it: PostgreSQL does not know whether elements of arrays may be null.
fn diesel_type(kind: &str) -> String {
    if let Some(kind) = kind.strip_suffix('?') {
        return format!("Nullable<{}>", diesel_type(kind));
    }
    if let Some(element) = kind.strip_prefix('_') {
        return format!("Array<Nullable<{}>>", diesel_type(element));
    }
    kind[..1].to_uppercase() + &kind[1..]
}

#[tokio::test]
async fn the_migrations_can_be_taken_back() {
    let dsn = database().await;
    let mut conn = connect(&dsn).await;
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).unwrap();
    let mut folders: Vec<_> = folders.map(|folder| folder.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 14);
    for folder in folders.iter().rev() {
        conn.batch_execute(&std::fs::read_to_string(folder.join("down.sql")).unwrap()).await.unwrap();
    }
    let left = "pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '%diesel%'";
    assert_eq!(count(&mut conn, left).await, 0);
    assert_eq!(
        count(&mut conn, "pg_proc WHERE pronamespace = 'public'::regnamespace AND proname !~ 'diesel'").await,
        0
    );
    for folder in folders {
        conn.batch_execute(&std::fs::read_to_string(folder.join("up.sql")).unwrap()).await.unwrap();
    }
}
