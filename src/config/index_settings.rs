//! The settings of the search indexes.

use clap::Args;

/// The settings of the search indexes.
#[derive(Debug, Clone, Args)]
pub struct IndexSettings {
    /// The largest size of an index file in GiB. The file is sparse and takes what it needs; at 384 dimensions that is
    /// about 2 KB a vector. `/ready` warns before it is full.
    #[arg(long, env = "LNSP_INDEX_MAP_GB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub index_map_gb: u32,
    /// How often the indexes are compared with PostgreSQL, in seconds, and mended where they differ; 0 for never.
    #[arg(long, env = "LNSP_INDEX_VERIFY_S", default_value_t = 3600)]
    pub index_verify_s: u64,
}

impl IndexSettings {
    /// The largest size of an index file, in bytes.
    pub fn map_size(&self) -> usize {
        usize::try_from(u64::from(self.index_map_gb) << 30).unwrap_or(usize::MAX)
    }
}
