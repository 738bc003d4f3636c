//! HGRN2 as a sequence model on candle tensors: loading, and the forward pass in f32 or f64 (architectures.md 1).
//!
//! This is the definition that the forest scorer is tested against, and what training can build on: every step is an
//! ordinary candle operation.

use std::path::Path;

use bheval_abi::Failure;
use candle_core::{D, DType, Device, Result, Tensor};

use crate::config::{Config, G_NORM_EPS_SINCE_2024};
use crate::ops::gla::{Chunks, Inputs, chunked, recurrent};
use crate::weights::{Weights, internal};

/// Which form of the recurrence a forward pass uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Token by token: the definition.
    Recurrent,
    /// Chunk by chunk.
    Chunked(Chunks),
}

/// The weights of one layer. Matrices are `[out, in]`.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[D]`
    pub attn_norm: Tensor,
    /// Projections to queries, forget gates and values, `[D, D]` each.
    pub qfi: [Tensor; 3],
    /// Short convolutions of the three, `[D, 1, taps]` each.
    pub conv: Option<[Tensor; 3]>,
    /// `[D]`
    pub g_norm: Tensor,
    /// `[D, D]`
    pub o_proj: Tensor,
    /// `[D]`
    pub mlp_norm: Tensor,
    /// `[I, D]`
    pub gate_proj: Tensor,
    /// `[I, D]`
    pub up_proj: Tensor,
    /// `[D, I]`
    pub down_proj: Tensor,
}

/// An HGRN2 language model.
#[derive(Clone, Debug)]
pub struct Hgrn2Weights {
    /// Sizes and switches.
    pub config: Config,
    /// `[V, D]`
    pub embeddings: Tensor,
    /// λ `[L, D]`, where the forget gates are bounded.
    pub lower_bounds: Option<Tensor>,
    /// In order of depth.
    pub layers: Vec<Layer>,
    /// `[D]`
    pub norm: Tensor,
    /// `[V, D]`; the embeddings again where they are tied.
    pub head: Tensor,
    /// ε of `g_norm`.
    pub g_norm_eps: f64,
    /// Number of weights, a tied one counted once.
    pub parameters: u64,
    /// Tensors of the files that are no part of the model.
    pub unused: Vec<String>,
}

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// `L + 1` tensors `[T, D]`: what enters each layer, then what the final norm gives.
    pub hidden: Vec<Tensor>,
    /// Logits of the next token, `[T, V]`.
    pub logits: Tensor,
}

impl Hgrn2Weights {
    /// Loads the model in the folder `path` (or the safetensors file `path`, with `config.json` beside it) as f32 or f64.
    ///
    /// # Errors
    /// What [`Config::read`] and [`Weights`] refuse.
    pub fn load(path: &Path, dtype: DType) -> std::result::Result<Self, Failure> {
        let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        let config = Config::read(&folder.join("config.json"))?;
        Loader { weights: Weights::open(path, dtype)?, config, dtype, fused: false }.model()
    }

    /// Runs a sequence of tokens from an empty state.
    ///
    /// # Errors
    /// If a token is beyond the vocabulary or there is none.
    pub fn forward(&self, tokens: &[u32], form: Form) -> Result<Output> {
        let bounds = self.lower_bounds.as_ref().map(lower_bounds).transpose()?;
        let eps = self.config.norm_eps;
        let mut h = self.embeddings.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)?;
        let mut hidden = vec![];
        for (l, layer) in self.layers.iter().enumerate() {
            hidden.push(h.clone());
            let bound = bounds.as_ref().and_then(|b| b[l].as_ref());
            h = (&h + self.mixer(layer, &rms_norm(&h, &layer.attn_norm, eps)?, bound, form)?)?;
            h = (&h + mlp(layer, &rms_norm(&h, &layer.mlp_norm, eps)?)?)?;
        }
        let last = rms_norm(&h, &self.norm, eps)?;
        let logits = linear(&last, &self.head)?;
        hidden.push(last);
        Ok(Output { hidden, logits })
    }

    /// `Wo · RMSNorm_g(o)` for `x [T, D]`; `bound` is β, `[D]`.
    fn mixer(&self, layer: &Layer, x: &Tensor, bound: Option<&Tensor>, form: Form) -> Result<Tensor> {
        let [u, z, v] = [0, 1, 2].map(|i| projected(layer, x, i));
        let z = z?;
        let inputs = Inputs {
            q: self.split_heads(&u?.silu()?)?,
            k: self.split_heads(&key(&z, bound)?)?,
            v: self.split_heads(&v?)?,
            g: self.split_heads(&log_forget(&z, bound)?)?,
        };
        let (o, _) = match form {
            Form::Recurrent => recurrent(&inputs, None)?,
            Form::Chunked(chunks) => chunked(&inputs, chunks, None)?,
        };
        let o = o.transpose(0, 1)?.contiguous()?.flatten_from(1)?;
        linear(&rms_norm(&o, &layer.g_norm, self.g_norm_eps)?, &layer.o_proj)
    }

    /// `[T, D]` to `[heads, T, head_dim]`
    fn split_heads(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape((x.dim(0)?, self.config.heads, self.config.head_dim))?.transpose(0, 1)?.contiguous()
    }
}

