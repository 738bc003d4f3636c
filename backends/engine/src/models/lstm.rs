//! The LSTM language model: `torch.nn.LSTM` between an embedding and a linear head (architectures.md 4).
//!
//! It starts as PyTorch's modules do, all uniform up to one over the root of the inputs (of a cell: of the units), but for
//! the embedding, which is normal with `initializer_range` (0.02): PyTorch's standard normal one is far too large for a
//! head that is tied to it. `forget_bias`, where it is given, is where the forget gates' biases start.
//!
//! `dropout` is that of `torch.nn.LSTM`, between layers; `embedding_dropout` and `output_dropout` come before the first and
//! after the last one. `decoder_bias` (true) says whether the head has a bias.

use bheval_abi::Failure;
use bheval_candle::keys::Keys;
use bheval_candle::models::lstm::Config;

use super::Network;
use crate::loss::Head;
use crate::ops::dropout::dropout;
use crate::ops::embedding::embedding;
use crate::ops::linear::{Layout, Linear, linear};
use crate::ops::lstm::{Lstm, lstm};
use crate::parameters::{Init, Parameter, Parameters};
use crate::tape::{Tape, Value};

/// Declares the model that the configuration describes.
///
/// # Errors
/// What the configuration lacks, or asks for that can't be trained.
pub(super) fn build(keys: &Keys<'_>, parameters: &mut Parameters) -> Result<Box<dyn Network>, Failure> {
    let config = Config::read(keys)?;
    let Config { vocab, embedding_size, hidden_size, tied, .. } = config;
    let deviation = keys.number("initializer_range")?.unwrap_or(0.02) as f32;
    let drop = Dropout {
        embedding: probability(keys, "embedding_dropout")?,
        between: probability(keys, "dropout")?,
        output: probability(keys, "output_dropout")?,
    };
    let forget = keys.number("forget_bias")?.map(|bias| bias as f32);
    let table = parameters.matrix("embedding.weight", &[vocab, embedding_size], Init::Normal(deviation));
    let layers = (0..config.layers).map(|l| layer(parameters, &config, forget, l)).collect();
    let projection = (tied && embedding_size != hidden_size).then(|| Linear {
        weight: parameters.matrix("proj.weight", &[embedding_size, hidden_size], uniform(hidden_size)),
        bias: None,
        inputs: hidden_size,
        outputs: embedding_size,
        layout: Layout::OutIn,
    });
    let width = if tied { embedding_size } else { hidden_size };
    let weight = match tied {
        true => table,
        false => parameters.matrix("decoder.weight", &[vocab, width], uniform(width)),
    };
    let bias = keys
        .switch("decoder_bias", true)?
        .then(|| parameters.vector("decoder.bias", &[vocab], uniform(width)));
    let head = Head { weight, bias, soft_cap: None, vocab, width };
    Ok(Box::new(Model { config, drop, table, layers, projection, head }))
}

/// A probability of dropping a value, 0 where it is not given.
fn probability(keys: &Keys<'_>, key: &str) -> Result<f32, Failure> {
    Ok(keys.epsilon(key)?.unwrap_or(0.0) as f32)
}

/// PyTorch's start of a layer with `inputs` columns.
fn uniform(inputs: usize) -> Init {
    Init::Uniform((inputs as f32).powf(-0.5))
}

/// The tensors of one layer.
fn layer(parameters: &mut Parameters, config: &Config, forget: Option<f32>, index: usize) -> Lstm {
    let hidden = config.hidden_size;
    let inputs = if index == 0 { config.embedding_size } else { hidden };
    let mut matrix = |kind: &str, columns| {
        parameters.matrix(format!("lstm.weight_{kind}_l{index}"), &[4 * hidden, columns], uniform(hidden))
    };
    let (input, recurrent) = (matrix("ih", inputs), matrix("hh", hidden));
    let mut bias = |kind: &str, forget: Option<f32>| {
        let start = uniform(hidden);
        let start = match forget {
            None => start,
            // The blocks are i, f, g and o.
            Some(forget) => Init::Parts(vec![
                (hidden, start.clone()),
                (hidden, Init::Constant(forget)),
                (2 * hidden, start),
            ]),
        };
        parameters.vector(format!("lstm.bias_{kind}_l{index}"), &[4 * hidden], start)
    };
    // Both biases are added: together they start as wanted.
    let biases = config.bias.then(|| [bias("ih", forget), bias("hh", forget.map(|_| 0.0))]);
    Lstm { input, recurrent, biases, inputs, hidden }
}

#[derive(Clone, Copy, Debug)]
struct Dropout {
    embedding: f32,
    between: f32,
    output: f32,
}

struct Model {
    config: Config,
    drop: Dropout,
    table: Parameter,
    layers: Vec<Lstm>,
    /// Between LSTM and tied head, where their sizes differ.
    projection: Option<Linear>,
    head: Head,
}

impl Network for Model {
    fn hidden(&self, tape: &mut Tape<'_>, tokens: &[u32]) -> Value {
        let x = embedding(tape, self.table, self.config.embedding_size, tokens, 1.0);
        let mut x = dropout(tape, x, self.drop.embedding);
        for (l, &layer) in self.layers.iter().enumerate() {
            let y = lstm(tape, x, layer);
            let last = l + 1 == self.layers.len();
            x = dropout(tape, y, if last { self.drop.output } else { self.drop.between });
        }
        match self.projection {
            Some(projection) => linear(tape, x, projection),
            None => x,
        }
    }

    fn head(&self) -> Head {
        self.head
    }

    fn context(&self) -> usize {
        0
    }

    fn forward_flops(&self, _: usize) -> f64 {
        let layer = |l: &Lstm| 4 * l.hidden * (l.inputs + l.hidden);
        let projection = self.projection.map_or(0, |p| p.inputs * p.outputs);
        let head = self.head.vocab * self.head.width;
        2.0 * (self.layers.iter().map(layer).sum::<usize>() + projection + head) as f64
    }
}
