//! The transformer that all its architectures are: an embedding, blocks of attention and MLP, and what comes before the
//! head. An architecture's file declares its tensors.

use std::sync::Arc;

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::layers::rope::Frequencies;
pub(super) use bheval_candle::layers::transformer::Arrangement;
use bheval_candle::ops::attention::Heads;
use bheval_kernels::activation::Activation;

use super::Network;
use crate::loss::Head;
use crate::ops::activation::{activation, gated};
use crate::ops::add::add;
use crate::ops::attention::{Attention, Layout, attention};
use crate::ops::dropout::dropout;
use crate::ops::embedding::embedding;
use crate::ops::joined::joined;
use crate::ops::layer_norm::{LayerNorm, layer_norm};
use crate::ops::linear::{Layout as Stored, Linear, linear, linear_residual};
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::ops::rotary::Rotary;
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Blocks, at most: no list is made as long as a file asks for.
const DEEPEST: usize = 1 << 14;

/// A norm of either kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    /// `{name}.weight`, all 1.
    pub(super) fn rms(parameters: &mut Parameters, name: &str, width: usize, eps: f64) -> Self {
        let weight = parameters.vector(format!("{name}.weight"), &[width], Init::Constant(1.0));
        Self::Rms(RmsNorm { weight: Some(weight), eps })
    }

    /// `{name}.weight`, all 1, and `{name}.bias`, all 0.
    pub(super) fn layer(parameters: &mut Parameters, name: &str, width: usize, eps: f64) -> Self {
        let weight = parameters.vector(format!("{name}.weight"), &[width], Init::Constant(1.0));
        let bias = parameters.vector(format!("{name}.bias"), &[width], Init::Constant(0.0));
        Self::Layer(LayerNorm { weight: Some(weight), bias: Some(bias), eps })
    }

    fn apply(self, tape: &mut Tape<'_>, x: Value) -> Value {
        match self {
            Self::Rms(norm) => rms_norm(tape, x, norm),
            Self::Layer(norm) => layer_norm(tape, x, norm),
        }
    }
}

/// `{name}.weight [outputs, inputs]`, normal with `deviation`, and `{name}.bias`, all 0, where there is one.
pub(super) fn declare(
    parameters: &mut Parameters,
    name: &str,
    (outputs, inputs): (usize, usize),
    bias: bool,
    deviation: f32,
) -> Linear {
    let weight = parameters.matrix(format!("{name}.weight"), &[outputs, inputs], Init::Normal(deviation));
    let zeros = |parameters: &mut Parameters| {
        parameters.vector(format!("{name}.bias"), &[outputs], Init::Constant(0.0))
    };
    let bias = bias.then(|| zeros(parameters));
    Linear { weight, bias, inputs, outputs, layout: Stored::OutIn }
}

/// Refuses more blocks than any model has.
///
/// # Errors
/// More than 16,384.
pub(super) fn check_depth(keys: &Keys<'_>, layers: usize) -> Result<(), Failure> {
    if layers > DEEPEST {
        return Err(keys.wrong(&format!("{layers} layers are beyond any model's ({DEEPEST})")));
    }
    Ok(())
}

/// From tokens to what enters the first block: `drop( project(E[token]) + P[position + offset] )`.
#[derive(Debug)]
pub(super) struct Embedding {
    /// `E [vocab, width]`
    pub(super) tokens: Parameter,
    /// Columns of `E`.
    pub(super) width: usize,
    /// To the width of the model, where `E` is narrower.
    pub(super) project: Option<Linear>,
    /// Learned positions and the row of the first one.
    pub(super) positions: Option<(Parameter, usize)>,
    /// Probability with which a value is dropped.
    pub(super) dropout: f32,
}

impl Embedding {
    /// Of tokens alone.
    pub(super) fn of_tokens(tokens: Parameter, width: usize) -> Self {
        Self { tokens, width, project: None, positions: None, dropout: 0.0 }
    }

    fn apply(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let mut h = embedding(tape, self.tokens, self.width, tokens, 1.0);
        if let Some(project) = self.project {
            h = linear(tape, h, project);
        }
        if let Some((table, first)) = self.positions {
            let (steps, width) = (tape.setting.steps as u32, tape.width(h));
            let rows: Vec<u32> = (0..tokens.len() as u32).map(|row| first as u32 + row % steps).collect();
            let positions = embedding(tape, table, width, &rows, 1.0);
            h = add(tape, h, positions);
        }
        dropout(tape, h, self.dropout)
    }
}

/// What makes queries, keys and values.
#[derive(Debug)]
pub(super) enum Projection {
    /// One layer; its outputs lie as [`Layout`] says.
    One(Linear, Layout),
    /// One layer each.
    Three([Linear; 3]),
}

/// The MLP.
#[derive(Debug)]
pub(super) enum Mlp {
    /// `down( f(gate x) ⊙ up x )`
    Gated([Linear; 2], Activation, Linear),
    /// `down( f(up x) )`
    Plain(Linear, Activation, Linear),
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) attention_norm: Norm,
    pub(super) qkv: Projection,
    /// What products of queries and keys are multiplied with.
    pub(super) scale: f32,
    pub(super) out: Linear,
    pub(super) mlp_norm: Norm,
    pub(super) mlp: Mlp,
}

