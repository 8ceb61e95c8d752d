//! The quality metrics and the confidence score of the old service, which clients still read. Pure.

use crate::chunk::Cpesh;
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
    /// The metrics of a chunk with this text and these CPESH parts. Without a concept, the text is its own concept.
    pub fn new(text: &str, cpesh: Option<&Cpesh>, dims: usize) -> Self {
        let none = Cpesh::default();
        let cpesh = cpesh.unwrap_or(&none);
        let (soft, hard) = (cpesh.soft_negatives.len(), cpesh.hard_negatives.len());
        let present =
            [true, cpesh.probe_question.is_some(), cpesh.expected_answer.is_some(), soft > 0, hard > 0];
        let present = present.into_iter().filter(|present| *present).count();
        QualityMetrics {
            cpesh_completeness: present as f64 / 5.0,
            vector_norm: 1.0,
            vector_dimension: dims,
            text_length: text.chars().count(),
            concept_length: cpesh.concept_text.as_deref().unwrap_or(text).chars().count(),
            soft_negatives_count: soft,
            hard_negatives_count: hard,
            total_negatives: soft + hard,
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
        let plain = QualityMetrics::new("Ein Satz über Größe.", None, 384);
        assert_eq!(plain.text_length, 20);
        assert!((plain.confidence() - 0.09).abs() < 1e-12);
        let parts = Cpesh {
            concept_text: Some("Satz".to_owned()),
            probe_question: Some("Was?".to_owned()),
            expected_answer: Some("Satz".to_owned()),
            soft_negatives: vec!["nein".to_owned(); 3],
            hard_negatives: vec!["doch".to_owned(); 3],
        };
        let full = QualityMetrics::new("Ein Satz über Größe.", Some(&parts), 384);
        assert_eq!((full.cpesh_completeness, full.concept_length, full.total_negatives), (1.0, 4, 6));
        assert!((full.confidence() - 0.91).abs() < 1e-12);
    }
}
