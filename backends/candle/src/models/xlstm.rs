//! xLSTM as transformers has it (`xLSTMForCausalLM`, the design of xLSTM-7B): mLSTM blocks without convolutions, soft caps
//! on gates and logits, a gated MLP. The authors' package has another design under the same name: `xlstm_block`.
//!
//! ```text
//! h += W_out ( HeadNorm(cell(q, k, v, cap(i), cap(f))) ⊙ σ(o) ),  all of them projections of RMSNorm(h)
//! h += W_down ( silu(W_gate u) ⊙ W_up u ),  u = RMSNorm(h);  logits = cap(W · RMSNorm(h))
//! ```

use std::path::Path;

use bheval_abi::Failure;
use rayon::prelude::*;
use serde_json::json;

use super::hgrn2_forest::embed;
use crate::body::Body;
use crate::config_file;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::activation::{add_bias, soft_cap};
use crate::kernels::cells::gate_by_sigmoid;
use crate::kernels::elementwise::{layer_norm, rms_norm, swiglu};
use crate::kernels::gemm::Store;
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::forest::Walk;
use crate::ops::mlstm::{Cells, Columns, Inputs, mlstm};
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::floats;

/// An xLSTM of transformers, packed.
pub struct Xlstm {
    config: Config,
    embeddings: Vec<f32>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Head,
}

/// What `config.json` says of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tokens.
    pub vocab: usize,
    /// Columns of the hidden states.
    pub width: usize,
    /// Blocks.
    pub blocks: usize,
    /// Heads of each layer's cells.
    pub heads: usize,
    /// Channels of a head's queries; keys have as many.
    pub head_keys: usize,
    /// Channels of a head's values; output gates have as many.
    pub head_values: usize,
    /// What is added to the cells' normaliser.
    pub eps: f32,
    /// ε of every norm.
    pub norm_eps: f64,
    /// Width of the MLP.
    pub inner: usize,
    /// `cap · tanh(gate / cap)` of input and forget gates before their activation.
    pub gate_soft_cap: Option<f32>,
    /// The same of logits.
    pub output_logit_soft_cap: Option<f32>,
    /// Whether projections and norms have biases; gates always have.
    pub bias: bool,
    /// Whether projections are stored together: `qkv_opreact`, `ifgate_preact` and `proj_up_gate_z`.
    pub fused: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Config {
    /// Queries of all heads; there are as many keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.heads * self.head_keys
    }

    /// Values of all heads; there are as many output gates.
    #[must_use]
    pub fn values(&self) -> usize {
        self.heads * self.head_values
    }

    /// Width of `[q | k | v | o]`.
    #[must_use]
    pub fn projected(&self) -> usize {
        2 * self.keys() + 2 * self.values()
    }

    fn cells(&self) -> Cells {
        Cells { heads: self.heads, keys: self.head_keys, values: self.head_values, eps: self.eps, start: 0.0 }
    }

    /// Reads and checks the keys.
    ///
    /// # Errors
    /// What is missing, of the wrong kind or not supported.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        // transformers norms in any case, the package `xlstm` that it may load instead does not.
        keys.only("add_out_norm", &json!(true))?;
        let width = one_of(keys, "hidden_size", "embedding_dim")?;
        let part = |key: &str, default: f64| portion(keys, key, default, width);
        let (qk, v) = (part("qk_dim_factor", 0.5)?, part("v_dim_factor", 1.0)?);
        let heads = keys.required("num_heads")?;
        for (size, key) in [(qk, "qk_dim_factor"), (v, "v_dim_factor")] {
            if !size.is_multiple_of(heads) {
                return Err(
                    keys.wrong(&format!("`{key}` gives {size} channels, which {heads} heads can't share"))
                );
            }
        }
        Ok(Self {
            vocab: keys.required("vocab_size")?,
            width,
            blocks: one_of(keys, "num_blocks", "num_hidden_layers")?,
            heads,
            head_keys: qk / heads,
            head_values: v / heads,
            eps: keys.epsilon("eps")?.unwrap_or(1e-6) as f32,
            norm_eps: keys.epsilon("norm_eps")?.unwrap_or(1e-6),
            inner: mlp_width(keys, width)?,
            gate_soft_cap: cap(keys, "gate_soft_cap", 15.0)?,
            output_logit_soft_cap: cap(keys, "output_logit_soft_cap", 30.0)?,
            bias: keys.switch("use_bias", false)?,
            fused: is_fused(keys)?,
            tied: keys.switch("tie_word_embeddings", false)?,
        })
    }
}

