//! Questions to a masked model: sequences with some tokens hidden, and what is asked at their positions.

use bheval_abi::{MASKED_EXTENSION, Masked as RawMasked, MaskedTable, Scores, Status};

use crate::model::{bad_answer, is_log_prob, refused};
use crate::{Error, Model, Scored};

/// Sequences that a masked model reads, and the tokens asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedBatch {
    token: Vec<u32>,
    /// Where each sequence ends.
    end: Vec<u32>,
    position: Vec<u32>,
    target: Vec<u32>,
}

impl MaskedBatch {
    /// No sequences.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sequence, special tokens and masks in place, and its questions: at which of its tokens the model is read,
    /// and whose probability is asked for there. Returns the index of the first question.
    ///
    /// # Panics
    /// If the sequence is empty, or a question lies outside it.
    pub fn push(&mut self, ids: &[u32], questions: &[(usize, u32)]) -> usize {
        assert!(
            !ids.is_empty() && questions.iter().all(|&(at, _)| at < ids.len()),
            "a question lies outside"
        );
        let (first, begin) = (self.target.len(), self.token.len());
        self.token.extend(ids);
        self.end.push(self.token.len() as u32);
        self.position.extend(questions.iter().map(|&(at, _)| (begin + at) as u32));
        self.target.extend(questions.iter().map(|&(_, target)| target));
        first
    }

    /// Number of tokens in all sequences.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.token.len()
    }

    /// Number of questions.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.target.len()
    }

    /// Whether there is no sequence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }
}

impl Model {
    /// `ln p(target | sequence)` in nats, one for each question, in their order.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] where the backend reads no masked models, what it refuses, and any value that is not
    /// finite or above 0.
    pub fn score_masked(&mut self, batch: &MaskedBatch) -> Result<Scored, Error> {
        let action = "score masked tokens";
        let none =
            || refused(self.library(), action, Status::UNSUPPORTED, "it reads no masked models".into());
        let table = self.library().extension(MASKED_EXTENSION).ok_or_else(none)?.cast::<MaskedTable>();
        // SAFETY: the id names the table's type; its size is read before its function.
        let function =
            unsafe { ((*table).size >= size_of::<MaskedTable>()).then(|| (*table).score).flatten() };
        let function = function.ok_or_else(none)?;
        let begin: Vec<u32> = std::iter::once(0).chain(batch.end.iter().copied()).collect();
        let raw = RawMasked {
            size: size_of::<RawMasked>(),
            len: batch.token.len(),
            token: batch.token.as_ptr(),
            sequences: batch.end.len(),
            begin: begin.as_ptr(),
            queries: batch.target.len(),
            position: batch.position.as_ptr(),
            target: batch.target.as_ptr(),
        };
        let mut log_prob = vec![f32::NAN; batch.target.len()];
        let (data, len) = (log_prob.as_mut_ptr(), log_prob.len());
        let mut scores = Scores { size: size_of::<Scores>(), log_prob: data, len, fed: 0 };
        let model = self.raw();
        self.run(action, |message| {
            // SAFETY: an opened model of this library; the arrays are as long as they say and outlive the call.
            unsafe { function(model, &raw const raw, &raw mut scores, message) }
        })?;
        let fed = scores.fed;
        match log_prob.iter().position(|&value| !is_log_prob(value)) {
            None => Ok(Scored { log_prob, fed }),
            Some(q) => Err(bad_answer(
                self.library(),
                &format!("log-probability {} for token {}, question {q}", log_prob[q], batch.target[q]),
            )),
        }
    }
}
