//! HGRN2 (architectures.md 1), under the names of flash-linear-attention and with the MLP's weights apart, as it has stored
//! them since February 2025.
//!
//! A model starts as in flash-linear-attention today: matrices, convolutions and embeddings normal with
//! `initializer_range` (0.02), norms 1, λ 0. With `"bheval_init": "fla-2024"` in config.json, which other readers of the
//! file pass over, it starts as the models of the paper did (1.9): the mixer's matrices uniform with the variance of Xavier
//! and a gain of 2^-2.5, `down_proj` divided by the root of twice the number of layers, the row of `pad_token_id` 0.

use bheval_abi::Failure;
use bheval_candle::config::{Config, G_NORM_EPS_SINCE_2024};
use bheval_candle::keys::Keys;
use bheval_candle::weights::Weights;
use bheval_kernels::activation::Activation;

use super::Network;
use crate::loss::Head;
use crate::ops::activation::gated;
use crate::ops::convolution::{Convolution, Part, convolution};
use crate::ops::embedding::embedding;
use crate::ops::gla::gla;
use crate::ops::joined::joined;
use crate::ops::linear::{Layout, Linear, linear_residual};
use crate::ops::lower_bounds::{Bound, lower_bounds};
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Chunk length that floating-point operations are counted for (architectures.md 1.10), whatever an engine's own.
const COUNTED_CHUNK: usize = 64;

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let config = Config::from_keys(keys)?;
    keys.only("use_l2warp", &false.into())?;
    let (start, width, vocab) = (Start::read(keys)?, config.hidden_size, config.vocab);
    let table = parameters.matrix("model.embeddings.weight", &[vocab, width], start.table(&config));
    let lambda = config
        .use_lower_bound
        .then(|| parameters.vector("model.lower_bounds", &[config.layers, width], Init::Constant(0.0)));
    let layers = (0..config.layers).map(|l| layer(parameters, &config, &start, l)).collect();
    let norm = norm(parameters, "model.norm.weight", &config, config.norm_eps);
    let weight = match config.tie_word_embeddings {
        true => table,
        false => parameters.matrix("lm_head.weight", &[vocab, width], Init::Normal(start.range)),
    };
    let head = Head { weight, bias: None, soft_cap: None, vocab, width };
    Ok(Box::new(Model { config, table, lambda, layers, norm, head }))
}

/// How tensors start.
struct Start {
    /// `initializer_range`
    range: f32,
    /// As flash-linear-attention did in 2024.
    old: bool,
    pad: Option<usize>,
}

impl Start {
    fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        let old = keys.of_kind("bheval_init", "\"fla\" or \"fla-2024\"", |v| match v.as_str() {
            Some("fla") => Some(false),
            Some("fla-2024") => Some(true),
            _ => None,
        })?;
        let range = keys.of_kind("initializer_range", "a number from 0 to 100", |v| {
            v.as_f64().filter(|r| (0.0..=100.0).contains(r))
        })?;
        Ok(Self {
            range: range.unwrap_or(0.02) as f32,
            old: old.unwrap_or(false),
            pad: keys.count("pad_token_id")?,
        })
    }

    /// The embedding.
    fn table(&self, config: &Config) -> Init {
        let (vocab, width, normal) = (config.vocab, config.hidden_size, Init::Normal(self.range));
        match self.pad.filter(|pad| self.old && *pad < vocab) {
            None => normal,
            Some(pad) => Init::Parts(vec![
                (pad * width, normal.clone()),
                (width, Init::Constant(0.0)),
                ((vocab - pad - 1) * width, normal),
            ]),
        }
    }

    /// A matrix of the mixer, from `D` to `D` channels.
    fn mixer(&self, config: &Config) -> Init {
        let xavier = (6.0 / (2 * config.hidden_size) as f64).sqrt() * 2f64.powf(-2.5);
        if self.old { Init::Uniform(xavier as f32) } else { Init::Normal(self.range) }
    }

    /// A short convolution; in 2024 as `torch.nn.Conv1d` starts.
    fn convolution(&self, taps: usize) -> Init {
        if self.old { Init::Uniform((taps as f32).powf(-0.5)) } else { Init::Normal(self.range) }
    }

    /// The MLP's way back to the residual.
    fn down(&self, config: &Config) -> Init {
        let branches = (2.0 * config.layers as f64).sqrt() as f32;
        Init::Normal(if self.old { self.range / branches } else { self.range })
    }
}

fn norm(parameters: &mut Parameters, name: &str, config: &Config, eps: f64) -> RmsNorm {
    let weight = parameters.vector(name, &[config.hidden_size], Init::Constant(1.0));
    RmsNorm { weight: Some(weight), eps }
}

struct Layer {
    attn_norm: RmsNorm,
    /// Queries, forget gates and values.
    qfi: [Linear; 3],
    /// Of all three, side by side.
    convolution: Option<Convolution>,
    g_norm: RmsNorm,
    o_proj: Linear,
    mlp_norm: RmsNorm,
    gate_up: [Linear; 2],
    down: Linear,
}

