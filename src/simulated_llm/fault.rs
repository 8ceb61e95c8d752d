//! The ways in which a language model server fails, and when it does.

use std::fmt;
use std::str::FromStr;

/// One way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Never answers, and holds no slot.
    Hang,
    /// 500: the model runner has stopped.
    Error500,
    /// 503: too many requests wait.
    Busy503,
    /// 200 and a web page: the answer of a proxy on the way.
    Html,
    /// 200 and a body that says it is JSON and is not.
    Garbage,
    /// A complete answer whose text is a JSON object cut in the middle.
    HalfJson,
    /// `done: false`: the model was stopped on the way.
    Unfinished,
    /// `done_reason: "length"`: the answer was too long.
    Cut,
    /// Values that are not in the schema.
    WrongName,
    /// Numbers where the schema has names.
    Numbers,
    /// A body of 50 MB.
    Huge,
    /// The connection is reset instead of an answer.
    Reset,
    /// 302 to another host.
    Redirect,
    /// 404: the model has been removed.
    ModelGone,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 14] = [
        Fault::Hang,
        Fault::Error500,
        Fault::Busy503,
        Fault::Html,
        Fault::Garbage,
        Fault::HalfJson,
        Fault::Unfinished,
        Fault::Cut,
        Fault::WrongName,
        Fault::Numbers,
        Fault::Huge,
        Fault::Reset,
        Fault::Redirect,
        Fault::ModelGone,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Hang => "hang",
            Fault::Error500 => "error-500",
            Fault::Busy503 => "busy-503",
            Fault::Html => "html",
            Fault::Garbage => "garbage",
            Fault::HalfJson => "half-json",
            Fault::Unfinished => "unfinished",
            Fault::Cut => "cut",
            Fault::WrongName => "wrong-name",
            Fault::Numbers => "numbers",
            Fault::Huge => "huge",
            Fault::Reset => "reset",
            Fault::Redirect => "redirect",
            Fault::ModelGone => "model-gone",
        }
    }

    /// Whether the model itself fails, after the time it always takes; the others fail in front of it, at once.
    pub fn takes_a_slot(self) -> bool {
        matches!(
            self,
            Fault::HalfJson
                | Fault::Unfinished
                | Fault::Cut
                | Fault::WrongName
                | Fault::Numbers
                | Fault::Huge
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no fault.
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

/// When a fault strikes: every so many calls, counted since it was set.
#[derive(Debug)]
pub struct Plan {
    fault: Fault,
    every: u64,
    seen: u64,
}

impl Plan {
    /// Every `every`th call; 1 is each, and 0 is taken for it.
    pub fn new(fault: Fault, every: u64) -> Self {
        Plan { fault, every: every.max(1), seen: 0 }
    }

    /// Counts a call; what strikes it.
    pub fn strike(&mut self) -> Option<Fault> {
        self.seen += 1;
        self.seen.is_multiple_of(self.every).then_some(self.fault)
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

    #[test]
    fn a_plan_strikes_every_so_many_calls() {
        let mut plan = Plan::new(Fault::Cut, 3);
        let strikes: Vec<bool> = (0..7).map(|_| plan.strike().is_some()).collect();
        assert_eq!(strikes, [false, false, true, false, false, true, false]);
        assert_eq!(Plan::new(Fault::Cut, 1).strike(), Some(Fault::Cut));
    }
}
