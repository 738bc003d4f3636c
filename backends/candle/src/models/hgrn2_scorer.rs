//! HGRN2 over a forest of prefixes: the same weights, packed for our own kernels.
//!
//! Rows are the fed nodes in depth-first order. Everything but the short convolution and the recurrence works on each row
//! by itself, in blocks of rows that stay in cache. All arithmetic keeps the order that [`crate::kernels`] fixes, so a
//! score depends on its path alone.

use bheval_abi::{Failure, ForestView, NO_PARENT, Status};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::hgrn2::{Hgrn2Weights, Layer, internal, lower_bounds};
use crate::config::Config;
use crate::kernels::Isa;
use crate::kernels::elementwise::{GateRows, LowerBound, gates, rms_norm, swiglu};
use crate::kernels::gemm::{Packed, Store, matmul, matmul_columns};
use crate::kernels::softmax::{COLUMNS, LogSumExp, accumulate};
use crate::ops::convolution::{Taps, over_paths};
use crate::ops::forest::{Feed, Rows, Walk, recurrence};

/// Rows of a block; a multiple of the product's tile.
const BLOCK_ROWS: usize = 96;
/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 48;

struct PackedLayer {
    attn_norm: Vec<f32>,
    /// `[3D, D]`
    qfi: Packed,
    conv: Option<Taps>,
    lower: LowerBound,
    g_norm: Vec<f32>,
    o_proj: Packed,
    mlp_norm: Vec<f32>,
    /// `[2I, D]`
    gate_up: Packed,
    down: Packed,
}

/// An HGRN2 model ready to score forests.
pub struct Scorer {
    config: Config,
    g_norm_eps: f64,
    embeddings: Vec<f32>,
    layers: Vec<PackedLayer>,
    norm: Vec<f32>,
    head: Packed,
    isa: Isa,
    pool: rayon::ThreadPool,
    space: Space,
}

/// Activations of a call, kept for the next one: `[rows, D]` each, `o` head by head.
#[derive(Default)]
struct Space {
    h: Vec<f32>,
    q: Vec<f32>,
    f: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    /// Projections before the short convolution, `[rows, 3D]`.
    raw: Vec<f32>,
}

/// Room of one thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    wide: Vec<f32>,
}

