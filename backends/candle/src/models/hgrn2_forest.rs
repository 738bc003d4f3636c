//! HGRN2 over a forest of prefixes: the same weights, packed for our own kernels.
//!
//! Rows are the fed nodes in depth-first order. Everything but the short convolution and the recurrence works on each row
//! by itself, in blocks of rows that stay in cache. All arithmetic keeps the order that [`crate::kernels`] fixes, so a
//! score depends on its path alone.

use bheval_abi::Failure;
use candle_core::DType;
use rayon::prelude::*;

use super::hgrn2::{Hgrn2Weights, Layer, lower_bounds};
use crate::body::Body;
use crate::config::Config;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::elementwise::{GateRows, LowerBound, gates, rms_norm, swiglu};
use crate::kernels::gemm::{Packed, Store, matmul};
use crate::ops::convolution::{Taps, over_paths};
use crate::ops::forest::{Rows, Walk, recurrence};
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::{floats, internal};

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

/// HGRN2's layers, packed.
pub struct Hgrn2Network {
    config: Config,
    g_norm_eps: f64,
    embeddings: Vec<f32>,
    layers: Vec<PackedLayer>,
    norm: Vec<f32>,
    head: Head,
}

/// Activations of a call: `[rows, D]` each, `o` head by head.
#[derive(Default)]
pub struct Space {
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

impl Hgrn2Network {
    /// Packs a model that was loaded as f32.
    ///
    /// # Errors
    /// If candle can't hand out its numbers.
    pub fn new(model: &Hgrn2Weights) -> Result<Self, Failure> {
        Ok(Self {
            config: model.config.clone(),
            g_norm_eps: model.g_norm_eps,
            embeddings: floats(&model.embeddings)?,
            layers: packed_layers(model)?,
            norm: floats(&model.norm)?,
            head: Head::new(model.config.hidden_size, &floats(&model.head)?),
        })
    }
}

impl Body for Hgrn2Network {
    type Space = Space;

    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        let width = self.config.hidden_size as u64;
        4 * if self.config.conv_size.is_some() { 8 * width } else { 5 * width }
    }

    fn thread_bytes(&self) -> u64 {
        let width = self.config.hidden_size as u64;
        let inner = self.layers.iter().map(|l| l.gate_up.columns()).max().unwrap_or(0) as u64;
        let scratch = BLOCK_ROWS as u64 * (2 * width + inner.max(3 * width) + inner / 2);
        4 * (scratch + 17 * (self.config.head_dim as u64).pow(2))
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        rms_norm(isa, h, &self.norm, self.config.norm_eps, x);
    }
}

impl Network for Hgrn2Network {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let Space { q, f, k, v, o, raw } = &mut *space;
        for buffer in [q, f, k, v, o] {
            buffer.resize(h.len(), 0.0);
        }
        raw.resize(if self.config.conv_size.is_some() { 3 * h.len() } else { 0 }, 0.0);
        embed(&self.embeddings, tokens, h);
        self.advance(isa, None, Some(0), walk, h, space);
        for l in 0..self.layers.len() {
            let Space { q, k, v, f, o, .. } = &mut *space;
            recurrence(isa, walk, Rows { q, k, v, f }, self.config.heads, o);
            self.advance(isa, Some(l), Some(l + 1).filter(|&n| n < self.layers.len()), walk, h, space);
        }
    }
}

impl Hgrn2Network {
    /// From one recurrence to the next, block of rows by block of rows: the rest of layer `done`, then what layer `next`
    /// does before its recurrence.
    fn advance(
        &self,
        isa: Isa,
        done: Option<usize>,
        next: Option<usize>,
        walk: &Walk,
        h: &mut [f32],
        space: &mut Space,
    ) {
        let size = BLOCK_ROWS * self.config.hidden_size;
        let Space { q, f, k, v, o, raw } = space;
        let next = next.map(|l| &self.layers[l]);
        let gated =
            (q.par_chunks_mut(size), f.par_chunks_mut(size), k.par_chunks_mut(size), v.par_chunks_mut(size));
        let finish = |scratch: &mut Scratch, block: usize, h: &mut [f32]| {
            if let Some(l) = done {
                self.finish(isa, &self.layers[l], (&*o, block * BLOCK_ROWS), h, scratch);
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
                self.project(isa, layer, h, s);
                self.gate(isa, layer, &s.wide[..3 * h.len()], GateRows { q, f, k, v });
            });
        };
        let blocks = (h.par_chunks_mut(size), raw.par_chunks_mut(3 * size)).into_par_iter().enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, (h, raw))| {
            finish(s, block, h);
            self.project(isa, layer, h, s);
            raw.copy_from_slice(&s.wide[..raw.len()]);
        });
        gated.into_par_iter().enumerate().for_each_init(Scratch::default, |s, (block, (q, f, k, v))| {
            let x = room(&mut s.wide, 3 * q.len());
            over_paths(isa, walk.parents(), raw, taps, block * BLOCK_ROWS, x);
            self.gate(isa, layer, x, GateRows { q, f, k, v });
        });
    }

    /// `[u | z | i] = [Wq; Wf; Wi] · RMSNorm(h)`, into `scratch.wide`.
    fn project(&self, isa: Isa, layer: &PackedLayer, h: &[f32], scratch: &mut Scratch) {
        let x = room(&mut scratch.a, h.len());
        rms_norm(isa, h, &layer.attn_norm, self.config.norm_eps, x);
        matmul(isa, x, &layer.qfi, Store::Set, room(&mut scratch.wide, 3 * h.len()));
    }

    fn gate(&self, isa: Isa, layer: &PackedLayer, x: &[f32], out: GateRows<'_>) {
        let scale = (self.config.head_dim as f64).powf(-0.5) as f32;
        gates(isa, x, &layer.lower, scale, out);
    }

    /// `h += Wo · RMSNorm_g(o)`, then `h += MLP(RMSNorm(h))`, for the rows of `h`, which begin at `first`.
    fn finish(
        &self,
        isa: Isa,
        layer: &PackedLayer,
        (o, first): (&[f32], usize),
        h: &mut [f32],
        s: &mut Scratch,
    ) {
        let rows = o.len() / self.config.hidden_size;
        let (width, head_dim) = (self.config.hidden_size, self.config.head_dim);
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
}

/// Rows of the embedding, `h [rows, D]`.
pub(crate) fn embed(embeddings: &[f32], tokens: &[u32], h: &mut [f32]) {
    let width = h.len() / tokens.len();
    for (&token, h) in tokens.iter().zip(h.chunks_exact_mut(width)) {
        h.copy_from_slice(&embeddings[token as usize * width..][..width]);
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