/// A size that goes by two names; where both are given they must agree.
fn one_of(keys: &Keys<'_>, one: &str, other: &str) -> Result<usize, Failure> {
    match (keys.size(one)?, keys.size(other)?) {
        (Some(a), Some(b)) if a != b => {
            Err(keys.wrong(&format!("`{one}` is {a}, but `{other}` is {b}; they must be the same")))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => keys.required(one),
    }
}

/// `factor · width`, rounded down.
fn portion(keys: &Keys<'_>, key: &str, default: f64, width: usize) -> Result<usize, Failure> {
    let factor = keys.number(key)?.unwrap_or(default);
    let size = (factor * width as f64) as usize;
    if (1..1 << 31).contains(&size) {
        return Ok(size);
    }
    Err(keys.wrong(&format!("`{key}` {factor} times the width {width} is no width from 1 to 2^31 - 1")))
}

/// `ffn_proj_factor · width`, rounded up to a multiple as the code of xLSTM does: not always the next one, since the
/// product need not be whole.
fn mlp_width(keys: &Keys<'_>, width: usize) -> Result<usize, Failure> {
    let multiple = keys.size("ffn_round_up_to_multiple_of")?.unwrap_or(64) as f64;
    let factor = keys.number("ffn_proj_factor")?.unwrap_or(2.667);
    let size = (((factor * width as f64 + multiple - 1.0) / multiple).floor() * multiple) as usize;
    if (1..1 << 31).contains(&size) {
        return Ok(size);
    }
    Err(keys
        .wrong(&format!("`ffn_proj_factor` {factor} times the width {width} is no width from 1 to 2^31 - 1")))
}

/// A soft cap; null means none, and an absent key the default.
fn cap(keys: &Keys<'_>, key: &str, default: f64) -> Result<Option<f32>, Failure> {
    if keys.keys.get(key).is_some_and(serde_json::Value::is_null) {
        return Ok(None);
    }
    let positive = |v: &serde_json::Value| v.as_f64().filter(|c| *c > 0.0 && (*c as f32).is_finite());
    Ok(Some(keys.of_kind(key, "a number above 0", positive)?.unwrap_or(default) as f32))
}

fn is_fused(keys: &Keys<'_>) -> Result<bool, Failure> {
    match keys.text("weight_mode")?.as_deref() {
        None | Some("single") => Ok(false),
        Some("fused") => Ok(true),
        Some(other) => {
            Err(keys.unsupported(&format!("`weight_mode` is {other}; single and fused are implemented")))
        }
    }
}

/// An RMS norm with or without a bias.
struct Norm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f64,
}

impl Norm {
    fn load(loader: &mut Loader, config: &Config, name: &str) -> Result<Self, Failure> {
        Ok(Self {
            weight: loader.values(&format!("{name}.weight"), &[config.width])?,
            bias: loader.optional(&format!("{name}.bias"), &[config.width], config.bias)?,
            eps: config.norm_eps,
        })
    }

    fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        rms_norm(isa, x, &self.weight, self.eps, y);
        if let Some(bias) = &self.bias {
            add_bias(isa, bias, y);
        }
    }
}

struct Block {
    norm: Norm,
    /// To `[q | k | v | o]`.
    qkvo: Linear,
    /// To all input gates, then all forget gates.
    gates: Linear,
    head_norm: Vec<f32>,
    head_bias: Vec<f32>,
    output: Linear,
    mlp_norm: Norm,
    gate_up: Linear,
    down: Linear,
}

