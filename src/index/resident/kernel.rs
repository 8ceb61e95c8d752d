//! The inner loops of a search. Each is compiled for several processors, and the best one is chosen when the program
//! runs: the compiler makes vector instructions of plain loops, but only those of the processor it is told about. A closure
//! that a library function calls is not told: so these are loops.

use multiversion::multiversion;

/// Independent sums, so that the compiler can use vector registers: with a single sum it must keep the order of the
/// additions.
const LANES: usize = 32;

/// Adds to each row the number of bits in which its code differs from the query. There is a column of codes for each
/// word of the query: next to each other are words that are compared with the same one.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vpopcntdq+popcnt",
    "x86_64+avx2+popcnt",
    "x86_64+popcnt"
))]
pub(super) fn differing_bits(query: &[u64], codes: &[Vec<u64>], distances: &mut [u16]) {
    for (column, wanted) in codes.iter().zip(query) {
        for (distance, code) in distances.iter_mut().zip(column) {
            *distance += (code ^ wanted).count_ones() as u16;
        }
    }
}

/// How many of the distances are at most so large.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn count_within(distances: &[u16], furthest: u16) -> usize {
    let mut count = 0;
    // Sums of sixteen bits fit more often into a vector register; so many of them cannot overflow.
    for chunk in distances.chunks(usize::from(u16::MAX)) {
        let mut of_chunk = 0u16;
        for distance in chunk {
            of_chunk += u16::from(*distance <= furthest);
        }
        count += usize::from(of_chunk);
    }
    count
}

/// The places of the distances that are at most so large.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn places_within(distances: &[u16], furthest: u16, to: &mut Vec<usize>) {
    for (number, chunk) in distances.chunks(LANES).enumerate() {
        let mut any = false;
        for distance in chunk {
            any |= *distance <= furthest;
        }
        // Most chunks have none.
        if any {
            for (place, distance) in chunk.iter().enumerate() {
                if *distance <= furthest {
                    to.push(number * LANES + place);
                }
            }
        }
    }
}

/// The dot products of a vector of small whole numbers with those at these places, one after another in `rows`.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512vnni",
    "x86_64+avx512f+avx512bw+avx512vl",
    "x86_64+avx2"
))]
pub(super) fn dots_bytes(query: &[i8], rows: &[i8], places: &[usize], to: &mut Vec<i32>) {
    for place in places {
        let row = &rows[place * query.len()..][..query.len()];
        let mut product = 0;
        for (l, r) in query.iter().zip(row) {
            product += i32::from(*l) * i32::from(*r);
        }
        to.push(product);
    }
}

/// The dot product of two vectors of the same length.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    for (l, r) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += l[lane] * r[lane];
        }
    }
    let mut sum = 0.0;
    for (l, r) in left_rest.iter().zip(right_rest) {
        sum += l * r;
    }
    sum + sums.iter().sum::<f32>()
}

/// The dot product with a stored vector: native-endian f32, unaligned.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(in crate::index) fn dot_stored(left: &[f32], right: &[u8]) -> f32 {
    let mut sums = [0f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<{ LANES * 4 }>();
    for (l, r) in left_chunks.iter().zip(right_chunks) {
        let (r, _) = r.as_chunks::<4>();
        for lane in 0..LANES {
            sums[lane] += l[lane] * f32::from_ne_bytes(r[lane]);
        }
    }
    let (right_rest, _) = right_rest.as_chunks::<4>();
    let mut sum = 0.0;
    for (l, r) in left_rest.iter().zip(right_rest) {
        sum += l * f32::from_ne_bytes(*r);
    }
    sum + sums.iter().sum::<f32>()
}

/// The Euclidean norm of a vector.
pub(in crate::index) fn norm(vector: &[f32]) -> f32 {
    dot(vector, vector).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_the_plain_sum() {
        for dims in [1, 7, 16, 33, 384] {
            let left: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.37).sin()).collect();
            let right: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.11).cos()).collect();
            let plain: f32 = left.iter().zip(&right).map(|(l, r)| l * r).sum();
            let bytes: Vec<u8> = right.iter().flat_map(|x| x.to_ne_bytes()).collect();
            assert!((dot(&left, &right) - plain).abs() < 1e-4, "{dims}");
            assert_eq!(dot(&left, &right), dot_stored(&left, &bytes), "{dims}");
            let small = |vector: &[f32]| vector.iter().map(|x| (x * 127.0) as i8).collect::<Vec<i8>>();
            let (left, right) = (small(&left), small(&right));
            let plain: i32 = left.iter().zip(&right).map(|(l, r)| i32::from(*l) * i32::from(*r)).sum();
            let rows = [&left[..], &right[..]].concat();
            let mut products = Vec::new();
            dots_bytes(&left, &rows, &[1], &mut products);
            assert_eq!(products, [plain], "{dims}");
        }
    }

    #[test]
    fn bits_are_counted_and_the_near_are_found() {
        let mut distances = [0; 3];
        differing_bits(&[0b1011, u64::MAX], &[vec![0b1011, 0b0001, 0], vec![u64::MAX, 0, 1]], &mut distances);
        assert_eq!(distances, [0, 2 + 64, 3 + 63]);
        let distances: Vec<u16> = (0..200_000u32).map(|n| (n * 7 % 1_000) as u16).collect();
        for furthest in [0, 3, 999, u16::MAX] {
            let wanted: Vec<usize> =
                (0..distances.len()).filter(|place| distances[*place] <= furthest).collect();
            assert_eq!(count_within(&distances, furthest), wanted.len());
            let mut found = Vec::new();
            places_within(&distances, furthest, &mut found);
            assert_eq!(found, wanted);
        }
    }
}
