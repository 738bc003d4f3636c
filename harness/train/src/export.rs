//! A checkpoint as a folder that any Hugging Face user can load.
//!
//! ```text
//! DIR/
//!   config.json, generation_config.json   the plan's keys
//!   model.safetensors                     weights, f32 or bf16
//!   tokenizer.json, ...                   the tokenizer's files
//!   training_plan.toml                    what `bheval train` takes to train it again
//!   README.md                             the model card
//! ```

mod error;
mod measure;
mod out;
mod recipe;
mod run;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};

use bheval_corpus::{Corpus, Windows};
use bheval_data::atomic::write_atomic;
use bheval_data::digest::sha256_file;
use bheval_host::Model;
use serde_json::{Map, Value, json};

use crate::card::{Card, Facts, card};
use crate::checkpoint::{CONFIG, Stored, WEIGHTS};

pub use error::Error;
pub use measure::Measured;
pub use run::{Chosen, Run, Which};
pub use tensors::{Named, StoredAs, bf16, write_safetensors};

/// The program that exports.
pub(crate) const PROGRAM: &str = concat!("bheval ", env!("CARGO_PKG_VERSION"));
const CARD: &str = "README.md";
const GENERATION: &str = "generation_config.json";
const PLAN: &str = "training_plan.toml";
/// What makes a tokenizer; all but the first may be missing.
const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The run's folder.
    pub run: &'a Path,
    /// Which of its checkpoints.
    pub which: Which,
    /// Number format of the weights.
    pub stored: StoredAs,
    /// The folder to be made.
    pub out: &'a Path,
    /// Whether an exported model there may be replaced.
    pub force: bool,
    /// What the run does not know.
    pub facts: Facts,
}

/// An exported model.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its folder.
    pub folder: PathBuf,
    /// The step that it is of.
    pub step: u64,
    /// Number of weights.
    pub parameters: u64,
    /// SHA-256 of its weights' file.
    pub sha256: String,
    /// Bytes of that file.
    pub bytes: u64,
    /// What the checkpoint and the export make of the dev text, where there is any.
    pub measured: Option<(Measured, Measured)>,
    /// What the card lacks, and why.
    pub notes: Vec<String>,
}

/// Exports a checkpoint. `open` opens a model's folder as `bheval --model` does: the folder is kept only if it opens, and, as
/// f32, scores as the checkpoint does.
///
/// # Errors
/// A run without the checkpoint, a damaged one, a folder that is taken, no room on the disk, and a model that does not read
/// back.
pub fn export(
    request: &Request<'_>,
    open: &mut dyn FnMut(&Path) -> Result<Model, String>,
) -> Result<Exported, Error> {
    let run = Run::open(request.run)?;
    let chosen = run.choose(request.which)?;
    let out = out::Out::new(request.out, request.force)?;
    let folder = out.staging.as_path();
    let mut notes = Vec::new();
    let corpus =
        run.corpus().map_err(|reason| notes.push(format!("the card can't tell of the data: {reason}"))).ok();
    let parameters = write_weights(&chosen.folder.join(WEIGHTS), &folder.join(WEIGHTS), request.stored)?;
    let config = write_configs(&chosen.folder, folder, request.stored)?;
    copy_tokenizer(&chosen.folder, folder)?;
    let plan = recipe::toml(&run.plan, corpus.as_ref().and_then(|corpus| per_epoch(&run.plan, corpus)));
    write_atomic(&folder.join(PLAN), plan.as_bytes())?;
    let measured = round_trip(&run, corpus.as_ref(), (&chosen.folder, folder), request.stored, open)?;
    let (weights, step) = (folder.join(WEIGHTS), chosen.state.step);
    let (sha256, bytes) =
        (sha256_file(&weights)?, fs::metadata(&weights).map_err(Error::io("read", &weights))?.len());
    let text = card(&Card {
        facts: &request.facts,
        config: &config,
        plan: &run.plan,
        recipe: &plan,
        state: &chosen.state,
        record: corpus.as_ref().map(Corpus::record),
        scores: &run.scores(step)?,
        parameters,
        stored: request.stored,
        weights_sha256: &sha256,
        measured,
    });
    write_atomic(&folder.join(CARD), text.as_bytes())?;
    out.publish()?;
    Ok(Exported { folder: request.out.to_owned(), step, parameters, sha256, bytes, measured, notes })
}

