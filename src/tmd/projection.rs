//! The two 16-D encodings of a code triple in older data.

use super::Tmd;

/// The fixed projection of encoding A: 16 rows of 15 columns (domain bits 3-0, task bits 4-0, modifier bits
/// 5-0). Drawn from a standard normal distribution (generator PCG64, seed 1337). They are constants because old vectors
/// depend on every bit.
#[rustfmt::skip]
#[allow(clippy::excessive_precision)]
const PROJECTION: [[f32; 15]; 16] = [
    [0.0382682234, 0.473936439, -0.137745917, -1.38933444, 2.52011871, -1.00639093, 1.85681605, -2.50237775, 0.148336098, -0.0861233771, 2.12161827, 0.515017927, -0.532863557, 1.2378099, 0.205361485],
    [1.81297553, -0.217336535, 0.0939234272, -0.133796602, -1.13466418, 0.847784579, 0.677111089, 0.872689009, -0.336667657, 1.01786518, 1.10617161, -0.0386043936, -0.817302227, -0.158185437, -1.49902475],
    [-1.4663682, 0.73201108, -1.72037482, -1.85562027, 0.4325625, 0.0724446774, -1.94375324, 0.838151753, -0.0120152114, 1.16688454, -0.293995619, 0.351570398, -1.58589244, -0.473843604, 1.11178994],
    [-0.933287561, 0.836550057, 0.47657755, -0.887662947, 1.89127278, 0.613764346, 0.703554988, 0.840877831, -2.01096559, 0.135003269, 0.8430264, -0.0390745103, 0.928937256, 0.117265515, 0.387944162],
    [0.45761165, 0.235439613, -0.542370319, 1.2330929, 0.209826738, 0.0606138445, 0.0599516518, -0.523825049, -1.40253294, -1.61152589, -0.195312664, -0.972197294, 0.471644461, 0.504323125, 1.05846035],
    [-0.0950831175, -0.0539721325, 0.450509876, -2.65452528, -1.65034497, 0.371505886, 0.302461147, -2.66104126, 0.0345313251, -0.427499622, -0.375497341, 0.325820506, -0.0675324276, 0.761494517, -0.553169787],
    [-0.723177671, -0.162944362, 0.159184277, -0.875577331, -1.00155568, -0.0851428807, 0.255553305, 0.382883519, -0.256552041, 0.183737487, 1.43717813, -0.102737695, 0.541868985, -0.19974786, -0.205217451],
    [-0.335033834, 0.165702179, -0.00508440286, 0.150503308, 0.12085028, -0.339297056, -0.468271405, -0.91131568, -0.849631667, 1.17060554, 0.833417654, -1.52071297, 0.835004807, 0.241698161, -0.357263356],
    [-1.10041428, 2.08469892, -1.32455337, -0.799416125, -0.0945224538, -1.87977123, -1.22104406, 1.06106699, -0.245929018, 1.81656063, 0.438263237, -0.670624077, 1.00171733, 0.327595472, 0.379946291],
    [-0.661465645, -0.753263891, 0.371587753, -0.146716163, 0.693757236, -0.977667511, -0.521398723, -1.16779375, -0.523999155, -0.891582906, -0.893268108, 0.611300945, 0.311759084, 0.309285015, 1.79529881],
    [0.741855919, 0.610340834, -0.469639182, -1.66037309, 0.600104094, -0.292987794, -1.71899772, -1.05333102, 1.11063612, -1.05614209, -0.194057524, 0.0786373392, -1.30517352, 0.457425237, -0.400878698],
    [0.545831621, 1.69915211, 1.51606882, 0.19597955, 0.816988349, -0.146965891, -1.25572312, -0.529826522, 0.213362426, 2.41420197, 2.00715542, -1.82157767, 0.426768005, -0.365440339, 0.864912808],
    [-1.05938613, 0.895546556, 0.15157114, -0.356895924, -0.245926976, 0.236812577, -0.962325573, 1.19754887, 0.631123304, 0.755123317, 0.936541021, -0.164000422, 0.0503139645, 1.81116855, -1.71007109],
    [-0.437852025, 2.32087064, 0.200918853, 0.312035441, -1.5198667, 0.20746243, -0.629014552, -1.03856254, -1.68408453, -1.51015079, 1.48650932, 1.19598711, 1.22446609, -0.663761556, -0.429379851],
    [-0.00239560846, 0.979780555, -0.472416848, 1.37515604, 0.647445381, 0.991791427, 0.725459695, 0.823273301, -0.301156461, 0.288023859, -0.962797821, 0.359674931, 0.372418731, 1.03666115, -0.0450237505],
    [1.37963295, 0.167666614, -0.548076928, 1.26494718, 0.923921287, -1.76754415, -0.417717099, 0.149248973, -0.471945345, -1.30518353, 0.00844380539, 1.11199057, 0.866754651, -1.64398563, 1.2257421],
];

