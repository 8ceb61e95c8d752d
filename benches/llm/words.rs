//! Tokens of answers with a vocabulary of words, as the models that people use have: that of the local embedding model.

use std::path::Path;
use tokenizers::Tokenizer;

/// The median number of tokens of the answers; `None` where no model is installed.
pub fn median_tokens<'a>(answers: impl Iterator<Item = &'a str>) -> Option<f64> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/models/all-minilm-l6-v2/tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(file).ok()?;
    // The one of the model cuts and pads.
    drop(tokenizer.with_truncation(None));
    tokenizer.with_padding(None);
    let tokens: Option<Vec<f64>> =
        answers.map(|answer| Some(tokenizer.encode(answer, false).ok()?.len() as f64)).collect();
    Some(crate::call::median(&tokens?))
}
