//! Mamba: a selective state space per channel between a short convolution and a gate (architectures.md 5).
//!
//! ```text
//! [x, z] = W_in u;  x = silu(conv(x));  [δ, B, C] = W_x x;  Δ = softplus(W_dt δ + b)
//! h = exp(Δ A) ⊙ h + (Δ x) B;  y = h C + D x;  out = W_out (y ⊙ silu(z))
//! ```

use std::path::Path;

use bheval_abi::Failure;
use rayon::prelude::*;

use super::hgrn2_forest::embed;
use super::state_space::{Frame, is_original, rank};
use crate::body::Body;
use crate::config_file;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::cells::{gate_by_silu, steps};
use crate::kernels::elementwise::rms_norm;
use crate::kernels::gemm::Store;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::convolution::Biased;
use crate::ops::forest::Walk;
use crate::ops::selective_scan::{CHANNELS, Inputs, Rates, scan};
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::floats;

/// A Mamba, packed.
pub struct Mamba {
    frame: Frame,
    embeddings: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Head,
}

/// What `config.json` says of a Mamba.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What it shares with Mamba-2.
    pub frame: Frame,
    /// `N`, states of a channel.
    pub states: usize,
    /// `R`, columns that the steps are made from.
    pub rank: usize,
}

impl Config {
    /// Reads the keys of any dialect.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let frame = Frame::read(keys, true)?;
        let (states, rank) = match is_original(keys) {
            false => (keys.size("state_size")?, rank(keys, "time_step_rank", frame.width)?),
            true => {
                let ssm = keys.object("ssm_cfg")?;
                (ssm.size("d_state")?, rank(&ssm, "dt_rank", frame.width)?)
            }
        };
        Ok(Self { frame, states: states.unwrap_or(16), rank })
    }
}

struct Layer {
    norm: Vec<f32>,
    /// To `x` and to `z`.
    input: [Linear; 2],
    convolution: Biased,
    /// To the low-rank steps, and to B and C side by side.
    selection: [Linear; 2],
    /// Its bias is added with the softplus.
    step: Linear,
    step_bias: Vec<f32>,
    rates: Rates,
    output: Linear,
}

/// Activations of a call.
#[derive(Default)]
pub struct Space {
    raw: Vec<f32>,
    x: Vec<f32>,
    z: Vec<f32>,
    step: Vec<f32>,
    bc: Vec<f32>,
    /// Group by group.
    y: Vec<f32>,
}

/// Room of one thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
}

impl Mamba {
    /// Loads the model at `path`; also the number of its weights.
    ///
    /// # Errors
    /// What is missing, of the wrong shape or not supported.
    pub fn load(path: &Path) -> Result<(Self, u64), Failure> {
        let file = config_file(path);
        let keys = Keys::read(&file)?;
        let Config { frame, states, rank } = Config::read(&keys)?;
        let mut loader = Loader::open(path)?;
        let embeddings = frame.embeddings(&mut loader)?;
        let layers = (0..frame.layers).map(|l| layer(&mut loader, &frame, states, rank, l));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = loader.values("backbone.norm_f.weight", &[frame.width])?;
        let tied = (frame.tied, frame.tied_by);
        let head = loader.head("lm_head.weight", embeddings.dims(), &embeddings, tied)?;
        let head = Head::new(frame.width, &head);
        let (embeddings, parameters) = (floats(&embeddings)?, loader.finish()?);
        Ok((Self { frame, embeddings, layers, norm, head }, parameters))
    }
}

fn layer(
    loader: &mut Loader,
    frame: &Frame,
    states: usize,
    rank: usize,
    index: usize,
) -> Result<Layer, Failure> {
    let (width, inner) = (frame.width, frame.inner);
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let log_rates = loader.values(&named("mixer.A_log"), &[inner, states])?;
    let mut step = loader.linear(&named("mixer.dt_proj"), rank, inner, true)?;
    Ok(Layer {
        norm: loader.values(&named("norm.weight"), &[width])?,
        input: loader.split(&named("mixer.in_proj"), width, [inner, inner], frame.bias)?,
        convolution: Biased::load(loader, &named("mixer.conv1d"), inner, frame.taps, frame.conv_bias)?,
        selection: loader.split(&named("mixer.x_proj"), inner, [rank, 2 * states], false)?,
        step_bias: step.bias.take().unwrap_or_default(),
        step,
        rates: Rates::new(&log_rates, loader.values(&named("mixer.D"), &[inner])?),
        output: loader.linear(&named("mixer.out_proj"), inner, width, frame.bias)?,
    })
}

