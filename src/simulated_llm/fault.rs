//! The faults of a language model server, and when they occur.

use std::fmt;
use std::str::FromStr;

/// A fault that the simulated server can inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is never answered, and holds no slot.
    Hang,
    /// 500: the model runner has stopped.
    Error500,
    /// 503: too many requests are queued.
    Busy503,
    /// 429: too many requests, with `Retry-After: 1`.
    Limited429,
    /// 200 with a web page, as from a captive portal.
    Html,
    /// 200 with a JSON content type and a body that is not JSON.
    Garbage,
    /// A complete response whose text is the first half of a JSON object.
    HalfJson,
    /// `done: false`: the model was stopped.
    Unfinished,
    /// `done_reason: "length"`: the text reached the limit.
    Cut,
    /// Values that are not in the schema.
    WrongName,
    /// Numbers where the schema has names.
    Numbers,
    /// A body of 50 MB.
    Huge,
    /// The connection is reset without a response.
    Reset,
    /// The connection is reset after the first half of the body.
    ResetMidBody,
    /// The body comes one byte at a time, ten a second.
    Dribble,
    /// The answer is the prompt, word for word.
    Echo,
    /// The answer stands in the field for thoughts, and the text is empty.
    Thinking,
    /// The answer follows thoughts between `<think>` and `</think>`.
    ThinkTag,
    /// The answer stands in a Markdown code fence.
    Fence,
    /// The answer stands between two sentences.
    InProse,
    /// 302 to another host.
    Redirect,
    /// 404: the model has been removed.
    ModelGone,
}

impl Fault {
    /// All faults, in the order of the documentation.
    pub const ALL: [Fault; 22] = [
        Fault::Hang,
        Fault::Error500,
        Fault::Busy503,
        Fault::Limited429,
        Fault::Html,
        Fault::Garbage,
        Fault::HalfJson,
        Fault::Unfinished,
        Fault::Cut,
        Fault::WrongName,
        Fault::Numbers,
        Fault::Huge,
        Fault::Reset,
        Fault::ResetMidBody,
        Fault::Dribble,
        Fault::Echo,
        Fault::Thinking,
        Fault::ThinkTag,
        Fault::Fence,
        Fault::InProse,
        Fault::Redirect,
        Fault::ModelGone,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Hang => "hang",
            Fault::Error500 => "error-500",
            Fault::Busy503 => "busy-503",
            Fault::Limited429 => "limited-429",
            Fault::Html => "html",
            Fault::Garbage => "garbage",
            Fault::HalfJson => "half-json",
            Fault::Unfinished => "unfinished",
            Fault::Cut => "cut",
            Fault::WrongName => "wrong-name",
            Fault::Numbers => "numbers",
            Fault::Huge => "huge",
            Fault::Reset => "reset",
            Fault::ResetMidBody => "reset-mid-body",
            Fault::Dribble => "dribble",
            Fault::Echo => "echo",
            Fault::Thinking => "thinking",
            Fault::ThinkTag => "think-tag",
            Fault::Fence => "fence",
            Fault::InProse => "in-prose",
            Fault::Redirect => "redirect",
            Fault::ModelGone => "model-gone",
        }
    }

    /// Whether the fault occurs in the model or after it, when the latency has passed. The others occur before the
    /// model, without delay.
    pub fn takes_a_slot(self) -> bool {
        !matches!(
            self,
            Fault::Hang
                | Fault::Error500
                | Fault::Busy503
                | Fault::Limited429
                | Fault::Html
                | Fault::Garbage
                | Fault::Reset
                | Fault::Redirect
                | Fault::ModelGone
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is no name of a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fault is '{received}': expected one of {known}")]
pub struct UnknownFault {
    received: String,
    known: String,
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == text);
        found.ok_or_else(|| UnknownFault {
            received: text.to_owned(),
            known: Fault::ALL.map(Fault::name).join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_read_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        let error = "fire".parse::<Fault>().unwrap_err().to_string();
        assert!(error.contains("'fire'") && error.contains("half-json, unfinished"), "{error}");
    }
}
