//! The ONNX backend of bheval: exported decoders, run by onnxruntime.
//!
//! [`Onnx`] implements the contract of `bheval-abi`; [`BACKEND`] is its table. The onnxruntime library is no part of the
//! binary: [`search`] says where it is looked for, [`runtime`] loads it once. A model's files are checked by
//! `bheval-onnx-file` before onnxruntime sees them.
//!
//! onnxruntime's kernels may round by shape, so chains are never merged or padded together: each runs by itself, in one
//! thread. Several threads have a session each.

mod config;
mod graph;
mod probe;
pub mod runtime;
mod scorer;
pub mod search;
mod signature;

use std::path::{Path, PathBuf};

use bheval_abi::{
    Backend, Dtype, Failure, ForestView, Info, Kind, LanguageModel, LogitsTable, Opening, Status,
    logits_table,
};
use bheval_onnx_file::{Contents, Fault, model_file};

use config::Config;
use graph::Graph;
use runtime::Runtime;
use scorer::Scorer;

/// The backend's table, for hosts that link it in.
pub static BACKEND: Backend = bheval_abi::backend::<Onnx>();

static LOGITS: LogitsTable = logits_table::<Onnx>();

/// An exported decoder behind the contract.
pub struct Onnx {
    info: Info,
    scorer: Scorer,
}

impl LanguageModel for Onnx {
    const NAME: &'static str = "onnx";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const FOREST: bool = false;
    const LOGITS: Option<&'static LogitsTable> = Some(&LOGITS);

    fn open(options: &Opening) -> Result<Self, Failure> {
        if options.dtype != Dtype::F32 {
            return Err(Failure::new(
                Status::UNSUPPORTED,
                "an ONNX graph has its own number formats, and its results are read as f32; ask for f32, or export the \
                 model in another format",
            ));
        }
        let path = chosen(&options.path)?;
        let contents = Contents::read(&path).map_err(|fault| Failure::model(fault.to_string()))?;
        let config = Config::beside(&path)?;
        let runtime = Runtime::get()?;
        open(&path, &contents, &config, &runtime, options).map_err(|f| at(&path, f))
    }

    fn info(&self) -> &Info {
        &self.info
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        self.scorer.score(forest, log_prob)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        self.scorer.logits(forest, out)
    }
}

fn open(
    path: &Path,
    contents: &Contents,
    config: &Config,
    runtime: &Runtime,
    options: &Opening,
) -> Result<Onnx, Failure> {
    let mut graph = Graph::open(runtime, path)?;
    let vocab = probe::vocab(&mut graph)?;
    let length = graph.signature.length.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let context = [config.context, length].into_iter().flatten().min();
    let longest = context.map(|n| n as usize);
    probe::left_to_right(&mut graph, vocab, longest)?;
    let info = Info {
        vocab,
        context: context.unwrap_or(0),
        nodes: nodes(options.memory, vocab),
        kind: Kind::CAUSAL,
        parameters: contents.parameters,
        architecture: config.model_type.clone().unwrap_or_else(|| Onnx::NAME.to_owned()),
        // The number format is part of every result's key, and so is what computes in it: another version of the
        // library may round otherwise.
        dtype: format!("{} by onnxruntime {}", graph.signature.logits.name(), runtime.version),
    };
    let threads = sessions(options, contents.bytes);
    Ok(Onnx { info, scorer: Scorer::new(runtime, path, graph, threads, vocab, longest)? })
}

/// The ONNX file that is meant. A folder with weights of both kinds is not guessed at.
fn chosen(path: &Path) -> Result<PathBuf, Failure> {
    model_file(path).map_err(|Fault { path, reason }| {
        Failure::model(format!("{}: {reason}; is this the folder of an exported model?", path.display()))
    })
}

fn at(path: &Path, failure: Failure) -> Failure {
    Failure::new(failure.status, format!("{}: {}", path.display(), failure.text))
}

/// Threads to use: each has a session with weights of its own, and all but the first one's count as memory of scoring.
fn sessions(options: &Opening, weights: u64) -> usize {
    let more = usize::try_from(options.memory / weights.max(1)).unwrap_or(usize::MAX);
    options.threads.min(more.saturating_add(1))
}

/// Nodes in a call: each has a row of logits, and the head's input and workspace are allowed as much again.
fn nodes(memory: u64, vocab: u32) -> u32 {
    let row = 2 * 4 * u64::from(vocab);
    (memory / row).clamp(1, 1 << 20) as u32
}
