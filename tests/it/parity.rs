//! The vectors equal those of sentence-transformers and transformers, with each number format and matrix product: BERT
//! with its real weights, and small T5 models of each variant (`scripts/make_reference.py`,
//! `scripts/make_t5_models.py`).

use crate::encoder::{cosine, largest_difference, minilm};
use lnsp_ingest::encoder::plan::{self, Budget};
use lnsp_ingest::encoder::{
    Device, Dtype, DtypeChoice, EncodeError, Encoder, EncoderOptions, LinearKind, ModelFiles, TchEncoder,
    Tokenizer, Tokens, Tuning, load,
};
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const T5: [&str; 4] = ["plain", "plain-dense", "gated", "gated-dense"];

const BUDGET: Budget = Budget { tokens: 1024, texts: 64 };

/// A model, texts, and their vectors computed by the reference library.
struct Case {
    name: String,
    files: ModelFiles,
    texts: Vec<String>,
    expected: Vec<Vec<f32>>,
}

impl Case {
    fn new(name: &str, files: ModelFiles, texts: &str, vectors: &str) -> Case {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let bytes = fs::read(data.join(vectors)).unwrap();
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let expected = values.chunks_exact(files.dims()).map(<[f32]>::to_vec).collect();
        let texts = serde_json::from_slice(&fs::read(data.join(texts)).unwrap()).unwrap();
        Case { name: name.to_owned(), files, texts, expected }
    }

    /// With the limit of its files, 256 tokens.
    fn bert() -> Case {
        Case::new("bert", minilm(), "reference/reference_texts.json", "reference/reference_vectors.f32")
    }

    /// With the whole position table.
    fn long_bert() -> Case {
        let files = minilm().with_max_tokens(512).unwrap();
        Case::new("bert, 512 tokens", files, "reference/long_texts.json", "reference/long_vectors.f32")
    }

    fn t5(name: &str) -> Case {
        let files = ModelFiles::open(&t5_folder(name)).unwrap();
        Case::new(&format!("t5 {name}"), files, "t5/texts.json", &format!("t5/{name}/vectors.f32"))
    }

    fn all() -> Vec<Case> {
        [Case::bert(), Case::long_bert()].into_iter().chain(T5.map(Case::t5)).collect()
    }

    /// `None` for packed products that this machine does not have: without oneDNN, and in bf16 without AVX-512, with which
    /// oneDNN computes it also where the CPU has no bf16 of its own.
    fn encoder(&self, dtype: Dtype, linear: LinearKind) -> Option<TchEncoder> {
        let options = EncoderOptions {
            files: self.files.clone(),
            device: Device::Cpu,
            dtype: DtypeChoice::Only(dtype),
            threads: NonZeroUsize::new(1),
            batch_texts: true,
            tuning: Some(Tuning { dtype, linear, budget: BUDGET }),
        };
        match load(&options) {
            Ok((encoder, _)) => Some(encoder),
            Err(error) => {
                let without = !tch::utils::has_mkldnn() || (dtype == Dtype::Bf16 && !has_avx512());
                let refused = matches!(error, EncodeError::Torch { .. }) && linear == LinearKind::Packed;
                assert!(refused && without, "{}: {error}", self.name);
                None
            }
        }
    }

    fn tokens(&self) -> Vec<Tokens> {
        let tokenizer = Tokenizer::load(&self.files).unwrap();
        self.texts.iter().map(|text| tokenizer.tokenize(text).unwrap()).collect()
    }

