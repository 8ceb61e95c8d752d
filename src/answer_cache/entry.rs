//! What is stored under what.

/// The key of an answer: a hash of everything that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnswerKey([u8; 32]);

impl AnswerKey {
    /// The key of these parts, in this order. Each counts with its length.
    pub fn of(parts: &[&[u8]]) -> AnswerKey {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        AnswerKey(*hasher.finalize().as_bytes())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
