//! The report: tables for people, and the figures that they are made of.

use crate::classifier::Classification;
use crate::cli::bench::numbers::{mean, median, ms, show_ms};
use crate::llm::{LlmError, TrialAnswer};
use crate::tmd::{Axis, Tmd};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeMap;
use std::fmt;

/// Confidences of the local classifier from which on its codes could be taken without a call.
const THRESHOLDS: [f32; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];

/// The answers about one text.
pub struct Judged {
    pub names: Result<TrialAnswer, LlmError>,
    pub short: Result<TrialAnswer, LlmError>,
    pub local: Classification,
}

/// Everything that was measured.
pub struct AgreementReport {
    pub asked: String,
    pub workers: usize,
    pub judged: Vec<Judged>,
}

/// What the calls of one form cost.
struct FormCost {
    answered: usize,
    failed: BTreeMap<&'static str, usize>,
    middle_ms: f64,
    tokens: f64,
}

/// What happens when the local classifier answers from a confidence on.
struct Saving {
    threshold: f32,
    saved: f64,
    /// Of the saved calls that the model answered, per axis.
    agreement: [Option<f64>; 3],
}

impl FormCost {
    fn of<'a>(answers: impl Iterator<Item = &'a Result<TrialAnswer, LlmError>>) -> FormCost {
        let (mut times, mut tokens, mut failed) = (Vec::new(), Vec::new(), BTreeMap::new());
        for answer in answers {
            match answer {
                Ok(answer) => {
                    times.push(ms(answer.took));
                    tokens.push(answer.tokens as f64);
                }
                Err(error) => *failed.entry(error.kind()).or_default() += 1,
            }
        }
        FormCost { answered: times.len(), failed, middle_ms: median(&times), tokens: mean(&tokens) }
    }

    fn failures(&self) -> String {
        let each: Vec<String> = self.failed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if each.is_empty() { "none".to_owned() } else { each.join(", ") }
    }
}

