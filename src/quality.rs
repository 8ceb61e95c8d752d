//! The quality metrics and the confidence score of the old service, which clients still read. Pure.

use serde::Serialize;

/// The `quality_metrics` object of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QualityMetrics {
    /// Share of the five CPESH parts (concept, probe, expected answer, soft and hard negatives) that are present, 0 to
    /// 1.
    pub cpesh_completeness: f64,
    /// Euclidean length of the concept vector; vectors are normalised, so 1.
    pub vector_norm: f64,
    /// Number of dimensions of the concept vector.
    pub vector_dimension: usize,
    /// Length of the text in characters.
    pub text_length: usize,
    /// Length of the concept in characters.
    pub concept_length: usize,
    /// Number of soft negatives.
    pub soft_negatives_count: usize,
    /// Number of hard negatives.
    pub hard_negatives_count: usize,
    /// Number of soft and hard negatives together.
    pub total_negatives: usize,
}

impl QualityMetrics {
    /// The metrics of a chunk that is its own concept, without probe, answer and negatives.
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
    /// 0.2 for a concept much shorter than its text. A chunk that is its own concept scores 0.09.
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
