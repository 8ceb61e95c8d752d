//! A request before it is written in a dialect, and what came of it.

use crate::llm::answer::TokenLogprob;
use crate::llm::shape::AnswerShape;

/// The attempt of a call. The first samples greedily, so equal texts get equal answers. The second follows an unusable
/// answer, so it samples with a temperature and another seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Temperature 0.
    First,
    /// Some temperature.
    Second,
}

impl Attempt {
    /// The sampling temperature.
    pub fn temperature(self) -> f32 {
        match self {
            Attempt::First => 0.0,
            Attempt::Second => 0.5,
        }
    }

    /// The seed of the sampling.
    pub fn seed(self) -> u32 {
        match self {
            Attempt::First => 1,
            Attempt::Second => 2,
        }
    }
}

/// One request, before it is written in a dialect.
#[derive(Debug, Clone, Copy)]
pub struct ModelRequest<'a> {
    /// The name of the model on the server.
    pub model: &'a str,
    /// The constant part of the prompt.
    pub system: &'a str,
    /// The part of the prompt with the text.
    pub user: &'a str,
    /// The shape of the answer.
    pub shape: AnswerShape,
    /// The attempt, which decides the sampling.
    pub attempt: Attempt,
}

/// What a server generated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generated {
    /// The text of the answer.
    pub text: String,
    /// Whether thoughts came beside the answer.
    pub thought: bool,
    /// Whether the server says that the answer is complete.
    pub done: bool,
    /// Why the server stopped, in its words.
    pub reason: String,
    /// The tokens of the answer, or none.
    pub tokens: Vec<TokenLogprob>,
    /// The number of tokens of the prompt.
    pub prompt_tokens: u64,
    /// The number of generated tokens.
    pub answer_tokens: u64,
}
