//! The extension of masked models: tokens are read from both sides.

use crate::growth::is_whole;
use crate::{Failure, Message, RawModel, Scores, Status};

/// Id of the extension whose table is a [`MaskedTable`].
pub const MASKED_EXTENSION: &str = "bheval.masked.1";

/// Token sequences as a masked model reads them, and what is asked about their positions.
///
/// A sequence holds its special tokens and, where something is hidden, the tokenizer's mask token: which tokens are
/// hidden, and how, is the harness's business. There is no padding: each sequence is read as if it were alone.
#[repr(C)]
#[derive(Debug)]
pub struct Masked {
    /// `sizeof(Masked)` as the caller knows it.
    pub size: usize,
    /// Number of tokens in all sequences.
    pub len: usize,
    /// `len` token ids, sequence after sequence.
    pub token: *const u32,
    /// Number of sequences.
    pub sequences: usize,
    /// `sequences + 1` elements, rising from 0 to `len`: sequence `s` is `token[begin[s]..begin[s + 1]]`.
    pub begin: *const u32,
    /// Number of questions.
    pub queries: usize,
    /// `queries` elements: the index into `token` where the model's distribution is read.
    pub position: *const u32,
    /// `queries` elements: the token whose log-probability is asked for there.
    pub target: *const u32,
}

/// Masked scoring. Lives as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct MaskedTable {
    /// `sizeof(MaskedTable)` as the backend knows it.
    pub size: usize,
    /// Writes, for each question, `ln p(target | the whole sequence, read at position)` into `scores`, whose `len` is
    /// the number of questions. The answer depends on the question's sequence alone, bit for bit.
    /// [any thread; one call at a time per model]
    pub score: Option<
        unsafe extern "C" fn(
            model: *mut RawModel,
            masked: *const Masked,
            scores: *mut Scores,
            message: *mut Message,
        ) -> Status,
    >,
}

/// A checked, borrowed [`Masked`].
#[derive(Clone, Copy, Debug)]
pub struct MaskedView<'a> {
    /// Token ids, sequence after sequence.
    pub token: &'a [u32],
    /// Where each sequence begins, and where the last one ends.
    pub begin: &'a [u32],
    /// Where each question is read.
    pub position: &'a [u32],
    /// The token that each question asks for.
    pub target: &'a [u32],
}

impl<'a> MaskedView<'a> {
    /// Checks lengths, bounds and that no sequence is empty; not the token range, which only the model knows.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming what breaks a rule.
    pub fn new(
        token: &'a [u32],
        begin: &'a [u32],
        position: &'a [u32],
        target: &'a [u32],
    ) -> Result<Self, Failure> {
        let whole = begin.first() == Some(&0) && begin.last().is_some_and(|&end| end as usize == token.len());
        if !whole {
            return Err(Failure::input("the sequences do not reach from the first token to the last"));
        }
        if let Some(s) = begin.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(Failure::input(format!("sequence {s} is empty, or ends before it begins")));
        }
        if position.len() != target.len() {
            return Err(Failure::input("there are not as many positions as targets"));
        }
        if let Some(q) = position.iter().position(|&p| p as usize >= token.len()) {
            return Err(Failure::input(format!(
                "question {q} is read at token {}, of {} in all",
                position[q],
                token.len()
            )));
        }
        Ok(Self { token, begin, position, target })
    }

    /// The view of a batch that came over the boundary.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] for null pointers, a size that is too small, or what [`MaskedView::new`] refuses.
    ///
    /// # Safety
    /// `masked` is null or points to a [`Masked`] whose arrays hold the elements it names for `'a`.
    pub unsafe fn from_raw(masked: *const Masked) -> Result<Self, Failure> {
        // SAFETY: null is handled first, and the caller vouches for the pointer.
        if masked.is_null() || !unsafe { is_whole(masked) } {
            return Err(Failure::input("no batch was given, or less of it than this version knows"));
        }
        // SAFETY: as above, and whole.
        let masked = unsafe { &*masked };
        let sequences = masked.sequences.checked_add(1);
        let begins = sequences.ok_or_else(|| Failure::input("the batch has too many sequences"))?;
        // SAFETY: the caller vouches for the arrays; null is handled.
        unsafe {
            Self::new(
                array(masked.token, masked.len)?,
                array(masked.begin, begins)?,
                array(masked.position, masked.queries)?,
                array(masked.target, masked.queries)?,
            )
        }
    }

    /// Number of sequences.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.begin.len() - 1
    }

    /// Range of a sequence's tokens.
    #[must_use]
    pub fn range(&self, sequence: usize) -> std::ops::Range<usize> {
        self.begin[sequence] as usize..self.begin[sequence + 1] as usize
    }

    /// Refuses token ids, in sequences or asked for, that the model does not have.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming the first one.
    pub fn check_tokens(&self, vocab: u32) -> Result<(), Failure> {
        match self.token.iter().chain(self.target).find(|&&t| t >= vocab) {
            None => Ok(()),
            Some(id) => Err(Failure::input(format!(
                "token id {id} is beyond the model's vocabulary of {vocab}; the tokenizer belongs to another model"
            ))),
        }
    }

    /// Refuses sequences longer than the model takes.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming the first one.
    pub fn check_length(&self, context: usize) -> Result<(), Failure> {
        match (0..self.sequences()).find(|&s| self.range(s).len() > context) {
            None => Ok(()),
            Some(s) => Err(Failure::input(format!(
                "sequence {s} has {} tokens, but the model takes {context}",
                self.range(s).len()
            ))),
        }
    }
}

/// # Safety
/// `ptr` is null or points to `len` elements for `'a`.
unsafe fn array<'a>(ptr: *const u32, len: usize) -> Result<&'a [u32], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() || len >= u32::MAX as usize {
        return Err(Failure::input("an array of the batch is null, or has 2^32 - 1 elements or more"));
    }
    // SAFETY: not null, and the caller vouches for `len` elements.
    Ok(unsafe { std::slice::from_raw_parts(ptr, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |begin: &[u32], position: &[u32], target: &[u32], essential: &str| {
            let failure = MaskedView::new(&[1, 2, 3], begin, position, target).expect_err(essential);
            assert!(failure.text.contains(essential), "{}", failure.text);
        };
        refused(&[0, 2], &[], &[], "from the first token to the last");
        refused(&[], &[], &[], "from the first token to the last");
        refused(&[0, 2, 2, 3], &[], &[], "sequence 1 is empty");
        refused(&[0, 3, 1, 3], &[], &[], "sequence 1");
        refused(&[0, 3], &[3], &[1], "question 0");
        refused(&[0, 3], &[1], &[], "as many positions as targets");
    }

    #[test]
    fn tokens_and_lengths_are_held_against_the_model() {
        let view = MaskedView::new(&[1, 2, 3], &[0, 1, 3], &[1], &[9]).expect("well formed");
        assert!(view.check_tokens(9).is_err_and(|f| f.text.contains("token id 9")));
        assert!(view.check_tokens(10).is_ok() && view.check_length(2).is_ok());
        assert!(view.check_length(1).is_err_and(|f| f.text.contains("sequence 1 has 2 tokens")));
    }
}
