//! An error on its way from the worker to the harness.

use std::path::Path;

use bheval_abi::Status;

use crate::Error;

/// What a backend can be doing when it refuses; the index is sent.
const ACTIONS: [&str; 5] =
    ["open the model", "describe the model", "score", "score masked tokens", "give logits"];

/// An [`Error`] on its way from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: u64,
    pub(super) numbers: [u64; 2],
    pub(super) text: String,
}

impl Refusal {
    /// The refusal that carries an error.
    pub(super) fn new(error: &Error) -> Self {
        let (kind, numbers, text) = match error {
            Error::Refused { action, status, text, .. } => {
                let action = ACTIONS.iter().position(|a| a == action).unwrap_or(0);
                (1, [u64::from(status.0.cast_unsigned()), action as u64], text.clone())
            }
            Error::BadAnswer { text, .. } => (2, [0; 2], text.clone()),
            Error::NotAPlugin { reason, .. } => (3, [0; 2], reason.clone()),
            Error::OtherVersion { found: (major, minor), .. } => {
                (4, [u64::from(*major), u64::from(*minor)], String::new())
            }
            Error::OtherDigest { found, .. } => (5, [0; 2], found.clone()),
            other => (0, [0; 2], other.to_string()),
        };
        Self { kind, numbers, text }
    }

    /// The error that it carries, of a backend of this name and place.
    pub(super) fn into_error(self, backend: &str, place: &Path, pin: Option<&str>) -> Error {
        let Self { kind, numbers: [a, b], text } = self;
        let (backend, path) = (backend.to_owned(), place.to_path_buf());
        match kind {
            1 => {
                let action = usize::try_from(b).ok().and_then(|b| ACTIONS.get(b)).unwrap_or(&"answer");
                Error::Refused { backend, action, status: Status((a as u32).cast_signed()), text }
            }
            2 => Error::BadAnswer { backend, text },
            3 => Error::NotAPlugin { path, reason: text },
            4 => Error::OtherVersion { origin: path.display().to_string(), found: (a as u32, b as u32) },
            5 => Error::OtherDigest { path, expected: pin.unwrap_or_default().to_owned(), found: text },
            _ => Error::Worker { text },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_on_both_sides() {
        let path = Path::new("/x/libbheval_b.so");
        let backend = || "b".to_owned();
        let status = Status::NOT_FINITE;
        for error in [
            Error::Refused { backend: backend(), action: "open the model", status, text: "why".into() },
            Error::Refused { backend: backend(), action: "score masked tokens", status, text: "é".into() },
            Error::BadAnswer { backend: backend(), text: "what".into() },
            Error::NotAPlugin { path: path.into(), reason: "no table".into() },
            Error::OtherVersion { origin: path.display().to_string(), found: (2, 7) },
            Error::OtherDigest { path: path.into(), expected: "00ff".into(), found: "11".into() },
            Error::Worker { text: "it is not linked".into() },
        ] {
            let back = Refusal::new(&error).into_error("b", path, Some("00ff"));
            assert_eq!(back.to_string(), error.to_string());
        }
    }
}
