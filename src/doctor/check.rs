//! One line of the report.

use serde::Serialize;
use std::path::Path;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// There is nothing to do.
    Ok,
    /// The service runs and could run better.
    Warning,
    /// The service does not start.
    Failure,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the checked part.
    pub name: &'static str,
    /// The result of the check.
    pub grade: Grade,
    /// The finding, one sentence.
    pub finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    /// A check without a finding to act on.
    pub(super) fn ok(name: &'static str, finding: impl Into<String>) -> Check {
        Check { name, grade: Grade::Ok, finding: finding.into(), advice: None }
    }

    /// A check whose finding can be improved.
    pub(super) fn warning(
        name: &'static str,
        finding: impl Into<String>,
        advice: impl Into<String>,
    ) -> Check {
        Check { name, grade: Grade::Warning, finding: finding.into(), advice: Some(advice.into()) }
    }

    /// A check that keeps the service from starting. `advice` is empty where the finding says what to do.
    pub(super) fn failure(name: &'static str, finding: impl ToString, advice: &str) -> Check {
        let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
        Check { name, grade: Grade::Failure, finding: finding.to_string(), advice }
    }
}

/// The folder, or its nearest ancestor that exists.
pub(super) fn existing(folder: &Path) -> Option<&Path> {
    let above =
        folder.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    above.into_iter().find(|path| path.exists())
}

/// A size in MiB or GiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    if bytes < 10 << 30 { format!("{} MiB", bytes >> 20) } else { format!("{} GiB", bytes >> 30) }
}