/// Activations of a call.
#[derive(Default)]
pub struct Space {
    projected: Vec<f32>,
    gates: Vec<f32>,
    /// Head by head.
    read: Vec<f32>,
}

/// Room of one thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    wide: Vec<f32>,
}

impl Xlstm {
    /// Loads the model at `path`; also the number of its weights.
    ///
    /// # Errors
    /// What is missing, of the wrong shape or not supported.
    pub fn load(path: &Path) -> Result<(Self, u64), Failure> {
        let file = config_file(path);
        let config = Config::read(&Keys::read(&file)?)?;
        let mut loader = Loader::open(path)?;
        let embeddings = loader.tensor("backbone.embeddings.weight", &[config.vocab, config.width])?;
        let blocks = (0..config.blocks).map(|l| block(&mut loader, &config, l));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let norm = loader.values("backbone.out_norm.weight", &[config.width])?;
        let tied = (config.tied, "tie_word_embeddings");
        let head = loader.head("lm_head.weight", embeddings.dims(), &embeddings, tied)?;
        let soft_cap = config.output_logit_soft_cap;
        let head = Head { soft_cap, ..Head::new(config.width, &head) };
        let (embeddings, parameters) = (floats(&embeddings)?, loader.finish()?);
        Ok((Self { config, embeddings, blocks, norm, head }, parameters))
    }
}

fn block(loader: &mut Loader, config: &Config, index: usize) -> Result<Block, Failure> {
    let (width, values, bias) = (config.width, config.values(), config.bias);
    let named = |part: &str| format!("backbone.blocks.{index}.{part}");
    let layer = |part: &str| named(&format!("mlstm_layer.{part}"));
    let mut stacked =
        |names: &[String], outputs: &[usize], bias: bool| loader.stacked(names, width, outputs, bias);
    let (heads, inner) = (config.heads, config.inner);
    let (qkvo, gates, gate_up) = if config.fused {
        let qkvo = stacked(&[layer("qkv_opreact")], &[config.projected()], bias)?;
        let gates = stacked(&[layer("ifgate_preact")], &[2 * heads], true)?;
        (qkvo, gates, stacked(&[named("ffn.proj_up_gate_z")], &[2 * inner], bias)?)
    } else {
        let qkvo = ["q", "k", "v", "ogate_preact"].map(layer);
        let qkvo = stacked(&qkvo, &[config.keys(), config.keys(), values, values], bias)?;
        let gates = stacked(&["igate_preact", "fgate_preact"].map(layer), &[heads, heads], true)?;
        let gate_up = ["ffn.proj_up_gate", "ffn.proj_up"].map(named);
        (qkvo, gates, stacked(&gate_up, &[inner, inner], bias)?)
    };
    let head_bias = loader.optional(&layer("multihead_norm.bias"), &[values], bias)?;
    Ok(Block {
        norm: Norm::load(loader, config, &named("norm_mlstm"))?,
        qkvo,
        gates,
        head_norm: loader.values(&layer("multihead_norm.weight"), &[values])?,
        head_bias: head_bias.unwrap_or_else(|| vec![0.0; values]),
        output: loader.linear(&layer("out_proj"), values, width, bias)?,
        mlp_norm: Norm::load(loader, config, &named("norm_ffn"))?,
        gate_up,
        down: loader.linear(&named("ffn.proj_down"), inner, width, bias)?,
    })
}

impl Body for Xlstm {
    type Space = Space;

    fn width(&self) -> usize {
        self.config.width
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        let config = &self.config;
        4 * (config.projected() + 2 * config.heads + config.values()) as u64
    }

    fn thread_bytes(&self) -> u64 {
        let config = &self.config;
        let scratch = 2 * config.width.max(config.values()) + 3 * config.inner;
        4 * (BLOCK_ROWS * scratch + 17 * config.cells().state()) as u64
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        rms_norm(isa, h, &self.norm, self.config.norm_eps, x);
    }
}

