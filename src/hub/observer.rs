//! The progress of a pull, as its caller sees it.

/// Observes the progress of a pull.
pub trait PullObserver {
    /// The pull begins: the files and bytes of the whole model.
    fn on_start(&mut self, files: usize, bytes: u64);
    /// The bytes that have arrived so far.
    fn on_progress(&mut self, bytes: u64);
    /// A message for the user.
    fn on_message(&mut self, sentence: &str);
}