/// The first `len` values of a buffer that grows as needed.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Scorer {
    /// Packs a model that was loaded as f32.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(model: &Hgrn2Weights, threads: usize, isa: Isa) -> Result<Self, Failure> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| {
            Failure::new(Status::EXHAUSTED, format!("{threads} threads can't be started: {e}; ask for fewer"))
        })?;
        Ok(Self {
            config: model.config.clone(),
            g_norm_eps: model.g_norm_eps,
            embeddings: floats(&model.embeddings)?,
            layers: packed_layers(model)?,
            norm: floats(&model.norm)?,
            head: Packed::new(model.config.hidden_size, &[&floats(&model.head)?]),
            isa,
            pool,
            space: Space::default(),
        })
    }

    /// How many nodes fit into `memory` bytes of activations, between 256 and 65,536.
    #[must_use]
    pub fn nodes(&self, memory: u64) -> u32 {
        let width = self.config.hidden_size as u64;
        let per_row = if self.config.conv_size.is_some() { 9 * width } else { 6 * width };
        let inner = self.layers.iter().map(|l| l.gate_up.columns()).max().unwrap_or(0) as u64;
        let scratch = BLOCK_ROWS as u64 * (2 * width + inner.max(3 * width) + inner / 2);
        let states = 17 * (self.config.head_dim as u64).pow(2);
        let fixed =
            self.pool.current_num_threads() as u64 * (scratch + states + (HEAD_ROWS * COLUMNS) as u64) * 4;
        // Beside its activations a node costs about 64 bytes of plan and targets.
        (memory.saturating_sub(fixed) / (per_row * 4 + 64)).clamp(256, 65_536) as u32
    }

    /// Writes `ln p(token | path above)` of the wanted nodes; returns how many nodes were fed.
    ///
    /// # Errors
    /// Tokens beyond the vocabulary, wanted roots, and results that are not finite.
    pub fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_tokens(self.config.vocab as u32)?;
        forest.check_causal()?;
        let walk = self.run(&forest, Feed::AboveWanted);
        let targets = Targets::new(&forest, &walk);
        let scored: Vec<u32> = (0..walk.len() as u32).filter(|&r| !targets.of(r).is_empty()).collect();
        let this = &*self;
        let block = |scratch: &mut Scratch, rows: &[u32]| this.head_block(&forest, &targets, rows, scratch);
        let scores: Vec<Vec<f32>> =
            self.pool.install(|| scored.par_chunks(HEAD_ROWS).map_init(Scratch::default, block).collect());
        let nodes = scored.iter().flat_map(|&row| targets.of(row));
        for (&node, score) in nodes.zip(scores.into_iter().flatten()) {
            check_finite(&forest, node, score)?;
            log_prob[node as usize] = score;
        }
        Ok(walk.len() as u64)
    }

    /// Writes a row of logits `[V]` for each wanted node, in the order of the nodes.
    ///
    /// # Errors
    /// Tokens beyond the vocabulary and results that are not finite.
    pub fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        forest.check_tokens(self.config.vocab as u32)?;
        let walk = self.run(&forest, Feed::Wanted);
        let mut row_of = vec![0; forest.len()];
        for (row, &node) in walk.nodes().iter().enumerate() {
            row_of[node as usize] = row as u32;
        }
        let wanted: Vec<usize> = (0..forest.len()).filter(|&n| forest.is_wanted(n)).collect();
        let vocab = self.config.vocab;
        let this = &*self;
        self.pool.install(|| {
            let blocks = out.par_chunks_mut(HEAD_ROWS * vocab).zip(wanted.par_chunks(HEAD_ROWS));
            blocks.for_each_init(Scratch::default, |scratch, (out, nodes)| {
                let rows: Vec<u32> = nodes.iter().map(|&n| row_of[n]).collect();
                matmul(this.isa, this.last_norm(&rows, scratch), &this.head, Store::Set, out);
            });
        });
        for (&node, row) in wanted.iter().zip(out.chunks_exact(vocab)) {
            row.iter().try_for_each(|&x| check_finite(&forest, node as u32, x))?;
        }
        Ok(())
    }

    /// Runs the layers; the hidden states before the final norm are then in `space.h`.
    fn run(&mut self, forest: &ForestView<'_>, feed: Feed) -> Walk {
        let walk = Walk::new(forest, feed);
        let mut space = std::mem::take(&mut self.space);
        let size = walk.len() * self.config.hidden_size;
        let Space { h, q, f, k, v, o, raw } = &mut space;
        for buffer in [&mut *h, q, f, k, v, o] {
            buffer.resize(size, 0.0);
        }
        raw.resize(if self.config.conv_size.is_some() { 3 * size } else { 0 }, 0.0);
        if size > 0 {
            self.pool.install(|| {
                self.embed(forest, &walk, &mut space.h);
                self.advance(None, Some(0), &walk, &mut space);
                for l in 0..self.layers.len() {
                    let Space { q, k, v, f, o, .. } = &mut space;
                    recurrence(self.isa, &walk, Rows { q, k, v, f }, self.config.heads, o);
                    self.advance(Some(l), Some(l + 1).filter(|&n| n < self.layers.len()), &walk, &mut space);
                }
            });
        }
        self.space = space;
        walk
    }

    fn embed(&self, forest: &ForestView<'_>, walk: &Walk, h: &mut [f32]) {
        let width = self.config.hidden_size;
        for (&node, h) in walk.nodes().iter().zip(h.chunks_exact_mut(width)) {
            let token = forest.token[node as usize] as usize;
            h.copy_from_slice(&self.embeddings[token * width..][..width]);
        }
    }

    /// From one recurrence to the next, block of rows by block of rows: the rest of layer `done`, then what layer `next`
    /// does before its recurrence.
    fn advance(&self, done: Option<usize>, next: Option<usize>, walk: &Walk, space: &mut Space) {
        let size = BLOCK_ROWS * self.config.hidden_size;
        let Space { h, q, f, k, v, o, raw } = space;
        let next = next.map(|l| &self.layers[l]);
        let gated =
            (q.par_chunks_mut(size), f.par_chunks_mut(size), k.par_chunks_mut(size), v.par_chunks_mut(size));
        let finish = |scratch: &mut Scratch, block: usize, h: &mut [f32]| {
            if let Some(l) = done {
                self.finish(&self.layers[l], o, walk.len(), block * BLOCK_ROWS, h, scratch);
            }
        };
        let Some(layer) = next else {
            let blocks = h.par_chunks_mut(size).enumerate();
            return blocks.for_each_init(Scratch::default, |s, (block, h)| finish(s, block, h));
        };
        let Some(taps) = &layer.conv else {
            let blocks = (h.par_chunks_mut(size), gated).into_par_iter().enumerate();
            return blocks.for_each_init(Scratch::default, |s, (block, (h, (q, f, k, v)))| {
                finish(s, block, h);
                self.project(layer, h, s);
                self.gate(layer, &s.wide[..3 * h.len()], GateRows { q, f, k, v });
            });
        };
        let blocks = (h.par_chunks_mut(size), raw.par_chunks_mut(3 * size)).into_par_iter().enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, (h, raw))| {
            finish(s, block, h);
            self.project(layer, h, s);
            raw.copy_from_slice(&s.wide[..raw.len()]);
        });
        gated.into_par_iter().enumerate().for_each_init(Scratch::default, |s, (block, (q, f, k, v))| {
            let x = room(&mut s.wide, 3 * q.len());
            over_paths(self.isa, walk.parents(), raw, taps, block * BLOCK_ROWS, x);
            self.gate(layer, x, GateRows { q, f, k, v });
        });
    }

    /// `[u | z | i] = [Wq; Wf; Wi] · RMSNorm(h)`, into `scratch.wide`.
    fn project(&self, layer: &PackedLayer, h: &[f32], scratch: &mut Scratch) {
        let x = room(&mut scratch.a, h.len());
        rms_norm(self.isa, h, &layer.attn_norm, self.config.norm_eps, x);
        matmul(self.isa, x, &layer.qfi, Store::Set, room(&mut scratch.wide, 3 * h.len()));
    }

    fn gate(&self, layer: &PackedLayer, x: &[f32], out: GateRows<'_>) {
        let scale = (self.config.head_dim as f64).powf(-0.5) as f32;
        gates(self.isa, x, &layer.lower, scale, out);
    }

    /// `h += Wo · RMSNorm_g(o)`, then `h += MLP(RMSNorm(h))`, for the rows of `h`, which begin at `first`.
    fn finish(
        &self,
        layer: &PackedLayer,
        o: &[f32],
        rows: usize,
        first: usize,
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let (isa, width, head_dim) = (self.isa, self.config.hidden_size, self.config.head_dim);
        let (x, y) = (room(&mut s.a, h.len()), room(&mut s.b, h.len()));
        for (row, x) in (first..).zip(x.chunks_exact_mut(width)) {
            for (head, x) in x.chunks_exact_mut(head_dim).enumerate() {
                x.copy_from_slice(&o[(head * rows + row) * head_dim..][..head_dim]);
            }
        }
        rms_norm(isa, x, &layer.g_norm, self.g_norm_eps, y);
        matmul(isa, y, &layer.o_proj, Store::Add, h);
        rms_norm(isa, h, &layer.mlp_norm, self.config.norm_eps, x);
        let inner = layer.down.inner();
        let gate_up = room(&mut s.wide, h.len() / width * 2 * inner);
        matmul(isa, x, &layer.gate_up, Store::Set, gate_up);
        let y = room(&mut s.b, gate_up.len() / 2);
        swiglu(isa, gate_up, inner, y);
        matmul(isa, y, &layer.down, Store::Add, h);
    }

    /// The final norm of some rows, into `scratch.b`.
    fn last_norm<'a>(&self, rows: &[u32], scratch: &'a mut Scratch) -> &'a [f32] {
        let width = self.config.hidden_size;
        let (x, y) = (room(&mut scratch.a, rows.len() * width), room(&mut scratch.b, rows.len() * width));
        for (&row, x) in rows.iter().zip(x.chunks_exact_mut(width)) {
            x.copy_from_slice(&self.space.h[row as usize * width..][..width]);
        }
        rms_norm(self.isa, x, &self.norm, self.config.norm_eps, y);
        y
    }

    /// Log-probabilities of the targets of some rows, in their order. Logits exist for [`COLUMNS`] tokens at a time.
    fn head_block(
        &self,
        forest: &ForestView<'_>,
        targets: &Targets,
        rows: &[u32],
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        self.last_norm(rows, scratch);
        let x = &scratch.b[..rows.len() * self.config.hidden_size];
        let mut sums = vec![LogSumExp::EMPTY; rows.len()];
        let wanted =
            || rows.iter().enumerate().flat_map(|(i, &row)| targets.of(row).iter().map(move |&n| (i, n)));
        let mut scores = vec![f32::NAN; wanted().count()];
        for first in (0..self.config.vocab).step_by(COLUMNS) {
            let width = COLUMNS.min(self.config.vocab - first);
            let logits = room(&mut scratch.wide, rows.len() * width);
            matmul_columns(self.isa, x, &self.head, first, width, Store::Set, logits);
            accumulate(self.isa, logits, &mut sums);
            for (score, (i, node)) in scores.iter_mut().zip(wanted()) {
                let token = forest.token[node as usize] as usize;
                if (first..first + width).contains(&token) {
                    *score = logits[i * width + token - first];
                }
            }
        }
        for (score, (i, _)) in scores.iter_mut().zip(wanted()) {
            *score = sums[i].log_prob(*score);
        }
        scores
    }
}

