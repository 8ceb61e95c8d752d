//! What must hold for every input, from the fuzzer or from the tests with their seeds and mutations.
//!
//! Each function reads bytes that come from outside, in the way the service does, and asserts what the rest of the
//! service relies on. The first bytes of some inputs say how the rest is cut.

use flate2::write::GzEncoder;
use lnsp_ingest::chunk::{Chunk, LabelChoice, MAX_TEXT_BYTES, is_blank};
use lnsp_ingest::encoder::{Activation, Architecture, EncodeError, Family, ModelFiles, Pooling, Tokenizer};
use lnsp_ingest::llm::{AnswerShape, read_answer};
use lnsp_ingest::model::ModelIdentity;
use lnsp_ingest::rejection::Rejection;
use lnsp_ingest::tmd::Axis;
use lnsp_ingest::wire::{
    ContentEncoding, Inflate, InflateError, LineDecoder, LineError, SharedNames, WireChunk, read_request,
};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// The line decoder finds the same lines wherever the network cuts: every one that is not blank, once, as it was.
pub fn lines(data: &[u8]) {
    let Some(([limit, first, second], bytes)) = data.split_first_chunk() else { return };
    // Short enough that lines of both kinds are common.
    let limit = usize::from(*limit);
    let whole = cut_lines(limit, &[bytes]);
    let (first, second) = (usize::from(*first) % (bytes.len() + 1), usize::from(*second) % (bytes.len() + 1));
    let (early, late) = (first.min(second), first.max(second));
    assert_eq!(whole, cut_lines(limit, &[&bytes[..early], &bytes[early..late], &bytes[late..]]));
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, cut_lines(limit, &single));
    assert_eq!(whole, lines_as_told(limit, bytes));
}

type NumberedLine = (u64, Result<Vec<u8>, LineError>);

fn cut_lines(limit: usize, pieces: &[&[u8]]) -> Vec<NumberedLine> {
    let mut lines = LineDecoder::with_limit(limit);
    let mut found = Vec::new();
    for piece in pieces {
        lines.feed(piece);
        found.extend(std::iter::from_fn(|| lines.next_line()));
    }
    found.extend(lines.last_line());
    found.into_iter().map(|(number, line)| (number, line.map(Vec::from))).collect()
}

/// A plain implementation of what docs/http.md says of the lines of a whole body.
fn lines_as_told(limit: usize, bytes: &[u8]) -> Vec<NumberedLine> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = (1..).zip(bytes.split(|byte| *byte == b'\n'));
    let trimmed = lines.map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
    let told = trimmed.filter(|(_, line)| line.len() > limit || !line.trim_ascii().is_empty());
    let too_long = || LineError::TooLong { expected: limit };
    told.map(|(number, line)| (number, if line.len() > limit { Err(too_long()) } else { Ok(line.to_vec()) }))
        .collect()
}

/// A chunk that is accepted keeps its promises, is the same in a request as on a line, and the same when it is read
/// again; one that is refused is refused in few words. Its neighbours in the request are read whatever it is.
pub fn request(data: &[u8]) {
    if let Err(error) = read_request(data) {
        assert_brief(&Rejection::from(error));
    }
    let text = || "fuzz".to_owned();
    let names = SharedNames {
        dataset: "d".into(),
        batch: None,
        skip_cpesh: false,
        labels: LabelChoice::All,
        on_conflict: Default::default(),
        unknown_fields: Default::default(),
        model: std::sync::Arc::new(ModelIdentity {
            name: text(),
            recipe: text(),
            fingerprint: text(),
            dims: 2,
        }),
    };
    let chunk = match WireChunk::read(data) {
        Ok(chunk) => chunk,
        Err(error) => return assert_brief(&error),
    };
    let text = chunk.text().to_owned();
    let request = [b"{\"chunks\":[{\"text\":1},", data, b",{\"text\":\"good\"}]}"].concat();
    // What is a chunk on a line is one in a request.
    let request = read_request(&request).unwrap();
    assert_eq!((request.received, request.chunks.len()), (3, 3));
    assert!(WireChunk::read(request.chunks[0]).is_err() && WireChunk::read(request.chunks[2]).is_ok());
    let checked = chunk.check(&names, Default::default());
    for again in [request.chunks[1], data] {
        let again = WireChunk::read(again).unwrap().check(&names, Default::default());
        assert_eq!(checked.as_ref().map(known_by).ok(), again.as_ref().map(known_by).ok());
    }
    match checked {
        Ok(chunk) => {
            assert_eq!(chunk.text, text, "it is stored as it was sent");
            assert!(!text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES && !text.contains('\0'));
            assert!(!chunk.key.id.is_empty() && !chunk.key.id.contains('\0'));
        }
        Err(rejection) => assert_brief(&rejection),
    }
}

