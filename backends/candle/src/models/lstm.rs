//! The LSTM language model: `torch.nn.LSTM` between an embedding and a linear head (architectures.md 4).
//!
//! What an input brings is one product for all rows; what a state brings is one product for all rows of a level, since
//! equally deep rows do not see each other.

use std::ops::Range;
use std::path::Path;

use bheval_abi::Failure;
use candle_core::Tensor;
use rayon::prelude::*;
use serde_json::json;

use super::hgrn2_forest::embed;
use crate::body::Body;
use crate::config_file;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::cells;
use crate::kernels::gemm::{Packed, Store, matmul};
use crate::keys::Keys;
use crate::layers::linear::Linear;
use crate::loader::Loader;
use crate::ops::forest::Walk;
use crate::ops::levels::Levels;
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};
use crate::weights::floats;

/// The values of `model_type`.
pub const KNOWN: [&str; 2] = ["lstm_lm", "lstm"];

/// An LSTM language model, packed.
pub struct Lstm {
    embedding_size: usize,
    hidden_size: usize,
    embeddings: Vec<f32>,
    layers: Vec<Layer>,
    /// Between LSTM and tied head, where their sizes differ.
    projection: Option<Linear>,
    head: Head,
}

struct Layer {
    /// `[4H, E or H]`, with both biases.
    input: Linear,
    /// `[4H, H]`
    recurrent: Packed,
}

/// What `config.json` says of an LSTM language model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Tokens.
    pub vocab: usize,
    /// Columns of the embedding.
    pub embedding_size: usize,
    /// Units of each layer.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Whether the layers have biases, two each.
    pub bias: bool,
    /// Whether the embedding is the decoder's matrix, behind a projection where the sizes differ.
    pub tied: bool,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that is missing or wrong, or a variant that is not implemented.
    pub fn read(keys: &Keys<'_>) -> Result<Self, Failure> {
        keys.model_type(&KNOWN)?;
        keys.only("bidirectional", &json!(false))?;
        keys.only("proj_size", &json!(0))?;
        Ok(Self {
            vocab: keys.required("vocab_size")?,
            embedding_size: keys.required("embedding_size")?,
            hidden_size: keys.required("hidden_size")?,
            layers: keys.required("num_layers")?,
            bias: keys.switch("bias", true)?,
            tied: keys.switch("tie_word_embeddings", false)?,
        })
    }
}

impl Lstm {
    /// Loads the model at `path`; also the number of its weights.
    ///
    /// # Errors
    /// What is missing, of the wrong shape or not supported.
    pub fn load(path: &Path) -> Result<(Self, u64), Failure> {
        let config = Config::read(&Keys::read(&config_file(path))?)?;
        let mut loader = Loader::open(path)?;
        let (vocab, embedding_size, hidden_size) = (config.vocab, config.embedding_size, config.hidden_size);
        let embeddings = loader.tensor("embedding.weight", &[vocab, embedding_size])?;
        let layers = (0..config.layers).map(|l| layer(&mut loader, &config, l));
        let layers = layers.collect::<Result<_, _>>()?;
        let projected = config.tied && embedding_size != hidden_size;
        let projection =
            projected.then(|| loader.linear("proj", hidden_size, embedding_size, false)).transpose()?;
        let head = head(&mut loader, &config, &embeddings)?;
        let (embeddings, parameters) = (floats(&embeddings)?, loader.finish()?);
        Ok((Self { embedding_size, hidden_size, embeddings, layers, projection, head }, parameters))
    }
}

fn layer(loader: &mut Loader, config: &Config, index: usize) -> Result<Layer, Failure> {
    let hidden = config.hidden_size;
    let inputs = if index == 0 { config.embedding_size } else { hidden };
    let input = loader.values(&format!("lstm.weight_ih_l{index}"), &[4 * hidden, inputs])?;
    let recurrent = loader.values(&format!("lstm.weight_hh_l{index}"), &[4 * hidden, hidden])?;
    let mut bias = |kind| loader.optional(&format!("lstm.bias_{kind}_l{index}"), &[4 * hidden], config.bias);
    // Both are added.
    let bias = match (bias("ih")?, bias("hh")?) {
        (Some(a), Some(b)) => Some(a.iter().zip(b).map(|(a, b)| a + b).collect()),
        _ => None,
    };
    Ok(Layer {
        input: Linear { weights: Packed::new(inputs, &[&input]), bias },
        recurrent: Packed::new(hidden, &[&recurrent]),
    })
}

/// `decoder`, whose matrix is the embedding where they are tied. A decoder without a bias has none stored.
fn head(loader: &mut Loader, config: &Config, embeddings: &Tensor) -> Result<Head, Failure> {
    let width = if config.tied { config.embedding_size } else { config.hidden_size };
    let has_bias = loader.shape("decoder.bias").is_some();
    let bias = loader.optional("decoder.bias", &[config.vocab], has_bias)?;
    let tied = (config.tied, "tie_word_embeddings");
    let weights = loader.head("decoder.weight", &[config.vocab, width], embeddings, tied)?;
    Ok(Head { bias, ..Head::new(width, &weights) })
}

