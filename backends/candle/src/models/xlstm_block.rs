//! xLSTM as its authors' package has it: residual blocks of mLSTM and sLSTM with short convolutions (architectures.md 7).
//!
//! `config.json` is the package's own configuration (`xLSTMLMModelConfig`) with a `model_type` beside it:
//!
//! ```text
//! { "model_type": "xlstm", "vocab_size": 50304, "embedding_dim": 768, "num_blocks": 12, "slstm_at": [1],
//!   "mlstm_block": { "mlstm": { "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4, "num_heads": 4 } },
//!   "slstm_block": { "slstm": { "num_heads": 4, "conv1d_kernel_size": 4 },
//!                    "feedforward": { "proj_factor": 1.3, "act_fn": "gelu" } } }
//! ```
//! Keys that are left out have the package's defaults; those of training (`dropout`, `context_length`, `bias_init`, ...) are
//! not read. Each norm's factor is 1 plus what is stored. The recurrent kernel tells by its shape whether the package's
//! vanilla or its CUDA backend wrote it.

use std::path::Path;

use bheval_abi::Failure;
use rayon::prelude::*;

use super::hgrn2_forest::embed;
use super::xlstm_config::Config;
use super::xlstm_mlstm::MatrixBlock;
use super::xlstm_slstm::ScalarBlock;
use crate::body::Body;
use crate::config_file;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::elementwise::layer_norm;
use crate::keys::Keys;
use crate::loader::Loader;
use crate::ops::forest::Walk;
use crate::ops::levels::Levels;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::floats;

/// ε of every norm of the package.
const EPS: f64 = 1e-5;

/// Whether a configuration is that of this design.
#[must_use]
pub fn is_block_design(keys: &Keys<'_>) -> bool {
    ["mlstm_block", "slstm_block", "slstm_at"].iter().any(|key| keys.get(key).is_some())
}

/// An xLSTM of the authors' package, packed.
pub struct XlstmBlock {
    width: usize,
    embeddings: Vec<f32>,
    blocks: Vec<Block>,
    norm: Option<Norm>,
    head: Head,
}

enum Block {
    Matrix(MatrixBlock),
    Scalar(ScalarBlock),
}

/// A LayerNorm without a bias.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    /// Reads `{name}.weight`, which holds what the factor exceeds 1 by.
    pub(super) fn load(loader: &mut Loader, name: &str, width: usize) -> Result<Self, Failure> {
        let weight = loader.values(&format!("{name}.weight"), &[width])?;
        Ok(Self { weight: weight.iter().map(|w| 1.0 + w).collect(), bias: vec![0.0; width] })
    }

    /// A norm whose factor is 1.
    pub(super) fn plain(width: usize) -> Self {
        Self { weight: vec![1.0; width], bias: vec![0.0; width] }
    }

    /// Norms whole rows.
    pub(super) fn apply(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        layer_norm(isa, x, &self.weight, &self.bias, EPS, y);
    }

    /// Norms one head of what cells wrote, `h [M, size]`, into its channels of the rows `y`; `x` is room as large as `h`.
    pub(super) fn apply_head(
        &self,
        isa: Isa,
        head: usize,
        h: &[f32],
        size: usize,
        x: &mut [f32],
        y: &mut [f32],
    ) {
        let at = head * size..(head + 1) * size;
        layer_norm(isa, h, &self.weight[at.clone()], &self.bias[at.clone()], EPS, x);
        for (x, y) in x.chunks_exact(size).zip(y.chunks_exact_mut(self.weight.len())) {
            y[at.clone()].copy_from_slice(x);
        }
    }
}

/// Activations of a call; what each holds is the block's affair.
#[derive(Default)]
pub struct Space {
    /// Before the convolution.
    pub(super) raw: Vec<f32>,
    /// After it.
    pub(super) convolved: Vec<f32>,
    pub(super) z: Vec<f32>,
    pub(super) qkv: Vec<f32>,
    pub(super) gates: Vec<f32>,
    /// Head by head.
    pub(super) read: Vec<f32>,
    /// As `read`, in the order of levels.
    pub(super) by_level: Vec<f32>,
}