fn projected(layer: &Layer, x: &Tensor, which: usize) -> Result<Tensor> {
    let x = linear(x, &layer.qfi[which])?;
    layer.conv.as_ref().map_or(Ok(x.clone()), |conv| convolution(&x, &conv[which]))
}

/// Depthwise causal convolution of `x [T, D]` with `w [D, 1, taps]`.
fn convolution(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (steps, _) = x.dims2()?;
    let taps = w.dim(2)?;
    let padded = x.pad_with_zeros(0, taps - 1, 0)?;
    let tap = |t: usize| padded.narrow(0, t, steps)?.broadcast_mul(&w.narrow(2, t, 1)?.flatten_all()?);
    (1..taps).try_fold(tap(0)?, |sum, t| sum + tap(t)?)
}

/// `β_l = Σ_{j=1..l} softmax(λ)_j`, `[D]` per layer; none for the first (architectures.md 1.3).
///
/// # Errors
/// If λ is not `[L, D]`.
pub fn lower_bounds(lambda: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let exponentials = lambda.broadcast_sub(&lambda.max_keepdim(0)?)?.exp()?;
    let p = exponentials.broadcast_div(&exponentials.sum_keepdim(0)?)?;
    let mut bounds = vec![None];
    for l in 1..lambda.dim(0)? {
        let p = p.get(l)?;
        bounds.push(Some(match &bounds[l - 1] {
            Some(below) => (below + p)?,
            None => p,
        }));
    }
    Ok(bounds)
}

/// `k = (1 - β) σ(-z)`, never `1 - exp(g)`, which loses its digits (architectures.md 1.4).
fn key(z: &Tensor, bound: Option<&Tensor>) -> Result<Tensor> {
    let closed = (z.exp()? + 1.0)?.recip()?;
    bound.map_or(Ok(closed.clone()), |b| closed.broadcast_mul(&(1.0 - b)?))
}

