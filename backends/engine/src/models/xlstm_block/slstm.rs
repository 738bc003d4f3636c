//! The sLSTM block of the xLSTM package (architectures.md 7.2).
//!
//! ```text
//! x = LN(h);  x' = silu(conv(x));  i, f from x', z, o from x, and all four from the last output, head by head
//! h += HeadNorm(cell(i, f, z, o));  h += W_down ( act(gate) ⊙ up ),  [gate, up] = W_up LN(h)
//! ```

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::xlstm_config::{Mlp, Scalar};
use bheval_kernels::activation::Activation;
use serde_json::json;

use super::super::recipe::dropout as probability;
use super::super::xlstm::evenly;
use super::{Declare, EPS, branch};
use crate::ops::activation::gated;
use crate::ops::add::add;
use crate::ops::block_diagonal::{Part, block_diagonal};
use crate::ops::convolution::{Convolution, convolution};
use crate::ops::dropout::dropout;
use crate::ops::head_norm::{HeadNorm, head_norm};
use crate::ops::linear::{Linear, linear};
use crate::ops::selection::Columns;
use crate::ops::slstm::{Layout, Recurrence, slstm};
use crate::parameters::{Init, Parameter};
use crate::tape::{Tape, Value};

/// Gates of a cell, in the order i, f, z, o.
const GATES: usize = 4;

/// What only training reads of sLSTM blocks.
pub(super) struct Recipe {
    layout: Layout,
    bias: BiasStart,
    /// Whether the recurrent kernel starts uniform within `1 / sqrt(D)`, and not at 0.
    recurrent: bool,
    /// After the MLP.
    dropout: f32,
}

/// How the biases of the gates start.
#[derive(Clone, Copy)]
enum BiasStart {
    /// Forget gates from 5 down to −7, later blocks more evenly; the others 0.
    PowerLaw,
    /// Forget gates from 3 up to 6; the others 0.
    Small,
    /// All 0.
    Zeros,
    /// Uniform within `1 / sqrt(D)`.
    Standard,
}

impl Recipe {
    /// Reads and checks the keys, where blocks are described.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let block = keys.object("slstm_block")?;
        let layer = block.object("slstm")?;
        layer.only("gradient_recurrent_cut", &json!(false))?;
        if let Some(clip) = layer.get("gradient_recurrent_clipval") {
            return Err(layer.unsupported(&format!(
                "`gradient_recurrent_clipval` is {clip}, but clipping inside the recurrence is not implemented"
            )));
        }
        let layout = layer.of_kind("backend", "\"cuda\" or \"vanilla\"", |v| match v.as_str()? {
            "cuda" => Some(Layout::Cuda),
            "vanilla" => Some(Layout::Vanilla),
            _ => None,
        })?;
        let kind = "\"powerlaw_blockdependent\", \"small_init\", \"zeros\" or \"standard\"";
        let bias = layer.of_kind("bias_init", kind, |v| match v.as_str()? {
            "powerlaw_blockdependent" => Some(BiasStart::PowerLaw),
            "small_init" => Some(BiasStart::Small),
            "zeros" => Some(BiasStart::Zeros),
            "standard" => Some(BiasStart::Standard),
            _ => None,
        })?;
        let recurrent = layer.of_kind("recurrent_weight_init", "\"zeros\" or \"standard\"", |v| {
            ["zeros", "standard"].iter().position(|name| v.as_str() == Some(name)).map(|which| which == 1)
        })?;
        let mlp = block.object("feedforward")?;
        Ok(Self {
            layout: layout.unwrap_or(Layout::Cuda),
            bias: bias.unwrap_or(BiasStart::PowerLaw),
            recurrent: recurrent.unwrap_or(false),
            dropout: probability(&mlp, "dropout", 0.0)?,
        })
    }

    /// Biases of all gates as they are stored, for block `index` of `blocks`.
    fn biases(&self, width: usize, heads: usize, index: usize, blocks: usize) -> Init {
        let unit = width / heads;
        let forget = match self.bias {
            BiasStart::PowerLaw => power_law(unit, index, blocks),
            BiasStart::Small => evenly(3.0, 6.0, unit),
            BiasStart::Zeros => vec![0.0; unit],
            BiasStart::Standard => return Init::Uniform(standard(width)),
        };
        let gates = |heads: usize| {
            let zeros = |count: usize| vec![0.0; count * heads * unit];
            [zeros(1), forget.repeat(heads), zeros(2)].concat()
        };
        Init::Values(match self.layout {
            Layout::Vanilla => gates(heads),
            Layout::Cuda => gates(1).repeat(heads),
        })
    }
}

fn standard(width: usize) -> f32 {
    (1.0 / (width as f64).sqrt()) as f32
}

/// `5 − 12 r^(0.3 + 1.3 l / (L − 1))` with `r` from 0 to 1 over the cells of a head.
fn power_law(unit: usize, index: usize, blocks: usize) -> Vec<f32> {
    let ratio = |i: usize, count: usize| if count > 1 { i as f64 / (count - 1) as f64 } else { 0.0 };
    let exponent = 0.3 + 1.3 * ratio(index, blocks);
    (0..unit).map(|j| (5.0 - 12.0 * ratio(j, unit).powf(exponent)) as f32).collect()
}

