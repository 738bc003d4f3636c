//! xLSTM as transformers has it: `xLSTMForCausalLM`, the design of xLSTM-7B. The authors' package has another design under
//! the same name: `xlstm_block`.
//!
//! ```text
//! h += W_out ( HeadNorm(cell(q, k, v, cap(i), cap(f))) ⊙ σ(o) ),  all of them projections of RMSNorm(h)
//! h += W_down ( silu(W_gate u) ⊙ W_up u ),  u = RMSNorm(h);  logits = cap(W · RMSNorm(h))
//! ```
//! A model starts as in `xLSTMPreTrainedModel._init_weights` of transformers 4.57: matrices and embeddings normal with
//! `sqrt(2 / (5 D))`, projections back to the residual with `2 / (blocks · sqrt(inputs))`, for the cells' with `D` in place
//! of the inputs; every matrix with `gate` in its name 0, the MLP's and the output gate's among them; biases 0, but −10 of
//! input gates and from 3 to 6 over the heads of forget gates. For `"weight_mode": "fused"`, where that code fails, the
//! joined matrices start as their parts would.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::xlstm::Config;
use bheval_candle::models::xlstm_block::is_block_design;
use bheval_kernels::activation::Activation;

use super::transformer::check_depth;
use super::{Network, xlstm_block};
use crate::loss::Head;
use crate::ops::activation::gated;
use crate::ops::add::add_bias;
use crate::ops::embedding::embedding;
use crate::ops::head_norm::{HeadNorm, head_norm};
use crate::ops::joined::joined;
use crate::ops::linear::{Layout, Linear, linear_residual};
use crate::ops::mlstm::{Cells, Inputs, mlstm};
use crate::ops::output_gate::{Gate, output_gate};
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::ops::selection::Columns;
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Chunk length that floating-point operations are counted for, as for other recurrences (architectures.md 1.10).
const COUNTED_CHUNK: usize = 64;

/// Declares the model that the configuration describes, of either design.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    if is_block_design(keys) {
        return xlstm_block::build(keys, parameters);
    }
    let config = Config::read(keys)?;
    check_depth(keys, config.blocks)?;
    let (width, vocab, small) = (config.width, config.vocab, Init::Normal(small_deviation(config.width)));
    let table = parameters.matrix("backbone.embeddings.weight", &[vocab, width], small.clone());
    let blocks =
        (0..config.blocks).map(|l| Declare { parameters, config: &config, block: l }.block()).collect();
    let weight = parameters.vector("backbone.out_norm.weight", &[width], Init::Constant(1.0));
    let norm = RmsNorm { weight: Some(weight), eps: config.norm_eps };
    let weight = match config.tied {
        true => table,
        false => parameters.matrix("lm_head.weight", &[vocab, width], small),
    };
    let head = Head { weight, bias: None, soft_cap: config.output_logit_soft_cap, vocab, width };
    Ok(Box::new(Model { config, table, blocks, norm, head }))
}

/// `sqrt(2 / (5 D))`: the small start of Nguyen and Salazar (2019).
pub(super) fn small_deviation(width: usize) -> f32 {
    (2.0 / (5.0 * width as f64)).sqrt() as f32
}

/// `2 / (blocks · sqrt(D))`, of projections back to the residual.
pub(super) fn wang_deviation(width: usize, blocks: usize) -> f32 {
    (2.0 / blocks as f64 / (width as f64).sqrt()) as f32
}

/// `count` numbers from one to the other at equal distances, as `torch.linspace`.
pub(super) fn evenly(first: f64, last: f64, count: usize) -> Vec<f32> {
    let step = if count > 1 { (last - first) / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| (first + step * i as f64) as f32).collect()
}

/// Floating-point operations of one token in cells of these sizes.
pub(super) fn cell_flops(heads: usize, keys: usize, values: usize) -> usize {
    heads * (2 * COUNTED_CHUNK * (keys + values) + 4 * keys * values)
}

/// An RMS norm with or without a bias.
struct Norm {
    norm: RmsNorm,
    bias: Option<Parameter>,
}

impl Norm {
    fn apply(&self, tape: &mut Tape<'_>, x: Value) -> Value {
        let x = rms_norm(tape, x, self.norm);
        self.bias.map_or(x, |bias| add_bias(tape, x, bias))
    }
}

struct Block {
    norm: Norm,
    /// To queries, keys, values and output gates, side by side.
    qkvo: Vec<Linear>,
    /// To input gates, then forget gates.
    gates: Vec<Linear>,
    cells: Cells,
    head_norm: HeadNorm,
    out: Linear,
    mlp_norm: Norm,
    gate_up: Vec<Linear>,
    down: Linear,
}

/// Declares the tensors of a block.
struct Declare<'a> {
    parameters: &'a mut Parameters,
    config: &'a Config,
    block: usize,
}

