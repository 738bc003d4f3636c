//! Which files an ONNX model is made of, and whether they are safe to hand to a runtime.
//!
//! An ONNX file may keep weights in other files, and names them by paths of its own. A runtime follows these paths, so
//! they are read here first, by a reader of the few protobuf fields that matter, and refused where they leave the model's
//! folder. The backend needs this before it opens a model; the harness needs it to know what a model's digest covers.

mod external;
mod folder;
mod graph;
mod wire;

use std::fmt;
use std::path::{Path, PathBuf};

pub use folder::model_file;

/// What an ONNX file holds and refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Files with weights, absolute and without links, sorted, each once.
    pub external: Vec<PathBuf>,
    /// Weights, quantised ones included. An exporter may write a tied weight twice; it then counts twice.
    pub parameters: u64,
    /// Bytes of the tensors' values, in the file and in external ones.
    pub bytes: u64,
}

impl Contents {
    /// Reads the ONNX file `path`. Memory stays small whatever the file claims: values are passed over.
    ///
    /// # Errors
    /// A file that can't be read, is no ONNX model, or refers to a file that is missing, too short, or outside the
    /// model's folder.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let tensors = graph::tensors(path)?;
        let mut contents = Self::default();
        let root = external::Root::of(path)?;
        for tensor in &tensors {
            let bytes = tensor.bytes().map_err(|reason| fault(path, &tensor.name, &reason))?;
            contents.parameters = contents.parameters.saturating_add(tensor.weights());
            contents.bytes = contents.bytes.saturating_add(bytes.unwrap_or(0));
            contents.external.extend(root.file_of(path, tensor)?);
        }
        contents.external.sort();
        contents.external.dedup();
        Ok(contents)
    }
}

/// What is wrong with an ONNX model's files: where, and what to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it, without its name.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for Fault {}

fn fault(path: &Path, tensor: &str, reason: &str) -> Fault {
    Fault { path: path.to_path_buf(), reason: format!("tensor {tensor:?} {reason}") }
}
