//! What keeps teachers from teaching.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of distillation: where, and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A fault of `[distill]`.
    Plan {
        /// What is wrong with it.
        reason: String,
    },
    /// A teacher that can't teach this student.
    Unfit {
        /// The teacher.
        teacher: PathBuf,
        /// Why.
        reason: String,
    },
    /// A teacher's backend.
    Backend(bheval_host::Error),
    /// The training text.
    Corpus(bheval_corpus::Error),
    /// A cache that can't be used.
    Cache {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A cache for which there is no room.
    NoRoom {
        /// Its file.
        path: PathBuf,
        /// Bytes that it still takes.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Another process makes the same cache.
    Busy {
        /// Its unfinished file.
        path: PathBuf,
    },
    /// It was asked to stop while a cache was made; what was made is kept.
    Interrupted {
        /// Windows that are in it.
        done: u64,
        /// Windows in all.
        windows: u64,
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

    pub(crate) fn unfit(teacher: &Path, reason: impl Into<String>) -> Self {
        Self::Unfit { teacher: teacher.to_owned(), reason: reason.into() }
    }

    pub(crate) fn cache(path: &Path, reason: impl Into<String>) -> Self {
        Self::Cache { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<bheval_host::Error> for Error {
    fn from(error: bheval_host::Error) -> Self {
        Self::Backend(error)
    }
}

impl From<bheval_corpus::Error> for Error {
    fn from(error: bheval_corpus::Error) -> Self {
        Self::Corpus(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { reason } => write!(f, "[distill]: {reason}"),
            Self::Unfit { teacher, reason } => {
                write!(f, "{} can't teach this student: {reason}", teacher.display())
            }
            Self::Backend(error) => error.fmt(f),
            Self::Corpus(error) => error.fmt(f),
            Self::Cache { path, reason } => write!(
                f,
                "the teachers' cache {} can't be used: {reason}; delete it, and it is made anew",
                path.display()
            ),
            Self::NoRoom { path, bytes, free } => write!(
                f,
                "the teachers' cache {} would take {} and {} are free there; name a folder on another disk with cache_dir, keep \
                 less (cache = \"top-k\" or \"hidden\", cache_dtype = \"f16\"), or ask the teachers anew each time (cache = \"none\")",
                path.display(),
                size(*bytes),
                size(*free)
            ),
            Self::Busy { path } => write!(
                f,
                "another process is making the teachers' cache {}; wait for it or end it, or name another folder with cache_dir",
                path.display()
            ),
            Self::Interrupted { done, windows } => write!(
                f,
                "stopped while the teachers' cache was made; {done} of {windows} windows are kept, and the same command goes on \
                 with the next"
            ),
            Self::Io { action, path, cause } => {
                write!(f, "could not {action} {}: {cause}{}", path.display(), advice(cause.kind()))
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

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the disk is full: free some space, or name a folder on another disk with cache_dir"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; name a folder that may be written to with cache_dir"
        }
        _ => "",
    }
}

/// A number of bytes for people: `1.5 GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(999, "999 bytes"), (1000, "1.0 KB"), (1_500_000_000, "1.5 GB"), (u64::MAX, "18446744.1 TB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
