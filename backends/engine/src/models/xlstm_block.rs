//! xLSTM as its authors' package has it: residual blocks of mLSTM and sLSTM with short convolutions (architectures.md 7).
//!
//! `config.json` is the package's own configuration, as for scoring. Of the keys that only training reads these are
//! honoured: `dropout`, `add_embedding_dropout`, `weight_decay_on_embedding`, `context_length`, the MLP's `dropout`, and the
//! sLSTM's `bias_init`, `recurrent_weight_init` and `backend`, which says how its recurrence is stored. A model starts as
//! after `xLSTMLMModel.reset_parameters()` of the package (architectures.md 7.3); weight decay applies to what the package
//! gives it: tensors with `weight` and without `norm` in their names, but not to the embedding unless that is asked for.

mod mlstm;
mod slstm;

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::xlstm_config::Config;

use self::mlstm::MatrixBlock;
use self::slstm::ScalarBlock;
use super::Network;
use super::recipe::dropout as probability;
use super::transformer::check_depth;
use super::xlstm::{small_deviation, wang_deviation};
use crate::loss::Head;
use crate::ops::add::add;
use crate::ops::convolution::{Convolution, Part};
use crate::ops::dropout::dropout;
use crate::ops::embedding::embedding;
use crate::ops::head_norm::{HeadNorm, head_norm};
use crate::ops::linear::{Layout, Linear, linear, linear_residual};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// ε of every norm of the package.
const EPS: f64 = 1e-5;

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let config = Config::read(keys)?;
    check_depth(keys, config.blocks)?;
    let recipe = Recipe::read(keys)?;
    let small = Init::Normal(small_deviation(config.width));
    let (shape, name) = ([config.vocab, config.width], "token_embedding.weight");
    let table = match recipe.decay_embedding {
        true => parameters.matrix(name, &shape, small.clone()),
        false => parameters.vector(name, &shape, small.clone()),
    };
    let slstm = slstm::Recipe::read(keys)?;
    let mut declare = Declare { parameters, config: &config };
    let blocks = (0..config.blocks).map(|l| block(&mut declare, &recipe, &slstm, l)).collect();
    let post = "xlstm_block_stack.post_blocks_norm";
    let norm = config.post_norm.then(|| declare.norm(post, config.width, 1));
    let weight = match config.tied {
        true => table,
        false => parameters.matrix("lm_head.weight", &shape, small),
    };
    let head = Head { weight, bias: None, soft_cap: None, vocab: config.vocab, width: config.width };
    Ok(Box::new(Model { recipe, table, blocks, norm, head }))
}

fn block(declare: &mut Declare<'_>, recipe: &Recipe, slstm: &slstm::Recipe, index: usize) -> Block {
    let config = declare.config;
    match (&config.matrix, &config.scalar) {
        (Some(matrix), _) if !config.is_scalar(index) => {
            Block::Matrix(MatrixBlock::declare(declare, matrix, recipe.dropout, index))
        }
        (_, Some(scalar)) => {
            Block::Scalar(ScalarBlock::declare(declare, scalar, slstm, recipe.dropout, index))
        }
        // `Config::read` refuses blocks of a kind that is not described.
        (matrix, scalar) => unreachable!("block {index} of {matrix:?} and {scalar:?}"),
    }
}

/// What only training reads.
struct Recipe {
    /// After each layer.
    dropout: f32,
    /// After the embedding.
    embedding_dropout: f32,
    decay_embedding: bool,
    /// Longest sequence that the package takes, or 0 where it is not said.
    context: usize,
}

impl Recipe {
    fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let dropout = probability(keys, "dropout", 0.0)?;
        let embedding = keys.switch("add_embedding_dropout", false)?;
        // The package's own default is -1.
        let context = |v: &serde_json::Value| match v.as_i64() {
            Some(-1) => Some(0),
            other => other.and_then(|n| usize::try_from(n).ok()).filter(|&n| n < 1 << 31),
        };
        let kind = "a whole number from 0 to 2^31 - 1, or -1 for none";
        Ok(Self {
            dropout,
            embedding_dropout: if embedding { dropout } else { 0.0 },
            decay_embedding: keys.switch("weight_decay_on_embedding", false)?,
            context: keys.of_kind("context_length", kind, context)?.unwrap_or(0),
        })
    }
}

/// Declares tensors.
struct Declare<'a> {
    parameters: &'a mut Parameters,
    config: &'a Config,
}

impl Declare<'_> {
    /// A norm whose factor is 1 plus its weight.
    fn norm(&mut self, name: &str, width: usize, heads: usize) -> HeadNorm {
        let weight = self.parameters.vector(format!("{name}.weight"), &[width], Init::Constant(0.0));
        HeadNorm { heads, weight: Some(weight), beyond_one: true, bias: None, eps: EPS }
    }

    fn linear(&mut self, name: &str, [outputs, inputs]: [usize; 2], bias: bool, init: Init) -> Linear {
        let weight = self.parameters.matrix(format!("{name}.weight"), &[outputs, inputs], init);
        let bias = bias.then(|| self.zeros(&format!("{name}.bias"), outputs));
        Linear { weight, bias, inputs, outputs, layout: Layout::OutIn }
    }

    fn zeros(&mut self, name: &str, len: usize) -> Parameter {
        self.parameters.vector(name, &[len], Init::Constant(0.0))
    }

    /// The small start.
    fn small(&self) -> Init {
        Init::Normal(small_deviation(self.config.width))
    }

    /// That of projections back to the residual.
    fn down(&self) -> Init {
        Init::Normal(wang_deviation(self.config.width, self.config.blocks))
    }

    /// A short convolution with bias and SiLU, which starts as `torch.nn.Conv1d` does.
    fn convolution(&mut self, name: &str, channels: usize, taps: usize) -> Convolution {
        let init = Init::Uniform((1.0 / (taps as f64).sqrt()) as f32);
        let weight = self.parameters.matrix(format!("{name}.weight"), &[channels, 1, taps], init.clone());
        let bias = Some(self.parameters.vector(format!("{name}.bias"), &[channels], init));
        Convolution { parts: vec![Part { weight, bias }], taps, first: 0, silu: true }
    }
}

/// `h + dropout(x Wᵀ + b)`
fn branch(tape: &mut Tape<'_>, h: Value, x: Value, layer: Linear, p: f32) -> Value {
    if p == 0.0 {
        return linear_residual(tape, h, x, layer);
    }
    let y = linear(tape, x, layer);
    let y = dropout(tape, y, p);
    add(tape, h, y)
}

enum Block {
    Matrix(MatrixBlock),
    Scalar(ScalarBlock),
}

struct Model {
    recipe: Recipe,
    table: Parameter,
    blocks: Vec<Block>,
    norm: Option<HeadNorm>,
    head: Head,
}

impl Network for Model {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let h = embedding(tape, self.table, self.head.width, tokens, 1.0);
        let mut h = dropout(tape, h, self.recipe.embedding_dropout);
        for block in &self.blocks {
            h = match block {
                Block::Matrix(block) => block.apply(tape, h),
                Block::Scalar(block) => block.apply(tape, h),
            };
        }
        self.norm.map_or(h, |norm| head_norm(tape, h, norm))
    }

    fn head(&self) -> Head {
        self.head
    }

    fn context(&self) -> usize {
        self.recipe.context
    }

    fn forward_flops(&self, _: usize) -> f64 {
        let flops = |block: &Block| match block {
            Block::Matrix(block) => block.flops(),
            Block::Scalar(block) => block.flops(),
        };
        (self.blocks.iter().map(flops).sum::<usize>() + 2 * self.head.vocab * self.head.width) as f64
    }
}