    #[track_caller]
    fn check(&self, what: &str, vectors: &[Arc<[f32]>], expected: &[impl AsRef<[f32]>], at_least: f64) {
        assert_eq!((self.texts.len(), self.texts.len()), (vectors.len(), expected.len()));
        let mut lowest: f64 = 1.0;
        for ((text, vector), expected) in self.texts.iter().zip(vectors).zip(expected) {
            let similarity = cosine(vector, expected.as_ref());
            lowest = lowest.min(similarity);
            assert!(similarity >= at_least, "{}, {what}: {similarity} for {text:.60}", self.name);
        }
        println!("{}, {what}: lowest cosine {lowest:.7} of {} texts", self.name, vectors.len());
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

pub fn t5_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/t5").join(name)
}

/// Encodes in batches selected by the plan, as the service does; returns vectors in the order of the texts.
fn batched(encoder: &mut TchEncoder, tokens: &[Tokens]) -> Vec<Arc<[f32]>> {
    let mut waiting: Vec<usize> = (0..tokens.len()).collect();
    let mut vectors = vec![None; tokens.len()];
    while !waiting.is_empty() {
        let lengths: Vec<usize> = waiting.iter().map(|&text| tokens[text].len()).collect();
        let chosen: Vec<usize> = plan::choose(&lengths, BUDGET).iter().map(|&at| waiting[at]).collect();
        let batch: Vec<&Tokens> = chosen.iter().map(|&text| &tokens[text]).collect();
        for (&text, vector) in chosen.iter().zip(encoder.encode(&batch).unwrap()) {
            vectors[text] = Some(vector.unwrap());
        }
        waiting.retain(|text| !chosen.contains(text));
    }
    vectors.into_iter().map(Option::unwrap).collect()
}

fn single(encoder: &mut TchEncoder, tokens: &[Tokens]) -> Vec<Arc<[f32]>> {
    tokens.iter().map(|tokens| encoder.encode(&[tokens]).unwrap().remove(0).unwrap()).collect()
}

#[test]
fn f32_makes_the_vectors_of_the_reference() {
    for case in Case::all() {
        let tokens = case.tokens();
        for linear in [LinearKind::Default, LinearKind::Packed] {
            if let Some(mut encoder) = case.encoder(Dtype::F32, linear) {
                let what = format!("f32 {linear}");
                case.check(&what, &batched(&mut encoder, &tokens), &case.expected, 0.99999);
            }
        }
    }
}

/// Only every fifth text for BERT, because a CPU without native bf16 is slow.
#[test]
fn bf16_is_close_to_f32_and_indifferent_to_neighbours() {
    for mut case in Case::all() {
        if case.texts.len() > 100 {
            case.texts = case.texts.into_iter().step_by(5).collect();
        }
        let tokens = case.tokens();
        let mut exact = case.encoder(Dtype::F32, LinearKind::Default).unwrap();
        let exact = batched(&mut exact, &tokens);
        for linear in [LinearKind::Default, LinearKind::Packed] {
            if let Some(mut encoder) = case.encoder(Dtype::Bf16, linear) {
                let vectors = batched(&mut encoder, &tokens);
                case.check(&format!("bf16 {linear} against f32"), &vectors, &exact, 0.9998);
                let alone = single(&mut encoder, &tokens);
                case.check(&format!("bf16 {linear}, batch against single"), &vectors, &alone, 0.9999);
            }
        }
    }
}

#[test]
fn in_f32_a_text_has_the_same_vector_whatever_is_computed_with_it() {
    for case in Case::all() {
        let tokens: Vec<Tokens> = case.tokens().into_iter().take(24).collect();
        for linear in [LinearKind::Default, LinearKind::Packed] {
            let Some(mut encoder) = case.encoder(Dtype::F32, linear) else { continue };
            let (together, alone) = (batched(&mut encoder, &tokens), single(&mut encoder, &tokens));
            let differences = together.iter().zip(&alone).map(|(a, b)| largest_difference(a, b));
            let largest = differences.fold(0.0, f32::max);
            println!("{}, f32 {linear}: largest difference {largest:e}", case.name);
            assert!(largest <= 1e-6, "{}, f32 {linear}: {largest:e}", case.name);
        }
    }
}

/// The texts were chosen for their token counts, on which the coverage of the tests above depends.
#[test]
fn texts_have_the_lengths_they_were_made_for() {
    let lengths = |case: &Case| case.tokens().iter().map(Tokens::len).collect::<Vec<_>>();
    assert_eq!(lengths(&Case::t5("plain"))[..9], [1, 1, 2, 3, 31, 127, 511, 512, 512]);
    assert_eq!(lengths(&Case::bert())[200..], [31, 127, 2]);
    assert_eq!(lengths(&Case::long_bert()), [511, 512, 512]);
    let truncated = |case: Case| case.tokens().last().unwrap().truncated;
    assert!(truncated(Case::long_bert()) && !truncated(Case::bert()));
    assert!(Case::t5("plain").tokens()[8].truncated);
}

/// The two GTR recipes are the same network with and without the dense layer; their identities must differ.
#[test]
fn the_dense_layer_is_a_part_of_the_identity() {
    let with = ModelFiles::open(&t5_folder("plain-dense")).unwrap();
    let without = ModelFiles { dense: None, ..with.clone() };
    let (with, without) = (with.identity().unwrap(), without.identity().unwrap());
    assert_eq!((with.dims, without.dims), (32, 48));
    assert_ne!(with.fingerprint, without.fingerprint);
    assert_eq!(
        with.recipe,
        "t5 2x3 relu eps 1e-6 32/128 distances, first 512 tokens, mean, dense 32, normalised"
    );
    let gated = ModelFiles::open(&t5_folder("gated-dense")).unwrap().identity().unwrap();
    assert_eq!(
        gated.recipe,
        "t5 2x3 gated gelu-tanh eps 1e-6 32/128 distances, first 512 tokens, mean, dense 48 tanh, normalised"
    );
}
