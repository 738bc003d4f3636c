//! What keeps a model from being exported.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A model that can't be exported: where it fails, and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A folder that is no run's, or a run without what is asked for.
    Run {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint.
    Checkpoint(crate::Error),
    /// A tensor that can't be stored.
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that can't be written to.
    Out {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// A folder that was written and does not open again, or says something else than the checkpoint.
    RoundTrip {
        /// What went wrong.
        reason: String,
    },
    /// The system refused something.
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        Self::Checkpoint(error)
    }
}

impl From<bheval_data::Error> for Error {
    fn from(error: bheval_data::Error) -> Self {
        Self::Checkpoint(error.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { folder, reason } => write!(f, "nothing to export in {}: {reason}", folder.display()),
            Self::Checkpoint(error) => error.fmt(f),
            Self::Tensor { name, reason } => write!(f, "tensor `{name}` {reason}"),
            Self::Out { folder, reason } => write!(f, "-o {} can't be used: {reason}", folder.display()),
            Self::RoundTrip { reason } => {
                write!(
                    f,
                    "the exported model was written and does not read back ({reason}); nothing was kept of it"
                )
            }
            Self::Io { action, path, cause } => {
                let advice = match cause.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        "; the disk is full: free some space, or name a folder on another disk"
                    }
                    _ => "",
                };
                write!(f, "could not {action} {}: {cause}{advice}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