fn check_finite(forest: &ForestView<'_>, node: u32, value: f32) -> Result<(), Failure> {
    if value.is_finite() {
        return Ok(());
    }
    let token = forest.token[node as usize];
    Err(Failure::new(
        Status::NOT_FINITE,
        format!(
            "the result for node {node} (token id {token}) is {value}: weights or activations overflow f32; check that \
             the weights are those of a finished training run"
        ),
    ))
}

/// The wanted children of each row.
struct Targets {
    begin: Vec<u32>,
    nodes: Vec<u32>,
}

impl Targets {
    fn new(forest: &ForestView<'_>, walk: &Walk) -> Self {
        let mut row_of = vec![NO_PARENT; forest.len()];
        for (row, &node) in walk.nodes().iter().enumerate() {
            row_of[node as usize] = row as u32;
        }
        let wanted = || (0..forest.len()).filter(|&n| forest.is_wanted(n));
        let row_above = |n: usize| forest.parent_of(n).map_or(0, |p| row_of[p] as usize);
        let mut begin = vec![0u32; walk.len() + 1];
        wanted().for_each(|n| begin[row_above(n) + 1] += 1);
        for row in 0..walk.len() {
            begin[row + 1] += begin[row];
        }
        let (mut end, mut nodes) = (begin.clone(), vec![0; begin[walk.len()] as usize]);
        for n in wanted() {
            let at = &mut end[row_above(n)];
            nodes[*at as usize] = n as u32;
            *at += 1;
        }
        Self { begin, nodes }
    }