/// Activations of a call, the rows in the order of [`Levels`].
#[derive(Default)]
pub struct Space {
    x: Vec<f32>,
    /// `[rows, 4H]`
    gates: Vec<f32>,
    c: Vec<f32>,
    h: Vec<f32>,
}

impl Body for Lstm {
    type Space = Space;

    fn width(&self) -> usize {
        self.projection.as_ref().map_or(self.hidden_size, Linear::out)
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn row_bytes(&self) -> u64 {
        let projected = self.projection.as_ref().map_or(0, Linear::out);
        // Levels take some more.
        4 * (self.embedding_size.max(self.hidden_size) + 6 * self.hidden_size + projected + 4) as u64
    }

    fn thread_bytes(&self) -> u64 {
        4 * (BLOCK_ROWS * self.hidden_size) as u64
    }

    fn last(&self, _: Isa, h: &[f32], x: &mut [f32]) {
        x.copy_from_slice(h);
    }
}

impl Network for Lstm {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let levels = Levels::new(walk);
        let (rows, size) = (walk.len(), walk.len() * self.hidden_size);
        let tokens: Vec<u32> = levels.rows().iter().map(|&row| tokens[row as usize]).collect();
        embed(&self.embeddings, &tokens, room(&mut space.x, rows * self.embedding_size));
        for (l, layer) in self.layers.iter().enumerate() {
            let x = &space.x[..rows * layer.input.weights.inner()];
            let gates = room(&mut space.gates, 4 * size);
            let blocks = gates.par_chunks_mut(BLOCK_ROWS * 4 * self.hidden_size);
            let blocks = blocks.zip(x.par_chunks(BLOCK_ROWS * layer.input.weights.inner()));
            blocks.for_each(|(gates, x)| layer.input.apply(isa, x, Store::Set, gates));
            let state = State { c: room(&mut space.c, size), h: room(&mut space.h, size) };
            layer.run(isa, &levels, gates, state);
            if l + 1 < self.layers.len() {
                room(&mut space.x, size).copy_from_slice(&space.h[..size]);
            }
        }
        self.put(isa, &levels, &space.h[..size], h);
    }
}

impl Lstm {
    /// From the last layer's outputs, in the order of levels, to hidden states in the order of the walk.
    fn put(&self, isa: Isa, levels: &Levels, states: &[f32], h: &mut [f32]) {
        let width = self.width();
        let mut projected = vec![];
        let states = match &self.projection {
            None => states,
            Some(projection) => {
                projected.resize(levels.rows().len() * width, 0.0);
                let blocks = projected.par_chunks_mut(BLOCK_ROWS * width);
                let blocks = blocks.zip(states.par_chunks(BLOCK_ROWS * self.hidden_size));
                blocks.for_each(|(y, x)| projection.apply(isa, x, Store::Set, y));
                &projected
            }
        };
        for (&row, state) in levels.rows().iter().zip(states.chunks_exact(width)) {
            h[row as usize * width..][..width].copy_from_slice(state);
        }
    }
}

/// `c` and `h` of one layer, `[rows, H]` each.
struct State<'a> {
    c: &'a mut [f32],
    h: &'a mut [f32],
}

impl Layer {
    /// Runs the layer level by level. `gates` holds what the inputs bring.
    fn run(&self, isa: Isa, levels: &Levels, gates: &mut [f32], state: State<'_>) {
        let width = self.recurrent.inner();
        for level in levels.iter() {
            let at = level.start * width..level.end * width;
            let (c_before, c) = state.c.split_at_mut(at.start);
            let (h_before, h) = state.h.split_at_mut(at.start);
            let size = share(level.len()) * width;
            let parts = gates[4 * at.start..4 * at.end].par_chunks_mut(4 * size);
            let parts = parts.zip(c[..at.len()].par_chunks_mut(size).zip(h[..at.len()].par_chunks_mut(size)));
            parts.enumerate().for_each(|(part, (gates, (c, h)))| {
                let first = level.start + part * size / width;
                let places = first..first + c.len() / width;
                levels.gather_above(places.clone(), c_before, width, c);
                self.step(isa, levels, places, h_before, gates, State { c, h });
            });
        }
    }

    /// One step of some places of one level, `c` being that above.
    fn step(
        &self,
        isa: Isa,
        levels: &Levels,
        places: Range<usize>,
        before: &[f32],
        gates: &mut [f32],
        state: State<'_>,
    ) {
        let width = self.recurrent.inner();
        // Above the first level all is zero.
        if !before.is_empty() {
            // The outputs above, until the row's own take their room.
            levels.gather_above(places, before, width, state.h);
            matmul(isa, state.h, &self.recurrent, Store::Add, gates);
        }
        cells::lstm(isa, gates, width, state.c, state.h);
    }
}

/// Places of a level that one thread takes: whole tiles of the product, and no more than stay in cache.
fn share(places: usize) -> usize {
    places.div_ceil(rayon::current_num_threads()).next_multiple_of(6).min(BLOCK_ROWS)
}
