//! Models that are damaged, or made to do damage: one sentence with the name of the file, from the doctor and from the
//! start, and no panic.

use crate::support::database::Database;
use crate::support::process::{lnsp, run};
use lnsp_ingest::encoder::{
    Device, DtypeChoice, EncodeError, EncoderOptions, ModelFiles, Tokenizer, try_out,
};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A copy of the smallest model, in which one file has another content.
fn broken(file: &str, content: impl AsRef<[u8]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&crate::root().join("tests/data/t5/plain-dense"), folder.path());
    fs::write(folder.path().join(file), content).unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Reads a model as the doctor and the start do.
fn read(folder: &Path) -> Result<(), EncodeError> {
    let files = ModelFiles::open(folder)?;
    Tokenizer::load(&files)?;
    let (device, dtype) = (Device::Cpu, DtypeChoice::Auto);
    try_out(&EncoderOptions { files, device, dtype, threads: None, batch_texts: true, tuning: None })
}

fn file_of(folder: &str, file: &str) -> Vec<u8> {
    fs::read(crate::root().join("tests/data/t5").join(folder).join(file)).unwrap()
}

/// The tokenizer of the model with one part exchanged.
fn tokenizer_with(part: &str, value: Value) -> String {
    let mut tokenizer: Value = serde_json::from_slice(&file_of("plain-dense", "tokenizer.json")).unwrap();
    tokenizer[part] = value;
    tokenizer.to_string()
}

/// The tensors of the model's weights with other numbers in them: each byte is `byte`.
fn weights_of(byte: u8) -> Vec<u8> {
    let mut weights = file_of("plain-dense", "model.safetensors");
    let header = 8 + usize::try_from(u64::from_le_bytes(*weights.first_chunk().unwrap())).unwrap();
    weights[header..].fill(byte);
    weights
}

#[test]
fn a_model_is_read_or_refused_in_one_sentence_that_names_the_file() {
    let whole = broken("note", "");
    read(whole.path()).unwrap();

    let weights = file_of("plain-dense", "model.safetensors");
    let charsmap = |map: &str| {
        tokenizer_with("normalizer", serde_json::json!({"type": "Precompiled", "precompiled_charsmap": map}))
    };
    let many = serde_json::json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [4_000_000], "tokens": ["x"]}}});
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("tokenizer.json", b"{\"decoder\":[}}}".into()),
        ("tokenizer.json", b"".into()),
        ("tokenizer.json", b"\xff\xfe".into()),
        ("tokenizer.json", weights[..1000].into()),
        ("tokenizer.json", charsmap("AQ==").into()),
        ("tokenizer.json", charsmap("BAAAAA==").into()),
        ("tokenizer.json", charsmap("CAAAAP////////94AA==").into()),
        // Its table claims two GiB, and the library would take their room.
        ("tokenizer.json", charsmap("////fwAA").into()),
        ("tokenizer.json", tokenizer_with("post_processor", many).into()),
        ("model.safetensors", b"".into()),
        ("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}".into()),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}".into()),
        ("model.safetensors", weights[..weights.len() / 2].into()),
        ("2_Dense/model.safetensors", b"\x08\0\0\0".into()),
        ("config.json", b"{\"model_type\":\"t5\",\"vocab_size\":0}".into()),
        ("config.json", file_of("gated", "config.json")),
        ("2_Dense/config.json", b"{\"in_features\":48,\"out_features\":18446744073709551615}".into()),
        ("modules.json", b"[[[[[[".into()),
    ];
    for (file, content) in cases {
        let folder = broken(file, &content);
        let sentence = read(folder.path()).unwrap_err().to_string();
        let shown = content[..content.len().min(60)].escape_ascii();
        // Weights that do not fit name the tensor and the file of the sizes.
        let named = sentence.contains(file) || sentence.contains("do not fit config.json");
        assert!(named && sentence.lines().count() == 1, "{file} {shown}: {sentence}");
    }
}

