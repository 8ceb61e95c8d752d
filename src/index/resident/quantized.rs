//! Vectors in fewer bits. The sign of each number, one bit, says which items may be near; the numbers in eight bits put
//! those in order; only the best of them are compared as they were committed.

use super::kernel::dots_bytes;

/// A vector in fewer bits, with what is needed to compare it with another one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantized {
    /// One bit a dimension: whether its number is above that of the center.
    pub(super) code: Vec<u64>,
    /// Eight bits a dimension, in proportion to the largest number.
    pub(super) bytes: Vec<i8>,
    /// The factor from the product of two such vectors to a cosine.
    pub(super) scale: f32,
}

/// The words of a code for vectors of this length.
pub(super) fn words(dims: usize) -> usize {
    dims.div_ceil(64).max(1)
}

impl Quantized {
    /// Of a vector of finite numbers that are not all zero, and its norm.
    pub(super) fn new(vector: &[f32], norm: f32, center: &[f32]) -> Quantized {
        let largest = vector.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let steps = 127.0 / largest;
        let bytes = vector.iter().map(|x| (x * steps).round() as i8).collect();
        // The center is that of vectors of unit length.
        let mut code = vec![0; words(vector.len())];
        for (place, (x, middle)) in vector.iter().zip(center).enumerate() {
            code[place / 64] |= u64::from(*x > middle * norm) << (place % 64);
        }
        Quantized { code, bytes, scale: 1.0 / (steps * norm) }
    }

    /// About the cosines with those of these vectors that are at these places. `bytes` has them one after another.
    pub(super) fn cosines(
        &self,
        bytes: &[i8],
        scales: &[f32],
        places: &[usize],
    ) -> impl Iterator<Item = f32> {
        let mut products = Vec::with_capacity(places.len());
        dots_bytes(&self.bytes, bytes, places, &mut products);
        let scales = places.iter().map(|place| scales[*place] * self.scale).collect::<Vec<_>>();
        products.into_iter().zip(scales).map(|(product, scale)| product as f32 * scale)
    }
}

/// The mean of quantized vectors as they are at unit length, for the code: where all vectors share a direction, as those
/// of some models do, most signs around zero would be the same for all.
pub(super) fn center<'a>(dims: usize, vectors: impl Iterator<Item = (&'a [i8], f32)>) -> Vec<f32> {
    let (mut sums, mut count) = (vec![0f64; dims], 0u32);
    for (bytes, scale) in vectors {
        count += 1;
        for (sum, byte) in sums.iter_mut().zip(bytes) {
            *sum += f64::from(*byte) * f64::from(scale);
        }
    }
    sums.into_iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect()
}

/// The code of a vector of which only its bytes are known.
pub(super) fn code_of_bytes(bytes: &[i8], scale: f32, center: &[f32], to: &mut [u64]) {
    to.fill(0);
    for (place, (byte, middle)) in bytes.iter().zip(center).enumerate() {
        to[place / 64] |= u64::from(f32::from(*byte) * scale > *middle) << (place % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{dot, norm};
    use super::*;

    fn vector(seed: u32, dims: usize) -> Vec<f32> {
        (0..dims).map(|n| ((n as f32 + 1.3) * (seed as f32 + 0.7)).sin() * 3.0).collect()
    }

    #[test]
    fn eight_bits_are_close_to_the_cosine() {
        for dims in [3, 64, 100, 384] {
            let zero = vec![0.0; dims];
            for seed in 0..20 {
                let (left, right) = (vector(seed, dims), vector(seed + 1, dims));
                let (l, r) = (norm(&left), norm(&right));
                let quantized = Quantized::new(&left, l, &zero);
                let other = Quantized::new(&right, r, &zero);
                let cosine = dot(&left, &right) / (l * r);
                let close = quantized.cosines(&other.bytes, &[other.scale], &[0]).next().unwrap();
                assert!((cosine - close).abs() < 0.02, "{dims} {seed}: {cosine} {close}");
            }
        }
    }

    #[test]
    fn a_code_is_the_side_of_the_center() {
        let quantized = Quantized::new(&[2.0, -2.0, 1.0], 3.0, &[0.1, -0.9, 0.5]);
        assert_eq!(quantized.code, [0b011]);
        let mut again = [7];
        code_of_bytes(&quantized.bytes, quantized.scale, &[0.1, -0.9, 0.5], &mut again);
        assert_eq!(again, [0b011]);
        let middle = center(3, [(&quantized.bytes[..], quantized.scale)].into_iter());
        assert!((middle[0] - 2.0 / 3.0).abs() < 0.01 && (middle[2] - 1.0 / 3.0).abs() < 0.01, "{middle:?}");
    }
}
