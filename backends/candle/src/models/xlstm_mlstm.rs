//! The mLSTM block of the xLSTM package (architectures.md 7.1).
//!
//! ```text
//! [x, z] = W_up LN(h);  x' = silu(conv(x));  q, k = Q x', K x';  v = V x;  i, f = W [q; k; v]
//! h += W_down ( (HeadNorm(cell(q, k, v, i, f)) + skip ⊙ x') ⊙ silu(z) )
//! ```
//! Q, K and V are block-diagonal.

use bheval_abi::Failure;
use rayon::prelude::*;

use super::xlstm_block::{Norm, Scratch, Space, norm_rows};
use super::xlstm_config::{Config, Matrix};
use crate::kernels::cells::gate_by_silu;
use crate::kernels::gemm::Store;
use crate::kernels::{Isa, Kernel, launch};
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::convolution::Biased;
use crate::ops::forest::Walk;
use crate::ops::mlstm::{Cells, Columns, Inputs, mlstm};
use crate::room;
use crate::scorer::BLOCK_ROWS;

/// ε beside the normaliser of the cell.
const CELL_EPS: f32 = 1e-6;

/// An mLSTM block, packed.
pub(super) struct MatrixBlock {
    width: usize,
    inner: usize,
    cells: Cells,
    norm: Norm,
    /// To `x` and to `z`.
    up: [Linear; 2],
    convolution: Biased,
    /// To q, k and v.
    qkv: [BlockDiagonal; 3],
    /// To all input gates, then all forget gates, from `[q | k | v]`.
    gates: Linear,
    head_norm: Norm,
    skip: Vec<f32>,
    down: Linear,
}

impl MatrixBlock {
    pub(super) fn load(
        loader: &mut Loader,
        config: &Config,
        layer: &Matrix,
        name: &str,
    ) -> Result<Self, Failure> {
        let (width, inner, heads) = (config.width, layer.inner, layer.heads);
        let named = |part: &str| format!("{name}.xlstm.{part}");
        let gates = [named("mlstm_cell.igate"), named("mlstm_cell.fgate")];
        let mut diagonal =
            |part: &str| BlockDiagonal::load(loader, &named(part), inner, layer.projected, config.bias);
        let qkv = [diagonal("q_proj")?, diagonal("k_proj")?, diagonal("v_proj")?];
        Ok(Self {
            width,
            inner,
            cells: Cells {
                heads,
                keys: inner / heads,
                values: inner / heads,
                eps: CELL_EPS,
                // The package scores with the cell's parallel form, which knows nothing before the first step.
                start: f32::NEG_INFINITY,
            },
            norm: Norm::load(loader, &format!("{name}.xlstm_norm"), width)?,
            up: loader.split(&named("proj_up"), width, [inner, inner], config.bias)?,
            convolution: Biased::load(loader, &named("conv1d.conv"), inner, layer.taps, true)?,
            qkv,
            gates: loader.stacked(&gates, 3 * inner, &[heads, heads], true)?,
            head_norm: Norm::load(loader, &named("mlstm_cell.outnorm"), inner)?,
            skip: loader.values(&named("learnable_skip"), &[inner])?,
            down: loader.linear(&named("proj_down"), inner, width, config.bias)?,
        })
    }

    /// Bytes of activations that a row takes.
    pub(super) fn row_bytes(&self) -> u64 {
        4 * (7 * self.inner + 2 * self.cells.heads) as u64
    }

    /// Bytes that a thread takes.
    pub(super) fn thread_bytes(&self) -> u64 {
        4 * (BLOCK_ROWS * 2 * self.inner + 17 * self.cells.state()) as u64
    }

    /// Adds the block's branch to the hidden states.
    pub(super) fn run(&self, isa: Isa, walk: &Walk, space: &mut Space, h: &mut [f32]) {
        let (rows, inner) = (walk.len(), self.inner);
        for buffer in [&mut space.raw, &mut space.convolved, &mut space.z, &mut space.read] {
            room(buffer, rows * inner);
        }
        room(&mut space.qkv, rows * 3 * inner);
        room(&mut space.gates, rows * 2 * self.cells.heads);
        self.project(isa, h, space);
        self.select(isa, walk, space);
        let qkv = &space.qkv[..rows * 3 * inner];
        let columns = |part| Columns { x: qkv, width: 3 * inner, first: part * inner };
        let gates = &space.gates[..rows * 2 * self.cells.heads];
        let inputs = Inputs { q: columns(0), k: columns(1), v: columns(2), gates };
        mlstm(isa, walk, self.cells, inputs, &mut space.read[..rows * inner]);
        self.finish(isa, rows, space, h);
    }

