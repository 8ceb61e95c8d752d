//! The old service's quality metrics and confidence, for answers and views that clients already read. Pure.

use serde::Serialize;

/// The `quality_metrics` object of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QualityMetrics {
    /// Share of concept, probe, answer, soft and hard negatives that are there.
    pub cpesh_completeness: f64,
    /// Length of the concept vector; ours are normalised.
    pub vector_norm: f64,
    /// Dimensions of the concept vector.
    pub vector_dimension: usize,
    /// In characters.
    pub text_length: usize,
    /// In characters.
    pub concept_length: usize,
    /// How many.
    pub soft_negatives_count: usize,
    /// How many.
    pub hard_negatives_count: usize,
    /// Soft and hard.
    pub total_negatives: usize,
}

impl QualityMetrics {
    /// For a chunk that is its own concept: no probe, no answer, no negatives.
    pub fn of_text(text: &str, dims: usize) -> Self {
        let length = text.chars().count();
        QualityMetrics {
            cpesh_completeness: 0.2,
            vector_norm: 1.0,
            vector_dimension: dims,
            text_length: length,
            concept_length: length,
            soft_negatives_count: 0,
            hard_negatives_count: 0,
            total_negatives: 0,
        }
    }

    /// The old `confidence_score`: 0.4 completeness + 0.1 norm/10 + 0.3 negatives/5, each capped at 1, and up to
    /// 0.2 for a concept much shorter than its text. A chunk that is its own concept has 0.09.
    pub fn confidence(&self) -> f64 {
        let ratio = self.concept_length as f64 / self.text_length.max(1) as f64;
        let extraction = match ratio {
            0.1..=0.5 => 0.2,
            0.05..=0.8 => 0.1,
            _ => 0.0,
        };
        let negatives = (self.total_negatives as f64 / 5.0).min(1.0);
        let score = 0.4 * self.cpesh_completeness
            + 0.1 * (self.vector_norm / 10.0).min(1.0)
            + 0.3 * negatives
            + extraction;
        score.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_follows_the_published_formula() {
        let plain = QualityMetrics::of_text("Ein Satz über Größe.", 384);
        assert_eq!(plain.text_length, 20);
        assert!((plain.confidence() - 0.09).abs() < 1e-12);
        let full = QualityMetrics { cpesh_completeness: 1.0, concept_length: 4, total_negatives: 6, ..plain };
        assert!((full.confidence() - 0.91).abs() < 1e-12);
    }
}
