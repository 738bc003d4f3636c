//! Mamba: a selective state space between a short convolution and a gate (architectures.md 5).
//!
//! It starts as its authors' code does: which authors, the dialect of `config.json` says (transformers and
//! flash-linear-attention, or the original package).

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::mamba::Config;

use super::Network;
use super::state_space::{Dialect, Frame};
use crate::loss::Head;
use crate::ops::convolution::{Convolution, convolution};
use crate::ops::linear::{Layout, Linear, linear, linear_columns, linear_residual};
use crate::ops::rms_norm::{RmsNorm, rms_norm};
use crate::ops::selection::Columns;
use crate::ops::selective_scan::{SelectiveScan, selective_scan};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let config = Config::read(keys)?;
    let dialect = Dialect::read(keys)?;
    let projection = dialect.step_projection(keys, config.rank)?;
    let embeddings = Frame::embeddings(&config.frame, &dialect, parameters);
    let layers = (0..config.frame.layers)
        .map(|l| layer(&config, &dialect, projection.clone(), parameters, l))
        .collect::<Vec<_>>();
    let frame = Frame::close(&config.frame, &dialect, parameters, embeddings);
    Ok(Box::new(Model { config, frame, layers }))
}

struct Layer {
    norm: RmsNorm,
    /// To `x` and `z`, side by side.
    input: Linear,
    convolution: Convolution,
    /// To the low-rank steps, B and C, side by side.
    selection: Linear,
    step: Linear,
    log_rates: Parameter,
    skip: Parameter,
    output: Linear,
}

fn layer(
    config: &Config,
    dialect: &Dialect,
    step_projection: Init,
    parameters: &mut Parameters,
    index: usize,
) -> Layer {
    let (frame, states, rank) = (&config.frame, config.states, config.rank);
    let (width, inner) = (frame.width, frame.inner);
    let named = |part: &str| format!("backbone.layers.{index}.{part}");
    let norm = parameters.vector(named("norm.weight"), &[width], Init::Constant(1.0));
    let rates = (1..=states).map(|n| (n as f64).ln() as f32).collect::<Vec<_>>().repeat(inner);
    let linear =
        |weight, bias, inputs, outputs| Linear { weight, bias, inputs, outputs, layout: Layout::OutIn };
    let mut matrix = |part: &str, outputs: usize, inputs: usize, init: Init| {
        parameters.matrix(named(&format!("mixer.{part}.weight")), &[outputs, inputs], init)
    };
    let input = matrix("in_proj", 2 * inner, width, dialect.linear(width));
    let selection = matrix("x_proj", rank + 2 * states, inner, dialect.linear(inner));
    let step = matrix("dt_proj", inner, rank, step_projection);
    let output = matrix("out_proj", width, inner, dialect.output(inner, frame.layers));
    let convolution = dialect.convolution(frame, parameters, &named("mixer.conv1d"), inner);
    let mut vector = |part: &str, len: usize, init: Init| parameters.vector(named(part), &[len], init);
    let step_bias = vector("mixer.dt_proj.bias", inner, dialect.steps.clone());
    let mut bias = |part, len| frame.bias.then(|| vector(part, len, Init::Constant(0.0)));
    let (input_bias, output_bias) =
        (bias("mixer.in_proj.bias", 2 * inner), bias("mixer.out_proj.bias", width));
    Layer {
        norm: RmsNorm { weight: Some(norm), eps: frame.eps },
        input: linear(input, input_bias, width, 2 * inner),
        convolution,
        selection: linear(selection, None, inner, rank + 2 * states),
        step: linear(step, Some(step_bias), rank, inner),
        skip: vector("mixer.D", inner, Init::Constant(1.0)),
        log_rates: parameters.vector(named("mixer.A_log"), &[inner, states], Init::Values(rates)),
        output: linear(output, output_bias, inner, width),
    }
}

struct Model {
    config: Config,
    frame: Frame,
    layers: Vec<Layer>,
}

impl Layer {
    /// `h + W_out scan(...)`
    fn apply(&self, tape: &mut Tape<'_>, config: &Config, h: Value) -> Value {
        let inner = config.frame.inner;
        let normed = rms_norm(tape, h, self.norm);
        let xz = linear(tape, normed, self.input);
        let x = convolution(tape, xz, self.convolution.clone());
        let selected = linear(tape, x, self.selection);
        let step = linear_columns(tape, Columns { value: selected, first: 0, width: config.rank }, self.step);
        let scan = SelectiveScan {
            x: Columns::all(tape, x),
            step: Columns::all(tape, step),
            gate: Columns { value: xz, first: inner, width: inner },
            bc: Columns { value: selected, first: config.rank, width: 2 * config.states },
            log_rates: self.log_rates,
            skip: self.skip,
            channels: inner,
            states: config.states,
        };
        let y = selective_scan(tape, scan);
        linear_residual(tape, h, y, self.output)
    }
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

    fn forward_flops(&self, _: usize) -> f64 {
        let Config { frame, states, rank } = &self.config;
        let matrices = frame.inner * (3 * frame.width + 2 * rank + 2 * states + frame.taps);
        // Decay, input and output of each state.
        let scan = 3 * frame.inner * states;
        2.0 * (frame.layers * (matrices + scan) + frame.vocab * frame.width) as f64
    }
}
