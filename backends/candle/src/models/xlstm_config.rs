//! The configuration of the xLSTM package: what changes results, with the package's defaults.

use bheval_abi::Failure;
use serde_json::{Value, json};

use crate::kernels::activation::Activation;
use crate::keys::Keys;

/// A model's sizes and switches.
#[derive(Debug)]
pub struct Config {
    /// Tokens.
    pub vocab: usize,
    /// `D`
    pub width: usize,
    /// Blocks of either kind.
    pub blocks: usize,
    /// Blocks that are sLSTM; all of them where it is none.
    slstm_at: Option<Vec<usize>>,
    /// Whether the mLSTM's projections have biases.
    pub bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether a norm follows the last block.
    pub post_norm: bool,
    /// What mLSTM blocks are, where there may be some.
    pub matrix: Option<Matrix>,
    /// What sLSTM blocks are, likewise.
    pub scalar: Option<Scalar>,
}

/// An mLSTM block's.
#[derive(Debug)]
pub struct Matrix {
    /// Heads of the cells.
    pub heads: usize,
    /// Channels between the projections up and down.
    pub inner: usize,
    /// Taps of the convolution.
    pub taps: usize,
    /// Channels of a block of the projections to q, k and v.
    pub projected: usize,
}

/// An sLSTM block's.
#[derive(Debug)]
pub struct Scalar {
    /// Heads of the cells.
    pub heads: usize,
    /// Taps of the convolution, or none.
    pub taps: Option<usize>,
    /// Whether the norm of the cells' outputs has a weight.
    pub norm_weight: bool,
    /// The MLP that follows, if one does.
    pub mlp: Option<Mlp>,
}

/// The gated MLP of an sLSTM block.
#[derive(Debug)]
pub struct Mlp {
    /// Width of gate and branch.
    pub inner: usize,
    /// What the gate goes through.
    pub activation: Activation,
    /// Whether both projections have biases.
    pub bias: bool,
}

impl Config {
    /// Whether a block is sLSTM.
    #[must_use]
    pub fn is_scalar(&self, block: usize) -> bool {
        self.slstm_at.as_ref().is_none_or(|at| at.contains(&block))
    }

    /// Reads and checks the keys.
    ///
    /// # Errors
    /// What is missing, of the wrong kind or not supported.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let width = keys.required("embedding_dim")?;
        let blocks = keys.required("num_blocks")?;
        let described = |key: &str| keys.get(key).is_some();
        let matrix = described("mlstm_block").then(|| matrix(keys, width)).transpose()?;
        let scalar = described("slstm_block").then(|| scalar(keys, width)).transpose()?;
        // The package takes a missing `mlstm_block` for sLSTM everywhere.
        let slstm_at = if matrix.is_none() { None } else { slstm_at(keys, blocks)? };
        if scalar.is_none() && slstm_at.as_ref().is_none_or(|at| !at.is_empty()) {
            return Err(keys
                .wrong("`slstm_at` asks for sLSTM blocks, but there is no `slstm_block` to describe them"));
        }
        Ok(Self {
            vocab: keys.required("vocab_size")?,
            width,
            blocks,
            slstm_at,
            bias: keys.switch("bias", false)?,
            tied: keys.switch("tie_weights", false)?,
            post_norm: keys.switch("add_post_blocks_norm", true)?,
            matrix,
            scalar,
        })
    }
}

fn slstm_at(keys: &Keys<'_>, blocks: usize) -> Result<Option<Vec<usize>>, Failure> {
    let below = |v: &Value| v.as_u64().filter(|&l| l < blocks as u64).map(|l| l as usize);
    let places = |v: &Value| match v.as_str() {
        Some("all") => Some(None),
        _ => v.as_array()?.iter().map(below).collect::<Option<_>>().map(Some),
    };
    let kind = "\"all\" or a list of blocks below `num_blocks`";
    Ok(keys.of_kind("slstm_at", kind, places)?.unwrap_or_else(|| Some(vec![])))
}

