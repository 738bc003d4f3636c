//! Mamba-2: a state space whose decay is one number a head, so that its state is a matrix (architectures.md 6).
//!
//! ```text
//! [z, x, B, C, Δ] = W_in u;  [x, B, C] = silu(conv([x, B, C]));  Δ = clamp(softplus(Δ + b))
//! H = exp(Δ A) H + (Δ x) ⊗ B;  y = H C + D x;  out = W_out RMSNorm(y ⊙ silu(z))
//! ```
//! B and C are shared by the heads of a group. Whether the last norm spans all channels or one group's depends on whose
//! model it is: transformers and flash-linear-attention score with the one, the original package with the other.

use std::path::Path;

use bheval_abi::Failure;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::hgrn2_forest::embed;
use super::state_space::{Frame, is_original};
use crate::body::Body;
use crate::config_file;
use crate::head::Head;
use crate::kernels::cells::{gate_by_silu, steps};
use crate::kernels::elementwise::{exp, rms_norm};
use crate::kernels::gemm::Store;
use crate::kernels::{Isa, Kernel, launch};
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::convolution::Biased;
use crate::ops::forest::{Advance, Walk, carry};
use crate::ops::matrix_memory::{Update, update_and_read};
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::floats;

/// A Mamba-2, packed.
pub struct Mamba2 {
    frame: Frame,
    sizes: Sizes,
    embeddings: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Head,
}

/// What `config.json` says of a Mamba-2.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What it shares with Mamba.
    pub frame: Frame,
    /// What it has beyond that.
    pub sizes: Sizes,
}

impl Config {
    /// Reads the keys of any dialect.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let frame = Frame::read(keys, false)?;
        Ok(Self { sizes: sizes(keys, &frame)?, frame })
    }
}

/// What Mamba-2 has beyond the common frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sizes {
    /// Heads.
    pub heads: usize,
    /// `P`, channels of a head.
    pub head_dim: usize,
    /// `N`, states of a channel.
    pub states: usize,
    /// Groups of heads that share B and C.
    pub groups: usize,
    /// Channels that one gated norm spans.
    pub normed: usize,
    /// Smallest and largest Δ.
    pub limit: (f32, f32),
}

impl Sizes {
    /// `D_in`
    #[must_use]
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of the convolution: x, B and C.
    #[must_use]
    pub fn convolved(&self) -> usize {
        self.inner() + 2 * self.groups * self.states
    }
}

struct Layer {
    norm: Vec<f32>,
    /// To `z`, to what is convolved, and to the steps.
    input: [Linear; 3],
    convolution: Biased,
    step_bias: Vec<f32>,
    /// `A`, one a head.
    rates: Vec<f32>,
    skip: Vec<f32>,
    gated_norm: Vec<f32>,
    output: Linear,
}

/// Activations of a call.
#[derive(Default)]
pub struct Space {
    z: Vec<f32>,
    raw: Vec<f32>,
    xbc: Vec<f32>,
    step: Vec<f32>,
    /// Head by head.
    y: Vec<f32>,
}

/// Room of one thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Mamba2 {
    /// Loads the model at `path`; also the number of its weights.
    ///
    /// # Errors
    /// What is missing, of the wrong shape or not supported.
    pub fn load(path: &Path) -> Result<(Self, u64), Failure> {
        let file = config_file(path);
        let keys = Keys::read(&file)?;
        let Config { frame, sizes } = Config::read(&keys)?;
        let mut loader = Loader::open(path)?;
        let embeddings = frame.embeddings(&mut loader)?;
        let layers = (0..frame.layers).map(|l| layer(&mut loader, &frame, &sizes, l));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = loader.values("backbone.norm_f.weight", &[frame.width])?;
        let tied = (frame.tied, frame.tied_by);
        let head = loader.head("lm_head.weight", embeddings.dims(), &embeddings, tied)?;
        let head = Head::new(frame.width, &head);
        let (embeddings, parameters) = (floats(&embeddings)?, loader.finish()?);
        Ok((Self { frame, sizes, embeddings, layers, norm, head }, parameters))
    }
}

fn sizes(keys: &Keys<'_>, frame: &Frame) -> Result<Sizes, Failure> {
    let sizes = if is_original(keys) { original(keys, frame)? } else { of_transformers(keys, frame)? };
    let Sizes { heads, head_dim, groups, .. } = sizes;
    if heads.checked_mul(head_dim) != Some(frame.inner) {
        return Err(keys.wrong(&format!(
            "{heads} heads of {head_dim} channels are not the inner width {}; check `num_heads`, `head_dim` and `expand`",
            frame.inner
        )));
    }
    if !heads.is_multiple_of(groups) {
        return Err(keys.wrong(&format!("{heads} heads can't be shared out to `n_groups` {groups}")));
    }
    Ok(sizes)
}

