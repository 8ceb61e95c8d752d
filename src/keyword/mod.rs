//! Keywords: the words of a text, and how often each stands in it. Pure: no I/O, no runtime.

mod analyzer;
mod text_words;

pub use analyzer::for_each_word;
pub use text_words::{TextWords, WordCount};