    fn of(&self, row: u32) -> &[u32] {
        &self.nodes[self.begin[row as usize] as usize..self.begin[row as usize + 1] as usize]
    }
}

fn packed_layers(model: &Hgrn2Weights) -> Result<Vec<PackedLayer>, Failure> {
    let width = model.config.hidden_size;
    let lambda = model.lower_bounds.as_ref().map(|l| l.to_dtype(DType::F64)).transpose().map_err(internal)?;
    let bounds = lambda.as_ref().map(lower_bounds).transpose().map_err(internal)?;
    let bound = |l: usize| match bounds.as_ref().and_then(|b| b[l].as_ref()) {
        Some(bound) => bound.to_vec1::<f64>().map_err(internal),
        None => Ok(vec![0.0; width]),
    };
    model.layers.iter().enumerate().map(|(l, layer)| packed_layer(layer, &bound(l)?)).collect()
}

fn packed_layer(layer: &Layer, bound: &[f64]) -> Result<PackedLayer, Failure> {
    let width = bound.len();
    let conv = match &layer.conv {
        None => None,
        Some(conv) => {
            let taps = conv[0].dim(2).map_err(internal)?;
            let [q, f, i] = [floats(&conv[0])?, floats(&conv[1])?, floats(&conv[2])?];
            Some(Taps::new(taps, &[&q, &f, &i]))
        }
    };
    let down = floats(&layer.down_proj)?;
    Ok(PackedLayer {
        attn_norm: floats(&layer.attn_norm)?,
        qfi: Packed::new(width, &[&floats(&layer.qfi[0])?, &floats(&layer.qfi[1])?, &floats(&layer.qfi[2])?]),
        conv,
        lower: LowerBound {
            bound: bound.iter().map(|&b| b as f32).collect(),
            complement: bound.iter().map(|&b| (1.0 - b) as f32).collect(),
        },
        g_norm: floats(&layer.g_norm)?,
        o_proj: Packed::new(width, &[&floats(&layer.o_proj)?]),
        mlp_norm: floats(&layer.mlp_norm)?,
        gate_up: Packed::new(width, &[&floats(&layer.gate_proj)?, &floats(&layer.up_proj)?]),
        down: Packed::new(down.len() / width, &[&down]),
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, Failure> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(internal)
}