fn of_transformers(keys: &Keys<'_>, frame: &Frame) -> Result<Sizes, Failure> {
    for (key, only) in
        [("rms_norm", true), ("rmsnorm", true), ("norm_before_gate", false), ("D_has_hdim", false)]
    {
        keys.only(key, &json!(only))?;
    }
    let limit = if keys.get("time_step_limit").is_some() { "time_step_limit" } else { "dt_limit" };
    Ok(Sizes {
        heads: keys.required("num_heads")?,
        head_dim: keys.required("head_dim")?,
        states: keys.required("state_size")?,
        groups: keys.required("n_groups")?,
        normed: frame.inner,
        limit: limits(keys, limit)?,
    })
}

fn original(keys: &Keys<'_>, frame: &Frame) -> Result<Sizes, Failure> {
    let ssm = keys.object("ssm_cfg")?;
    for (key, only) in [("rmsnorm", true), ("norm_before_gate", false), ("D_has_hdim", false)] {
        ssm.only(key, &json!(only))?;
    }
    ssm.only("d_ssm", &json!(frame.inner))?;
    let head_dim = ssm.size("headdim")?.unwrap_or(64);
    let groups = ssm.size("ngroups")?.unwrap_or(1);
    Ok(Sizes {
        heads: frame.inner / head_dim,
        head_dim,
        states: ssm.size("d_state")?.unwrap_or(128),
        groups,
        normed: frame.inner / groups,
        limit: limits(&ssm, "dt_limit")?,
    })
}

/// The range of Δ. Python writes infinity in a way that reads as null.
fn limits(keys: &Keys<'_>, key: &str) -> Result<(f32, f32), Failure> {
    let limits = |v: &Value| {
        let [low, high] = v.as_array()?.as_slice() else { return None };
        let high = if high.is_null() { f64::INFINITY } else { high.as_f64()? };
        Some((low.as_f64()?, high)).filter(|(low, high)| low <= high)
    };
    let (low, high) =
        keys.of_kind(key, "two numbers, the smaller first", limits)?.unwrap_or((0.0, f64::INFINITY));
    Ok((low as f32, high as f32))
}

fn layer(loader: &mut Loader, frame: &Frame, sizes: &Sizes, index: usize) -> Result<Layer, Failure> {
    let (width, inner, heads) = (frame.width, frame.inner, sizes.heads);
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let log_rates = loader.values(&named("mixer.A_log"), &[heads])?;
    Ok(Layer {
        norm: loader.values(&named("norm.weight"), &[width])?,
        input: loader.split(&named("mixer.in_proj"), width, [inner, sizes.convolved(), heads], frame.bias)?,
        convolution: Biased::load(
            loader,
            &named("mixer.conv1d"),
            sizes.convolved(),
            frame.taps,
            frame.conv_bias,
        )?,
        step_bias: loader.values(&named("mixer.dt_bias"), &[heads])?,
        rates: log_rates.iter().map(|&log| -f64::from(log).exp() as f32).collect(),
        skip: loader.values(&named("mixer.D"), &[heads])?,
        gated_norm: loader.values(&named("mixer.norm.weight"), &[inner])?,
        output: loader.linear(&named("mixer.out_proj"), inner, width, frame.bias)?,
    })
}

impl Body for Mamba2 {
    type Space = Space;

    fn width(&self) -> usize {
        self.frame.width
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        4 * (2 * self.sizes.inner() + 2 * self.sizes.convolved() + self.sizes.heads) as u64
    }

    fn thread_bytes(&self) -> u64 {
        let scratch = BLOCK_ROWS * (self.frame.width.max(self.sizes.inner()) + self.sizes.inner());
        4 * (scratch + 17 * self.sizes.states * self.sizes.head_dim) as u64
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        rms_norm(isa, h, &self.norm, self.frame.eps, x);
    }
}