/// A message, with what it quotes of the client.
const BRIEF: usize = 1000;

fn assert_brief(rejection: &Rejection) {
    assert!(!rejection.message.is_empty() && rejection.message.len() < BRIEF, "{}", rejection.message);
}

fn known_by(chunk: &Chunk) -> (String, [u8; 32]) {
    (chunk.key.id.to_string(), chunk.content_hash)
}

/// An answer of a language model gives codes that are in the lists, or none; how sure the model was, never changes
/// them, and is a probability.
pub fn answer(data: &[u8]) {
    let Some((size, said)) = data.split_first() else { return };
    let said = String::from_utf8_lossy(said);
    for shape in AnswerShape::ALL {
        answer_of(shape, *size, &said, "A text.");
        // The text of a hostile client may be anything, also what the model says.
        answer_of(shape, *size, &said, &said);
        let middle = said.floor_char_boundary(said.len() / 2);
        answer_of(shape, *size, &said[middle..], &said[..middle]);
    }
}

fn answer_of(shape: AnswerShape, size: u8, said: &str, text: &str) {
    let alone = read_answer(said, &[], shape, text);
    // The pieces of an answer, as a server reports them, and the same with one too many.
    let characters: Vec<char> = said.chars().collect();
    let pieces = characters.chunks(usize::from(size % 16) + 1).map(|piece| piece.iter().collect::<String>());
    let mut tokens = Vec::new();
    for (at, piece) in pieces.enumerate() {
        let logprob = match size % 3 {
            0 => -0.1,
            1 => -(at as f32),
            _ => f32::NEG_INFINITY,
        };
        tokens.push(lnsp_ingest::llm::TokenLogprob { token: piece, logprob });
    }
    let told = read_answer(said, &tokens, shape, text);
    tokens.extend(tokens.first().cloned());
    let too_much = read_answer(said, &tokens, shape, text);
    assert!(alone.as_ref().err() == told.as_ref().err() && alone.as_ref().err() == too_much.as_ref().err());
    let (Ok(alone), Ok(told)) = (alone, told) else { return };
    assert!(alone.tmd == told.tmd && alone.confidence.is_none() && alone.cpesh == told.cpesh);
    assert!(Axis::ALL.iter().all(|axis| axis.names().contains(&alone.tmd.name(*axis))));
    assert_eq!(alone.cpesh.is_some(), shape.has_cpesh());
    if let Some(Ok(cpesh)) = &alone.cpesh {
        let one =
            [&cpesh.concept_text, &cpesh.probe_question, &cpesh.expected_answer].map(|part| part.as_ref());
        let all = one.into_iter().flatten().chain(&cpesh.soft_negatives).chain(&cpesh.hard_negatives);
        let parts: Vec<&String> = all.collect();
        assert_eq!(parts.len(), 9);
        assert!(parts.iter().all(|part| !is_blank(part) && !part.chars().any(char::is_control)));
    }
    if let Some(sure) = told.confidence {
        for share in [sure.domain, sure.task, sure.modifier] {
            assert!(share > 0.0 && share <= 1.0, "{share}");
        }
    }
}

/// What comes out of the decoder does not depend on how the bytes come in; it is never more than there is room for,
/// never far more than what went in, and whatever was compressed comes back.
pub fn inflate(data: &[u8]) {
    let Some(([kind, room, piece], bytes)) = data.split_first_chunk() else { return };
    let encoding =
        [ContentEncoding::Identity, ContentEncoding::Gzip, ContentEncoding::Zstd][usize::from(kind % 3)];
    let (room, piece) = (usize::from(*room) + 1, usize::from(*piece) + 1);
    let whole = inflated(encoding, bytes, bytes.len().max(1), 64 * 1024);
    let pieces = inflated(encoding, bytes, piece, room);
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{:?} {:?}", whole.as_ref().err(), pieces.as_ref().err());
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        assert!(whole == pieces, "{} bytes and {}", whole.len(), pieces.len());
    }
    let packed = match encoding {
        ContentEncoding::Identity => bytes.to_vec(),
        ContentEncoding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
        }
        ContentEncoding::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    };
    assert_eq!(inflated(encoding, &packed, piece, room).as_deref(), Ok(bytes));
}

