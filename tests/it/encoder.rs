//! The encoder: vectors, batches, identity, and the errors for invalid model folders.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use lnsp_ingest::encoder::plan::Budget;
use lnsp_ingest::encoder::{
    Device, DeviceChoice, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, LinearKind, ModelFiles,
    TchEncoder, Tokenizer, Tokens, Tuning, load, locate,
};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

const MODEL: &str = "all-minilm-l6-v2";

/// The nearest `.deps/models` above this package, where scripts/setup puts models.
fn models() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root.ancestors().map(|folder| folder.join(".deps/models")).find(|folder| folder.is_dir());
    found.expect("no .deps/models: run scripts/setup")
}

pub fn minilm() -> ModelFiles {
    locate(MODEL, &[models()]).unwrap()
}

pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::load(&minilm()).unwrap());

const BUDGET: Budget = Budget { tokens: 1024, texts: 64 };

/// Without calibration and with one thread, because tests run in parallel.
fn options(dtype: Dtype) -> EncoderOptions {
    EncoderOptions {
        files: minilm(),
        device: Device::Cpu,
        dtype: DtypeChoice::Only(dtype),
        threads: NonZeroUsize::new(1),
        batch_texts: true,
        tuning: Some(Tuning { dtype, linear: LinearKind::Default, budget: BUDGET }),
    }
}

pub fn encoder(dtype: Dtype) -> TchEncoder {
    load(&options(dtype)).unwrap().0
}

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference").join(file)
}

pub fn reference_texts() -> Vec<String> {
    serde_json::from_slice(&fs::read(data("reference_texts.json")).unwrap()).unwrap()
}

#[test]
fn one_text_per_pass_gives_the_same_vectors() {
    let texts: Vec<String> = reference_texts().into_iter().take(8).collect();
    let tokens: Vec<Tokens> = texts.iter().map(|text| TOKENIZER.tokenize(text).unwrap()).collect();
    let mut batched = encoder(Dtype::F32);
    let (mut single, _) = load(&EncoderOptions { batch_texts: false, ..options(Dtype::F32) }).unwrap();
    let batch: Vec<&Tokens> = tokens.iter().collect();
    for (a, b) in batched.encode(&batch).unwrap().iter().zip(single.encode(&batch).unwrap()) {
        assert!(largest_difference(a.as_ref().unwrap(), &b.unwrap()) < 1e-5);
    }
}

#[test]
fn vectors_have_unit_length_and_the_promised_size() {
    let mut encoder = encoder(Dtype::F32);
    let tokens = TOKENIZER.tokenize("A short text.").unwrap();
    let vector = encoder.encode(&[&tokens]).unwrap().remove(0).unwrap();
    assert_eq!(vector.len(), encoder.dims());
    assert_eq!(encoder.dims(), 384);
    assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-9);
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-6, "{length}");
}

#[test]
fn without_a_tuning_the_fastest_way_is_measured_and_taken() {
    let (encoder, calibration) =
        load(&EncoderOptions { dtype: DtypeChoice::Auto, tuning: None, ..options(Dtype::F32) }).unwrap();
    let Tuning { dtype, linear, budget } = calibration.tuning;
    let fastest =
        calibration.candidates.iter().max_by(|a, b| a.texts_per_s.total_cmp(&b.texts_per_s)).unwrap();
    assert_eq!((dtype, linear), (fastest.dtype, fastest.linear));
    assert_eq!(encoder.dtype(), dtype);
    assert!(budget.tokens >= 128 && budget.texts > 0);
    let sentence = calibration.to_string();
    assert!(sentence.contains("f32 default") && sentence.contains("texts/s on one thread"), "{sentence}");
}

#[test]
fn a_bad_text_fails_alone() {
    let mut encoder = encoder(Dtype::F32);
    let good = TOKENIZER.tokenize("A good text among bad ones.").unwrap();
    let tokens = |ids: &[i32]| Tokens { ids: ids.into(), truncated: false, unread: None };
    let bad = [tokens(&[]), tokens(&[101, 99_999, 102]), tokens(&[101, -1, 102]), tokens(&[7; 257])];
    let batch: Vec<&Tokens> = bad.iter().chain([&good]).collect();
    let vectors = encoder.encode(&batch).unwrap();
    for vector in &vectors[..4] {
        assert!(matches!(vector, Err(EncodeError::ForeignTokens { .. })), "{vector:?}");
    }
    let alone = encoder.encode(&[&good]).unwrap().remove(0).unwrap();
    assert!(largest_difference(&alone, vectors[4].as_ref().unwrap()) < 1e-5);
    assert!(encoder.encode(&[]).unwrap().is_empty());
}

