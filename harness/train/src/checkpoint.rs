//! A checkpoint: a folder that any Hugging Face user can load, and beside the model what it takes to go on training.
//!
//! ```text
//! step-00001000/
//!   config.json, tokenizer.json, ...   the model's configuration and its tokenizer
//!   model.safetensors                  weights, f32
//!   optimizer.safetensors              both moments of AdamW, f32
//!   state.json                         counters, dev losses, the plan's identity, SHA-256 of the files above and of itself
//! ```

mod state;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};

use bheval_data::atomic::{publish, write_atomic};
use serde_json::{Map, Value};

use crate::Error;
use crate::learner::{Kept, Learner};

pub use state::{FileRecord, State};
pub(crate) use tensors::Stored;
use tensors::{Entry, write_tensors};

/// The file of the weights.
pub const WEIGHTS: &str = "model.safetensors";
/// The file of the moments.
pub const MOMENTS: &str = "optimizer.safetensors";
/// The file of the configuration.
pub const CONFIG: &str = "config.json";
/// The file of the state.
pub const STATE: &str = "state.json";

/// What surrounds the weights of a model: the same in every checkpoint of a run.
#[derive(Clone, Debug)]
pub struct Frame {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// Folder of the tokenizer's files.
    pub tokenizer: PathBuf,
}

impl Frame {
    /// Writes configuration and tokenizer into a folder; returns the files' names.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>, Error> {
        let text = serde_json::to_string_pretty(&self.config).expect("a map of JSON is always JSON") + "\n";
        write_atomic(&folder.join(CONFIG), text.as_bytes())?;
        let mut names = vec![CONFIG.to_owned()];
        for name in names_in(&self.tokenizer)? {
            let from = self.tokenizer.join(&name);
            if from.is_file() && name != CONFIG {
                write_atomic(&folder.join(&name), &fs::read(&from).map_err(Error::file(&from, "read"))?)?;
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The names in a folder, sorted.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(Error::file(folder, "list"))
    };
    let mut names: Vec<_> =
        fs::read_dir(folder).map_err(Error::file(folder, "list"))?.map(read).collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

/// The name of a step's checkpoint.
#[must_use]
pub fn name_of(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a checkpoint's name.
#[must_use]
pub fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (name_of(step) == name).then_some(step)
}

/// Writes a checkpoint into `folder`, whole or not at all: beside, synced, renamed.
///
/// # Errors
/// What the system or the learner refuses; nothing is left of what was begun.
pub fn save(folder: &Path, frame: &Frame, mut state: State, learner: &mut dyn Learner) -> Result<(), Error> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    if beside.exists() {
        fs::remove_dir_all(&beside).map_err(Error::file(&beside, "remove"))?;
    }
    let done = fill(&beside, frame, &mut state, learner).and_then(|()| Ok(publish(&beside, folder)?));
    if done.is_err() {
        // The first error is the one to report; a leftover that cannot be removed adds nothing to it.
        let _ = fs::remove_dir_all(&beside);
    }
    done
}

fn fill(folder: &Path, frame: &Frame, state: &mut State, learner: &mut dyn Learner) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder, "make the folder"))?;
    for name in frame.write(folder)? {
        let record = FileRecord::of(&folder.join(&name))?;
        state.files.insert(name, record);
    }
    for (file, parts) in [(WEIGHTS, &PARTS[..1]), (MOMENTS, &PARTS[1..])] {
        let record = write_parts(&folder.join(file), parts, learner)?;
        state.files.insert(file.to_owned(), record);
    }
    write_atomic(&folder.join(STATE), state.sealed().as_bytes())?;
    sync(folder)
}

/// What is kept of each tensor, and what its name is led by in a file.
const PARTS: [(Kept, &str); 3] =
    [(Kept::Weight, ""), (Kept::FirstMoment, "first_moment/"), (Kept::SecondMoment, "second_moment/")];

fn write_parts(path: &Path, parts: &[(Kept, &str)], learner: &mut dyn Learner) -> Result<FileRecord, Error> {
    let mut entries = Vec::new();
    for (kept, lead) in parts {
        let entry = |(index, tensor): (usize, &crate::learner::Tensor)| Entry {
            name: format!("{lead}{}", tensor.name),
            shape: tensor.shape.clone(),
            source: (index, *kept),
        };
        entries.extend(learner.tensors().iter().enumerate().map(entry));
    }
    write_tensors(path, entries, |(index, kept), out| {
        learner.read(index, kept, out)?;
        finite(kept, &learner.tensors()[index].name, out)
    })
}

/// What is not finite is not stored: a checkpoint is good, or it is none.
fn finite(kept: Kept, name: &str, values: &[f32]) -> Result<(), Error> {
    let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let reason = format!(
        "{kept:?} {at} of {name} is {}: the training diverged; lower optimizer.learning_rate, or set optimizer.clip",
        values[at]
    );
    Err(Error::Learner { reason })
}

/// Reads a checkpoint's state, and holds every file against its SHA-256.
///
/// # Errors
/// [`Error::Damaged`] for anything that is missing or not as it was written.
pub fn verify(folder: &Path) -> Result<State, Error> {
    let state = State::read(&folder.join(STATE))?;
    for (name, record) in &state.files {
        record.check(&folder.join(name))?;
    }
    Ok(state)
}

/// Gives a learner the weights and moments of a verified checkpoint.
///
/// # Errors
/// Tensors that are not the learner's.
pub fn restore(folder: &Path, learner: &mut dyn Learner) -> Result<(), Error> {
    for (file, parts) in [(WEIGHTS, &PARTS[..1]), (MOMENTS, &PARTS[1..])] {
        let path = folder.join(file);
        let mut stored = Stored::open(&path)?;
        let tensors = learner.tensors().to_vec();
        for (kept, lead) in parts {
            for (index, tensor) in tensors.iter().enumerate() {
                let values = stored.read(&format!("{lead}{}", tensor.name), &tensor.shape)?;
                learner.write(index, *kept, &values)?;
            }
        }
    }
    Ok(())
}

/// Makes what was written in a folder last through a power cut.
pub(crate) fn sync(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let opened = fs::File::open(folder).and_then(|folder| folder.sync_all());
        opened.map_err(Error::file(folder, "sync"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_do_not() {
        assert_eq!(name_of(1000), "step-00001000");
        for step in [0, 7, 99_999_999, 123_456_789_012] {
            assert_eq!(step_of(&name_of(step)), Some(step));
        }
        for name in ["step-1000", "step-00001000.broken", ".step-00001000.7.tmp", "step-+0001000", "step-"] {
            assert_eq!(step_of(name), None, "{name}");
        }
    }
}