fn matrix(keys: &Keys<'_>, width: usize) -> Result<Matrix, Failure> {
    let layer = keys.object("mlstm_block")?.object("mlstm")?;
    let inner = rounded(&layer, width, 2.0)?;
    let heads = layer.size("num_heads")?.unwrap_or(4);
    let blocks = inner / layer.size("qkv_proj_blocksize")?.unwrap_or(4);
    if blocks == 0 || !inner.is_multiple_of(blocks) {
        return Err(
            layer.wrong(&format!("`qkv_proj_blocksize` can't cut the inner width {inner} into blocks"))
        );
    }
    share(&layer, inner, heads)?;
    let taps = layer.size("conv1d_kernel_size")?.unwrap_or(4);
    Ok(Matrix { heads, inner, taps, projected: inner / blocks })
}

fn scalar(keys: &Keys<'_>, width: usize) -> Result<Scalar, Failure> {
    let block = keys.object("slstm_block")?;
    let layer = block.object("slstm")?;
    layer.only("function", &json!("slstm"))?;
    layer.only("num_gates", &json!(4))?;
    layer.only("initial_val", &json!(0.0))?;
    if let Some(clip) = layer.get("forward_clipval") {
        return Err(layer
            .unsupported(&format!("`forward_clipval` is {clip}, but clipped outputs are not implemented")));
    }
    let heads = layer.size("num_heads")?.unwrap_or(4);
    share(&layer, width, heads)?;
    let without = layer.get("conv1d_kernel_size") == Some(&json!(0));
    Ok(Scalar {
        heads,
        taps: if without { None } else { Some(layer.size("conv1d_kernel_size")?.unwrap_or(4)) },
        norm_weight: layer.switch("group_norm_weight", true)?,
        mlp: mlp(&block, width)?,
    })
}

/// The MLP: that of the defaults where it is not described, and none where it is null.
fn mlp(block: &Keys<'_>, width: usize) -> Result<Option<Mlp>, Failure> {
    if block.keys.get("feedforward").is_some_and(Value::is_null) {
        return Ok(None);
    }
    let mlp = block.object("feedforward")?;
    mlp.only("ff_type", &json!("ffn_gated"))?;
    let name = mlp.text("act_fn")?.unwrap_or_else(|| "gelu".to_owned());
    let activation =
        ["gelu", "relu", "swish"].contains(&name.as_str()).then(|| Activation::named(&name)).flatten();
    let Some(activation) = activation else {
        return Err(mlp.unsupported(&format!("`act_fn` is {name}; gelu, relu and swish are implemented")));
    };
    Ok(Some(Mlp { inner: rounded(&mlp, width, 1.3)?, activation, bias: mlp.switch("bias", false)? }))
}

fn share(keys: &Keys<'_>, channels: usize, heads: usize) -> Result<(), Failure> {
    if channels.is_multiple_of(heads) {
        return Ok(());
    }
    Err(keys.wrong(&format!("{channels} channels can't be shared out to `num_heads` {heads}")))
}

/// `proj_factor · D` to the next multiple, or the one below where the configuration says so.
fn rounded(keys: &Keys<'_>, width: usize, default: f64) -> Result<usize, Failure> {
    let factor = keys.number("proj_factor")?.unwrap_or(default);
    let multiple = keys.size("round_proj_up_to_multiple_of")?.unwrap_or(64);
    let multiples = factor * width as f64 / multiple as f64;
    let up = keys.switch("round_proj_up_dim_up", true)?;
    let size = (if up { multiples.ceil() } else { multiples.floor() } * multiple as f64) as usize;
    if (1..1 << 31).contains(&size) {
        return Ok(size);
    }
    Err(keys.wrong(&format!("`proj_factor` {factor} times the width {width} is no width from 1 to 2^31 - 1")))
}
