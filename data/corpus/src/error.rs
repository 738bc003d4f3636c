//! What can go wrong between a text and its tokens, told to the person who has to put it right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bheval_data::tokenizer::TokenizerError;

use crate::source::SourceError;

/// An error of this crate: what happened, where, and what to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that the system refused, in `bheval-data`'s words.
    File(bheval_data::Error),
    /// A source of text that can't be read.
    Source(SourceError),
    /// A tokenizer that can't be read, or a text that it refuses.
    Tokenizer(TokenizerError),
    /// A document that the tokenizer refuses.
    Document {
        /// The source.
        file: PathBuf,
        /// The line that it begins at, from 1.
        line: u64,
        /// Why.
        cause: TokenizerError,
    },
    /// Domains, files or shares that do not fit together.
    Plan {
        /// What is wrong, and what to try.
        reason: String,
    },
    /// Domains with fewer words than their budgets.
    Short {
        /// For each: its name, its budget, the words it has.
        domains: Vec<(String, u64, u64)>,
    },
    /// Nothing to learn from.
    Empty {
        /// What was looked at.
        what: String,
    },
    /// A folder that is no corpus, or a damaged one.
    Corpus {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder that can't be written to, because of what is there.
    Taken {
        /// The folder.
        path: PathBuf,
        /// What is there, and what to try.
        reason: String,
    },
    /// Tokens beyond the corpus, or windows that do not fit into it.
    Range {
        /// What was asked for, and what there is.
        reason: String,
    },
    /// A tokenizer that could not be trained.
    Training {
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Wraps a system error: `.map_err(Error::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::File(bheval_data::Error::Io { action, path, cause })
    }

    pub(crate) fn plan(reason: impl Into<String>) -> Self {
        Self::Plan { reason: reason.into() }
    }

    pub(crate) fn corpus(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corpus { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<bheval_data::Error> for Error {
    fn from(error: bheval_data::Error) -> Self {
        Self::File(error)
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(error)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => error.source(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::Tokenizer(error) => error.fmt(f),
            Self::Document { file, line, cause } => {
                write!(f, "{}, document at line {line}: {cause}", file.display())
            }
            Self::Plan { reason } | Self::Range { reason } => f.write_str(reason),
            Self::Short { domains } => fmt_short(f, domains),
            Self::Empty { what } => write!(f, "{what}; nothing was written"),
            Self::Corpus { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Taken { path, reason } => write!(f, "{} can't be used: {reason}", path.display()),
            Self::Training { reason } => write!(f, "the tokenizer could not be trained: {reason}"),
        }
    }
}

fn fmt_short(f: &mut fmt::Formatter<'_>, domains: &[(String, u64, u64)]) -> fmt::Result {
    f.write_str("short of their word budgets: ")?;
    for (i, (name, budget, has)) in domains.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(f, "{comma}{name} has {has} of {budget}")?;
    }
    f.write_str(
        " (after removal of duplicates and dev documents); give more text, a smaller --words or other shares, or take what \
         there is with --allow-short",
    )
}