/// Room of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) a: Vec<f32>,
    pub(super) b: Vec<f32>,
    pub(super) c: Vec<f32>,
}

impl XlstmBlock {
    /// Loads the model at `path`; also the number of its weights.
    ///
    /// # Errors
    /// What is missing, of the wrong shape or not supported.
    pub fn load(path: &Path) -> Result<(Self, u64), Failure> {
        let file = config_file(path);
        let config = Config::read(&Keys::read(&file)?)?;
        let mut loader = Loader::open(path)?;
        let embeddings = loader.tensor("token_embedding.weight", &[config.vocab, config.width])?;
        let blocks = (0..config.blocks).map(|l| block(&mut loader, &config, l));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let post = "xlstm_block_stack.post_blocks_norm";
        let norm = config.post_norm.then(|| Norm::load(&mut loader, post, config.width)).transpose()?;
        let tied = (config.tied, "tie_weights");
        let head = loader.head("lm_head.weight", embeddings.dims(), &embeddings, tied)?;
        let head = Head::new(config.width, &head);
        let (embeddings, parameters) = (floats(&embeddings)?, loader.finish()?);
        Ok((Self { width: config.width, embeddings, blocks, norm, head }, parameters))
    }
}

fn block(loader: &mut Loader, config: &Config, index: usize) -> Result<Block, Failure> {
    let name = format!("xlstm_block_stack.blocks.{index}");
    Ok(match (&config.matrix, &config.scalar) {
        (Some(matrix), _) if !config.is_scalar(index) => {
            Block::Matrix(MatrixBlock::load(loader, config, matrix, &name)?)
        }
        (_, Some(scalar)) => Block::Scalar(ScalarBlock::load(loader, config, scalar, &name)?),
        // `Config::read` refuses blocks of a kind that is not described.
        (matrix, scalar) => unreachable!("block {index} of {matrix:?} and {scalar:?}"),
    })
}

impl Body for XlstmBlock {
    type Space = Space;

    fn width(&self) -> usize {
        self.width
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        // Buffers are shared between the kinds of blocks, each as large as the larger one needs it.
        let bytes = |block: &Block| match block {
            Block::Matrix(block) => block.row_bytes(),
            Block::Scalar(block) => block.row_bytes(),
        };
        let matrix = self.blocks.iter().filter(|b| matches!(b, Block::Matrix(_))).map(bytes).max();
        let scalar = self.blocks.iter().filter(|b| matches!(b, Block::Scalar(_))).map(bytes).max();
        // Levels take some more.
        matrix.unwrap_or(0) + scalar.unwrap_or(0) + 16
    }

    fn thread_bytes(&self) -> u64 {
        let bytes = |block: &Block| match block {
            Block::Matrix(block) => block.thread_bytes(),
            Block::Scalar(block) => block.thread_bytes(),
        };
        self.blocks.iter().map(bytes).max().unwrap_or(0) + 4 * (BLOCK_ROWS * self.width) as u64
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        match &self.norm {
            Some(norm) => norm.apply(isa, h, x),
            None => x.copy_from_slice(h),
        }
    }
}

impl Network for XlstmBlock {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let levels = Levels::new(walk);
        embed(&self.embeddings, tokens, h);
        for block in &self.blocks {
            match block {
                Block::Matrix(block) => block.run(isa, walk, space, h),
                Block::Scalar(block) => block.run(isa, walk, &levels, space, h),
            }
        }
    }
}

/// The norm of each row of `h [rows, D]`, in parallel.
pub(super) fn norm_rows(isa: Isa, norm: &Norm, h: &[f32], x: &mut [f32]) {
    let size = BLOCK_ROWS * norm.weight.len();
    h.par_chunks(size).zip(x.par_chunks_mut(size)).for_each(|(h, x)| norm.apply(isa, h, x));
}
