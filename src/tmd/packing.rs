//! The two bit layouts of a code triple in older data. Rows of both exist; reading one as the other gives wrong codes.

use super::{CodeOutOfRange, Tmd};

/// The canonical 16-bit layout: `domain << 12 | task << 7 | modifier << 1`, lowest bit spare. At most 0xFFFE.
pub fn canonical_bits(tmd: Tmd) -> u16 {
    lane_index(tmd) << 1
}

/// The 15-bit layout, 0-32767: `domain << 11 | task << 6 | modifier`. The old ingest service stored it as its
/// `tmd_bits`; other tools call it lane index.
pub fn lane_index(tmd: Tmd) -> u16 {
    u16::from(tmd.domain()) << 11 | u16::from(tmd.task()) << 6 | u16::from(tmd.modifier())
}

/// Reads the 15-bit layout.
///
/// # Errors
/// The domain is out of range when the number has more than 15 bits.
pub fn from_lane_index(lane: u16) -> Result<Tmd, CodeOutOfRange> {
    Tmd::new(lane >> 11, lane >> 6 & 31, lane & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layouts_match_the_published_values() {
        let published = [
            ((0, 0, 1), 2, 1),
            ((4, 5, 9), 17042, 8521),
            ((15, 14, 9), 63250, 31625),
            ((15, 31, 63), 65534, 32767),
            ((2, 5, 10), 8852, 4426),
        ];
        for ((domain, task, modifier), bits, lane) in published {
            let tmd = Tmd::new(domain, task, modifier).unwrap();
            assert_eq!((canonical_bits(tmd), lane_index(tmd)), (bits, lane), "{tmd}");
        }
    }

    proptest! {
        #[test]
        fn every_triple_comes_back(lane in 0u16..32768) {
            prop_assert_eq!(lane_index(from_lane_index(lane).unwrap()), lane);
        }
    }
}
