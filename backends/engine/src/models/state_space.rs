//! What Mamba and Mamba-2 have in common: embedding, last norm and head, and how their authors start the tensors.
//!
//! | tensor | transformers | original package |
//! | --- | --- | --- |
//! | embedding | normal, `initializer_range` (0.1) | normal, 0.02 |
//! | in_proj, x_proj, head | normal, `initializer_range` | PyTorch's: uniform up to inputs^-½ |
//! | out_proj | PyTorch's; over √layers with `rescale_prenorm_residual` | PyTorch's, over √layers |
//! | dt_proj | uniform up to `time_step_scale` rank^-½, or that constant | the same, by `dt_scale` and `dt_init` |
//! | conv1d | PyTorch's, its bias 0 | PyTorch's, bias too |
//!
//! Biases of projections start at 0. A step bias is `softplus⁻¹` of a step whose logarithm is uniform. flash-linear-attention
//! has the keys of transformers.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::state_space::{self, is_original};

use crate::loss::Head;
use crate::ops::convolution::{Convolution, Part};
use crate::ops::embedding::embedding;
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// PyTorch's start of a layer with `inputs` columns: uniform up to one over their root.
pub(super) fn uniform(inputs: usize) -> Init {
    Init::Uniform((inputs as f32).powf(-0.5))
}

/// How a dialect starts its tensors.
pub(super) struct Dialect {
    pub(super) original: bool,
    /// Of embedding and, with transformers, most matrices.
    deviation: f32,
    /// Whether the output projection is divided by the root of the number of layers.
    rescaled: bool,
    /// Of a step bias.
    pub(super) steps: Init,
}

impl Dialect {
    /// Reads the keys that say how tensors start.
    ///
    /// # Errors
    /// Values of another kind.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let original = is_original(keys);
        let ssm = keys.object("ssm_cfg")?;
        let (own, names) = match original {
            true => (&ssm, ["dt_min", "dt_max", "dt_init_floor"]),
            false => (keys, ["time_step_min", "time_step_max", "time_step_floor"]),
        };
        let number = |key: &str, default: f64| positive(own, key, default);
        let (least, most) = (number(names[0], 1e-3)?, number(names[1], 0.1)?);
        if least > most {
            return Err(keys.wrong(&format!("`{}` {least} is above `{}` {most}", names[0], names[1])));
        }
        Ok(Self {
            original,
            deviation: match original {
                true => 0.02,
                false => positive(keys, "initializer_range", 0.1)?,
            },
            rescaled: original || keys.switch("rescale_prenorm_residual", false)?,
            steps: Init::Steps { least, most, floor: number(names[2], 1e-4)? },
        })
    }

    /// How the matrix from low-rank steps to steps starts.
    ///
    /// # Errors
    /// A scheme that is not known.
    pub(super) fn step_projection(&self, keys: &Keys<'_>, rank: usize) -> Result<Init, Failure> {
        let ssm = keys.object("ssm_cfg")?;
        let (own, scale, scheme) = match self.original {
            true => (&ssm, "dt_scale", "dt_init"),
            false => (keys, "time_step_scale", "time_step_init_scheme"),
        };
        let size = positive(own, scale, 1.0)? * (rank as f32).powf(-0.5);
        match own.text(scheme)?.as_deref() {
            None | Some("random") => Ok(Init::Uniform(size)),
            Some("constant") => Ok(Init::Constant(size)),
            Some(other) => {
                Err(keys.unsupported(&format!("`{scheme}` is {other}; random and constant are implemented")))
            }
        }
    }

    /// How a projection starts.
    pub(super) fn linear(&self, inputs: usize) -> Init {
        if self.original { uniform(inputs) } else { Init::Normal(self.deviation) }
    }

    /// How the projection out of a mixer starts.
    pub(super) fn output(&self, inputs: usize, layers: usize) -> Init {
        let share = if self.rescaled { layers } else { 1 };
        Init::Uniform(((inputs * share) as f32).powf(-0.5))
    }

    /// Declares a convolution with SiLU over `channels` channels, of a value's columns from the first on.
    pub(super) fn convolution(
        &self,
        frame: &state_space::Frame,
        parameters: &mut Parameters,
        name: &str,
        channels: usize,
    ) -> Convolution {
        let taps = frame.taps;
        let weight = parameters.matrix(format!("{name}.weight"), &[channels, 1, taps], uniform(taps));
        let start = if self.original { uniform(taps) } else { Init::Constant(0.0) };
        let bias = frame.conv_bias.then(|| parameters.vector(format!("{name}.bias"), &[channels], start));
        Convolution { parts: vec![Part { weight, bias }], taps, first: 0, silu: true }
    }
}

/// A positive number.
fn positive(keys: &Keys<'_>, key: &str, default: f64) -> Result<f32, Failure> {
    let number = |v: &serde_json::Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_normal() && *x > 0.0);
    Ok(keys.of_kind(key, "a number above 0", number)?.unwrap_or(default as f32))
}

/// Everything but the mixers.
pub(super) struct Frame {
    width: usize,
    embeddings: Parameter,
    norm: RmsNorm,
    pub(super) head: Head,
}

impl Frame {
    /// Declares the embedding, which each dialect spells its own way.
    pub(super) fn embeddings(
        frame: &state_space::Frame,
        dialect: &Dialect,
        parameters: &mut Parameters,
    ) -> Parameter {
        let name = if dialect.original { "backbone.embedding.weight" } else { "backbone.embeddings.weight" };
        parameters.matrix(name, &[frame.vocab, frame.width], Init::Normal(dialect.deviation))
    }

    /// Declares what follows the layers.
    pub(super) fn close(
        frame: &state_space::Frame,
        dialect: &Dialect,
        parameters: &mut Parameters,
        embeddings: Parameter,
    ) -> Self {
        let (vocab, width) = (frame.vocab, frame.width);
        let norm = parameters.vector("backbone.norm_f.weight", &[width], Init::Constant(1.0));
        let weight = match frame.tied {
            true => embeddings,
            false => parameters.matrix("lm_head.weight", &[vocab, width], dialect.linear(width)),
        };
        let head = Head { weight, bias: None, soft_cap: None, vocab, width };
        Self { width, embeddings, norm: RmsNorm { weight: Some(norm), eps: frame.eps }, head }
    }

    /// `h₀ = E[token]`
    pub(super) fn embed(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        embedding(tape, self.embeddings, self.width, tokens, 1.0)
    }

    /// What the head reads.
    pub(super) fn norm(&self, tape: &mut Tape<'_>, h: Value) -> Value {
        rms_norm(tape, h, self.norm)
    }
}