/// Copies all tensors in another number format; returns how many values there are.
fn write_weights(from: &Path, to: &Path, stored: StoredAs) -> Result<u64, Error> {
    let mut source = Stored::open(from)?;
    let named: Vec<Named> = source.tensors().into_iter().map(|(name, shape)| Named { name, shape }).collect();
    let mut read = |index: usize| Ok(source.read(&named[index].name, &named[index].shape)?);
    write_safetensors(to, &named, stored, &mut read)?;
    Ok(named.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum())
}

/// Writes `config.json` and `generation_config.json`; returns the first.
fn write_configs(from: &Path, to: &Path, stored: StoredAs) -> Result<Map<String, Value>, Error> {
    let path = from.join(CONFIG);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let wrong =
        |e: serde_json::Error| Error::Run { folder: from.to_owned(), reason: format!("config.json: {e}") };
    let mut config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(wrong)?;
    config.remove("dtype");
    config.insert("torch_dtype".to_owned(), stored.torch_dtype().into());
    let mut generation = Map::new();
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            generation.insert(key.to_owned(), id.clone());
        }
    }
    for (name, keys) in [(CONFIG, &config), (GENERATION, &generation)] {
        let text = serde_json::to_string_pretty(keys).expect("a map of JSON is always JSON") + "\n";
        write_atomic(&to.join(name), text.as_bytes())?;
    }
    Ok(config)
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), Error> {
    for name in TOKENIZER {
        let file = from.join(name);
        if file.is_file() {
            let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
            write_atomic(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// Windows of an epoch of the run.
fn per_epoch(plan: &Value, corpus: &Corpus) -> Option<u64> {
    let length = plan["data"]["sequence_length"].as_u64()? as usize;
    let offset: crate::plan::Offset = serde_json::from_value(plan["data"]["offset"].clone()).ok()?;
    Windows::new(corpus.train().len(), length, 0, offset.into()).ok().map(|windows| windows.per_epoch())
}

/// Opens what was written, and lets it and the checkpoint score dev text.
fn round_trip(
    run: &Run,
    corpus: Option<&Corpus>,
    (checkpoint, written): (&Path, &Path),
    stored: StoredAs,
    open: &mut dyn FnMut(&Path) -> Result<Model, String>,
) -> Result<Option<(Measured, Measured)>, Error> {
    let failed = |reason: String| Error::RoundTrip { reason };
    let mut exported = open(written).map_err(failed)?;
    let Some(dev) = corpus.and_then(Corpus::dev).filter(|dev| dev.len() > 1) else { return Ok(None) };
    let steps = run.plan["data"]["sequence_length"].as_u64().unwrap_or(0).max(1) as usize;
    let after = measure::measure(&mut exported, dev, steps).map_err(failed)?;
    drop(exported);
    let before = measure::measure(&mut open(checkpoint).map_err(failed)?, dev, steps).map_err(failed)?;
    if stored == StoredAs::F32 && before != after {
        return Err(failed(format!(
            "its loss on dev text is {}, and that of the checkpoint {}",
            after.loss, before.loss
        )));
    }
    Ok(Some((before, after)))
}

/// The plan's path within an exported folder, for those who print commands.
#[must_use]
pub fn plan_of(folder: &Path) -> PathBuf {
    folder.join(PLAN)
}

/// What a command's `--json` prints of an export.
#[must_use]
pub fn report(exported: &Exported) -> Value {
    let of = |measured: &Measured| json!({"loss": measured.loss, "perplexity": measured.loss.exp(), "tokens": measured.targets});
    json!({
        "folder": exported.folder, "step": exported.step, "parameters": exported.parameters, "bytes": exported.bytes,
        "weights_sha256": exported.sha256, "dev_checkpoint": exported.measured.as_ref().map(|(before, _)| of(before)),
        "dev_exported": exported.measured.as_ref().map(|(_, after)| of(after)), "notes": exported.notes,
    })
}