#[test]
fn the_identity_depends_on_the_files_alone() {
    let identity = minilm().identity().unwrap();
    assert_eq!(identity, *encoder(Dtype::F32).identity());
    assert_eq!(identity.name, MODEL);
    assert_eq!(identity.dims, 384);
    assert_eq!(identity.fingerprint.len(), 64);

    let shorter = ModelFiles { max_tokens: 128, ..minilm() };
    assert_ne!(identity.fingerprint, shorter.identity().unwrap().fingerprint);
}

#[test]
fn a_long_text_is_cut_where_the_model_stops_reading() {
    let words = |count: usize| "word ".repeat(count);
    let fits = TOKENIZER.tokenize(&words(254)).unwrap();
    assert_eq!((fits.len(), fits.truncated), (256, false));
    let long = TOKENIZER.tokenize(&words(255)).unwrap();
    assert_eq!((long.len(), long.truncated), (256, true));
    assert_eq!(fits.ids, long.ids);
}

/// The tokenizer reads only a prefix of a long text; the result must be the same.
#[test]
fn reading_a_part_of_a_long_text_changes_nothing() {
    let plain = {
        let mut plain = tokenizers::Tokenizer::from_file(minilm().tokenizer).unwrap();
        plain.with_padding(None);
        plain.with_truncation(None).unwrap();
        plain
    };
    let sample = reference_texts().join(" ");
    let spaced = |text: &str, gap: &str| text.split(' ').collect::<Vec<_>>().join(gap);
    let texts = [
        sample.clone(),
        spaced(&sample, "\u{a0}"),
        spaced(&sample, "\u{c}"),
        spaced(&sample, " \u{301}\u{300}"),
        spaced(&sample, "\n\n  \t"),
        sample.replace(' ', ""),
        format!("{} [MASK] {}", "x".repeat(3060), sample),
        format!("{}[SEP] {}", "\u{200b} ".repeat(4000), sample),
        "\u{6f22}\u{5b57} ".repeat(8000),
        " ".repeat(60_000),
    ];
    for text in texts {
        let all = plain.encode(text.as_str(), true).unwrap();
        let all: Vec<i32> = all.get_ids().iter().map(|&id| id as i32).collect();
        let tokens = TOKENIZER.tokenize(&text).unwrap();
        assert_eq!(tokens.truncated, all.len() > 256);
        if tokens.truncated {
            assert_eq!(tokens.ids[..255], all[..255]);
            assert_eq!(tokens.ids.last(), Some(&102));
        } else {
            assert_eq!(*tokens.ids, all);
        }
    }
}

/// A copy of the model folder without its large files, which a test may change.
fn small_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"] {
        let to = copy.path().join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(models().join(MODEL).join(file), to).unwrap();
    }
    fs::write(copy.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(copy.path().join("model.safetensors"), "").unwrap();
    copy
}

#[track_caller]
fn check_refused(file: &str, content: Option<&str>, expected: &[&str]) {
    let copy = small_copy();
    match content {
        Some(content) => fs::write(copy.path().join(file), content).unwrap(),
        None => fs::remove_file(copy.path().join(file)).unwrap(),
    }
    let sentence = ModelFiles::open(copy.path()).unwrap_err().to_string();
    for part in expected {
        assert!(sentence.contains(part), "`{part}` not in: {sentence}");
    }
}