/// Links are another matter: only who made the folder can have put them there.
#[test]
fn no_file_of_a_model_leads_out_of_its_folder() {
    let outside = tempfile::tempdir().unwrap();
    copy(&crate::root().join("tests/data/t5/plain-dense"), outside.path());
    let elsewhere = outside.path().to_str().unwrap();
    let modules = |kind: &str, path: &str| {
        let mut modules: Value = serde_json::from_slice(&file_of("plain-dense", "modules.json")).unwrap();
        let ends_so = |module: &&mut Value| module["type"].as_str().unwrap().ends_with(kind);
        modules.as_array_mut().unwrap().iter_mut().find(ends_so).unwrap()["path"] = path.into();
        modules.to_string()
    };
    let dense = format!("{elsewhere}/2_Dense");
    for (kind, path) in [
        ("Transformer", elsewhere),
        ("Transformer", ".."),
        ("Pooling", "../1_Pooling"),
        ("Dense", "2_Dense/../../2_Dense"),
        ("Dense", dense.as_str()),
    ] {
        let folder = broken("modules.json", modules(kind, path));
        let sentence = read(folder.path()).unwrap_err().to_string();
        assert!(sentence.contains("modules.json: expected paths inside the folder"), "{kind}: {sentence}");
        assert!(sentence.contains(&format!("received `{path}`")), "{sentence}");
    }
    let folder = broken("modules.json", modules("Dense", "./2_Dense/"));
    read(folder.path()).unwrap();

    let shard = format!("{elsewhere}/model.safetensors");
    for named in ["../model.safetensors", "a/../../model.safetensors", shard.as_str()] {
        let index = serde_json::json!({"weight_map": {"shared.weight": named}}).to_string();
        let folder = broken("model.safetensors.index.json", index);
        fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let sentence = read(folder.path()).unwrap_err().to_string();
        let file = "model.safetensors.index.json: expected paths inside the folder";
        assert!(sentence.contains(file) && sentence.contains(named), "{sentence}");
    }
}

#[test]
fn weights_without_a_direction_are_refused() {
    for byte in [0, 0xff] {
        let folder = broken("model.safetensors", weights_of(byte));
        let sentence = read(folder.path()).unwrap_err().to_string();
        assert!(sentence.contains(folder.path().to_str().unwrap()), "{sentence}");
        assert!(
            sentence.contains("unusable vector") && sentence.contains("fetch the model again"),
            "{sentence}"
        );
    }
}

#[actix_web::test]
async fn what_the_doctor_calls_ok_starts_and_what_it_refuses_does_not() {
    let database = Database::new().await;
    let data = tempfile::tempdir().unwrap();
    let base = ["--port", "0", "--database-url", database.dsn(), "--data-dir", data.path().to_str().unwrap()];
    for (file, content) in [("tokenizer.json", "{\"decoder\":[}}}"), ("model.safetensors", "")] {
        let folder = broken(file, content);
        let flags = [&base[..], &["--embedding-model", folder.path().to_str().unwrap()]].concat();
        let (code, out, complaint) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
        let line = out.lines().find(|line| line.contains(file)).unwrap_or_default();
        assert!(code == Some(1) && line.starts_with("failure  model"), "{out}{complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");

        let (code, out, complaint) = run(&mut lnsp(&[&["serve"], &flags[..]].concat()));
        assert!(code == Some(1) && !out.contains("ready on"), "{out}{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        assert!(complaint.starts_with("lnsp: cannot use ") && complaint.contains(file), "{complaint}");
    }
    let whole = broken("note", "");
    let flags = [&base[..], &["--embedding-model", whole.path().to_str().unwrap()]].concat();
    let (code, out, _) = run(&mut lnsp(&[&["doctor", "--no-measure"], &flags[..]].concat()));
    assert!(code == Some(0) && out.lines().any(|line| line.starts_with("ok       model")), "{out}");
    let flags = ["--database-url", database.dsn(), "--embedding-model", whole.path().to_str().unwrap()];
    assert!(crate::support::process::Service::start(data.path(), &flags).terminate().success());
}
