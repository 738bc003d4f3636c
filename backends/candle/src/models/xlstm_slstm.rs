//! The sLSTM block of the xLSTM package (architectures.md 7.2).
//!
//! ```text
//! x = LN(h);  x' = silu(conv(x));  i, f from x', z, o from x, and all four from the last output, head by head
//! h += HeadNorm(cell(i, f, z, o));  h += W_down ( act(gate) ⊙ up ),  [gate, up] = W_up LN(h)
//! ```

use bheval_abi::Failure;
use rayon::prelude::*;

use super::xlstm_block::{Norm, Scratch, Space, norm_rows};
use super::xlstm_config::{Config, Mlp, Scalar};
use crate::kernels::Isa;
use crate::kernels::activation::Activation;
use crate::kernels::gemm::{Packed, Store, matmul};
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::convolution::Biased;
use crate::ops::forest::Walk;
use crate::ops::levels::Levels;
use crate::ops::slstm;
use crate::room;
use crate::scorer::BLOCK_ROWS;

/// An sLSTM block, packed.
pub(super) struct ScalarBlock {
    width: usize,
    norm: Norm,
    convolution: Option<Biased>,
    heads: Vec<HeadGates>,
    /// `[4d, d]` a head.
    recurrent: Vec<Packed>,
    head_norm: Norm,
    mlp: Option<(Norm, GatedMlp)>,
}

/// One head's gates from the input.
struct HeadGates {
    /// `[i; f]`, from what was convolved.
    convolved: Packed,
    /// `[z; o]`, from what was not.
    plain: Packed,
    /// `[i | f | z | o]`
    bias: Vec<f32>,
}

struct GatedMlp {
    gate_up: [Linear; 2],
    activation: Activation,
    down: Linear,
}

impl ScalarBlock {
    pub(super) fn load(
        loader: &mut Loader,
        config: &Config,
        layer: &Scalar,
        name: &str,
    ) -> Result<Self, Failure> {
        let width = config.width;
        let named = |part: &str| format!("{name}.xlstm.{part}");
        let conv = layer.taps.map(|taps| Biased::load(loader, &named("conv1d.conv"), width, taps, true));
        let (recurrent, biases) = recurrence(loader, &named("slstm_cell"), width, layer.heads)?;
        let heads = head_gates(loader, &named(""), width, biases)?;
        let mlp = layer.mlp.as_ref().map(|mlp| mlp_of(loader, mlp, name, width)).transpose()?;
        Ok(Self {
            width,
            norm: Norm::load(loader, &format!("{name}.xlstm_norm"), width)?,
            convolution: conv.transpose()?,
            heads,
            recurrent,
            head_norm: match layer.norm_weight {
                true => Norm::load(loader, &named("group_norm"), width)?,
                false => Norm::plain(width),
            },
            mlp,
        })
    }

    /// Bytes of activations that a row takes, the cells' own states included.
    pub(super) fn row_bytes(&self) -> u64 {
        4 * (11 * self.width) as u64
    }

    /// Bytes that a thread takes.
    pub(super) fn thread_bytes(&self) -> u64 {
        let inner = self.mlp.as_ref().map_or(0, |(_, mlp)| mlp.down.weights.inner());
        4 * (BLOCK_ROWS * (2 * self.width + 2 * inner)) as u64
    }

    /// Adds the block's branches to the hidden states.
    pub(super) fn run(&self, isa: Isa, walk: &Walk, levels: &Levels, space: &mut Space, h: &mut [f32]) {
        let (rows, width) = (walk.len(), self.width);
        for buffer in [&mut space.raw, &mut space.convolved, &mut space.read, &mut space.by_level] {
            room(buffer, rows * width);
        }
        room(&mut space.gates, rows * 4 * width);
        norm_rows(isa, &self.norm, h, &mut space.raw[..rows * width]);
        if let Some(convolution) = &self.convolution {
            let raw = &space.raw[..rows * width];
            let blocks = space.convolved[..rows * width].par_chunks_mut(BLOCK_ROWS * width).enumerate();
            blocks.for_each(|(b, x)| convolution.silu(isa, walk, raw, b * BLOCK_ROWS, x));
        }
        self.gates(isa, levels, space, rows);
        let y = &mut space.by_level[..rows * width];
        slstm::run(isa, levels, &self.recurrent, &mut space.gates[..rows * 4 * width], y);
        let unit = width / self.heads.len();
        let heads = space.read[..rows * width].par_chunks_mut(rows * unit).zip(y.par_chunks(rows * unit));
        heads.for_each(|(read, y)| {
            for (&row, y) in levels.rows().iter().zip(y.chunks_exact(unit)) {
                read[row as usize * unit..][..unit].copy_from_slice(y);
            }
        });
        self.finish(isa, rows, &space.read[..rows * width], h);
    }