/// The share of pairs that agree on an axis; `None` of none.
fn share(pairs: &[(Tmd, Tmd)], axis: Axis) -> Option<f64> {
    let same = pairs.iter().filter(|(one, other)| one.code(axis) == other.code(axis)).count();
    (!pairs.is_empty()).then(|| same as f64 / pairs.len() as f64)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

impl AgreementReport {
    fn pairs(&self) -> Vec<(Tmd, Tmd)> {
        let both = |judged: &Judged| Some((code(&judged.names)?, code(&judged.short)?));
        self.judged.iter().filter_map(both).collect()
    }

    fn costs(&self) -> [FormCost; 2] {
        let names = FormCost::of(self.judged.iter().map(|judged| &judged.names));
        [names, FormCost::of(self.judged.iter().map(|judged| &judged.short))]
    }

    fn savings(&self) -> Vec<Saving> {
        let saving = |threshold: f32| {
            let sure: Vec<&Judged> =
                self.judged.iter().filter(|judged| judged.local.confidence.domain >= threshold).collect();
            let both = |judged: &&Judged| Some((code(&judged.names)?, judged.local.tmd));
            let pairs: Vec<(Tmd, Tmd)> = sure.iter().filter_map(both).collect();
            let saved = sure.len() as f64 / self.judged.len().max(1) as f64;
            Saving { threshold, saved, agreement: Axis::ALL.map(|axis| share(&pairs, axis)) }
        };
        THRESHOLDS.map(saving).into()
    }

    /// How many times as fast short answers are; `None` where one form had no answer.
    fn speedup(&self) -> Option<f64> {
        let [names, short] = self.costs();
        (names.answered > 0 && short.answered > 0 && short.middle_ms > 0.0)
            .then(|| names.middle_ms / short.middle_ms)
    }
}

fn code(answer: &Result<TrialAnswer, LlmError>) -> Option<Tmd> {
    answer.as_ref().ok().map(|answer| answer.labels.tmd)
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

impl fmt::Display for AgreementReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [names, short] = self.costs();
        let pairs = self.pairs();
        writeln!(
            f,
            "\nAnswers by name and short answers: {} texts, {} at once",
            self.judged.len(),
            self.workers
        )?;
        writeln!(f, "Language model: {}\n", self.asked)?;
        let row = |name: &str, cost: &FormCost| {
            let cells = [
                cost.answered.to_string(),
                cost.failures(),
                show_ms(cost.middle_ms),
                format!("{:.1}", cost.tokens),
            ];
            std::iter::once(name.to_owned()).chain(cells).collect()
        };
        let rows = vec![row("names", &names), row("short", &short)];
        writeln!(
            f,
            "{}\n",
            table(&["LNSP_TMD_ANSWER", "answers", "failures", "time (median)", "tokens"], rows)
        )?;
        let all_same = pairs.iter().filter(|(one, other)| one == other).count();
        let whole = (!pairs.is_empty()).then(|| all_same as f64 / pairs.len() as f64);
        let mut cells: Vec<String> = Axis::ALL.map(|axis| percent(share(&pairs, axis))).into();
        cells.push(percent(whole));
        let agreement = std::iter::once("short as names".to_owned()).chain(cells).collect();
        writeln!(f, "Agreement of the two forms, where both answered")?;
        writeln!(f, "{}\n", table(&["", "domain", "task", "modifier", "all three"], vec![agreement]))?;
        writeln!(f, "The local classifier in place of a call, from a confidence in the domain on")?;
        let row = |saving: &Saving| {
            let cells = saving.agreement.map(percent);
            [format!("{:.1}", saving.threshold), percent(Some(saving.saved))]
                .into_iter()
                .chain(cells)
                .collect()
        };
        let savings = self.savings();
        let rows = savings.iter().map(row).collect();
        let header = ["LNSP_TMD_FAST_CONF_MIN", "calls saved", "same domain", "same task", "same modifier"];
        writeln!(f, "{}\n", table(&header, rows))?;
        for axis in Axis::ALL {
            if let Some(share) = share(&pairs, axis) {
                writeln!(f, "figure llm.form_agreement.{axis} {share:.3} share")?;
            }
        }
        if let Some(speedup) = self.speedup() {
            writeln!(f, "figure llm.short_answer_speedup {speedup:.2} x")?;
        }
        for (name, cost) in [("names", &names), ("short", &short)] {
            if cost.answered > 0 {
                writeln!(f, "figure llm.tokens_per_answer.{name} {:.1} tokens", cost.tokens)?;
            }
        }
        for saving in &savings {
            let name = format!("{:.0}", saving.threshold * 100.0);
            writeln!(f, "figure tmd.fast_first_saves.{name} {:.3} share", saving.saved)?;
            if let Some(share) = saving.agreement[0] {
                writeln!(f, "figure tmd.fast_first_same_domain.{name} {share:.3} share")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::Labels;
    use crate::tmd::AxisConfidence;
    use std::time::Duration;

    fn answer(tmd: [u8; 3], took: u64, tokens: u64) -> Result<TrialAnswer, LlmError> {
        let [domain, task, modifier] = tmd;
        let tmd = Tmd::new(domain, task, modifier).unwrap();
        let labels = Labels { tmd, confidence: None, cpesh: None };
        Ok(TrialAnswer { labels, tokens, took: Duration::from_millis(took) })
    }

    fn local(domain: u8, confidence: f32) -> Classification {
        let confidence = AxisConfidence { domain: confidence, task: 0.1, modifier: 0.1 };
        Classification { tmd: Tmd::new(domain, 1, 1).unwrap(), confidence }
    }

    #[test]
    fn shares_are_of_what_both_answered_and_speed_is_of_medians() {
        let judged = vec![
            Judged {
                names: answer([1, 2, 3], 900, 24),
                short: answer([1, 2, 4], 300, 8),
                local: local(1, 0.95),
            },
            Judged {
                names: answer([1, 2, 3], 800, 26),
                short: answer([1, 5, 3], 200, 8),
                local: local(2, 0.65),
            },
            Judged {
                names: answer([9, 2, 3], 700, 25),
                short: answer([9, 2, 3], 100, 8),
                local: local(9, 0.2),
            },
            Judged {
                names: answer([4, 2, 3], 800, 25),
                short: Err(LlmError::Incomplete { reason: String::new() }),
                local: local(4, 0.85),
            },
        ];
        let text = AgreementReport { asked: "m on Ollama 1".to_owned(), workers: 2, judged }.to_string();
        for line in [
            "figure llm.form_agreement.domain 1.000 share",
            "figure llm.form_agreement.task 0.667 share",
            "figure llm.form_agreement.modifier 0.667 share",
            "figure llm.short_answer_speedup 4.00 x",
            "figure llm.tokens_per_answer.names 25.0 tokens",
            "figure llm.tokens_per_answer.short 8.0 tokens",
            "figure tmd.fast_first_saves.50 0.750 share",
            "figure tmd.fast_first_same_domain.50 0.667 share",
            "figure tmd.fast_first_saves.90 0.250 share",
            "figure tmd.fast_first_same_domain.90 1.000 share",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("1 incomplete") && text.contains("800.0 ms"), "{text}");
        assert!(text.contains("33.3 %"), "all three agree in one of three: {text}");
    }
}
