//! Calls that must be refused: with the right status, in a sentence, and without harm to the next call.

use bheval_abi::Status;

use crate::corpus::{Values, probe, same};
use crate::raw::{Answer, Opened};
use crate::verdict::{Finding, Stop, failed};

/// A model that is asked wrong things, and how it scored before.
pub(crate) struct Rejection {
    pub(crate) opened: Opened,
    sequences: Vec<Vec<u32>>,
    before: Values,
    refused: usize,
    sentence: String,
}

impl Rejection {
    pub(crate) fn new(mut opened: Opened) -> Result<Self, Stop> {
        let sequences = probe(&opened.info);
        let before = opened.ask(&sequences)?;
        Ok(Self { opened, sequences, before, refused: 0, sentence: String::new() })
    }

    /// Fails unless `what` was refused as bad input, and the model still scores as before.
    pub(crate) fn bad_input(&mut self, what: &str, answer: Answer) -> Result<(), Stop> {
        if answer.status != Status::OK && answer.status != Status::BAD_INPUT {
            return failed(format!(
                "{what} was refused as `{}` (status {}, {:?}), where the contract asks for `bad input` (status 1)",
                answer.status.name(),
                answer.status.0,
                answer.sentence
            ));
        }
        self.refusal(what, answer)
    }

    /// Fails unless `what` was refused for any reason, and the model still scores as before.
    pub(crate) fn refusal(&mut self, what: &str, answer: Answer) -> Result<(), Stop> {
        check_refusal(what, &answer)?;
        self.refused += 1;
        self.sentence = answer.sentence;
        self.unharmed(what)
    }

    /// Fails unless the model still scores as before.
    pub(crate) fn unharmed(&mut self, what: &str) -> Result<(), Stop> {
        let after = self.opened.ask(&self.sequences)?;
        let after_what = format!("after {what}");
        same(&self.sequences, ["before", &after_what], &self.before, &after)?;
        Ok(())
    }

    /// What to say when everything was refused as it should be.
    pub(crate) fn done(self) -> Finding {
        Ok(format!("{} refused, for example: {:?}", self.refused, self.sentence))
    }
}

/// Fails unless a call was refused in order: not with success, no panic, and with a sentence.
pub(crate) fn check_refusal(what: &str, answer: &Answer) -> Result<(), Stop> {
    if let Some(fault) = &answer.fault {
        return failed(format!("{what}: {fault}"));
    }
    match answer.status {
        Status::OK => failed(format!("{what} was taken as if it were right (status ok)")),
        Status::PANIC => failed(format!("{what} made the backend panic: {:?}", answer.sentence)),
        _ if answer.sentence.trim().is_empty() => failed(format!(
            "{what} was refused (`{}`) without a sentence that says what is wrong",
            answer.status.name()
        )),
        _ => Ok(()),
    }
}