impl Network for Xlstm {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let (config, rows) = (&self.config, walk.len());
        space.projected.resize(rows * config.projected(), 0.0);
        space.gates.resize(rows * 2 * config.heads, 0.0);
        space.read.resize(rows * config.values(), 0.0);
        embed(&self.embeddings, tokens, h);
        for block in &self.blocks {
            block.project(isa, config, h, space);
            let Space { projected, gates, read } = &mut *space;
            let columns = |first| Columns { x: projected, width: config.projected(), first };
            let (k, v) = (config.keys(), 2 * config.keys());
            let inputs = Inputs { q: columns(0), k: columns(k), v: columns(v), gates };
            mlstm(isa, walk, config.cells(), inputs, read);
            block.finish(isa, config, space, h);
        }
    }
}

impl Block {
    /// Everything that the cells and their gates take from `RMSNorm(h)`.
    fn project(&self, isa: Isa, config: &Config, h: &[f32], space: &mut Space) {
        let projected = space.projected.par_chunks_mut(BLOCK_ROWS * config.projected());
        let gates = space.gates.par_chunks_mut(BLOCK_ROWS * 2 * config.heads);
        let blocks = h.par_chunks(BLOCK_ROWS * config.width).zip(projected.zip(gates));
        blocks.for_each_init(Scratch::default, |s, (h, (projected, gates))| {
            let normed = room(&mut s.a, h.len());
            self.norm.apply(isa, h, normed);
            self.qkvo.apply(isa, normed, Store::Set, projected);
            self.gates.apply(isa, normed, Store::Set, gates);
            if let Some(cap) = config.gate_soft_cap {
                soft_cap(isa, cap, gates);
            }
        });
    }

    /// What follows the cells, and the MLP.
    fn finish(&self, isa: Isa, config: &Config, space: &Space, h: &mut [f32]) {
        let rows = h.len() / config.width;
        let blocks = h.par_chunks_mut(BLOCK_ROWS * config.width).enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, h)| {
            let (first, count) = (block * BLOCK_ROWS, h.len() / config.width);
            let values = config.values();
            let (x, gate) = (room(&mut s.a, count * values), room(&mut s.b, count * values));
            let read = Read { h: &space.read, rows, first, eps: config.norm_eps };
            read.normed(isa, &self.head_norm, &self.head_bias, config.head_values, gate, x);
            for (row, gate) in (first..).zip(gate.chunks_exact_mut(values)) {
                let end = (row + 1) * config.projected();
                gate.copy_from_slice(&space.projected[end - values..end]);
            }
            gate_by_sigmoid(isa, gate, x);
            self.output.apply(isa, x, Store::Add, h);
            let normed = room(&mut s.a, h.len());
            self.mlp_norm.apply(isa, h, normed);
            let gate_up = room(&mut s.wide, count * 2 * config.inner);
            self.gate_up.apply(isa, normed, Store::Set, gate_up);
            let product = room(&mut s.b, count * config.inner);
            swiglu(isa, gate_up, config.inner, product);
            self.down.apply(isa, product, Store::Add, h);
        });
    }
}

/// What cells wrote: head by head, `[rows, size]` each; the rows from `first` on are wanted.
pub(super) struct Read<'a> {
    pub(super) h: &'a [f32],
    pub(super) rows: usize,
    pub(super) first: usize,
    pub(super) eps: f64,
}

impl Read<'_> {
    /// LayerNorm of each head by itself, into rows `y [M, heads · size]`; `x` is room as large.
    pub(super) fn normed(
        &self,
        isa: Isa,
        weight: &[f32],
        bias: &[f32],
        size: usize,
        x: &mut [f32],
        y: &mut [f32],
    ) {
        let width = weight.len();
        let count = y.len() / width;
        for head in 0..width / size {
            let channels = head * size..(head + 1) * size;
            let x = &mut x[..count * size];
            let h = &self.h[(head * self.rows + self.first) * size..][..count * size];
            layer_norm(isa, h, &weight[channels.clone()], &bias[channels.clone()], self.eps, x);
            for (x, y) in x.chunks_exact(size).zip(y.chunks_exact_mut(width)) {
                y[channels.clone()].copy_from_slice(x);
            }
        }
    }
}