impl Network for Mamba2 {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let (inner, convolved) = (self.sizes.inner(), self.sizes.convolved());
        let Space { z, raw, xbc, step, y } = &mut *space;
        for (buffer, width) in
            [(z, inner), (raw, convolved), (xbc, convolved), (step, self.sizes.heads), (y, inner)]
        {
            buffer.resize(walk.len() * width, 0.0);
        }
        embed(&self.embeddings, tokens, h);
        for layer in &self.layers {
            layer.project(isa, self.frame.eps, self.sizes, h, space);
            let Space { raw, xbc, step, y, .. } = &mut *space;
            let blocks = xbc.par_chunks_mut(BLOCK_ROWS * convolved).enumerate();
            blocks.for_each(|(b, xbc)| layer.convolution.silu(isa, walk, raw, b * BLOCK_ROWS, xbc));
            y.par_chunks_mut(walk.len() * self.sizes.head_dim).enumerate().for_each(|(head, y)| {
                launch(isa, Scan { walk, layer, sizes: self.sizes, xbc, step, head, y });
            });
            layer.finish(isa, self.frame.eps, self.sizes, space, h);
        }
    }
}

impl Layer {
    /// `[z, xBC, Δ] = W_in · RMSNorm(h)`
    fn project(&self, isa: Isa, eps: f64, sizes: Sizes, h: &[f32], space: &mut Space) {
        let (width, inner, convolved) = (self.norm.len(), sizes.inner(), sizes.convolved());
        let z = space.z.par_chunks_mut(BLOCK_ROWS * inner);
        let raw = space.raw.par_chunks_mut(BLOCK_ROWS * convolved);
        let step = space.step.par_chunks_mut(BLOCK_ROWS * sizes.heads);
        let blocks = h.par_chunks(BLOCK_ROWS * width).zip(z.zip(raw.zip(step)));
        blocks.for_each_init(Scratch::default, |s, (h, (z, (raw, step)))| {
            let normed = room(&mut s.a, h.len());
            rms_norm(isa, h, &self.norm, eps, normed);
            self.input[0].apply(isa, normed, Store::Set, z);
            self.input[1].apply(isa, normed, Store::Set, raw);
            self.input[2].apply(isa, normed, Store::Set, step);
            steps(isa, &self.step_bias, sizes.limit, step);
        });
    }

    /// `h += W_out RMSNorm(y ⊙ silu(z))`
    fn finish(&self, isa: Isa, eps: f64, sizes: Sizes, space: &Space, h: &mut [f32]) {
        let (width, inner, head_dim) = (self.norm.len(), sizes.inner(), sizes.head_dim);
        let rows = h.len() / width;
        let blocks = h.par_chunks_mut(BLOCK_ROWS * width).enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, h)| {
            let first = block * BLOCK_ROWS;
            let y = room(&mut s.a, h.len() / width * inner);
            for (row, y) in (first..).zip(y.chunks_exact_mut(inner)) {
                for (head, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    y.copy_from_slice(&space.y[(head * rows + row) * head_dim..][..head_dim]);
                }
            }
            gate_by_silu(isa, &space.z[first * inner..][..y.len()], y);
            let normed = room(&mut s.b, y.len());
            // A norm over all channels takes a block of rows at once.
            let part = if sizes.normed == inner { y.len() } else { sizes.normed };
            for (i, (y, normed)) in y.chunks_exact(part).zip(normed.chunks_exact_mut(part)).enumerate() {
                let group = i * sizes.normed % inner;
                let weight =
                    &self.gated_norm[if sizes.normed == inner { 0 } else { group }..][..sizes.normed];
                rms_norm(isa, y, weight, eps, normed);
            }
            self.output.apply(isa, normed, Store::Add, h);
        });
    }
}

/// The recurrence of one head.
struct Scan<'a> {
    walk: &'a Walk,
    layer: &'a Layer,
    sizes: Sizes,
    xbc: &'a [f32],
    step: &'a [f32],
    head: usize,
    y: &'a mut [f32],
}

impl Kernel for Scan<'_> {
    #[inline(always)]
    fn run(mut self, _: Isa) {
        carry(self.walk, self.sizes.states * self.sizes.head_dim, &mut self);
    }
}

impl Advance for Scan<'_> {
    #[inline(always)]
    fn begin(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn advance(&mut self, row: usize, state: &mut [f32]) {
        let Sizes { heads, head_dim, states, groups, .. } = self.sizes;
        let (inner, convolved) = (self.sizes.inner(), self.sizes.convolved());
        let xbc = &self.xbc[row * convolved..][..convolved];
        let x = &xbc[self.head * head_dim..][..head_dim];
        let group = self.head / (heads / groups);
        let k = &xbc[inner + group * states..][..states];
        let q = &xbc[inner + (groups + group) * states..][..states];
        let step = self.step[row * heads + self.head];
        let decay = exp(step * self.layer.rates[self.head]);
        let y = &mut self.y[row * head_dim..][..head_dim];
        update_and_read(state, Update { decay, input: step, k, v: x, q }, y);
        let skip = self.layer.skip[self.head];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = skip.mul_add(x, *y);
        }
    }
}