impl Body for Mamba {
    type Space = Space;

    fn width(&self) -> usize {
        self.frame.width
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        let bc = self.layers.iter().map(|l| l.selection[1].out()).max().unwrap_or(0);
        4 * (5 * self.frame.inner + bc) as u64
    }

    fn thread_bytes(&self) -> u64 {
        let states = self.layers.iter().map(|l| l.rates.states()).max().unwrap_or(0);
        4 * (BLOCK_ROWS * self.frame.inner.max(self.frame.width) + 17 * states * CHANNELS) as u64
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        rms_norm(isa, h, &self.norm, self.frame.eps, x);
    }
}

impl Network for Mamba {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let size = walk.len() * self.frame.inner;
        for buffer in [&mut space.raw, &mut space.x, &mut space.z, &mut space.step, &mut space.y] {
            room(buffer, size);
        }
        embed(&self.embeddings, tokens, h);
        for layer in &self.layers {
            layer.project(isa, self.frame.eps, h, space);
            layer.select(isa, walk, space);
            let Space { x, step, bc, y, .. } = &mut *space;
            let inputs = Inputs { x: &x[..size], step: &step[..size], bc };
            scan(isa, walk, &layer.rates, inputs, &mut y[..size]);
            layer.finish(isa, walk.len(), space, h);
        }
    }
}

impl Layer {
    /// `[x, z] = W_in · RMSNorm(h)`
    fn project(&self, isa: Isa, eps: f64, h: &[f32], space: &mut Space) {
        let (width, inner) = (self.norm.len(), self.rates.channels());
        let size = h.len() / width * inner;
        let blocks = h.par_chunks(BLOCK_ROWS * width).zip(
            space.raw[..size]
                .par_chunks_mut(BLOCK_ROWS * inner)
                .zip(space.z[..size].par_chunks_mut(BLOCK_ROWS * inner)),
        );
        blocks.for_each_init(Scratch::default, |s, (h, (x, z))| {
            let normed = room(&mut s.a, h.len());
            rms_norm(isa, h, &self.norm, eps, normed);
            self.input[0].apply(isa, normed, Store::Set, x);
            self.input[1].apply(isa, normed, Store::Set, z);
        });
    }

    /// `x = silu(conv(x))`, then Δ, B and C from it.
    fn select(&self, isa: Isa, walk: &Walk, space: &mut Space) {
        let inner = self.rates.channels();
        let (size, [low, bc_linear]) = (walk.len() * inner, &self.selection);
        let bc_width = bc_linear.out();
        space.bc.resize(walk.len() * bc_width, 0.0);
        let raw = &space.raw[..size];
        let blocks = space.x[..size].par_chunks_mut(BLOCK_ROWS * inner);
        let blocks = blocks.zip(
            space.step[..size]
                .par_chunks_mut(BLOCK_ROWS * inner)
                .zip(space.bc.par_chunks_mut(BLOCK_ROWS * bc_width)),
        );
        blocks.enumerate().for_each_init(Scratch::default, |s, (block, (x, (step, bc)))| {
            self.convolution.silu(isa, walk, raw, block * BLOCK_ROWS, x);
            bc_linear.apply(isa, x, Store::Set, bc);
            let rank = room(&mut s.a, x.len() / inner * low.out());
            low.apply(isa, x, Store::Set, rank);
            self.step.apply(isa, rank, Store::Set, step);
            steps(isa, &self.step_bias, (0.0, f32::INFINITY), step);
        });
    }

    /// `h += W_out (y ⊙ silu(z))`
    fn finish(&self, isa: Isa, rows: usize, space: &Space, h: &mut [f32]) {
        let (width, inner) = (self.norm.len(), self.rates.channels());
        let blocks = h.par_chunks_mut(BLOCK_ROWS * width).enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, h)| {
            let first = block * BLOCK_ROWS;
            let y = room(&mut s.a, h.len() / width * inner);
            for (row, y) in (first..).zip(y.chunks_exact_mut(inner)) {
                for (group, y) in y.chunks_mut(CHANNELS).enumerate() {
                    let at = group * CHANNELS * rows + row * y.len();
                    y.copy_from_slice(&space.y[at..at + y.len()]);
                }
            }
            gate_by_silu(isa, &space.z[first * inner..][..y.len()], y);
            self.output.apply(isa, y, Store::Add, h);
        });
    }
}
