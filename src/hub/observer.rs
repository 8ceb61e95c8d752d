//! The progress of a pull, as its caller sees it.

/// Observes the progress of a pull.
pub trait PullObserver {
    /// The pull begins: the files and bytes of the whole model.
    fn begins(&mut self, files: usize, bytes: u64);
    /// The bytes that have arrived so far.
    fn moved(&mut self, bytes: u64);
    /// A message for the user.
    fn says(&mut self, sentence: &str);
}