impl Declare<'_> {
    fn name(&self, part: &str) -> String {
        format!("backbone.blocks.{}.{part}", self.block)
    }

    /// `{part}.bias`, where the model has biases.
    fn bias(&mut self, part: &str, len: usize) -> Option<Parameter> {
        let name = self.name(&format!("{part}.bias"));
        self.config.bias.then(|| self.parameters.vector(name, &[len], Init::Constant(0.0)))
    }

    fn norm(&mut self, part: &str) -> Norm {
        let name = self.name(&format!("{part}.weight"));
        let weight = self.parameters.vector(name, &[self.config.width], Init::Constant(1.0));
        let norm = RmsNorm { weight: Some(weight), eps: self.config.norm_eps };
        Norm { norm, bias: self.bias(part, self.config.width) }
    }

    fn linear(&mut self, part: &str, inputs: usize, outputs: usize, init: Init) -> Linear {
        let name = self.name(&format!("{part}.weight"));
        let weight = self.parameters.matrix(name, &[outputs, inputs], init);
        Linear { weight, bias: self.bias(part, outputs), inputs, outputs, layout: Layout::OutIn }
    }

    /// Projections of one input, stored apart or as one: `(name, outputs, start)` of each.
    fn projections(&mut self, fused: &str, parts: &[(&str, usize, Init)]) -> Vec<Linear> {
        let width = self.config.width;
        if !self.config.fused {
            return parts.iter().map(|(part, n, init)| self.linear(part, width, *n, init.clone())).collect();
        }
        let init = parts.iter().map(|(_, n, init)| (n * width, init.clone())).collect();
        let outputs = parts.iter().map(|(_, n, _)| n).sum();
        vec![self.linear(fused, width, outputs, Init::Parts(init))]
    }

    /// The gates' projections, which always have biases.
    fn gates(&mut self) -> Vec<Linear> {
        let heads = self.config.heads;
        let (input, forget) = (vec![-10.0; heads], evenly(3.0, 6.0, heads));
        match self.config.fused {
            true => vec![self.gate("ifgate_preact", [input, forget].concat())],
            false => vec![self.gate("igate_preact", input), self.gate("fgate_preact", forget)],
        }
    }

    fn gate(&mut self, part: &str, bias: Vec<f32>) -> Linear {
        let (inputs, outputs) = (self.config.width, bias.len());
        let name = self.name(&format!("mlstm_layer.{part}"));
        let weight =
            self.parameters.matrix(format!("{name}.weight"), &[outputs, inputs], Init::Constant(0.0));
        let bias = self.parameters.vector(format!("{name}.bias"), &[outputs], Init::Values(bias));
        Linear { weight, bias: Some(bias), inputs, outputs, layout: Layout::OutIn }
    }

    fn block(&mut self) -> Block {
        let config = self.config;
        let (width, keys, values, inner) = (config.width, config.keys(), config.values(), config.inner);
        let (small, zero) = (Init::Normal(small_deviation(width)), Init::Constant(0.0));
        let norm = self.norm("norm_mlstm");
        let qkvo = [
            ("mlstm_layer.q", keys, small.clone()),
            ("mlstm_layer.k", keys, small.clone()),
            ("mlstm_layer.v", values, small.clone()),
            ("mlstm_layer.ogate_preact", values, zero.clone()),
        ];
        let qkvo = self.projections("mlstm_layer.qkv_opreact", &qkvo);
        let gates = self.gates();
        let name = self.name("mlstm_layer.multihead_norm.weight");
        let weight = Some(self.parameters.vector(name, &[values], Init::Constant(1.0)));
        let bias = self.bias("mlstm_layer.multihead_norm", values);
        let head_norm =
            HeadNorm { heads: config.heads, weight, beyond_one: false, bias, eps: config.norm_eps };
        let down = |inputs| Init::Normal(wang_deviation(inputs, config.blocks));
        let out = self.linear("mlstm_layer.out_proj", values, width, down(width));
        let mlp_norm = self.norm("norm_ffn");
        let gate_up = [("ffn.proj_up_gate", inner, zero), ("ffn.proj_up", inner, small)];
        let gate_up = self.projections("ffn.proj_up_gate_z", &gate_up);
        let down = self.linear("ffn.proj_down", inner, width, down(inner));
        let cells =
            Cells { heads: config.heads, eps: config.eps, start: 0.0, gate_cap: config.gate_soft_cap };
        Block { norm, qkvo, gates, cells, head_norm, out, mlp_norm, gate_up, down }
    }
}

struct Model {
    config: Config,
    table: Parameter,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Head,
}

impl Model {
    /// `h + W_out ( HeadNorm(cell(...)) ⊙ σ(o) )`
    fn mixer(&self, tape: &mut Tape<'_>, block: &Block, h: Value) -> Value {
        let (keys, values) = (self.config.keys(), self.config.values());
        let x = block.norm.apply(tape, h);
        let qkvo = joined(tape, x, &block.qkvo);
        let gates = joined(tape, x, &block.gates);
        let part = |first, width| Columns { value: qkvo, first, width };
        let (q, k, v) = (part(0, keys), part(keys, keys), part(2 * keys, values));
        let gate = |which| Columns::share(tape, gates, 2, which);
        let inputs = Inputs { q, k, v, input: gate(0), forget: gate(1) };
        let y = mlstm(tape, inputs, block.cells);
        let y = head_norm(tape, y, block.head_norm);
        let y = output_gate(tape, y, None, part(2 * keys + values, values), Gate::Sigmoid);
        linear_residual(tape, h, y, block.out)
    }
}

impl Network for Model {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let mut h = embedding(tape, self.table, self.config.width, tokens, 1.0);
        for block in &self.blocks {
            h = self.mixer(tape, block, h);
            let x = block.mlp_norm.apply(tape, h);
            let x = joined(tape, x, &block.gate_up);
            let x = gated(tape, x, Activation::Silu);
            h = linear_residual(tape, h, x, block.down);
        }
        rms_norm(tape, h, self.norm)
    }

    fn head(&self) -> Head {
        self.head
    }

    fn context(&self) -> usize {
        0
    }

    fn forward_flops(&self, _: usize) -> f64 {
        let c = &self.config;
        let projections = 2 * c.width * (c.projected() + 2 * c.heads + c.values() + 3 * c.inner);
        let block = projections + cell_flops(c.heads, c.head_keys, c.head_values);
        (self.blocks.len() * block + 2 * c.vocab * c.width) as f64
    }
}
