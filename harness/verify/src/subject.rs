//! What is verified: a backend with one of its models.

use std::path::PathBuf;

use bheval_abi::{Dtype, Kind};
use bheval_host::Library;

use crate::raw::{Opened, options};
use crate::verdict::{Refusal, Stop, skipped};

/// A backend and how to open a model of it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The backend.
    pub library: Library,
    /// Path of the model, in UTF-8.
    pub path: String,
    /// Threads that models are opened with.
    pub threads: u32,
    /// Number format that models are opened with.
    pub dtype: Dtype,
    /// Bytes that scoring may take beside the weights; the largest call grows with it.
    pub memory: u64,
}

impl Subject {
    /// Opens the model.
    pub(crate) fn open(&self) -> Result<Opened, Refusal> {
        self.open_with(self.threads)
    }

    /// Opens the model with a number of threads.
    pub(crate) fn open_with(&self, threads: u32) -> Result<Opened, Refusal> {
        Opened::open(&self.library, &options(&self.path, threads, self.dtype, self.memory))
    }

    /// Opens the model, for a check that says something about causal ones only.
    pub(crate) fn causal(&self) -> Result<Opened, Stop> {
        self.of_kind(Kind::CAUSAL, "a masked model: its tokens are read from both sides")
    }

    /// Opens the model, for a check that says something about masked ones only.
    pub(crate) fn masked(&self) -> Result<Opened, Stop> {
        self.of_kind(Kind::MASKED, "a causal model: the masked extension is not asked for")
    }

    fn of_kind(&self, kind: Kind, otherwise: &str) -> Result<Opened, Stop> {
        let opened = self.open()?;
        if opened.info.kind == kind { Ok(opened) } else { skipped(otherwise) }
    }
}

/// A path below the system's folder of temporary files where nothing is.
pub(crate) fn nowhere() -> PathBuf {
    std::env::temp_dir().join(format!("bheval-verify-{}-no-such-model", std::process::id()))
}