/// `g = ln(β + (1 - β) σ(z))`, in log space.
fn log_forget(z: &Tensor, bound: Option<&Tensor>) -> Result<Tensor> {
    let g = log_sigmoid(z)?;
    let Some(bound) = bound else { return Ok(g) };
    let (a, b) = (bound.log()?.broadcast_as(g.shape())?, g.broadcast_add(&(1.0 - bound)?.log()?)?);
    a.maximum(&b)? + ((&a - &b)?.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// `-softplus(-z)`, without overflow.
fn log_sigmoid(z: &Tensor) -> Result<Tensor> {
    (z.neg()?.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?.neg()
}

fn mlp(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    linear(&(linear(x, &layer.gate_proj)?.silu()? * linear(x, &layer.up_proj)?)?, &layer.down_proj)
}

fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(weight)
}

struct Loader {
    weights: Weights,
    config: Config,
    dtype: DType,
    /// Whether a `gate_proj` held both gate and up projection: the layout of 2024.
    fused: bool,
}

impl Loader {
    fn model(mut self) -> std::result::Result<Hgrn2Weights, Failure> {
        let (width, vocab, count) = (self.config.hidden_size, self.config.vocab, self.config.layers);
        let embeddings = self.weights.tensor("model.embeddings.weight", &[vocab, width])?;
        let lower_bounds = match self.config.use_lower_bound {
            true => Some(self.weights.tensor("model.lower_bounds", &[count, width])?),
            false => None,
        };
        let layers = (0..count).map(|l| self.layer(l)).collect::<std::result::Result<_, _>>()?;
        let norm = self.weights.tensor("model.norm.weight", &[width])?;
        let head = self.head(&embeddings)?;
        let by_layout = if self.fused { self.config.norm_eps } else { G_NORM_EPS_SINCE_2024 };
        Ok(Hgrn2Weights {
            embeddings,
            lower_bounds,
            layers,
            norm,
            head,
            g_norm_eps: self.config.g_norm_eps.unwrap_or(by_layout),
            parameters: self.weights.parameters(),
            unused: self.weights.unused()?,
            config: self.config,
        })
    }

    fn layer(&mut self, l: usize) -> std::result::Result<Layer, Failure> {
        let width = self.config.hidden_size;
        let name = |part: &str| format!("model.layers.{l}.{part}.weight");
        let square = |s: &mut Self, part: &str| s.weights.tensor(&name(part), &[width, width]);
        let vector = |s: &mut Self, part: &str| s.weights.tensor(&name(part), &[width]);
        let (gate_proj, up_proj, down_proj) = self.mlp(l)?;
        Ok(Layer {
            attn_norm: vector(self, "attn_norm")?,
            qfi: [square(self, "attn.q_proj")?, square(self, "attn.f_proj")?, square(self, "attn.i_proj")?],
            conv: self.convolutions(l)?,
            g_norm: match self.config.elementwise_affine {
                true => vector(self, "attn.g_norm")?,
                false => Tensor::ones(width, self.dtype, &Device::Cpu).map_err(internal)?,
            },
            o_proj: square(self, "attn.o_proj")?,
            mlp_norm: vector(self, "mlp_norm")?,
            gate_proj,
            up_proj,
            down_proj,
        })
    }

    fn convolutions(&mut self, l: usize) -> std::result::Result<Option<[Tensor; 3]>, Failure> {
        let Some(taps) = self.config.conv_size else { return Ok(None) };
        let shape = [self.config.hidden_size, 1, taps];
        let mut conv =
            |part: &str| self.weights.tensor(&format!("model.layers.{l}.attn.{part}_conv1d.weight"), &shape);
        Ok(Some([conv("q")?, conv("f")?, conv("i")?]))
    }

    /// Gate, up and down projection, from either layout. The file's `down_proj` states the width.
    fn mlp(&mut self, l: usize) -> std::result::Result<(Tensor, Tensor, Tensor), Failure> {
        let name = |part: &str| format!("model.layers.{l}.mlp.{part}_proj.weight");
        let width = self.config.hidden_size;
        let stored = self.weights.shape(&name("down")).and_then(|s| s.get(1).copied());
        let inner = self.config.intermediate_size.or(stored).unwrap_or(0);
        if stored == Some(0) {
            return Err(Failure::model(format!(
                "{}: tensor `{}` is empty: the MLP of layer {l} has no width; copy or convert the model again",
                self.config.file.display(),
                name("down")
            )));
        }
        let down = self.weights.tensor(&name("down"), &[width, inner])?;
        let rows = self.weights.shape(&name("gate")).and_then(|s| s.first().copied());
        if rows == Some(2 * inner) && self.weights.shape(&name("up")).is_none() {
            self.fused = true;
            let both = self.weights.tensor(&name("gate"), &[2 * inner, width])?;
            let half = |begin| both.narrow(0, begin, inner).map_err(internal);
            return Ok((half(0)?, half(inner)?, down));
        }
        let gate = self.weights.tensor(&name("gate"), &[inner, width])?;
        Ok((gate, self.weights.tensor(&name("up"), &[inner, width])?, down))
    }

    fn head(&mut self, embeddings: &Tensor) -> std::result::Result<Tensor, Failure> {
        let shape = [self.config.vocab, self.config.hidden_size];
        self.weights.tied("lm_head.weight", &shape, self.config.tie_word_embeddings, embeddings)
    }
}