/// A transformer over declared tensors.
#[derive(Debug)]
pub(super) struct Transformer {
    pub(super) embedding: Embedding,
    pub(super) blocks: Vec<Block>,
    pub(super) arrangement: Arrangement,
    pub(super) heads: Heads,
    pub(super) rope: Option<Frequencies>,
    /// Probability with which a value is dropped of what a part adds to the residual.
    pub(super) dropout: f32,
    /// The same for the weights of attention.
    pub(super) attention_dropout: f32,
    /// Before the head.
    pub(super) norm: Option<Norm>,
    /// To the width of the embedding, where that is narrower.
    pub(super) project: Option<Linear>,
    pub(super) context: usize,
    pub(super) head: Head,
}

impl Network for Transformer {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let steps = tape.setting.steps;
        let rotary = self.rope.as_ref().map(|frequencies| Arc::new(Rotary::new(frequencies, steps)));
        let mut h = self.embedding.apply(tape, tokens);
        for block in &self.blocks {
            h = self.block(tape, block, rotary.as_ref(), h);
        }
        if let Some(norm) = self.norm {
            h = norm.apply(tape, h);
        }
        self.project.map_or(h, |project| linear(tape, h, project))
    }

    fn head(&self) -> Head {
        self.head
    }

    fn context(&self) -> usize {
        self.context
    }

    fn forward_flops(&self, steps: usize) -> f64 {
        let size = |layer: &Linear| (layer.inputs * layer.outputs) as f64;
        let block = |block: &Block| {
            let qkv = match &block.qkv {
                Projection::One(layer, _) => size(layer),
                Projection::Three(layers) => layers.iter().map(size).sum(),
            };
            let mlp = match &block.mlp {
                Mlp::Gated([gate, up], _, down) => size(gate) + size(up) + size(down),
                Mlp::Plain(up, _, down) => size(up) + size(down),
            };
            // Two products with the T / 2 tokens that a token sees on average.
            2.0 * (qkv + size(&block.out) + mlp) + 2.0 * (self.heads.queries() * steps) as f64
        };
        let around = self.embedding.project.iter().chain(&self.project).map(size).sum::<f64>();
        let head = (self.head.vocab * self.head.width) as f64;
        self.blocks.iter().map(block).sum::<f64>() + 2.0 * (around + head)
    }
}

impl Transformer {
    fn block(&self, tape: &mut Tape<'_>, block: &Block, rotary: Option<&Arc<Rotary>>, h: Value) -> Value {
        match self.arrangement {
            Arrangement::PreNorm => {
                let x = block.attention_norm.apply(tape, h);
                let h = self.attention(tape, block, rotary, x, h);
                let x = block.mlp_norm.apply(tape, h);
                self.mlp(tape, &block.mlp, x, h)
            }
            Arrangement::Parallel => {
                let x = block.attention_norm.apply(tape, h);
                let sum = self.attention(tape, block, rotary, x, h);
                let x = block.mlp_norm.apply(tape, h);
                self.mlp(tape, &block.mlp, x, sum)
            }
            Arrangement::PostNorm => {
                let sum = self.attention(tape, block, rotary, h, h);
                let h = block.attention_norm.apply(tape, sum);
                let sum = self.mlp(tape, &block.mlp, h, h);
                block.mlp_norm.apply(tape, sum)
            }
        }
    }

    /// `h + attention(x)`
    fn attention(
        &self,
        tape: &mut Tape<'_>,
        block: &Block,
        rotary: Option<&Arc<Rotary>>,
        x: Value,
        h: Value,
    ) -> Value {
        let (qkv, layout) = match &block.qkv {
            Projection::One(layer, layout) => (linear(tape, x, *layer), *layout),
            Projection::Three(layers) => (joined(tape, x, layers), Layout::Parts),
        };
        let kind = Attention {
            heads: self.heads,
            layout,
            scale: block.scale,
            rotary: rotary.cloned(),
            dropout: self.attention_dropout,
        };
        let o = attention(tape, qkv, kind);
        self.add_to(tape, h, o, block.out)
    }

    /// `h + mlp(x)`
    fn mlp(&self, tape: &mut Tape<'_>, mlp: &Mlp, x: Value, h: Value) -> Value {
        let (inner, down) = match mlp {
            Mlp::Gated(gate_up, f, down) => {
                let x = joined(tape, x, gate_up);
                (gated(tape, x, *f), down)
            }
            Mlp::Plain(up, f, down) => {
                let x = linear(tape, x, *up);
                (activation(tape, x, *f), down)
            }
        };
        self.add_to(tape, h, inner, *down)
    }

    /// `h + drop(layer(x))`
    fn add_to(&self, tape: &mut Tape<'_>, h: Value, x: Value, layer: Linear) -> Value {
        if tape.setting.dropout.is_none() || self.dropout == 0.0 {
            return linear_residual(tape, h, x, layer);
        }
        let y = linear(tape, x, layer);
        let y = dropout(tape, y, self.dropout);
        add(tape, h, y)
    }
}
