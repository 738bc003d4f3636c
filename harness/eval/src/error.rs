//! What can go wrong in a run.

use std::fmt;
use std::path::PathBuf;

use bheval_data::masked::Pll;

/// A point in which a stored run differs from the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `model`, `protocol`.
    pub what: String,
    /// As stored.
    pub stored: String,
    /// As asked for.
    pub asked: String,
}

/// A failure of a run, with where it happened and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The data.
    Data(bheval_data::Error),
    /// A task.
    Task(bheval_tasks::Error),
    /// The backend.
    Backend(bheval_host::Error),
    /// The tokenizer itself.
    Tokenizer(bheval_data::tokenizer::TokenizerError),
    /// The tokenizer, on one item.
    Uncut {
        /// Id of the item.
        item: String,
        /// Why.
        source: bheval_data::tokenizer::TokenizerError,
    },
    /// An item is longer than the model can take. It is never cut.
    TooLong {
        /// Id of the item.
        item: String,
        /// Its tokens.
        tokens: usize,
        /// What the model takes.
        limit: usize,
    },
    /// An item is longer than the backend takes in one call.
    TooLongAtOnce {
        /// Id of the item.
        item: String,
        /// Its tokens.
        tokens: usize,
        /// What the backend takes.
        limit: usize,
    },
    /// A reading of masked models was asked for, and the model is causal.
    NotMasked {
        /// Its architecture.
        architecture: String,
        /// The reading.
        pll: Pll,
    },
    /// A masked model whose backend can't read it.
    NoMaskedScores {
        /// Its architecture.
        architecture: String,
        /// Name of the backend.
        backend: String,
    },
    /// A protocol that does not read masked models, or not as asked for.
    Reading {
        /// The model's architecture.
        architecture: String,
        /// Why not, and what to try.
        reason: String,
    },
    /// The tokenizer makes ids that the model does not have.
    OtherVocabulary {
        /// Id of the item.
        item: String,
        /// The id.
        id: u32,
        /// Size of the model's vocabulary.
        vocab: u32,
    },
    /// A file of the model is missing or can't be read.
    Model {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What lies below the model's folder can't be told apart from other files, as a plugin's run must be.
    Uncounted {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The model's files are others than those the run began with.
    ModelChanged {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file of the run can't be written or read.
    File {
        /// The file.
        path: PathBuf,
        /// What was done.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The run's folder holds another run.
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// In what they differ.
        differences: Vec<Difference>,
    },
    /// Another process works on the run.
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A plan or result that can't be read back.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<bheval_data::Error> for Error {
    fn from(error: bheval_data::Error) -> Self {
        Error::Data(error)
    }
}

impl From<bheval_tasks::Error> for Error {
    fn from(error: bheval_tasks::Error) -> Self {
        Error::Task(error)
    }
}

impl From<bheval_host::Error> for Error {
    fn from(error: bheval_host::Error) -> Self {
        Error::Backend(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Data(e) => e.fmt(f),
            Error::Task(e) => e.fmt(f),
            Error::Backend(e) => e.fmt(f),
            Error::Tokenizer(e) => e.fmt(f),
            Error::Uncut { item, source } => write!(f, "{item}: {source}"),
            Error::TooLong { item, tokens, limit } => write!(
                f,
                "{item} has {tokens} tokens, and the model takes {limit}; nothing is ever cut off, since a score of a \
                 shorter text is another score. Leave the item's task out, or use a model with a longer context"
            ),
            Error::TooLongAtOnce { item, tokens, limit } => write!(
                f,
                "{item} has {tokens} tokens, and the backend takes {limit} at once under the memory it was given; split the \
                 text, or raise --memory as far as that helps (`bheval inspect` shows the number)"
            ),
            Error::NotMasked { architecture, pll } => {
                write!(f, "--pll {pll} reads masked models, and {architecture} is causal: leave --pll out")
            }
            Error::NoMaskedScores { architecture, backend } => write!(
                f,
                "{architecture} is a masked model, and the backend {backend} can't hide tokens from it; read left to right \
                 it would give numbers that mean nothing. Choose another --backend (`bheval backends` lists them)"
            ),
            Error::Reading { architecture, reason } => {
                write!(f, "{architecture} is a masked model: {reason}")
            }
            Error::OtherVocabulary { item, id, vocab } => write!(
                f,
                "{item}: the tokenizer makes token id {id}, but the model's vocabulary has {vocab} entries; the tokenizer \
                 belongs to another model (`bheval inspect` shows both)"
            ),
            Error::Model { path, reason } => {
                write!(f, "{}: {reason}; --model takes a folder with config.json and weights", path.display())
            }
            Error::Uncounted { path, reason } => write!(
                f,
                "{}: {reason}; a plugin may read whatever lies in its model's folder, so all of it names the run: mend that \
                 or move it out of the folder",
                path.display()
            ),
            Error::ModelChanged { path } => write!(
                f,
                "{}: the model's files changed during the run; its worker died, and the next one may have read other files \
                 than the run began with, so what it scored last was not kept. Put the old files back and run the same \
                 command again, or score the new ones with --fresh or another --run-dir",
                path.display()
            ),
            Error::File { path, action, source } => {
                write!(f, "could not {action} {}: {source}; {}", path.display(), advice(source))
            }
            Error::OtherRun { folder, differences } => other_run(f, folder, differences),
            Error::Busy { folder } => write!(
                f,
                "another bheval is at work in {}; wait for it, end it, or choose another --run-dir",
                folder.display()
            ),
            Error::Damaged { path, reason } => write!(
                f,
                "{} can't be read back: {reason}; move it away, or start anew with --fresh",
                path.display()
            ),
        }
    }
}

fn other_run(
    f: &mut fmt::Formatter<'_>,
    folder: &std::path::Path,
    differences: &[Difference],
) -> fmt::Result {
    write!(f, "{} holds another run:", folder.display())?;
    for Difference { what, stored, asked } in differences {
        write!(f, " {what}: {stored} there, {asked} asked for;")?;
    }
    write!(f, " choose another --run-dir, or --fresh to put that run aside")
}

/// What to try after an I/O error.
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{
        AlreadyExists, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    match error.kind() {
        StorageFull | QuotaExceeded => {
            "free some space and run the same command again: what was scored so far is kept"
        }
        PermissionDenied | ReadOnlyFilesystem => "choose a folder that you may write to with --run-dir",
        AlreadyExists | NotADirectory => "a file is in the way: choose another --run-dir",
        NotFound => "check the path",
        _ => "run the same command again: what was scored so far is kept",
    }
}

impl std::error::Error for Error {}
