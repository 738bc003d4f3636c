//! Questions to a masked model: sequences with some tokens hidden, and what is asked at their positions.

/// Sequences that a masked model reads, and the tokens asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedBatch {
    pub(crate) token: Vec<u32>,
    /// Where each sequence ends.
    pub(crate) end: Vec<u32>,
    pub(crate) position: Vec<u32>,
    pub(crate) target: Vec<u32>,
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

    /// Where each sequence begins, and where the last one ends.
    pub(crate) fn begin(&self) -> Vec<u32> {
        std::iter::once(0).chain(self.end.iter().copied()).collect()
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