fn inflated(
    encoding: ContentEncoding,
    bytes: &[u8],
    piece: usize,
    room: usize,
) -> Result<Vec<u8>, InflateError> {
    let mut inflate = Inflate::new(encoding)?;
    let (mut out, mut buffer, mut taken) = (Vec::new(), vec![0; room], 0);
    for piece in bytes.chunks(piece) {
        let mut input = piece;
        loop {
            let before = input.len();
            let written = inflate.step(&mut input, &mut buffer)?;
            assert!(written <= room && input.len() <= before);
            assert!(input.len() < before || written > 0 || input.is_empty(), "it stands still");
            taken += before - input.len();
            out.extend_from_slice(&buffer[..written]);
            // 4 MiB are free, then 200 times what was received.
            assert!(
                out.len() <= (4 << 20) + room || out.len() <= 200 * (taken + 1),
                "{} of {taken}",
                out.len()
            );
            if input.is_empty() && written < room {
                break;
            }
        }
    }
    inflate.finish()?;
    Ok(out)
}

/// The architecture of a small model, for its tokenizer.
const SMALL: Architecture = Architecture {
    family: Family::Bert { positions: 64 },
    vocabulary: 400,
    hidden: 16,
    layers: 1,
    heads: 2,
    head_width: 8,
    intermediate: 32,
    eps: 1e-12,
    activation: Activation::Gelu,
};

/// A `tokenizer.json` gives a tokenizer whose tokens the model can take, or one sentence that names the file.
pub fn tokenizer(data: &[u8]) {
    let files = ModelFiles {
        folder: "model".into(),
        name: "model".to_owned(),
        weights: Vec::new(),
        tokenizer: "model/tokenizer.json".into(),
        max_tokens: 32,
        lowercase: false,
        pooling: Pooling::Mean,
        dense: None,
        architecture: SMALL,
    };
    match Tokenizer::from_json(data, &files) {
        Ok(tokenizer) => {
            let tokens = tokenizer.tokenize("A text of some words.").unwrap();
            assert!(!tokens.is_empty() && tokens.len() <= files.max_tokens);
            assert!(tokens.ids.iter().all(|id| (0..400).contains(id)), "{tokens:?}");
        }
        Err(error) => assert_one_sentence(&error, "model/tokenizer.json"),
    }
}

/// The files of a model folder that are read before the weights.
const CONFIGS: [&str; 8] = [
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "model.safetensors.index.json",
];

/// A model folder in which one configuration file is the input is opened, with sizes that can be computed with, or
/// refused in one sentence that names the folder. The first byte says which file.
pub fn model_config(data: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for inner in ["1_Pooling", "2_Dense"] {
            fs::create_dir(folder.path().join(inner)).unwrap();
        }
        folder
    });
    let Some((file, content)) = data.split_first() else { return };
    let file = CONFIGS[usize::from(*file) % CONFIGS.len()];
    write_small_model(folder.path(), file == "model.safetensors.index.json");
    fs::write(folder.path().join(file), content).unwrap();
    match ModelFiles::open(folder.path()) {
        Ok(files) => {
            let shape = &files.architecture;
            let sizes =
                [shape.vocabulary, shape.hidden, shape.layers, shape.heads, shape.head_width, files.dims()];
            assert!(sizes.iter().all(|size| (1..1 << 32).contains(size)), "{shape:?}");
            assert!(files.max_tokens > 0 && shape.eps.is_finite());
        }
        Err(error) => assert_one_sentence(&error, folder.path().to_str().unwrap()),
    }
}

fn write_small_model(folder: &Path, sharded: bool) {
    let modules = ["", "1_Pooling", "2_Dense"].iter().zip(["Transformer", "Pooling", "Dense"]);
    let modules: Vec<String> = modules
        .map(|(path, kind)| format!(r#"{{"path": "{path}", "type": "sentence_transformers.models.{kind}"}}"#))
        .collect();
    for (file, content) in [
        (
            "config.json",
            r#"{"model_type": "t5", "vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1,
                "num_heads": 2}"#,
        ),
        ("modules.json", &format!("[{}]", modules.join(","))),
        ("sentence_bert_config.json", r#"{"max_seq_length": 16}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 1e30}"#),
        ("config_sentence_transformers.json", "{\"default_prompt_name\": null}"),
        ("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#),
        ("2_Dense/config.json", r#"{"in_features": 8, "out_features": 4}"#),
        ("2_Dense/model.safetensors", ""),
        ("model.safetensors.index.json", r#"{"weight_map": {"a": "tokenizer.json"}}"#),
        ("tokenizer.json", "{}"),
    ] {
        fs::write(folder.join(file), content).unwrap();
    }
    let single = folder.join("model.safetensors");
    if sharded {
        drop(fs::remove_file(single));
    } else {
        fs::write(single, "").unwrap();
    }
}

fn assert_one_sentence(error: &EncodeError, names: &str) {
    let sentence = error.to_string();
    assert!(sentence.contains(names) && sentence.lines().count() == 1, "{sentence}");
    assert!(sentence.chars().count() < BRIEF, "{sentence}");
}
