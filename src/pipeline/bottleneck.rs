//! What limits the rate of ingest: read off how full the stages are.

/// The part of the way that the chunks wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// Nothing waits: chunks come no faster.
    Sender,
    /// The language model.
    Llm,
    /// The thread of the local classifier.
    Classifier,
    /// The embedding model, here or on a server.
    Embedder,
    /// Look-ups or transactions.
    Postgresql,
    /// The build of the search index.
    Index,
}

impl Bottleneck {
    /// The name in `GET /stats`.
    pub fn name(self) -> &'static str {
        match self {
            Bottleneck::Sender => "sender",
            Bottleneck::Llm => "llm",
            Bottleneck::Classifier => "classifier",
            Bottleneck::Embedder => "embedder",
            Bottleneck::Postgresql => "postgresql",
            Bottleneck::Index => "index",
        }
    }
}

/// How full the pipeline is at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fill {
    /// Slots in use and slots in all: for chunks that wait for a language model, then of each stage.
    pub(super) slots: [(usize, usize); 4],
    /// Chunks that the entrance holds.
    pub(super) waiting: usize,
    /// The writer waits for the index.
    pub(super) index_behind: bool,
}

/// A stage that is the slowest is full, and so is every stage before it; those after it are not. So it is the last
/// stage that is full: more than half, because a stage that works in batches frees many slots at once. `None` while
/// nothing is in flight.
pub(super) fn bottleneck(fill: Fill) -> Option<Bottleneck> {
    let full = fill.slots.map(|(used, total)| used > 0 && used * 2 >= total);
    match full {
        [_, _, _, true] if fill.index_behind => Some(Bottleneck::Index),
        [_, _, _, true] => Some(Bottleneck::Postgresql),
        [_, _, true, _] => Some(Bottleneck::Embedder),
        [_, true, _, _] => Some(Bottleneck::Classifier),
        [true, ..] => Some(Bottleneck::Llm),
        // Accepted, and in no stage that is full: looked up.
        _ if fill.waiting > 0 => Some(Bottleneck::Postgresql),
        _ => fill.slots.iter().any(|(used, _)| *used > 0).then_some(Bottleneck::Sender),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_full_stage_limits_the_rate() {
        let of = |used: [usize; 4], waiting, index_behind| {
            let slots = [(used[0], 12), (used[1], 128), (used[2], 512), (used[3], 512)];
            bottleneck(Fill { slots, waiting, index_behind }).map(Bottleneck::name)
        };
        assert_eq!(of([0; 4], 0, false), None);
        assert_eq!(of([0; 4], 256, false), Some("postgresql"), "known chunks are looked up");
        assert_eq!(of([1, 0, 3, 0], 0, false), Some("sender"));
        assert_eq!(of([12, 0, 9, 0], 700, false), Some("llm"));
        assert_eq!(of([0, 128, 0, 0], 700, false), Some("classifier"));
        assert_eq!(of([12, 128, 300, 20], 700, false), Some("embedder"));
        assert_eq!(of([12, 128, 512, 256], 700, false), Some("postgresql"));
        assert_eq!(of([0, 128, 512, 512], 700, true), Some("index"));
        assert_eq!(bottleneck(Fill::default()), None, "a stage without slots is not full");
        let one_at_a_time =
            Fill { slots: [(0, 1), (0, 1), (1, 1), (0, 1)], waiting: 255, index_behind: false };
        assert_eq!(bottleneck(one_at_a_time), Some(Bottleneck::Embedder));
    }
}