    /// What the gates take from the input, head by head, in the order of levels.
    fn gates(&self, isa: Isa, levels: &Levels, space: &mut Space, rows: usize) {
        let (width, unit) = (self.width, self.width / self.heads.len());
        let plain = &space.raw[..rows * width];
        let convolved = if self.convolution.is_some() { &space.convolved[..rows * width] } else { plain };
        let heads = space.gates[..rows * 4 * width].par_chunks_mut(rows * 4 * unit).enumerate();
        heads.for_each(|(head, gates)| {
            let blocks = gates.par_chunks_mut(BLOCK_ROWS * 4 * unit).enumerate();
            blocks.for_each_init(Scratch::default, |s, (block, gates)| {
                let rows = &levels.rows()[block * BLOCK_ROWS..][..gates.len() / (4 * unit)];
                let own = &self.heads[head];
                for (weights, x, first) in [(&own.convolved, convolved, 0), (&own.plain, plain, 2 * unit)] {
                    let (a, b) = (room(&mut s.a, rows.len() * unit), room(&mut s.b, rows.len() * 2 * unit));
                    for (&row, a) in rows.iter().zip(a.chunks_exact_mut(unit)) {
                        a.copy_from_slice(&x[row as usize * width + head * unit..][..unit]);
                    }
                    matmul(isa, a, weights, Store::Set, b);
                    for (gates, b) in gates.chunks_exact_mut(4 * unit).zip(b.chunks_exact(2 * unit)) {
                        let columns = first..first + 2 * unit;
                        let bias = &own.bias[columns.clone()];
                        gates[columns].iter_mut().zip(b).zip(bias).for_each(|((g, b), bias)| *g = b + bias);
                    }
                }
            });
        });
    }

    /// `h += HeadNorm(y)`, and the MLP.
    fn finish(&self, isa: Isa, rows: usize, read: &[f32], h: &mut [f32]) {
        let unit = self.width / self.heads.len();
        let blocks = h.par_chunks_mut(BLOCK_ROWS * self.width).enumerate();
        blocks.for_each_init(Scratch::default, |s, (block, h)| {
            let (first, count) = (block * BLOCK_ROWS, h.len() / self.width);
            let (x, y) = (room(&mut s.a, count * unit), room(&mut s.b, h.len()));
            for head in 0..self.heads.len() {
                let read = &read[(head * rows + first) * unit..][..count * unit];
                self.head_norm.apply_head(isa, head, read, unit, x, y);
            }
            h.iter_mut().zip(y).for_each(|(h, y)| *h += *y);
            if let Some((norm, mlp)) = &self.mlp {
                let normed = room(&mut s.a, h.len());
                norm.apply(isa, h, normed);
                let size = count * mlp.down.weights.inner();
                let (gate, up) = (room(&mut s.b, size), room(&mut s.c, size));
                mlp.gate_up[0].apply(isa, normed, Store::Set, gate);
                mlp.gate_up[1].apply(isa, normed, Store::Set, up);
                mlp.activation.apply(isa, gate);
                gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= *up);
                mlp.down.apply(isa, gate, Store::Add, h);
            }
        });
    }
}

fn mlp_of(loader: &mut Loader, mlp: &Mlp, name: &str, width: usize) -> Result<(Norm, GatedMlp), Failure> {
    let norm = Norm::load(loader, &format!("{name}.ffn_norm"), width)?;
    let named = |part: &str| format!("{name}.ffn.{part}");
    let gate_up = loader.split(&named("proj_up"), width, [mlp.inner, mlp.inner], mlp.bias)?;
    let down = loader.linear(&named("proj_down"), mlp.inner, width, mlp.bias)?;
    Ok((norm, GatedMlp { gate_up, activation: mlp.activation, down }))
}

/// The input's matrices, head by head.
fn head_gates(
    loader: &mut Loader,
    prefix: &str,
    width: usize,
    biases: Vec<Vec<f32>>,
) -> Result<Vec<HeadGates>, Failure> {
    let heads = biases.len();
    let unit = width / heads;
    let mut gate = |part: &str| loader.values(&format!("{prefix}{part}.weight"), &[heads, unit, unit]);
    // The package hands what it calls fgate to the cell as the input gate, and igate as the forget gate.
    let [i, f, z, o] = [gate("fgate")?, gate("igate")?, gate("zgate")?, gate("ogate")?];
    let head = |(head, bias): (usize, Vec<f32>)| {
        let own = head * unit * unit..(head + 1) * unit * unit;
        HeadGates {
            convolved: Packed::new(unit, &[&i[own.clone()], &f[own.clone()]]),
            plain: Packed::new(unit, &[&z[own.clone()], &o[own]]),
            bias,
        }
    };
    Ok(biases.into_iter().enumerate().map(head).collect())
}

/// The recurrent matrices `[4d, d]` and the biases `[i | f | z | o]`, head by head, from either layout: the vanilla backend
/// keeps the kernel as `[n, 4d, d]` and the bias gate by gate, the CUDA backend as `[n, d, 4d]` and head by head.
fn recurrence(
    loader: &mut Loader,
    cell: &str,
    width: usize,
    heads: usize,
) -> Result<(Vec<Packed>, Vec<Vec<f32>>), Failure> {
    let unit = width / heads;
    let name = format!("{cell}._recurrent_kernel_");
    let cuda = loader.shape(&name).is_some_and(|shape| shape == [heads, unit, 4 * unit]);
    let shape = if cuda { [heads, unit, 4 * unit] } else { [heads, 4 * unit, unit] };
    let kernel = loader.values(&name, &shape)?;
    let bias = loader.values(&format!("{cell}._bias_"), &[4 * width])?;
    let matrix = |kernel: &[f32]| {
        if !cuda {
            return Packed::new(unit, &[kernel]);
        }
        let row = |gate: usize| kernel.iter().skip(gate).step_by(4 * unit).copied();
        Packed::new(unit, &[&(0..4 * unit).flat_map(row).collect::<Vec<_>>()])
    };
    let own = |head: usize| match cuda {
        true => bias[head * 4 * unit..][..4 * unit].to_vec(),
        false => bias.chunks_exact(width).flat_map(|gate| &gate[head * unit..][..unit]).copied().collect(),
    };
    Ok((kernel.chunks_exact(4 * unit * unit).map(matrix).collect(), (0..heads).map(own).collect()))
}
