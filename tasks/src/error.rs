//! What can go wrong between a task's name and its items.

use std::fmt;

/// A failure to find or read a task.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The data itself.
    Data(bheval_data::Error),
    /// No task of that name.
    UnknownTask {
        /// As typed.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The task has no subset that fits.
    UnknownSubset {
        /// Name of the task.
        task: &'static str,
        /// As typed.
        pattern: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A sentence without a character that is not white space.
    EmptySentence {
        /// File, or entry of an archive.
        source: String,
        /// Line, counted from 1.
        line: usize,
        /// Field of the row.
        field: &'static str,
    },
    /// The data does not have the files, or the number of rows, that the task is made of.
    Incomplete {
        /// Name of the task.
        task: &'static str,
        /// What is missing.
        reason: String,
    },
    /// An archive that is not the pinned one does not hold the pinned items either.
    OtherContent {
        /// Name of the task.
        task: &'static str,
        /// The archive.
        file: String,
        /// The content's SHA-256 in the manifest.
        expected: String,
        /// That of the archive.
        found: String,
        /// Domains and items in the archive.
        size: (usize, usize),
    },
}

impl From<bheval_data::Error> for Error {
    fn from(error: bheval_data::Error) -> Self {
        Error::Data(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Data(error) => error.fmt(f),
            Error::UnknownTask { name, known } => {
                write!(f, "no task `{name}`; there are: {} (`bheval tasks` tells more)", known.join(", "))
            }
            Error::UnknownSubset { task, pattern, known } => {
                write!(f, "{task} has no subset that fits `{pattern}`; it has: {}", known.join(", "))
            }
            Error::EmptySentence { source, line, field } => {
                write!(
                    f,
                    "{source}, line {line}: `{field}` is empty; an empty sentence has no probability to compare"
                )
            }
            Error::OtherContent { task, file, expected, found, size: (domains, items) } => {
                write!(
                    f,
                    "{task}: {file} is not the pinned archive, and its {domains} domains with {items} items have the \
                     content {found} where {expected} is pinned; pack the unchanged items of that release, one \
                     DOMAIN.jsonl for each domain"
                )
            }
            Error::Incomplete { task, reason } => {
                write!(f, "{task}: {reason}; `bheval data verify {task}` checks the files")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Data(error) => Some(error),
            _ => None,
        }
    }
}
