//! Gated linear attention over a sequence, on candle tensors: the definition and the chunkwise form (architectures.md 1.5).
//!
//! ```text
//! S_t = diag(f_t) S_{t-1} + k_t ⊗ v_t        o_t = (K^{-1/2} q_t)ᵀ S_t
//! ```
//! Both take the gates as `g = ln f`. The chunkwise form only ever takes exponentials of differences that are at most 0.

use candle_core::{D, Result, Tensor};

/// Inputs of the recurrence. `heads` may be batch times heads.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Queries `[heads, T, K]`, not yet scaled.
    pub q: Tensor,
    /// Keys `[heads, T, K]`.
    pub k: Tensor,
    /// Values `[heads, T, V]`.
    pub v: Tensor,
    /// Logarithms of the forget gates `[heads, T, K]`, at most 0 and finite.
    pub g: Tensor,
}

impl Inputs {
    /// The part of the sequence from `begin` on, `len` steps long.
    ///
    /// # Errors
    /// If the sequence is shorter.
    pub fn narrow(&self, begin: usize, len: usize) -> Result<Inputs> {
        let part = |t: &Tensor| t.narrow(1, begin, len);
        Ok(Inputs { q: part(&self.q)?, k: part(&self.k)?, v: part(&self.v)?, g: part(&self.g)? })
    }

    fn steps(&self) -> Result<usize> {
        self.q.dim(1)
    }

    /// `state`, or zeros `[heads, K, V]`.
    fn state(&self, state: Option<&Tensor>) -> Result<Tensor> {
        let (heads, _, keys) = self.k.dims3()?;
        state.map_or_else(
            || Tensor::zeros((heads, keys, self.v.dim(2)?), self.v.dtype(), self.v.device()),
            |s| Ok(s.clone()),
        )
    }

    fn scaled_q(&self) -> Result<Tensor> {
        &self.q * (self.q.dim(2)? as f64).powf(-0.5)
    }
}

/// The definition, token by token. Returns `o [heads, T, V]` and the final state `[heads, K, V]`.
///
/// # Errors
/// If shapes or types differ.
pub fn recurrent(inputs: &Inputs, initial: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (q, f, mut state) = (inputs.scaled_q()?, inputs.g.exp()?, inputs.state(initial)?);
    let mut outputs = Vec::new();
    for t in 0..inputs.steps()? {
        let column = |x: &Tensor| x.narrow(1, t, 1)?.transpose(1, 2)?.contiguous();
        let update = column(&inputs.k)?.matmul(&inputs.v.narrow(1, t, 1)?.contiguous()?)?;
        state = (state.broadcast_mul(&column(&f)?)? + update)?;
        outputs.push(q.narrow(1, t, 1)?.contiguous()?.matmul(&state)?);
    }
    Ok((Tensor::cat(&outputs, 1)?, state))
}

/// Lengths of the chunkwise form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunks {
    /// Steps between two states, `C`.
    pub chunk: usize,
    /// Steps whose gates are compared pair by pair, `c`; divides `C`.
    pub sub_chunk: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { chunk: 64, sub_chunk: 16 }
    }
}

/// The same as [`recurrent`], chunk by chunk with matrix products in between.
///
/// # Errors
/// If shapes or types differ, or a length is 0.
pub fn chunked(inputs: &Inputs, chunks: Chunks, initial: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let scaled = Inputs { q: inputs.scaled_q()?, ..inputs.clone() };
    let (steps, mut state) = (inputs.steps()?, inputs.state(initial)?);
    if chunks.chunk == 0 || chunks.sub_chunk == 0 {
        candle_core::bail!("a chunk has at least one step");
    }
    let mut outputs = Vec::new();
    for begin in (0..steps).step_by(chunks.chunk) {
        let part = scaled.narrow(begin, chunks.chunk.min(steps - begin))?;
        let (o, next) = one_chunk(&part, chunks.sub_chunk, &state)?;
        outputs.push(o);
        state = next;
    }
    Ok((Tensor::cat(&outputs, 1)?, state))
}

/// One chunk, `q` already scaled: what enters with `state`, and what happens inside.
fn one_chunk(x: &Inputs, sub_chunk: usize, state: &Tensor) -> Result<(Tensor, Tensor)> {
    let steps = x.steps()?;
    let sums = running_sums(&x.g)?;
    let inter = (&x.q * sums.exp()?)?.matmul(state)?;
    let mut intra = Vec::new();
    for begin in (0..steps).step_by(sub_chunk) {
        intra.push(one_sub_chunk(x, &sums, begin, sub_chunk.min(steps - begin))?);
    }
    let last = sums.narrow(1, steps - 1, 1)?;
    let decayed = (&x.k * last.broadcast_sub(&sums)?.exp()?)?;
    let kept = state.broadcast_mul(&last.exp()?.transpose(1, 2)?)?;
    let next = (kept + decayed.transpose(1, 2)?.contiguous()?.matmul(&x.v.contiguous()?)?)?;
    Ok(((inter + Tensor::cat(&intra, 1)?)?, next))
}

/// What the steps `begin..begin + len` of a chunk read from steps of the same chunk.
fn one_sub_chunk(x: &Inputs, sums: &Tensor, begin: usize, len: usize) -> Result<Tensor> {
    let rows = |t: &Tensor| t.narrow(1, begin, len);
    let (q, g) = (rows(&x.q)?, rows(sums)?);
    let own = diagonal(&q, &rows(&x.k)?, &g)?.matmul(&rows(&x.v)?.contiguous()?)?;
    if begin == 0 {
        return Ok(own);
    }
    // Relative to the first row of the sub-chunk both exponents are at most 0.
    let reference = g.narrow(1, 0, 1)?;
    let q = (q * g.broadcast_sub(&reference)?.exp()?)?;
    let earlier = reference.broadcast_sub(&sums.narrow(1, 0, begin)?)?.exp()?;
    let k = (x.k.narrow(1, 0, begin)? * earlier)?;
    let scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?;
    own + scores.matmul(&x.v.narrow(1, 0, begin)?.contiguous()?)?
}

/// `A_ij = Σ_k q_ik k_jk exp(G_ik - G_jk)` for `j <= i`, else 0. The exponent is masked, not the product.
fn diagonal(q: &Tensor, k: &Tensor, g: &Tensor) -> Result<Tensor> {
    let len = q.dim(1)?;
    let mask = |n: usize| if n % len > n / len { f64::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_iter((0..len * len).map(mask), q.device())?.reshape((1, len, len, 1))?;
    let difference = g.unsqueeze(2)?.broadcast_sub(&g.unsqueeze(1)?)?;
    let decay = difference.broadcast_add(&mask.to_dtype(q.dtype())?)?.exp()?;
    q.unsqueeze(2)?.broadcast_mul(&k.unsqueeze(1)?)?.mul(&decay)?.sum(D::Minus1)
}

/// Inclusive sums along the steps, added in order.
fn running_sums(g: &Tensor) -> Result<Tensor> {
    let mut sums = vec![g.narrow(1, 0, 1)?];
    for t in 1..g.dim(1)? {
        sums.push((&sums[t - 1] + g.narrow(1, t, 1)?)?);
    }
    Tensor::cat(&sums, 1)
}
