//! What keeps a model from being exported.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A model that can't be exported: where it fails, and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A tensor that can't be stored.
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor { name, reason } => write!(f, "tensor `{name}` {reason}"),
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
            Self::Tensor { .. } => None,
        }
    }
}