    /// `[x, z] = W_up LN(h)`
    fn project(&self, isa: Isa, h: &[f32], space: &mut Space) {
        let size = h.len() / self.width * self.inner;
        let x = space.raw[..size].par_chunks_mut(BLOCK_ROWS * self.inner);
        let z = space.z[..size].par_chunks_mut(BLOCK_ROWS * self.inner);
        let blocks = h.par_chunks(BLOCK_ROWS * self.width).zip(x.zip(z));
        blocks.for_each_init(Scratch::default, |s, (h, (x, z))| {
            let normed = room(&mut s.a, h.len());
            norm_rows(isa, &self.norm, h, normed);
            self.up[0].apply(isa, normed, Store::Set, x);
            self.up[1].apply(isa, normed, Store::Set, z);
        });
    }

    /// The convolution, and what the cells take.
    fn select(&self, isa: Isa, walk: &Walk, space: &mut Space) {
        let (inner, size, heads) = (self.inner, walk.len() * self.inner, self.cells.heads);
        let raw = &space.raw[..size];
        let convolved = space.convolved[..size].par_chunks_mut(BLOCK_ROWS * inner);
        let qkv = space.qkv[..3 * size].par_chunks_mut(BLOCK_ROWS * 3 * inner);
        let gates = space.gates[..walk.len() * 2 * heads].par_chunks_mut(BLOCK_ROWS * 2 * heads);
        convolved.zip(qkv.zip(gates)).enumerate().for_each(|(block, (convolved, (qkv, gates)))| {
            let first = block * BLOCK_ROWS;
            self.convolution.silu(isa, walk, raw, first, convolved);
            let x = &raw[first * inner..][..convolved.len()];
            for (part, x) in [&*convolved, &*convolved, x].into_iter().enumerate() {
                self.qkv[part].apply(isa, x, qkv, 3 * inner, part * inner);
            }
            self.gates.apply(isa, qkv, Store::Set, gates);
        });
    }

    fn finish(&self, isa: Isa, rows: usize, space: &Space, h: &mut [f32]) {
        let (inner, head_dim) = (self.inner, self.cells.values);
        let blocks = h.par_chunks_mut(BLOCK_ROWS * self.width).enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, h)| {
            let (first, count) = (block * BLOCK_ROWS, h.len() / self.width);
            let (x, y) = (room(&mut s.a, count * head_dim), room(&mut s.b, count * inner));
            for head in 0..self.cells.heads {
                let read = &space.read[(head * rows + first) * head_dim..][..count * head_dim];
                self.head_norm.apply_head(isa, head, read, head_dim, x, y);
            }
            let convolved = &space.convolved[first * inner..][..y.len()];
            for (y, x) in y.chunks_exact_mut(inner).zip(convolved.chunks_exact(inner)) {
                for ((y, x), skip) in y.iter_mut().zip(x).zip(&self.skip) {
                    *y += skip * x;
                }
            }
            gate_by_silu(isa, &space.z[first * inner..][..y.len()], y);
            self.down.apply(isa, y, Store::Add, h);
        });
    }
}

/// A projection of many small blocks of channels, each onto itself.
struct BlockDiagonal {
    block: usize,
    /// `[blocks, in, out]`
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl BlockDiagonal {
    /// Reads `{name}.weight [blocks, out, in]` and, where there is one, `{name}.bias`.
    fn load(
        loader: &mut Loader,
        name: &str,
        width: usize,
        block: usize,
        bias: bool,
    ) -> Result<Self, Failure> {
        let stored = loader.values(&format!("{name}.weight"), &[width / block, block, block])?;
        let mut weights = vec![0.0; stored.len()];
        for (at, w) in stored.iter().enumerate() {
            let (matrix, out, input) = (at / (block * block), at / block % block, at % block);
            weights[(matrix * block + input) * block + out] = *w;
        }
        Ok(Self { block, weights, bias: loader.optional(&format!("{name}.bias"), &[width], bias)? })
    }

    /// Writes the products of the rows of `x` into the columns `first..` of rows of `width` values.
    fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32], width: usize, first: usize) {
        launch(isa, Product { matrix: self, x, y, width, first });
    }
}

struct Product<'a> {
    matrix: &'a BlockDiagonal,
    x: &'a [f32],
    y: &'a mut [f32],
    width: usize,
    first: usize,
}

impl Kernel for Product<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let BlockDiagonal { block, weights, bias } = self.matrix;
        let channels = weights.len() / block;
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(self.width)) {
            let y = &mut y[self.first..self.first + channels];
            let blocks = x.chunks_exact(*block).zip(y.chunks_exact_mut(*block));
            for ((x, y), weights) in blocks.zip(weights.chunks_exact(block * block)) {
                y.fill(0.0);
                for (&x, weights) in x.iter().zip(weights.chunks_exact(*block)) {
                    for (y, &w) in y.iter_mut().zip(weights) {
                        *y = x.mul_add(w, *y);
                    }
                }
            }
            if let Some(bias) = bias {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}