/// Encoding A, the canonical one: the 15 bits (domain, task, modifier, each with its highest bit first) through
/// the fixed projection, then normalised. The result has unit length, except for 0.0.0: the zero vector.
pub fn canonical_16d(tmd: Tmd) -> [f32; 16] {
    let code = super::packing::lane_index(tmd);
    let vector = PROJECTION.map(|row| {
        row.iter()
            .enumerate()
            .filter(|(bit, _)| code >> (14 - bit) & 1 == 1)
            // Not `sum`, which gives -0 of nothing.
            .fold(0.0, |sum: f32, (_, weight)| sum + weight)
    });
    normalised(vector)
}

/// The length of a vector: the SQL function `real_array_norm`, bit for bit.
pub fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32
}

/// The vector at unit length, a zero vector as it is: the SQL function `real_array_normalised`, bit for bit.
pub fn normalised<V: AsMut<[f32]>>(mut vector: V) -> V {
    let values = vector.as_mut();
    let norm = length(values);
    if norm > 1e-12 {
        values.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

/// Encoding B, written by the old ingest service: one float per bit, lowest bit first: dimensions 0-3 domain,
/// 4-8 task, 9-14 modifier, 15 always zero. Not normalised: its Euclidean length is the square root of the number of
/// set bits.
pub fn ingest_16d(tmd: Tmd) -> [f32; 16] {
    let bit = |code: u8, position: usize| f32::from(code >> position & 1);
    std::array::from_fn(|i| match i {
        0..4 => bit(tmd.domain(), i),
        4..9 => bit(tmd.task(), i - 4),
        9..15 => bit(tmd.modifier(), i - 9),
        _ => 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(domain: u8, task: u8, modifier: u8) -> Vec<f32> {
        canonical_16d(Tmd::new(domain, task, modifier).unwrap())[..3].to_vec()
    }

    #[test]
    fn the_canonical_encoding_matches_the_published_values() {
        let published = [
            ((0, 0, 1), [0.0545716, -0.3983426, 0.295441]),
            ((4, 5, 9), [0.5718037, -0.2528011, 0.0428214]),
            ((15, 14, 9), [-0.1685844, 0.2092287, -0.3360647]),
            ((15, 31, 63), [0.241156, 0.1457711, -0.3236204]),
        ];
        for ((domain, task, modifier), expected) in published {
            for (value, wanted) in head(domain, task, modifier).iter().zip(expected) {
                assert!((value - wanted).abs() < 1e-6, "{domain}.{task}.{modifier}: {value} is not {wanted}");
            }
        }
        assert_eq!(canonical_16d(Tmd::new(0, 0, 0).unwrap()), [0.0; 16]);
    }

    #[test]
    fn the_ingest_encoding_is_the_bits_lowest_first() {
        let vector = ingest_16d(Tmd::new(1, 2, 32).unwrap());
        let set: Vec<usize> = (0..16).filter(|i| vector[*i] == 1.0).collect();
        assert_eq!(set, [0, 5, 14]);
    }
}
