//! The parameters of requests that not all servers take.

use std::fmt;

/// How much a model may think besides its answer, in tokens, when it cannot be told not to.
const THINKING_TOKENS: u32 = 1_024;

/// What is known about the thoughts of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Thinking {
    /// The model has shown none.
    #[default]
    None,
    /// Each request tells the model not to think.
    TurnedOff,
    /// The model thinks whatever it is told, so its answers have room for thoughts.
    Always,
}

impl fmt::Display for Thinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Thinking::None => "none",
            Thinking::TurnedOff => "turned off",
            Thinking::Always => "always",
        })
    }
}

/// Which parameters a server is sent. The defaults are sent first; a server that refuses one by its name is asked
/// without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// How thoughts are handled.
    pub thinking: Thinking,
    /// Log probabilities are requested.
    pub logprobs: bool,
    /// A temperature is sent.
    pub temperature: bool,
    /// A seed is sent.
    pub seed: bool,
    /// The name of the limit of tokens in OpenAI's API.
    pub limit: TokenLimit,
}

/// The name of the limit of tokens in OpenAI's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenLimit {
    /// `max_tokens`, which nearly all servers take.
    MaxTokens,
    /// `max_completion_tokens`, which OpenAI's reasoning models demand.
    MaxCompletionTokens,
}

impl Default for Parameters {
    fn default() -> Self {
        let limit = TokenLimit::MaxTokens;
        Parameters { thinking: Thinking::None, logprobs: true, temperature: true, seed: true, limit }
    }
}

impl Parameters {
    /// The tokens that an answer may have besides those of its shape.
    pub fn room_for_thoughts(self) -> u32 {
        if self.thinking == Thinking::Always { THINKING_TOKENS } else { 0 }
    }

    /// The parameters without the one that a refusal names; `None` when it names none that is sent.
    pub fn without_refused(self, refusal: &str) -> Option<Parameters> {
        let names = |name: &str| refusal.contains(name);
        if self.logprobs && names("logprob") {
            return Some(Parameters { logprobs: false, ..self });
        }
        if self.limit == TokenLimit::MaxTokens && names("max_completion_tokens") {
            return Some(Parameters { limit: TokenLimit::MaxCompletionTokens, ..self });
        }
        if self.thinking == Thinking::TurnedOff
            && ["chat_template_kwargs", "enable_thinking", "reasoning_effort", "think"].into_iter().any(names)
        {
            return Some(Parameters { thinking: Thinking::Always, ..self });
        }
        if self.temperature && names("temperature") {
            return Some(Parameters { temperature: false, ..self });
        }
        if self.seed && names("seed") {
            return Some(Parameters { seed: false, ..self });
        }
        None
    }

    /// The parameters for a model that has shown thoughts although it was asked with these; `None` when it cannot be told
    /// more.
    pub fn after_thoughts(self) -> Option<Parameters> {
        let thinking = match self.thinking {
            Thinking::None => Thinking::TurnedOff,
            Thinking::TurnedOff => Thinking::Always,
            Thinking::Always => return None,
        };
        Some(Parameters { thinking, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_parameter_is_left_out_once() {
        let all = Parameters::default();
        for (refusal, without) in [
            (
                "logprobs is not supported for models created with logits_all=False",
                Parameters { logprobs: false, ..all },
            ),
            (
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                Parameters { limit: TokenLimit::MaxCompletionTokens, ..all },
            ),
            ("'temperature' does not support 0 with this model.", Parameters { temperature: false, ..all }),
            ("body -> seed: Extra inputs are not permitted", Parameters { seed: false, ..all }),
        ] {
            assert_eq!(all.without_refused(refusal), Some(without), "{refusal}");
            assert_eq!(without.without_refused(refusal), None, "{refusal}");
        }
        assert_eq!(all.without_refused("response_format is not supported"), None);
        let told = all.after_thoughts().unwrap();
        assert_eq!(told.thinking, Thinking::TurnedOff);
        assert_eq!(
            told.without_refused("unknown field: reasoning_effort").unwrap().thinking,
            Thinking::Always
        );
        assert_eq!(told.after_thoughts().unwrap().after_thoughts(), None);
    }
}
