//! Domain, Task, Modifier: the three codes of every chunk, always in this order.
//!
//! The triple is what is stored. The packings and the 16-D encodings of older data are functions here ([`packing`],
//! [`projection`]) and views in the database. Pure: no I/O, no runtime.

pub mod packing;
pub mod projection;
pub mod taxonomy;

use serde::{Deserialize, Serialize};
use std::fmt;

/// A valid code triple: [`Tmd::new`] is the only constructor, so every `Tmd` is in range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Tmd {
    domain: u8,
    task: u8,
    modifier: u8,
}

/// A code outside the range of its axis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{axis} code out of range: expected 0 to {expected}, received {received}")]
pub struct CodeOutOfRange {
    /// The axis of the code.
    pub axis: Axis,
    /// The largest code of that axis.
    pub expected: u8,
    /// The code that was given.
    pub received: i64,
}

/// One of the three axes of a triple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// What the text is about.
    Domain,
    /// What the text can be used for.
    Task,
    /// How the text presents its content.
    Modifier,
}

impl Axis {
    /// The three axes in the order of the triple.
    pub const ALL: [Axis; 3] = [Axis::Domain, Axis::Task, Axis::Modifier];

    /// The canonical names; the position of a name is its code.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Axis::Domain => &taxonomy::DOMAINS,
            Axis::Task => &taxonomy::TASKS,
            Axis::Modifier => &taxonomy::MODIFIERS,
        }
    }

    /// The code that a label names: a number, or a name in any case, with `_` or `-` for its blanks.
    pub fn code_of(self, label: &str) -> Option<u8> {
        let names = self.names();
        let plain = |name: &str| name.trim().to_lowercase().replace(['_', '-'], " ");
        let code = label.trim().parse::<usize>().ok().filter(|code| *code < names.len());
        let code = code.or_else(|| names.iter().position(|name| plain(name) == plain(label)));
        code.and_then(|code| u8::try_from(code).ok())
    }

    /// The number of codes of the axis; codes start at 0.
    pub fn len(self) -> usize {
        self.names().len()
    }

    /// Always false. Present because `len` is.
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
    /// Checks the three codes against their axes (0-15, 0-31, 0-63).
    ///
    /// # Errors
    /// The first code that is out of range.
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

    /// The domain code, 0 to 15.
    pub fn domain(self) -> u8 {
        self.domain
    }

    /// The task code, 0 to 31.
    pub fn task(self) -> u8 {
        self.task
    }

    /// The modifier code, 0 to 63.
    pub fn modifier(self) -> u8 {
        self.modifier
    }

    /// The code on `axis`.
    pub fn code(self, axis: Axis) -> u8 {
        match axis {
            Axis::Domain => self.domain,
            Axis::Task => self.task,
            Axis::Modifier => self.modifier,
        }
    }

    /// The canonical name of the code on `axis`.
    pub fn name(self, axis: Axis) -> &'static str {
        axis.names()[self.code(axis) as usize]
    }
}

/// The dotted form of older data: `4.5.9`.
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

/// The confidence of a source in each of its three codes, each in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AxisConfidence {
    /// Confidence in the domain.
    pub domain: f32,
    /// Confidence in the task.
    pub task: f32,
    /// Confidence in the modifier.
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
