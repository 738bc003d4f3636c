//! What can go wrong between the harness and a backend.

use std::fmt;
use std::path::PathBuf;

use bheval_abi::Status;

/// A failure at the boundary, with where it happened and what to try.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// No such file.
    Missing {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The file can't be opened as a library, or exports no backend.
    NotAPlugin {
        /// The file.
        path: PathBuf,
        /// What the system's loader, or the check of the table, said.
        reason: String,
    },
    /// Built for another major version of the contract.
    OtherVersion {
        /// The file, or the name of a linked backend.
        origin: String,
        /// Major and minor version found.
        found: (u32, u32),
    },
    /// The file is not the one that was pinned.
    OtherDigest {
        /// The file.
        path: PathBuf,
        /// The pin, in hex.
        expected: String,
        /// SHA-256 of the file, in hex.
        found: String,
    },
    /// The backend itself refused.
    Refused {
        /// Name of the backend.
        backend: String,
        /// What it was asked to do.
        action: &'static str,
        /// Its status.
        status: Status,
        /// Its sentence.
        text: String,
    },
    /// The backend answered with something that can't be right.
    BadAnswer {
        /// Name of the backend.
        backend: String,
        /// What is wrong with it.
        text: String,
    },
    /// The worker process of an isolated backend died in a call.
    Crashed {
        /// Name of the backend.
        backend: String,
        /// What it was asked to do.
        action: &'static str,
        /// How it ended: `was killed by SIGSEGV`.
        how: String,
        /// The last lines that it printed; often none.
        said: String,
        /// How many calls in a row ended so, this one included.
        in_a_row: u32,
        /// Whether asking a new worker makes sense.
        again: bool,
    },
    /// A worker process can't be started, or not again.
    Worker {
        /// Why.
        text: String,
    },
}

impl Error {
    /// Whether a part of the request may still succeed: one of its inputs is at fault, or there were too many.
    #[must_use]
    pub fn may_pass_in_part(&self) -> bool {
        self.is_about_input()
            || self.is_crash()
            || matches!(self, Error::Refused { status: Status::EXHAUSTED, .. })
    }

    /// Whether a worker process died and the next call is made to a new one.
    #[must_use]
    pub fn is_crash(&self) -> bool {
        matches!(self, Error::Crashed { again: true, .. })
    }

    /// Whether the fault lies in an input, and not in the model or the backend.
    #[must_use]
    pub fn is_about_input(&self) -> bool {
        match self {
            Error::Refused { status, .. } => matches!(*status, Status::BAD_INPUT | Status::NOT_FINITE),
            Error::BadAnswer { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing { path } => write!(
                f,
                "no backend library at {}; give the path of a built plugin, or a name that `bheval backends` lists",
                path.display()
            ),
            Error::NotAPlugin { path, reason } => write!(
                f,
                "{} is no bheval plugin: {reason}; a plugin exports `{}`, see backends/abi/include/bheval.h",
                path.display(),
                bheval_abi::SYMBOL
            ),
            Error::OtherVersion { origin, found: (major, minor) } => write!(
                f,
                "{origin} speaks version {major}.{minor} of the backend contract, this bheval speaks {}.{}; \
                 rebuild the plugin against this version's header, or use the bheval it was built for",
                bheval_abi::MAJOR,
                bheval_abi::MINOR
            ),
            Error::OtherDigest { path, expected, found } => write!(
                f,
                "{} has SHA-256 {found}, but {expected} was pinned; it was not loaded. Check where the file comes from, \
                 or correct --backend-sha256",
                path.display()
            ),
            Error::Refused { backend, action, status, text } => {
                write!(f, "{backend} could not {action} ({}): {text}", status.name())
            }
            Error::BadAnswer { backend, text } => write!(
                f,
                "{backend} gave an answer that can't be right: {text}; nothing of it was used. This is a fault of the \
                 backend or of the model's weights"
            ),
            Error::Crashed { backend, action, how, said, in_a_row, again } => {
                write!(f, "{backend}: its worker {how} when it was asked to {action}")?;
                if !said.is_empty() {
                    write!(f, "; the last it said: {said}")?;
                }
                match again {
                    false if *in_a_row > 1 => write!(
                        f,
                        "; {in_a_row} calls in a row ended so. This backend does not get on with this model, or with \
                         these items"
                    ),
                    _ => Ok(()),
                }
            }
            Error::Worker { text } => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
