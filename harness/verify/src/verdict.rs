//! What became of a check.

use std::fmt;

use bheval_abi::Status;
use serde::{Deserialize, Serialize};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The backend keeps this part of the contract.
    Passed,
    /// It does not.
    Failed,
    /// Nothing was found out, for the reason given.
    Skipped,
}

/// The end of a check, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen; after a failure also what the contract says and what to try.
    pub evidence: String,
}

impl Verdict {
    /// The verdict of a check that did not hold.
    #[must_use]
    pub fn failed(evidence: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, evidence: evidence.into() }
    }

    /// The verdict where nothing could be found out.
    #[must_use]
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self { outcome: Outcome::Skipped, evidence: reason.into() }
    }
}

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Failed(String),
    Skipped(String),
}

/// What a check found: evidence that all is well, or why it stopped.
pub(crate) type Finding = Result<String, Stop>;

/// Stops a check with a failure.
pub(crate) fn failed<T>(evidence: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(evidence.into()))
}

/// Stops a check that has nothing to look at.
pub(crate) fn skipped<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(reason.into()))
}

/// A call that the backend did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) action: &'static str,
    pub(crate) status: Status,
    pub(crate) sentence: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` refused a right call ({}): {:?}", self.action, self.status.name(), self.sentence)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Failed(refusal.to_string())
    }
}
