//! What to set on this machine, from what was found and measured. Pure.

use crate::encoder::{Comparison, Device, DeviceChoice, DtypeChoice, Trial};
use serde::Serialize;

/// What an upload holds at most: 8 MiB of a zstd window, 4 MiB of results that its client does not read, and a line.
const UPLOAD: u64 = 13 << 20;
/// Machines up to here are told to ask a language model of theirs less often at once.
const SMALL: u64 = 17 << 30;
const VERY_SMALL: u64 = 9 << 30;
/// A setting must gain so much to be worth changing.
const WORTH: f64 = 1.15;

/// A setting that would suit this machine better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The variable to set.
    pub setting: &'static str,
    /// The suggested value.
    pub value: String,
    /// What it is for.
    pub because: String,
}

/// What suggestions depend on, besides measured rates.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Bytes of memory that this process may have; absent where the system does not tell.
    pub memory: Option<u64>,
    /// A language model on this machine may be asked.
    pub llm_here: bool,
    /// The setting of that name.
    pub workers: usize,
    /// The setting of that name.
    pub uploads: usize,
    /// The setting of that name.
    pub device: DeviceChoice,
    /// The setting of that name.
    pub dtype: DtypeChoice,
}

/// All that differ from what is set.
pub fn suggest(situation: &Situation, measured: &Comparison) -> Vec<Suggestion> {
    let mut suggestions = Vec::new();
    if let Some(memory) = situation.memory {
        suggestions.extend(workers(situation, memory));
        suggestions.extend(uploads(situation, memory));
    }
    suggestions.extend(device(situation, measured));
    suggestions.extend(dtype(situation, measured));
    suggestions
}

fn workers(situation: &Situation, memory: u64) -> Option<Suggestion> {
    let fitting = match memory {
        ..VERY_SMALL => 2,
        VERY_SMALL..SMALL => 4,
        _ => return None,
    };
    (situation.llm_here && situation.workers > fitting).then(|| Suggestion {
        setting: "LNSP_MAX_PARALLEL_WORKERS",
        value: fitting.to_string(),
        because: format!(
            "each call at once costs an Ollama on this machine another context, of {} GiB in all; tell it the same \
             (OLLAMA_NUM_PARALLEL={fitting})",
            memory >> 30
        ),
    })
}

/// Uploads at their worst shall fit an eighth of the memory.
fn uploads(situation: &Situation, memory: u64) -> Option<Suggestion> {
    let fitting = usize::try_from(memory / 8 / UPLOAD).unwrap_or(usize::MAX).max(1);
    (situation.uploads > fitting).then(|| Suggestion {
        setting: "LNSP_MAX_UPLOADS",
        value: fitting.to_string(),
        because: format!(
            "an upload may hold {} MiB, and {} at once more than an eighth of the memory",
            UPLOAD >> 20,
            situation.uploads
        ),
    })
}

/// The rate of the fastest trial that counts, with that trial.
fn best(measured: &Comparison, counts: impl Fn(&Trial) -> bool) -> Option<(&Trial, f64)> {
    let trial = &measured.trials[measured.fastest(counts)?];
    Some((trial, trial.outcome.as_ref().ok()?.texts_per_s))
}

/// A device was asked for by name, and another is faster.
fn device(situation: &Situation, measured: &Comparison) -> Option<Suggestion> {
    let DeviceChoice::Only(named) = situation.device else { return None };
    let (_, now) = best(measured, |trial| trial.device == named)?;
    let (other, rate) = best(measured, |_| true)?;
    let value = match other.device {
        Device::Cuda(1..) => other.device.to_string(),
        _ => DeviceChoice::Auto.to_string(),
    };
    (rate > now * WORTH).then(|| Suggestion {
        setting: "LNSP_DEVICE",
        value,
        because: format!("{} was measured at {rate:.0} texts/s, {named} at {now:.0}", other.device),
    })
}

/// A number format was asked for by name, and the other is faster on the same device.
fn dtype(situation: &Situation, measured: &Comparison) -> Option<Suggestion> {
    let DtypeChoice::Only(named) = situation.dtype else { return None };
    let (current, now) = best(measured, |trial| trial.dtype == situation.dtype)?;
    let (other, rate) = best(measured, |trial| trial.device == current.device)?;
    (rate > now * WORTH).then(|| Suggestion {
        setting: "LNSP_DTYPE",
        value: DtypeChoice::Auto.to_string(),
        because: format!("{} was measured at {rate:.0} texts/s, {named} at {now:.0}", other.dtype),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Situation = Situation {
        memory: Some(64 << 30),
        llm_here: true,
        workers: 10,
        uploads: 64,
        device: DeviceChoice::Auto,
        dtype: DtypeChoice::Auto,
    };

    fn suggested(situation: Situation) -> Vec<(&'static str, String)> {
        let suggestions = suggest(&situation, &Comparison::default());
        suggestions.into_iter().map(|suggestion| (suggestion.setting, suggestion.value)).collect()
    }

    #[test]
    fn memory_decides_how_much_happens_at_once() {
        assert_eq!(suggested(LARGE), []);
        let workers = |number: &str| ("LNSP_MAX_PARALLEL_WORKERS", number.to_owned());
        let with = |gib: u64| Situation { memory: Some(gib << 30), ..LARGE };
        assert_eq!(suggested(with(16)), [workers("4")]);
        assert_eq!(suggested(with(8)), [workers("2")]);
        assert_eq!(suggested(Situation { workers: 2, ..with(8) }), []);
        assert_eq!(suggested(Situation { llm_here: false, ..with(16) }), []);
        assert_eq!(suggested(Situation { memory: None, ..LARGE }), []);
        let uploads = ("LNSP_MAX_UPLOADS", "19".to_owned());
        assert_eq!(suggested(with(2)), [workers("2"), uploads]);
    }
}
