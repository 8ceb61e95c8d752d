//! What an upload knows while it runs: its ledger, what is to be sent again, the refusals, and what is shown of them.

use super::answer::{LineResult, UploadFailure};
use super::attempt::{Listener, Outgoing};
use super::ledger::{Ledger, UploadTally};
use super::progress_line::{ChunkCount, ProgressLine};
use super::refusals::{RefusalSink, RefusalTable, RefusedChunk};
use super::service_state::ServiceState;
use super::source::{LocalRefusal, UploadSource};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The refusals of a code that are told as they come, and those of all codes; the others are counted.
const TOLD_OF_A_CODE: u64 = 3;
const TOLD: u64 = 20;

/// Lines that the service did not take in this attempt, and could take in the next.
#[derive(Debug, Default)]
pub struct Again {
    /// The number of chunks.
    pub lines: u64,
    /// The last of them, and why.
    pub last: Option<(u64, UploadFailure)>,
}

/// See the module.
pub struct UploadState<'a> {
    source: Arc<dyn UploadSource>,
    ledger: Ledger,
    again: Again,
    refusals: RefusalTable,
    told: u64,
    sink: Option<&'a mut dyn RefusalSink>,
    progress: ProgressLine,
    service: ServiceState,
    unknown_fields: BTreeMap<String, u64>,
    /// The chunks of the source, once it was read to its end.
    total: Option<u64>,
    outgoing: Outgoing,
}

impl<'a> UploadState<'a> {
    /// Nothing is settled.
    pub fn new(
        source: Arc<dyn UploadSource>,
        service: ServiceState,
        skips_empty: bool,
        sink: Option<&'a mut dyn RefusalSink>,
    ) -> Self {
        let progress = ProgressLine::new(source.name());
        UploadState {
            source,
            ledger: Ledger::new(skips_empty),
            again: Again::default(),
            refusals: RefusalTable::default(),
            told: 0,
            sink,
            progress,
            service,
            unknown_fields: BTreeMap::new(),
            total: None,
            outgoing: Outgoing::default(),
        }
    }

    /// Starts the counts of a new attempt, which follows the lines on their way out by what is returned.
    pub fn begin_attempt(&mut self) -> Outgoing {
        self.again = Again::default();
        self.outgoing = Outgoing::new(self.sink.is_some());
        self.outgoing.clone()
    }

    /// What was not taken since then.
    pub fn again(&self) -> &Again {
        &self.again
    }

    /// What is settled.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where progress is shown.
    pub fn progress(&self) -> &ProgressLine {
        &self.progress
    }

    /// How the settled lines were answered.
    pub fn tally(&self) -> UploadTally {
        self.ledger.tally()
    }

    /// Chunks without a result; `None` while the source was not read to its end.
    pub fn left(&self) -> Option<u64> {
        self.total.map(|total| total.saturating_sub(self.tally().settled()))
    }

    /// Tells the fields that are not known, and takes the progress away.
    pub fn finish(mut self) -> (ProgressLine, Ledger, RefusalTable) {
        self.progress.finish();
        let named: Vec<String> = std::mem::take(&mut self.unknown_fields)
            .iter()
            .map(|(name, count)| format!("{name} ({count})"))
            .collect();
        if !named.is_empty() {
            let fields = named.join(", ");
            self.progress.say(&format!(
                "has fields that are not known and are kept in the metadata of their chunks: {fields}"
            ));
        }
        (self.progress, self.ledger, self.refusals)
    }

    fn refuse(&mut self, line: u64, failure: &UploadFailure, content: Option<&[u8]>) {
        let (source, unit) = (self.source.name(), self.source.unit());
        let refusal = RefusedChunk { source, line, unit, failure, content };
        let count = self.refusals.add(&refusal);
        if count <= TOLD_OF_A_CODE && self.told < TOLD {
            self.told += 1;
            self.progress.say(&format!("{unit} {line}: {failure}"));
        } else if count == TOLD_OF_A_CODE + 1 {
            self.progress.say(&format!("has further {unit}s with {}; they are only counted", failure.code));
        }
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.take(&refusal)
        {
            self.progress.say(&format!("has refused {unit}s that cannot be written down: {error}"));
            self.sink = None;
        }
    }

    fn count(&self) -> ChunkCount {
        if let Some(total) = self.total {
            return ChunkCount::Exact(total);
        }
        let read = self.outgoing.read();
        match self.source.size() {
            Some(size) if read.position > 0 => {
                let share = size as f64 / read.position.min(size) as f64;
                ChunkCount::About((read.chunks as f64 * share.max(1.0)) as u64)
            }
            _ => ChunkCount::Unknown,
        }
    }
}

impl Listener for UploadState<'_> {
    fn on_result(&mut self, line: u64, result: Result<LineResult, UploadFailure>, content: Option<Bytes>) {
        match result {
            Err(failure) => {
                self.again.lines += 1;
                self.again.last = Some((line, failure));
            }
            Ok(result) => {
                if self.ledger.settle(line, &result)
                    && let LineResult::Failed(failure) = &result
                {
                    self.refuse(line, failure, content.as_deref());
                }
            }
        }
    }

    fn on_refused(&mut self, refused: LocalRefusal) {
        let LocalRefusal { line, failure, content } = refused;
        self.on_result(line, Ok(LineResult::Failed(failure)), Some(content));
    }

    fn on_unknown_fields(&mut self, counts: BTreeMap<String, u64>) {
        // A later attempt has only a part of the lines; the first says most.
        for (name, count) in counts {
            let most = self.unknown_fields.entry(name).or_default();
            *most = count.max(*most);
        }
    }

    fn on_tick(&mut self) {
        if self.total.is_none() {
            let read = self.outgoing.read();
            self.total = read.ended.then_some(read.chunks);
        }
        self.progress.show(self.tally(), self.count(), self.service.limited_by().as_deref());
    }
}