#[test]
fn a_wrong_folder_is_refused_with_a_sentence() {
    ModelFiles::open(small_copy().path()).unwrap();
    check_refused("model.safetensors", None, &["no weights (model.safetensors)", "scripts/setup"]);
    check_refused("tokenizer.json", None, &["no tokenizer.json", "fetch the model again"]);
    check_refused("config.json", None, &["no config.json"]);
    check_refused(
        "config.json",
        Some(r#"{"model_type": "gpt2"}"#),
        &["`gpt2` is not supported yet", "expected bert, t5"],
    );
    let t5 = r#"{"model_type": "t5", "vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1,
        "num_heads": 2, "feed_forward_proj": "gated-silu"}"#;
    check_refused("config.json", Some(t5), &["feed_forward_proj `gated-silu`", "not supported yet"]);
    let t5 = t5.replace("gated-silu", "relu").replace("}", r#", "relative_attention_num_buckets": 30}"#);
    check_refused("config.json", Some(&t5), &["a multiple of 4", "received 30 and 128"]);
    check_refused("config.json", Some("{"), &["cannot use", "config.json"]);
    check_refused("1_Pooling/config.json", None, &["1_Pooling", "no config.json"]);
    check_refused(
        "1_Pooling/config.json",
        Some(r#"{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}"#),
        &["max_tokens, mean_tokens", "not supported yet", "mean or cls"],
    );
    let module =
        |kind: &str| format!(r#"[{{"path": "2_Dense", "type": "sentence_transformers.models.{kind}"}}]"#);
    check_refused("modules.json", Some(&module("LSTM")), &["models.LSTM", "not supported yet"]);
    check_refused("modules.json", Some(&module("Dense")), &["2_Dense has no config.json"]);
    check_refused(
        "config_sentence_transformers.json",
        Some(r#"{"default_prompt_name": "passage"}"#),
        &["default prompt `passage`", "not supported yet"],
    );
}

#[test]
fn pickled_weights_are_named_but_never_read() {
    let copy = small_copy();
    fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    fs::write(copy.path().join("pytorch_model.bin"), "").unwrap();
    let sentence = ModelFiles::open(copy.path()).unwrap_err().to_string();
    assert!(sentence.contains("only safetensors weights are read"), "{sentence}");
}

#[test]
fn weights_of_another_shape_are_refused() {
    let mut files = minilm();
    files.architecture.intermediate = 999;
    let error = load(&EncoderOptions { files, ..options(Dtype::F32) }).err().unwrap();
    let sentence = error.to_string();
    assert!(matches!(error, EncodeError::WeightMismatch { .. }), "{sentence}");
    assert!(sentence.contains("expected shape [999, 384], received shape [1536, 384]"), "{sentence}");

    let copy = small_copy();
    let error =
        load(&EncoderOptions { files: ModelFiles::open(copy.path()).unwrap(), ..options(Dtype::F32) });
    let sentence = error.err().unwrap().to_string();
    assert!(sentence.contains("not a readable safetensors file"), "{sentence}");
}

#[test]
fn a_tokenizer_of_a_larger_vocabulary_is_refused() {
    let mut files = minilm();
    files.architecture.vocabulary = 1000;
    let sentence = Tokenizer::load(&files).unwrap_err().to_string();
    assert!(sentence.contains("expected token ids below 1000"), "{sentence}");
}

#[test]
fn an_unknown_model_names_the_places_that_were_tried() {
    let sentence = locate("no-such-model", &[models(), "elsewhere".into()]).unwrap_err().to_string();
    assert!(sentence.contains("model `no-such-model` not found"), "{sentence}");
    assert!(sentence.contains("elsewhere") && sentence.contains(".deps/models"), "{sentence}");
    let by_path = locate(&models().join(MODEL).display().to_string(), &[]).unwrap();
    assert_eq!(by_path.name, MODEL);
}

#[test]
fn settings_name_what_is_allowed() {
    for (value, expected) in [
        ("auto", DeviceChoice::Auto),
        ("CPU", DeviceChoice::Only(Device::Cpu)),
        ("mps", DeviceChoice::Only(Device::Mps)),
        ("cuda:1", DeviceChoice::Only(Device::Cuda(1))),
    ] {
        assert_eq!(value.parse::<DeviceChoice>().unwrap(), expected);
    }
    for value in ["tpu", "", "cuda:", "cuda:x"] {
        let sentence = value.parse::<DeviceChoice>().unwrap_err().to_string();
        assert_eq!(
            sentence,
            format!(
                "LNSP_DEVICE={value} is not usable: expected auto, cpu, mps or cuda:N \
                 (N a device number, such as cuda:0)"
            )
        );
    }
    assert_eq!("bf16".parse::<DtypeChoice>().unwrap(), DtypeChoice::Only(Dtype::Bf16));
    let sentence = "fp8".parse::<DtypeChoice>().unwrap_err().to_string();
    assert_eq!(sentence, "LNSP_DTYPE=fp8 is not usable: expected auto, f32 or bf16");

    let sentence = DeviceChoice::Only(Device::Cuda(99)).devices().unwrap_err().to_string();
    assert!(sentence.starts_with("LNSP_DEVICE=cuda:99 is not usable"), "{sentence}");
}