fn layer(parameters: &mut Parameters, config: &Config, start: &Start, index: usize) -> Layer {
    let (width, inner) = (config.hidden_size, config.intermediate_size());
    let name = |part: &str| format!("model.layers.{index}.{part}.weight");
    let linear = |parameters: &mut Parameters, part: &str, outputs, inputs, init| Linear {
        weight: parameters.matrix(name(part), &[outputs, inputs], init),
        bias: None,
        inputs,
        outputs,
        layout: Layout::OutIn,
    };
    let square =
        |parameters: &mut Parameters, part: &str| linear(parameters, part, width, width, start.mixer(config));
    let wide = |parameters: &mut Parameters, part: &str| {
        linear(parameters, part, inner, width, Init::Normal(start.range))
    };
    let attn_norm = norm(parameters, &name("attn_norm"), config, config.norm_eps);
    let qfi = ["attn.q_proj", "attn.f_proj", "attn.i_proj"].map(|part| square(parameters, part));
    let convolution = config.conv_size.map(|taps| Convolution {
        parts: ["attn.q_conv1d", "attn.f_conv1d", "attn.i_conv1d"]
            .map(|part| Part {
                weight: parameters.matrix(name(part), &[width, 1, taps], start.convolution(taps)),
                bias: None,
            })
            .to_vec(),
        taps,
        first: 0,
        silu: false,
    });
    let eps = config.g_norm_eps.unwrap_or(G_NORM_EPS_SINCE_2024);
    let g_norm = match config.elementwise_affine {
        true => norm(parameters, &name("attn.g_norm"), config, eps),
        false => RmsNorm { weight: None, eps },
    };
    Layer {
        attn_norm,
        qfi,
        convolution,
        g_norm,
        o_proj: square(parameters, "attn.o_proj"),
        mlp_norm: norm(parameters, &name("mlp_norm"), config, config.norm_eps),
        gate_up: ["mlp.gate_proj", "mlp.up_proj"].map(|part| wide(parameters, part)),
        down: linear(parameters, "mlp.down_proj", width, inner, start.down(config)),
    }
}

struct Model {
    config: Config,
    table: Parameter,
    lambda: Option<Parameter>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Head,
}

impl Model {
    /// The lower bounds of the layers' forget gates.
    fn bounds(&self, tape: &mut Tape<'_>) -> Vec<Bound> {
        match self.lambda {
            Some(lambda) => lower_bounds(tape, lambda, self.layers.len()),
            None => vec![Bound::none(self.config.hidden_size); self.layers.len()],
        }
    }

    /// `h + Wo · RMSNorm_g(o)`
    fn mixer(&self, tape: &mut Tape<'_>, layer: &Layer, bound: &Bound, h: Value) -> Value {
        let x = rms_norm(tape, h, layer.attn_norm);
        let mut x = joined(tape, x, &layer.qfi);
        if let Some(short) = &layer.convolution {
            x = convolution(tape, x, short.clone());
        }
        let o = gla(tape, x, self.config.heads, bound);
        let o = rms_norm(tape, o, layer.g_norm);
        linear_residual(tape, h, o, layer.o_proj)
    }
}

impl Network for Model {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let mut h = embedding(tape, self.table, self.config.hidden_size, tokens, 1.0);
        let bounds = self.bounds(tape);
        for (layer, bound) in self.layers.iter().zip(&bounds) {
            h = self.mixer(tape, layer, bound, h);
            let x = rms_norm(tape, h, layer.mlp_norm);
            let x = joined(tape, x, &layer.gate_up);
            let x = gated(tape, x, Activation::Silu);
            h = linear_residual(tape, h, x, layer.down);
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
        let Config { hidden_size: width, head_dim, conv_size, .. } = self.config;
        let inner = self.config.intermediate_size();
        let mixer = 4 * width * (COUNTED_CHUNK + head_dim) + 6 * width * conv_size.unwrap_or(0);
        let layer = 8 * width * width + 6 * width * inner + mixer;
        (self.layers.len() * layer + 2 * self.config.vocab * width) as f64
    }

    fn refuse_stored(&self, weights: &Weights) -> Result<(), Failure> {
        let rows = |part: &str| {
            Some(weights.shape(&format!("model.layers.0.mlp.{part}_proj.weight"))?.first().copied())
        };
        let fused =
            rows("gate").flatten() == Some(2 * self.config.intermediate_size()) && rows("up").is_none();
        if !fused {
            return Ok(());
        }
        Err(Failure::new(
            bheval_abi::Status::UNSUPPORTED,
            format!(
                "{}: the weights beside it hold gate and up projection of the MLP as one `gate_proj`, as flash-linear-attention \
                 stored them before February 2025; training continues from the layout since then: store the first half of its \
                 rows as `gate_proj`, the second as `up_proj`, and set `g_norm_eps` to `norm_eps` in config.json",
                self.config.file.display()
            ),
        ))
    }
}
