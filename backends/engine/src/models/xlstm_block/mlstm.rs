//! The mLSTM block of the xLSTM package (architectures.md 7.1).
//!
//! ```text
//! [x, z] = W_up LN(h);  x' = silu(conv(x));  q, k = Q x', K x';  v = V x;  i, f = W [q; k; v]
//! h += W_down ( (HeadNorm(cell(q, k, v, i, f)) + skip ⊙ x') ⊙ silu(z) )
//! ```

use bheval_candle::models::xlstm_config::Matrix;

use super::super::xlstm::{cell_flops, evenly};
use super::{Declare, branch};
use crate::ops::block_diagonal::{Part, block_diagonal};
use crate::ops::convolution::{Convolution, convolution};
use crate::ops::head_norm::{HeadNorm, head_norm};
use crate::ops::joined::joined;
use crate::ops::linear::{Layout, Linear, linear};
use crate::ops::mlstm::{Cells, Inputs, mlstm};
use crate::ops::output_gate::{Gate, Skip, output_gate};
use crate::ops::selection::Columns;
use crate::parameters::{Init, Parameter};
use crate::tape::{Tape, Value};

/// ε beside the normaliser of the cell.
const CELL_EPS: f32 = 1e-6;

/// An mLSTM block.
pub(super) struct MatrixBlock {
    norm: HeadNorm,
    /// To `x` and `z`.
    up: Linear,
    convolution: Convolution,
    /// Weights and biases of the projections to q, k and v.
    qkv: [(Parameter, Option<Parameter>); 3],
    /// Channels of a block of these.
    size: usize,
    /// To input gates, then forget gates.
    gates: [Linear; 2],
    cells: Cells,
    head_norm: HeadNorm,
    skip: Parameter,
    down: Linear,
    dropout: f32,
}

impl MatrixBlock {
    pub(super) fn declare(declare: &mut Declare<'_>, layer: &Matrix, dropout: f32, index: usize) -> Self {
        let block = format!("xlstm_block_stack.blocks.{index}");
        let named = |part: &str| format!("{block}.xlstm.{part}");
        let (width, bias) = (declare.config.width, declare.config.bias);
        let (inner, heads, size) = (layer.inner, layer.heads, layer.projected);
        let (small, down) = (declare.small(), declare.down());
        let norm = declare.norm(&format!("{block}.xlstm_norm"), width, 1);
        let up = declare.linear(&named("proj_up"), [2 * inner, width], bias, small.clone());
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|part| {
            let shape = [inner / size, size, size];
            let weight = declare.parameters.matrix(named(&format!("{part}.weight")), &shape, small.clone());
            (weight, bias.then(|| declare.zeros(&named(&format!("{part}.bias")), inner)))
        });
        // The package scores and trains with the cell's parallel form, which knows nothing before the first step.
        let cells = Cells { heads, eps: CELL_EPS, start: f32::NEG_INFINITY, gate_cap: None };
        Self {
            norm,
            up,
            convolution: declare.convolution(&named("conv1d.conv"), inner, layer.taps),
            qkv,
            size,
            gates: gates(declare, &named("mlstm_cell"), inner, heads),
            cells,
            head_norm: declare.norm(&named("mlstm_cell.outnorm"), inner, heads),
            skip: declare.parameters.vector(named("learnable_skip"), &[inner], Init::Constant(1.0)),
            down: declare.linear(&named("proj_down"), [width, inner], bias, down),
            dropout,
        }
    }

    pub(super) fn apply(&self, tape: &mut Tape<'_>, h: Value) -> Value {
        let x = head_norm(tape, h, self.norm);
        let up = linear(tape, x, self.up);
        let selected = convolution(tape, up, self.convolution.clone());
        let qkv = self.project(tape, up, selected);
        let gates = joined(tape, qkv, &self.gates);
        let [q, k, v] = [0, 1, 2].map(|which| Columns::share(tape, qkv, 3, which));
        let [input, forget] = [0, 1].map(|which| Columns::share(tape, gates, 2, which));
        let y = mlstm(tape, Inputs { q, k, v, input, forget }, self.cells);
        let y = head_norm(tape, y, self.head_norm);
        let skip = Skip { weight: self.skip, x: selected };
        let z = Columns::share(tape, up, 2, 1);
        let y = output_gate(tape, y, Some(skip), z, Gate::Silu);
        branch(tape, h, y, self.down, self.dropout)
    }

    /// `[q | k | v]`, the values from what was not convolved.
    fn project(&self, tape: &mut Tape<'_>, up: Value, selected: Value) -> Value {
        let (convolved, plain) = (Columns::all(tape, selected), Columns::share(tape, up, 2, 0));
        let part = |(x, (weight, bias))| Part { x, weight, bias, size: self.size };
        let parts: Vec<Part> = [convolved, convolved, plain].into_iter().zip(self.qkv).map(part).collect();
        block_diagonal(tape, &parts)
    }

    /// Floating-point operations of one token.
    pub(super) fn flops(&self) -> usize {
        let (inner, heads) = (self.down.inputs, self.cells.heads);
        let projections =
            2 * inner * (3 * self.down.outputs + 3 * self.size + 6 * heads + self.convolution.taps);
        projections + cell_flops(heads, inner / heads, inner / heads)
    }
}

fn gates(declare: &mut Declare<'_>, name: &str, inner: usize, heads: usize) -> [Linear; 2] {
    let biases = [Init::Normal(0.1), Init::Values(evenly(3.0, 6.0, heads))];
    let mut gate = |part: &str, bias: Init| {
        let (name, shape) = (format!("{name}.{part}"), [heads, 3 * inner]);
        let weight = declare.parameters.matrix(format!("{name}.weight"), &shape, Init::Constant(0.0));
        let bias = Some(declare.parameters.vector(format!("{name}.bias"), &[heads], bias));
        Linear { weight, bias, inputs: 3 * inner, outputs: heads, layout: Layout::OutIn }
    };
    let [input, forget] = biases;
    [gate("igate", input), gate("fgate", forget)]
}
