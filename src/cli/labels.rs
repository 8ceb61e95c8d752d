//! `lnsp labels`: the names of the domain, task and modifier codes.

use super::CommandResult;
use crate::output::print_block;
use crate::tmd::Axis;
use clap::{Args, ValueEnum};
use std::process::ExitCode;

/// The arguments of `lnsp labels`.
#[derive(Debug, Args)]
pub struct LabelList {
    /// Only the labels of this axis.
    axis: Option<AxisName>,
}

/// An axis as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AxisName {
    Domain,
    Task,
    Modifier,
}

impl From<AxisName> for Axis {
    fn from(name: AxisName) -> Axis {
        match name {
            AxisName::Domain => Axis::Domain,
            AxisName::Task => Axis::Task,
            AxisName::Modifier => Axis::Modifier,
        }
    }
}

/// Prints a line for each label: the axis, the code, the name.
pub fn run(labels: LabelList) -> CommandResult {
    let axes = labels.axis.map_or(Axis::ALL.to_vec(), |axis| vec![axis.into()]);
    let line = |(axis, code, name): (Axis, usize, &str)| format!("{:<8} {code:>2}  {name}", axis.to_string());
    let each = |axis: Axis| axis.names().iter().enumerate().map(move |(code, name)| (axis, code, *name));
    print_block(axes.into_iter().flat_map(each).map(line).collect::<Vec<_>>().join("\n"));
    Ok(ExitCode::SUCCESS)
}