/// An sLSTM block.
pub(super) struct ScalarBlock {
    width: usize,
    norm: HeadNorm,
    convolution: Option<Convolution>,
    /// From the input to the gates.
    gates: [Parameter; GATES],
    recurrence: Recurrence,
    head_norm: HeadNorm,
    mlp: Option<GatedMlp>,
    dropout: f32,
}

struct GatedMlp {
    norm: HeadNorm,
    up: Linear,
    activation: Activation,
    down: Linear,
    dropout: f32,
}

impl ScalarBlock {
    pub(super) fn declare(
        declare: &mut Declare<'_>,
        layer: &Scalar,
        recipe: &Recipe,
        dropout: f32,
        index: usize,
    ) -> Self {
        let block = format!("xlstm_block_stack.blocks.{index}");
        let named = |part: &str| format!("{block}.xlstm.{part}");
        let (width, heads) = (declare.config.width, layer.heads);
        let (unit, small) = (width / heads, declare.small());
        let norm = declare.norm(&format!("{block}.xlstm_norm"), width, 1);
        let convolution = layer.taps.map(|taps| declare.convolution(&named("conv1d.conv"), width, taps));
        // The package hands what it calls fgate to the cell as the input gate, and igate as the forget gate.
        let gates = ["fgate", "igate", "zgate", "ogate"].map(|gate| {
            let name = named(&format!("{gate}.weight"));
            declare.parameters.matrix(name, &[heads, unit, unit], small.clone())
        });
        let head_norm = match layer.norm_weight {
            true => declare.norm(&named("group_norm"), width, heads),
            false => HeadNorm { heads, weight: None, beyond_one: true, bias: None, eps: EPS },
        };
        Self {
            width,
            norm,
            convolution,
            gates,
            recurrence: recurrence(declare, &named("slstm_cell"), heads, recipe, index),
            head_norm,
            mlp: layer.mlp.as_ref().map(|mlp| GatedMlp::declare(declare, mlp, recipe.dropout, &block)),
            dropout,
        }
    }

    pub(super) fn apply(&self, tape: &mut Tape<'_>, h: Value) -> Value {
        let x = head_norm(tape, h, self.norm);
        let selected = self.convolution.as_ref().map_or(x, |short| convolution(tape, x, short.clone()));
        let [convolved, plain] = [selected, x].map(|value| Columns::all(tape, value));
        let size = self.width / self.recurrence.heads;
        let part = |(x, weight)| Part { x, weight, bias: None, size };
        let inputs = [convolved, convolved, plain, plain];
        let parts: Vec<Part> = inputs.into_iter().zip(self.gates).map(part).collect();
        let gates = block_diagonal(tape, &parts);
        let y = slstm(tape, gates, self.recurrence);
        let y = dropout(tape, y, self.dropout);
        let y = head_norm(tape, y, self.head_norm);
        let h = add(tape, h, y);
        self.mlp.as_ref().map_or(h, |mlp| mlp.apply(tape, h))
    }

    /// Floating-point operations of one token.
    pub(super) fn flops(&self) -> usize {
        let taps = self.convolution.as_ref().map_or(0, |short| short.taps);
        let gates = 2 * GATES * self.width / self.recurrence.heads;
        let mlp = self.mlp.as_ref().map_or(0, |mlp| 3 * mlp.down.inputs);
        2 * self.width * (taps + gates + mlp)
    }
}

fn recurrence(
    declare: &mut Declare<'_>,
    name: &str,
    heads: usize,
    recipe: &Recipe,
    index: usize,
) -> Recurrence {
    let (width, blocks) = (declare.config.width, declare.config.blocks);
    let unit = width / heads;
    let shape = match recipe.layout {
        Layout::Vanilla => [heads, GATES * unit, unit],
        Layout::Cuda => [heads, unit, GATES * unit],
    };
    let init = if recipe.recurrent { Init::Uniform(standard(width)) } else { Init::Constant(0.0) };
    // Neither has `weight` in its name, by which the package decides on decay.
    let kernel = declare.parameters.vector(format!("{name}._recurrent_kernel_"), &shape, init);
    let biases = recipe.biases(width, heads, index, blocks);
    let bias = declare.parameters.vector(format!("{name}._bias_"), &[GATES * width], biases);
    Recurrence { kernel, bias, heads, layout: recipe.layout }
}

impl GatedMlp {
    fn declare(declare: &mut Declare<'_>, mlp: &Mlp, dropout: f32, block: &str) -> Self {
        let (width, small, down) = (declare.config.width, declare.small(), declare.down());
        let named = |part: &str| format!("{block}.ffn.{part}");
        Self {
            norm: declare.norm(&format!("{block}.ffn_norm"), width, 1),
            up: declare.linear(&named("proj_up"), [2 * mlp.inner, width], mlp.bias, small),
            activation: mlp.activation,
            down: declare.linear(&named("proj_down"), [width, mlp.inner], mlp.bias, down),
            dropout,
        }
    }

    fn apply(&self, tape: &mut Tape<'_>, h: Value) -> Value {
        let x = head_norm(tape, h, self.norm);
        let x = linear(tape, x, self.up);
        let x = gated(tape, x, self.activation);
        branch(tape, h, x, self.down, self.dropout)
    }
}
