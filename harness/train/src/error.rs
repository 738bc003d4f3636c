//! What can go wrong between a plan and its model, told to the person who has to put it right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bheval_data::tokenizer::TokenizerError;

/// A point in which a stored run differs from the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key of the plan: `optimizer.learning_rate`.
    pub key: String,
    /// As stored; none where the key is new.
    pub stored: Option<String>,
    /// As asked for; none where the key is gone.
    pub asked: Option<String>,
}

/// Where training met a number that is not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// What: `loss`, `gradient norm`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// The step that was not done, from 1.
    pub step: u64,
    /// Its windows, by epoch and place in it: first and last.
    pub windows: [(u64, u64); 2],
    /// The micro-batch of the step, from 0, where the loss of one was it.
    pub micro_batch: Option<usize>,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The last checkpoint's folder.
    pub last: Option<PathBuf>,
}

/// A failure of a run, with where it happened and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A plan that is not one.
    Plan {
        /// Where: `plan.toml, line 3`, `preset gpt2-10m`, `--set`.
        place: String,
        /// What is wrong, with the key, and what is allowed.
        reason: String,
    },
    /// A file or folder, in `bheval-data`'s words.
    Data(bheval_data::Error),
    /// The corpus.
    Corpus(bheval_corpus::Error),
    /// The tokenizer.
    Tokenizer(TokenizerError),
    /// The backend.
    Backend(bheval_host::Error),
    /// Teachers.
    Distill(crate::distill::Error),
    /// What trains, where it is no backend behind the contract.
    Learner {
        /// What it reported.
        reason: String,
    },
    /// The system refused something.
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// The system's answer.
        cause: io::Error,
    },
    /// Another process works in the folder.
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder is no run's, and not empty.
    Taken {
        /// The folder.
        folder: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The folder holds a run of another plan.
    OtherPlan {
        /// The folder, or the checkpoint in it.
        folder: PathBuf,
        /// The points in which they differ.
        differences: Vec<Difference>,
    },
    /// A file of a run that can't be read.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every checkpoint of a run is damaged.
    NoCheckpoint {
        /// Their folder.
        folder: PathBuf,
        /// What is wrong with each.
        found: Vec<String>,
    },
    /// A checkpoint could not be written.
    NotSaved {
        /// The step.
        step: u64,
        /// The last one that was.
        last: Option<PathBuf>,
        /// Why.
        cause: Box<Error>,
    },
    /// Weights to start from do not fit the model.
    Unfit {
        /// Their file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A loss or a gradient that is not finite.
    NotFinite(Box<NotFinite>),
    /// Tasks that could not be run at a checkpoint.
    Examination {
        /// The step.
        step: u64,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// A fault of a plan.
    pub fn plan(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Plan { place: place.into(), reason: reason.into() }
    }

    /// Turns an I/O error into one that names the file.
    pub(crate) fn file(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::File { path, action, cause }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.into() }
    }
}

macro_rules! from {
    ($($variant:ident <- $source:ty),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from!(
    Data <- bheval_data::Error,
    Corpus <- bheval_corpus::Error,
    Tokenizer <- TokenizerError,
    Backend <- bheval_host::Error,
    Distill <- crate::distill::Error
);

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { place, reason } => write!(f, "{place}: {reason}"),
            Self::Data(error) => error.fmt(f),
            Self::Corpus(error) => error.fmt(f),
            Self::Tokenizer(error) => error.fmt(f),
            Self::Backend(error) => error.fmt(f),
            Self::Distill(error) => error.fmt(f),
            Self::Learner { reason } => f.write_str(reason),
            Self::File { path, action, cause } => {
                write!(f, "could not {action} {}: {cause}{}", path.display(), advice(cause.kind()))
            }
            Self::Busy { folder } => write!(
                f,
                "another bheval trains in {}; wait for it or end it, or name another folder with -o",
                folder.display()
            ),
            Self::Taken { folder, found } => write!(
                f,
                "{} holds {found}, but no run; name an empty folder or a new one with -o",
                folder.display()
            ),
            Self::OtherPlan { folder, differences } => fmt_other(f, folder, differences),
            Self::Damaged { path, reason } => write!(f, "{} is damaged: {reason}", path.display()),
            Self::NoCheckpoint { folder, found } => write!(
                f,
                "no checkpoint in {} can be used ({}); start anew with --fresh, or put back a good copy",
                folder.display(),
                found.join("; ")
            ),
            Self::NotSaved { step, last, cause } => fmt_not_saved(f, *step, last.as_deref(), cause),
            Self::Unfit { path, reason } => {
                write!(f, "training can't start from {}: {reason}", path.display())
            }
            Self::NotFinite(fault) => fault.fmt(f),
            Self::Examination { step, reason } => write!(
                f,
                "the tasks of step {step} could not be run: {reason}. The checkpoint is kept; the same command tries \
                 them again"
            ),
        }
    }
}

fn fmt_other(f: &mut fmt::Formatter<'_>, folder: &Path, differences: &[Difference]) -> fmt::Result {
    write!(f, "{} holds a run of another plan:", folder.display())?;
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not given".into());
    for Difference { key, stored, asked } in differences {
        write!(f, "\n  {key} is {} there and {} here", text(stored), text(asked))?;
    }
    write!(f, "\nname another folder with -o, or put the old run aside and start anew with --fresh")
}

fn fmt_not_saved(f: &mut fmt::Formatter<'_>, step: u64, last: Option<&Path>, cause: &Error) -> fmt::Result {
    write!(f, "the checkpoint of step {step} could not be written: {cause}. ")?;
    match last {
        Some(last) => write!(f, "The last good one is {}; ", last.display())?,
        None => f.write_str("There is none before it; ")?,
    }
    f.write_str(match cause {
        Error::Learner { .. } => "the same command goes on from it",
        _ => "make room and give the same command again to go on from it",
    })
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(epoch, first), (to, last)] = self.windows;
        write!(f, "the {} is {} at step {}", self.what, self.value, self.step)?;
        if let Some(micro) = self.micro_batch {
            write!(f, ", micro-batch {micro}")?;
        }
        write!(f, " (windows {first} of epoch {epoch} to {last} of epoch {to}; learning rate ")?;
        write!(f, "{}). Training stopped and nothing was updated. ", self.learning_rate)?;
        match &self.last {
            Some(last) => write!(f, "The last good checkpoint is {}. ", last.display())?,
            None => f.write_str("There is no checkpoint yet. ")?,
        }
        f.write_str(
            "The same command would meet it again: try a lower optimizer.learning_rate, a longer warm-up, \
             optimizer.clip = 1.0 or train.precision = \"f32\", in another folder",
        )
    }
}

/// What to try, for the system errors a user can do something about.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; the disk is full: free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; the disk is mounted read-only: name a folder on another disk",
        io::ErrorKind::PermissionDenied => "; you may not do that there: check the folder's permissions",
        io::ErrorKind::NotADirectory => "; a file is in the way of a folder of that name: move it",
        _ => "",
    }
}
