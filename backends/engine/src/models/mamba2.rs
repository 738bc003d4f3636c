//! Mamba-2: a state space whose decay is one number a head, so that its state is a matrix (architectures.md 6).
//!
//! It starts as its authors' code does, in the dialect of `config.json`: transformers starts `A` at 1 to the number of
//! heads, the original package uniformly in `A_init_range` (1 to 16).

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::mamba2::Config;

use super::Network;
use super::state_space::{Dialect, Frame};
use crate::loss::Head;
use crate::ops::convolution::{Convolution, convolution};
use crate::ops::gated_norm::{GatedNorm, gated_norm};
use crate::ops::linear::{Layout, Linear, linear, linear_residual};
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::ops::selection::Columns;
use crate::ops::ssd::{Ssd, ssd};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let config = Config::read(keys)?;
    let dialect = Dialect::read(keys)?;
    let rates = rates(keys, &config, &dialect)?;
    let embeddings = Frame::embeddings(&config.frame, &dialect, parameters);
    let layers = (0..config.frame.layers).map(|l| layer(&config, &dialect, &rates, parameters, l)).collect();
    let frame = Frame::close(&config.frame, &dialect, parameters, embeddings);
    Ok(Box::new(Model { config, frame, layers }))
}

/// How `A_log` starts.
fn rates(keys: &Keys<'_>, config: &Config, dialect: &Dialect) -> Result<Init, Failure> {
    if !dialect.original {
        return Ok(Init::Values((1..=config.sizes.heads).map(|n| (n as f64).ln() as f32).collect()));
    }
    let range = |v: &serde_json::Value| {
        let [low, high] = v.as_array()?.as_slice() else { return None };
        Some((low.as_f64()? as f32, high.as_f64()? as f32)).filter(|(low, high)| 0.0 < *low && low <= high)
    };
    let found =
        keys.object("ssm_cfg")?.of_kind("A_init_range", "two numbers above 0, the smaller first", range)?;
    let (low, high) = found.unwrap_or((1.0, 16.0));
    Ok(Init::Logarithm(low, high))
}

struct Layer {
    norm: RmsNorm,
    /// To z, to what is convolved, and to the steps, side by side.
    input: Linear,
    convolution: Convolution,
    step_bias: Parameter,
    log_rates: Parameter,
    skip: Parameter,
    gated_norm: GatedNorm,
    output: Linear,
}

fn layer(
    config: &Config,
    dialect: &Dialect,
    rates: &Init,
    parameters: &mut Parameters,
    index: usize,
) -> Layer {
    let (frame, sizes) = (&config.frame, config.sizes);
    let (width, inner, heads) = (frame.width, sizes.inner(), sizes.heads);
    let all = inner + sizes.convolved() + heads;
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let mut matrix = |part: &str, shape: [usize; 2], init: Init| {
        parameters.matrix(named(&format!("mixer.{part}.weight")), &shape, init)
    };
    let input = matrix("in_proj", [all, width], dialect.linear(width));
    let output = matrix("out_proj", [width, inner], dialect.output(inner, frame.layers));
    let mut convolution = dialect.convolution(frame, parameters, &named("mixer.conv1d"), sizes.convolved());
    convolution.first = inner;
    let mut vector = |part: &str, len: usize, init: Init| parameters.vector(named(part), &[len], init);
    let mut bias = |part, len| frame.bias.then(|| vector(part, len, Init::Constant(0.0)));
    let linear =
        |weight, bias, inputs, outputs| Linear { weight, bias, inputs, outputs, layout: Layout::OutIn };
    let input = linear(input, bias("mixer.in_proj.bias", all), width, all);
    let output = linear(output, bias("mixer.out_proj.bias", width), inner, width);
    let weight = vector("mixer.norm.weight", inner, Init::Constant(1.0));
    let norm = vector("norm.weight", width, Init::Constant(1.0));
    Layer {
        norm: RmsNorm { weight: Some(norm), eps: frame.eps },
        input,
        convolution,
        step_bias: vector("mixer.dt_bias", heads, dialect.steps.clone()),
        log_rates: vector("mixer.A_log", heads, rates.clone()),
        skip: vector("mixer.D", heads, Init::Constant(1.0)),
        gated_norm: GatedNorm { weight, group: sizes.normed, eps: frame.eps },
        output,
    }
}

impl Layer {
    /// `h + W_out norm(ssd(...))`
    fn apply(&self, tape: &mut Tape<'_>, config: &Config, h: Value) -> Value {
        let (sizes, inner) = (config.sizes, config.sizes.inner());
        let normed = rms_norm(tape, h, self.norm);
        let all = linear(tape, normed, self.input);
        let xbc = convolution(tape, all, self.convolution.clone());
        let layer = Ssd {
            xbc,
            step: Columns { value: all, first: inner + sizes.convolved(), width: sizes.heads },
            step_bias: self.step_bias,
            log_rates: self.log_rates,
            skip: self.skip,
            sizes,
        };
        let y = ssd(tape, layer);
        let y = gated_norm(tape, y, Columns { value: all, first: 0, width: inner }, self.gated_norm);
        linear_residual(tape, h, y, self.output)
    }
}

struct Model {
    config: Config,
    frame: Frame,
    layers: Vec<Layer>,
}

impl Network for Model {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let mut h = self.frame.embed(tape, tokens);
        for layer in &self.layers {
            h = layer.apply(tape, &self.config, h);
        }
        self.frame.norm(tape, h)
    }

    fn head(&self) -> Head {
        self.frame.head
    }

    fn context(&self) -> usize {
        0
    }

    fn forward_flops(&self, steps: usize) -> f64 {
        let Config { frame, sizes } = &self.config;
        let (width, inner) = (frame.width, sizes.inner());
        let matrices = width * (2 * inner + sizes.convolved() + sizes.heads) + frame.taps * sizes.convolved();
        // In chunks: scores of a group, their products with x, and the state's update and reading.
        let chunk = steps.min(crate::ops::ssd::CHUNK);
        let scan = chunk * (sizes.groups * sizes.states + inner) + 2 * inner * sizes.states;
        2.0 * (frame.layers * (matrices + scan) + frame.vocab * width) as f64
    }
}
