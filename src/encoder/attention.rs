//! Attention, in two implementations; which one is faster depends on the machine.

use super::device::to_device;
use tch::{Kind, TchError, Tensor};

/// The attention of one model; the same for all its layers.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub(super) heads: i64,
    pub(super) head_width: i64,
    /// Computes with single oneDNN operations instead of libtorch's fused one. In bf16 the fused one spends its time in
    /// MKL, which converts to f32 and back for each small product.
    pub(super) in_steps: bool,
}

/// The bias that is added to the attention scores of a batch before the softmax.
pub(super) struct Bias {
    texts: i64,
    width: i64,
    /// Minus infinity for padding; for tokens 0 or the relative position bias. `None` if all values are 0.
    scores: Option<Tensor>,
}

impl Attention {
    /// For each head of each text: softmax(query * key + bias) * value. `qkv` is `[tokens, 3 * heads * head_width]`,
    /// with scaled queries. The result is `[tokens, heads * head_width]`.
    pub(super) fn apply(&self, qkv: &Tensor, bias: &Bias) -> Result<Tensor, TchError> {
        let &Bias { texts, width, ref scores } = bias;
        let parts = qkv.f_view([texts, width, 3, self.heads, self.head_width])?.f_permute([2, 0, 3, 1, 4])?;
        let attended = if self.in_steps {
            let parts = parts.f_contiguous()?.f_view([3, texts * self.heads, width, self.head_width])?;
            let (query, key, value) = (parts.f_get(0)?, parts.f_get(1)?.f_transpose(1, 2)?, parts.f_get(2)?);
            let scores = match scores {
                Some(scores) => scores.f_baddbmm(&query, &key, 1, 1)?,
                None => query.f_bmm(&key)?,
            };
            // oneDNN's softmax needs its own memory layout. Both copies together are faster than libtorch's softmax.
            let shares = scores.f_to_mkldnn(None)?.f_softmax(-1, None)?.f_to_dense(None, false)?;
            shares.f_bmm(&value)?.f_view([texts, self.heads, width, self.head_width])?
        } else {
            let (query, key, value) = (parts.f_get(0)?, parts.f_get(1)?, parts.f_get(2)?);
            let scores = scores.as_ref();
            Tensor::f_scaled_dot_product_attention(
                &query,
                &key,
                &value,
                scores,
                0.0,
                false,
                Some(1.0),
                false,
            )?
        };
        attended.f_transpose(1, 2)?.f_reshape([texts * width, self.heads * self.head_width])
    }

    /// The bias of a batch of texts padded to `width` tokens, for [`Self::apply`]. `distances` is
    /// `[heads, width, width]`: the relative position bias from query to key.
    pub(super) fn bias(
        &self,
        lengths: &[usize],
        distances: Option<Tensor>,
        (width, kind, device): (usize, Kind, tch::Device),
    ) -> Result<Bias, TchError> {
        let (texts, wide) = (lengths.len() as i64, width as i64);
        let mask = padding(lengths, width)?;
        let mask = mask.map(|mask| to_device(&mask, device)?.f_to_kind(kind)).transpose()?;
        let scores = match (mask, distances) {
            (None, None) => None,
            (Some(mask), None) => Some((mask, 1)),
            (None, Some(distances)) => Some((distances.f_unsqueeze(0)?, wide)),
            (Some(mask), Some(distances)) => Some((distances.f_unsqueeze(0)?.f_add(&mask)?, wide)),
        };
        let scores = match scores {
            Some((scores, queries)) if self.in_steps => {
                let all = scores.f_expand([texts, self.heads, queries, wide], false)?;
                Some(all.f_reshape([texts * self.heads, queries, wide])?)
            }
            scores => scores.map(|(scores, _)| scores),
        };
        Ok(Bias { texts, width: wide, scores })
    }
}

/// `[texts, 1, 1, width]`: 0 for a token and minus infinity for padding; `None` if there is no padding.
fn padding(lengths: &[usize], width: usize) -> Result<Option<Tensor>, TchError> {
    if lengths.iter().all(|&length| length == width) {
        return Ok(None);
    }
    let mut rows = vec![0_f32; lengths.len() * width];
    for (row, &length) in rows.chunks_exact_mut(width).zip(lengths) {
        row[length..].fill(f32::NEG_INFINITY);
    }
    Tensor::f_from_slice(&rows)?.f_view([lengths.len() as i64, 1, 1, width as i64]).map(Some)
}
