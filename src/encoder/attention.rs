//! Attention, in the two ways that are fast on some machine.

use tch::{Kind, TchError, Tensor};

/// Attention of one model: the same for each of its layers.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub(super) heads: i64,
    pub(super) head_width: i64,
    /// Out of single oneDNN steps instead of libtorch's one. In bf16 the latter spends its time in MKL, which
    /// converts to f32 and back for each small product.
    pub(super) in_steps: bool,
}

/// What is padding in a batch.
pub(super) struct Padding {
    texts: i64,
    width: i64,
    /// To add to scores, 0 for a token and minus infinity for padding; absent if all texts have the same length.
    mask: Option<Tensor>,
}

impl Attention {
    /// For each head of each text: softmax of queries times keys, times values. `qkv` has a token a row, and its
    /// queries are scaled already; so has the result, all heads side by side.
    pub(super) fn apply(&self, qkv: &Tensor, padding: &Padding) -> Result<Tensor, TchError> {
        let &Padding { texts, width, ref mask } = padding;
        let parts = qkv.f_view([texts, width, 3, self.heads, self.head_width])?.f_permute([2, 0, 3, 1, 4])?;
        let attended = if self.in_steps {
            let parts = parts.f_contiguous()?.f_view([3, texts * self.heads, width, self.head_width])?;
            let (query, key, value) = (parts.f_get(0)?, parts.f_get(1)?.f_transpose(1, 2)?, parts.f_get(2)?);
            let scores = match mask {
                Some(mask) => mask.f_baddbmm(&query, &key, 1, 1)?,
                None => query.f_bmm(&key)?,
            };
            // oneDNN's softmax is reached by its own layout only; both copies are cheaper than libtorch's softmax.
            let shares = scores.f_to_mkldnn(None)?.f_softmax(-1, None)?.f_to_dense(None, false)?;
            shares.f_bmm(&value)?.f_view([texts, self.heads, width, self.head_width])?
        } else {
            let (query, key, value) = (parts.f_get(0)?, parts.f_get(1)?, parts.f_get(2)?);
            let mask = mask.as_ref();
            Tensor::f_scaled_dot_product_attention(&query, &key, &value, mask, 0.0, false, Some(1.0), false)?
        };
        attended.f_transpose(1, 2)?.f_reshape([texts * width, self.heads * self.head_width])
    }

    /// The padding of a batch of texts, each `width` wide, in the form that [`Self::apply`] takes.
    pub(super) fn padding(
        &self,
        lengths: &[usize],
        width: usize,
        like: (Kind, tch::Device),
    ) -> Result<Padding, TchError> {
        let (texts, wide) = (lengths.len() as i64, width as i64);
        if lengths.iter().all(|&length| length == width) {
            return Ok(Padding { texts, width: wide, mask: None });
        }
        let mut rows = vec![0_f32; lengths.len() * width];
        for (row, &length) in rows.chunks_exact_mut(width).zip(lengths) {
            row[length..].fill(f32::NEG_INFINITY);
        }
        let mask = Tensor::f_from_slice(&rows)?
            .f_view([texts, 1, 1, wide])?
            .f_to_device(like.1)?
            .f_to_kind(like.0)?;
        let mask = if self.in_steps {
            mask.f_expand([texts, self.heads, 1, wide], false)?.f_reshape([texts * self.heads, 1, wide])?
        } else {
            mask
        };
        Ok(Padding { texts, width: wide, mask: Some(mask) })
    }
}
