//! `state.json`: everything about a run at one step that is no tensor.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bheval_data::digest::{sha256_file, sha256_hex};
use serde::{Deserialize, Serialize};

use crate::plan::Identity;
use crate::{DevLoss, Error, Patience};

/// Layout of checkpoints.
const FORMAT: u32 = 1;
/// The longest state that is read.
const LIMIT: u64 = 256 << 20;

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

impl FileRecord {
    /// The record of a file that is there.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let bytes = fs::metadata(path).map_err(Error::file(path, "read"))?.len();
        Ok(Self { bytes, sha256: sha256_file(path)? })
    }

    /// Holds a file against its record.
    ///
    /// # Errors
    /// A file that is missing, or another one.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        let bytes = match fs::metadata(path) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::damaged(path, "it is missing"));
            }
            Err(e) => return Err(Error::file(path, "read")(e)),
        };
        if bytes != self.bytes {
            return Err(Error::damaged(
                path,
                format!("it has {bytes} bytes and was written with {}", self.bytes),
            ));
        }
        let sha256 = sha256_file(path)?;
        if sha256 != self.sha256 {
            return Err(Error::damaged(path, format!("its SHA-256 is {sha256} and was {}", self.sha256)));
        }
        Ok(())
    }
}

/// The state of a run after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Layout of the checkpoint.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// The epoch of the next window, from 0.
    pub epoch: u64,
    /// The next window's place in its epoch, from 0.
    pub cursor: u64,
    /// Tokens that were targets.
    pub tokens_seen: u64,
    /// Words that were inputs, every time that they were.
    pub words_seen: u64,
    /// Whether it is a point of a learning curve by words, which is never removed.
    pub point: bool,
    /// Whether the plan asked for it; not so where a run was interrupted.
    pub scheduled: bool,
    /// Dev losses so far.
    pub dev: Vec<DevLoss>,
    /// What early stopping goes by.
    pub patience: Patience,
    /// The plan's digest.
    pub plan: String,
    /// What of the plan decides the weights.
    pub identity: Identity,
    /// The program that wrote it, and its build.
    pub program: String,
    /// The arithmetic that the weights are of.
    pub arithmetic: String,
    /// The other files.
    pub files: BTreeMap<String, FileRecord>,
    /// SHA-256 over this file with this field empty.
    pub checksum: String,
}

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn new(identity: Identity, program: &str, arithmetic: &str) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            epoch: 0,
            cursor: 0,
            tokens_seen: 0,
            words_seen: 0,
            point: false,
            scheduled: false,
            dev: vec![],
            patience: Patience::default(),
            plan: identity.digest(),
            identity,
            program: program.to_owned(),
            arithmetic: arithmetic.to_owned(),
            files: BTreeMap::new(),
            checksum: String::new(),
        }
    }

    fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with finite numbers is always JSON") + "\n"
    }

    /// The file's text, with its checksum.
    pub(super) fn sealed(&mut self) -> String {
        self.checksum.clear();
        self.checksum = sha256_hex(self.text().as_bytes());
        self.text()
    }

    /// Reads a state, and checks it.
    ///
    /// # Errors
    /// [`Error::Damaged`] for one that is missing or not as it was written.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let missing = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::damaged(path, "it is missing")
            }
            _ => Error::file(path, "read")(e),
        };
        if fs::metadata(path).map_err(missing)?.len() > LIMIT {
            return Err(Error::damaged(path, "it is too long for a checkpoint's state"));
        }
        let bytes = fs::read(path).map_err(missing)?;
        let mut state: Self = serde_json::from_slice(&bytes)
            .map_err(|e| Error::damaged(path, format!("not a checkpoint's state: {e}")))?;
        let found = std::mem::take(&mut state.checksum);
        if sha256_hex(state.text().as_bytes()) != found {
            return Err(Error::damaged(path, "its checksum is not that of its content"));
        }
        if state.format != FORMAT {
            return Err(Error::damaged(
                path,
                format!("it has format {}, and this program reads {FORMAT}", state.format),
            ));
        }
        if let Some(name) =
            state.files.keys().find(|name| Path::new(name).components().count() != 1 || name.starts_with('.'))
        {
            return Err(Error::damaged(path, format!("{name:?} is not the plain name of a file beside it")));
        }
        state.checksum = found;
        Ok(state)
    }
}
