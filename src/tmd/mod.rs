//! Domain, Task, Modifier: the three codes every chunk carries, always in this order.
//!
//! The triple is the truth. The packings and the 16-D encodings that older data uses are named functions
//! here ([`packing`], [`projection`]) and views in the database, never storage. Pure: no I/O, no runtime.

pub mod packing;
pub mod projection;
pub mod taxonomy;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A valid code triple. It can only be made by [`Tmd::new`], so every `Tmd` is in range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Tmd {
    domain: u8,
    task: u8,
    modifier: u8,
}

/// A code outside its axis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{axis} code out of range: expected 0 to {expected}, received {received}")]
pub struct CodeOutOfRange {
    /// The axis whose code is wrong.
    pub axis: Axis,
    /// The largest code of that axis.
    pub expected: u8,
    /// What was given.
    pub received: i64,
}

/// One of the three axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// What the text is about.
    Domain,
    /// What the text is good for.
    Task,
    /// How the text says it.
    Modifier,
}

impl Axis {
    /// All three, in the order of the triple.
    pub const ALL: [Axis; 3] = [Axis::Domain, Axis::Task, Axis::Modifier];

    /// The canonical names; the position of a name is its code.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Axis::Domain => &taxonomy::DOMAINS,
            Axis::Task => &taxonomy::TASKS,
            Axis::Modifier => &taxonomy::MODIFIERS,
        }
    }

    /// How many codes the axis has.
    pub fn len(self) -> usize {
        self.names().len()
    }

    /// Never: an axis has codes. Present because `len` is.
    pub fn is_empty(self) -> bool {
        false
    }

    /// The JSON field that carries a code of this axis.
    pub fn field(self) -> &'static str {
        match self {
            Axis::Domain => "domain_code",
            Axis::Task => "task_code",
            Axis::Modifier => "modifier_code",
        }
    }

    fn check(self, code: i64) -> Result<u8, CodeOutOfRange> {
        let expected = (self.len() - 1) as u8;
        u8::try_from(code).ok().filter(|code| *code <= expected).ok_or(CodeOutOfRange {
            axis: self,
            expected,
            received: code,
        })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Axis::Domain => "domain",
            Axis::Task => "task",
            Axis::Modifier => "modifier",
        })
    }
}

impl Tmd {
    /// Checks the three codes against their axes (0-15, 0-31, 0-63); the first one out of range is the error.
    pub fn new(
        domain: impl Into<i64>,
        task: impl Into<i64>,
        modifier: impl Into<i64>,
    ) -> Result<Tmd, CodeOutOfRange> {
        Ok(Tmd {
            domain: Axis::Domain.check(domain.into())?,
            task: Axis::Task.check(task.into())?,
            modifier: Axis::Modifier.check(modifier.into())?,
        })
    }

    /// 0-15.
    pub fn domain(self) -> u8 {
        self.domain
    }

    /// 0-31.
    pub fn task(self) -> u8 {
        self.task
    }

    /// 0-63.
    pub fn modifier(self) -> u8 {
        self.modifier
    }

    /// The code on one axis.
    pub fn code(self, axis: Axis) -> u8 {
        match axis {
            Axis::Domain => self.domain,
            Axis::Task => self.task,
            Axis::Modifier => self.modifier,
        }
    }

    /// The canonical name on one axis.
    pub fn name(self, axis: Axis) -> &'static str {
        axis.names()[self.code(axis) as usize]
    }
}

/// The dotted form of old documents: `4.5.9`.
impl fmt::Display for Tmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.domain, self.task, self.modifier)
    }
}

impl fmt::Debug for Tmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tmd({self})")
    }
}

/// How sure a source was of each of its three codes, each in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AxisConfidence {
    /// Of the domain.
    pub domain: f32,
    /// Of the task.
    pub task: f32,
    /// Of the modifier.
    pub modifier: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_in_range_become_a_triple() {
        assert_eq!(Tmd::new(15, 31, 63).unwrap().to_string(), "15.31.63");
        let error = Tmd::new(15, 32, 0).unwrap_err();
        assert_eq!(error, CodeOutOfRange { axis: Axis::Task, expected: 31, received: 32 });
        assert_eq!(error.to_string(), "task code out of range: expected 0 to 31, received 32");
        assert!(Tmd::new(-1, 0, 0).is_err() && Tmd::new(0, 0, 64).is_err() && Tmd::new(16, 0, 0).is_err());
    }
}
