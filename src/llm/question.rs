//! What is asked about one text.

/// What one call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// The three codes.
    Codes,
    /// The three codes and the CPESH parts of the text, in one answer.
    CodesAndCpesh,
}

/// What is asked about one text.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The whole text; only its beginning is sent.
    pub text: &'a str,
    /// What the answer is to contain.
    pub wanted: Wanted,
}
