//! The texts of the seed's measurement.

/// The seed's ten sentences.
pub const TEN: [&str; 10] = [
    "Photosynthesis converts light into chemical energy.",
    "The Eiffel Tower was built in 1889.",
    "Machine learning is a subset of AI.",
    "The human brain has 86 billion neurons.",
    "Quantum mechanics describes atomic behavior.",
    "The Great Barrier Reef is the largest coral reef.",
    "DNA replication copies genetic information.",
    "The Industrial Revolution transformed manufacturing.",
    "Black holes have extremely strong gravity.",
    "Antibiotics target bacterial processes.",
];
