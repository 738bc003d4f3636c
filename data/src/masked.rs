//! From a text to what a masked model is asked: copies of it with some tokens hidden, one for each scored token.
//!
//! A masked model gives no probability of a text. In its place stands the pseudo-log-likelihood (Salazar et al. 2020), the
//! sum of `ln p(token | the text with this token hidden)`. Readings differ in what else is hidden, and where the model is
//! read; their sums are different quantities. All of them take the tokenizer's own special tokens, which are never scored.
//!
//! A word is what the tokenizer's pre-tokenization cuts out, as in minicons 0.3.39 and lm-pub-quiz 0.3.3: for BERT a run
//! between blanks and punctuation, for byte-level BPE a match of GPT-2's expression with the blank before it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::encode::Query;
use crate::protocol::Protocol;
use crate::tokenizer::{Encoding, SpecialToken, Tokenizer, TokenizerError};

/// A reading of a masked model. The name is stored with every result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pll {
    /// The token alone is hidden (Salazar et al. 2020).
    Original,
    /// The token and what follows it in its word are hidden (Kauf & Ivanova 2023), so that the rest of a long word does
    /// not give it away.
    WithinWordL2r,
    /// The token and everything after it are hidden, the special token at the end too, as in lm-pub-quiz.
    SentenceL2r,
    /// In the answer the token and the answer's rest are hidden, elsewhere as [`Pll::WithinWordL2r`] (lm-pub-quiz).
    AnswerL2rWordL2r,
    /// The token alone is hidden, and the model is read one token before it: masked next-token prediction (BabyLM 2025).
    Mntp,
}

impl Pll {
    /// All of them.
    pub const ALL: [Pll; 5] =
        [Pll::Original, Pll::WithinWordL2r, Pll::SentenceL2r, Pll::AnswerL2rWordL2r, Pll::Mntp];

    /// The name as it is typed and stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pll::Original => "original",
            Pll::WithinWordL2r => "within_word_l2r",
            Pll::SentenceL2r => "sentence_l2r",
            Pll::AnswerL2rWordL2r => "answer_l2r+word_l2r",
            Pll::Mntp => "mntp",
        }
    }

    /// The reading under a protocol: the one that was asked for, or the protocol's own. `bheval` knows all readings and
    /// takes `within_word_l2r`; `babylm2025` has those of its pipeline, `original` (its `mlm` backend) and `mntp`.
    ///
    /// # Errors
    /// A sentence on why the protocol does not read masked models, or not so.
    pub fn under(protocol: Protocol, asked: Option<Pll>) -> Result<Pll, String> {
        match (protocol, asked) {
            (Protocol::Bheval, asked) => Ok(asked.unwrap_or(Pll::WithinWordL2r)),
            (Protocol::Babylm2025, None) => Ok(Pll::Original),
            (Protocol::Babylm2025, Some(pll @ (Pll::Original | Pll::Mntp))) => Ok(pll),
            (Protocol::Babylm2025, Some(pll)) => Err(format!(
                "the BabyLM 2025 pipeline reads masked models by original or mntp, not by {pll}; --protocol bheval does"
            )),
            (Protocol::Babylm2024, _) => {
                Err("the BabyLM 2024 pipeline gives masked models' scores back in the wrong \
                 order, so there is nothing to reproduce; use --protocol bheval or babylm2025"
                    .to_owned())
            }
            (Protocol::LmEval, _) => {
                Err("lm-eval scores causal models only; use --protocol bheval or babylm2025 for masked ones"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for Pll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pll {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|p| p.name()).collect();
            format!("unknown reading `{name}`; there are: {}", names.join(", "))
        })
    }
}

/// One scored token: a copy of the text in which the tokens from `target` up to `end` are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskedCopy {
    /// Index of the token whose probability is asked for, the first hidden one.
    pub target: u32,
    /// One past the last hidden token.
    pub end: u32,
    /// Index of the token at which the model is read.
    pub read: u32,
}

/// A text, and the copies of it whose terms make up its pseudo-log-likelihood, in the order of their targets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskedRequest {
    /// Token ids, special tokens included, nothing hidden.
    pub ids: Vec<u32>,
    /// The id that stands for a hidden token.
    pub mask: u32,
    /// One for each scored token.
    pub copies: Vec<MaskedCopy>,
}

impl MaskedRequest {
    /// The ids of a copy.
    #[must_use]
    pub fn hidden(&self, copy: MaskedCopy) -> Vec<u32> {
        let mut ids = self.ids.clone();
        ids[copy.target as usize..copy.end as usize].fill(self.mask);
        ids
    }

    /// Tokens in all copies.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len().saturating_mul(self.copies.len())
    }
}

/// What a request was made from, for those who want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedCut {
    /// The request.
    pub request: MaskedRequest,
    /// For each id the characters of the text that it covers, end exclusive.
    pub offsets: Vec<(usize, usize)>,
    /// Tokens of the text that can't be scored, because the model is read before them and nothing stands there.
    pub unscored: usize,
    /// Words that the tokenizer's pre-tokenization finds.
    pub words: usize,
}

/// Cuts queries for a masked model.
#[derive(Clone, Debug)]
pub struct MaskedEncoder<'a> {
    tokenizer: &'a Tokenizer,
    protocol: Protocol,
    pll: Pll,
    mask: &'a SpecialToken,
}

impl<'a> MaskedEncoder<'a> {
    /// An encoder for a reading that [`Pll::under`] allows.
    ///
    /// # Errors
    /// A tokenizer without a mask token.
    pub fn new(tokenizer: &'a Tokenizer, protocol: Protocol, pll: Pll) -> Result<Self, TokenizerError> {
        let mask = tokenizer.special().mask.as_ref();
        let mask = mask.ok_or_else(|| TokenizerError::NoMask { folder: tokenizer.folder().to_path_buf() })?;
        Ok(Self { tokenizer, protocol, pll, mask })
    }

    /// The reading.
    #[must_use]
    pub fn pll(&self) -> Pll {
        self.pll
    }

    /// The token that stands for a hidden one.
    #[must_use]
    pub fn mask(&self) -> &'a SpecialToken {
        self.mask
    }

    /// The request of a query.
    ///
    /// # Errors
    /// As [`MaskedEncoder::cut`], and a text of which no token can be scored.
    pub fn request(&self, query: &Query) -> Result<MaskedRequest, TokenizerError> {
        let cut = self.cut(query)?;
        if !cut.request.copies.is_empty() {
            return Ok(cut.request);
        }
        let reason = if cut.unscored > 0 {
            "the text is one token, and nothing stands before it"
        } else {
            "the continuation holds nothing that the tokenizer keeps"
        };
        Err(TokenizerError::NothingScored { reason })
    }

    /// The request of a query, with offsets in the characters of `context + continuation`. It may score nothing.
    ///
    /// # Errors
    /// A text without tokens, one that holds the mask token, or one without the answer that the reading needs.
    pub fn cut(&self, query: &Query) -> Result<MaskedCut, TokenizerError> {
        let encoding = self.tokenizer.encode(&format!("{}{}", query.context, query.continuation), true)?;
        if encoding.ids.contains(&self.mask.id) {
            return Err(TokenizerError::HoldsMask { mask: self.mask.text.clone() });
        }
        let counted = self.counted(query, &encoding);
        let ends = self.ends(query, &encoding, &counted)?;
        let before = usize::from(self.pll == Pll::Mntp);
        let targets = (0..counted.len()).filter(|&t| counted[t]);
        let copy = |t: usize| {
            let read = t.checked_sub(before)?;
            Some(MaskedCopy { target: t as u32, end: ends[t] as u32, read: read as u32 })
        };
        let copies: Vec<_> = targets.clone().filter_map(copy).collect();
        Ok(MaskedCut {
            unscored: targets.count() - copies.len(),
            words: words(&encoding),
            offsets: encoding.offsets,
            request: MaskedRequest { ids: encoding.ids, mask: self.mask.id, copies },
        })
    }

    /// Which tokens are scored: all but special ones, and after a context those that end beyond it, as in BabyLM 2025.
    fn counted(&self, query: &Query, encoding: &Encoding) -> Vec<bool> {
        let start = query.context.chars().count();
        // The 2025 pipeline passes over a token without characters at the very start; we score every token.
        let whole = query.context.is_empty() && self.protocol != Protocol::Babylm2025;
        let marks = encoding.offsets.iter().zip(&encoding.special);
        marks.map(|(&(_, end), &special)| !special && (whole || end > start)).collect()
    }

    /// For each token where the hidden part ends that begins with it.
    fn ends(
        &self,
        query: &Query,
        encoding: &Encoding,
        counted: &[bool],
    ) -> Result<Vec<usize>, TokenizerError> {
        let len = counted.len();
        match self.pll {
            Pll::Original | Pll::Mntp => Ok((1..=len).collect()),
            Pll::WithinWordL2r => Ok(word_ends(encoding, counted)),
            Pll::SentenceL2r => Ok(vec![len; len]),
            Pll::AnswerL2rWordL2r => {
                let (start, end) = query.answer.ok_or(TokenizerError::NoAnswer)?;
                let mut ends = word_ends(encoding, counted);
                let answer = tokens_of(encoding, start..end.min(last_character(encoding)));
                ends[answer.clone()].fill(answer.end);
                Ok(ends)
            }
        }
    }
}

/// One past the last scored token of each token's word.
fn word_ends(encoding: &Encoding, counted: &[bool]) -> Vec<usize> {
    let mut ends: Vec<usize> = (1..=counted.len()).collect();
    for t in (1..ends.len()).rev() {
        let word = encoding.words[t];
        if counted[t] && word.is_some() && word == encoding.words[t - 1] {
            ends[t - 1] = ends[t];
        }
    }
    ends
}

/// The tokens from the one that covers the first of these characters to the one that covers the last. Characters that no
/// token covers are passed over; of several tokens that make up one character the first counts, as in lm-pub-quiz.
fn tokens_of(encoding: &Encoding, characters: Range<usize>) -> Range<usize> {
    let covers = |c: usize, t: usize| {
        let (start, end) = encoding.offsets[t];
        !encoding.special[t] && start <= c && c < end
    };
    let at = |c: usize| (0..encoding.ids.len()).find(|&t| covers(c, t));
    let ends = (characters.clone().find_map(at), characters.rev().find_map(at));
    match ends {
        (Some(first), Some(last)) => first..(last + 1).max(first),
        _ => 0..0,
    }
}

/// One past the last character that a token covers.
fn last_character(encoding: &Encoding) -> usize {
    encoding.offsets.iter().map(|&(_, end)| end).max().unwrap_or(0)
}

fn words(encoding: &Encoding) -> usize {
    let mut words: Vec<u32> = encoding.words.iter().flatten().copied().collect();
    words.dedup();
    words.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `[CLS] so ##uven ##ir , ok [SEP]` with the characters of "souvenir, ok".
    fn souvenir() -> Encoding {
        Encoding {
            ids: vec![2, 10, 11, 12, 13, 14, 3],
            offsets: vec![(0, 0), (0, 2), (2, 6), (6, 8), (8, 9), (10, 12), (0, 0)],
            special: vec![true, false, false, false, false, false, true],
            words: vec![None, Some(0), Some(0), Some(0), Some(1), Some(2), None],
        }
    }

    #[test]
    fn a_word_is_hidden_to_its_end_and_no_further() {
        let all: Vec<bool> = souvenir().special.iter().map(|s| !s).collect();
        assert_eq!(word_ends(&souvenir(), &all), [1, 4, 4, 4, 5, 6, 7]);
    }

    #[test]
    fn special_tokens_are_no_word_of_one_another() {
        let encoding = Encoding {
            ids: vec![2, 3],
            offsets: vec![(0, 0); 2],
            special: vec![true; 2],
            words: vec![None; 2],
        };
        assert_eq!(word_ends(&encoding, &[true, true]), [1, 2]);
    }

    #[test]
    fn an_answer_reaches_from_its_first_token_to_its_last() {
        assert_eq!(tokens_of(&souvenir(), 3..9), 2..5);
        // The blank at 9 belongs to no token.
        assert_eq!(tokens_of(&souvenir(), 9..12), 5..6);
        assert_eq!(tokens_of(&souvenir(), 9..10), 0..0);
        assert_eq!(tokens_of(&souvenir(), 40..50), 0..0);
    }

    #[test]
    fn a_protocol_reads_as_its_pipeline_or_says_why_not() {
        assert_eq!(Pll::under(Protocol::Bheval, None), Ok(Pll::WithinWordL2r));
        assert_eq!(Pll::under(Protocol::Bheval, Some(Pll::Mntp)), Ok(Pll::Mntp));
        assert_eq!(Pll::under(Protocol::Babylm2025, None), Ok(Pll::Original));
        let refused = |protocol, asked| Pll::under(protocol, asked).expect_err("refused");
        assert!(refused(Protocol::Babylm2025, Some(Pll::SentenceL2r)).contains("sentence_l2r"));
        assert!(refused(Protocol::Babylm2024, None).contains("wrong order"));
        assert!(refused(Protocol::LmEval, Some(Pll::Original)).contains("causal models only"));
    }

    #[test]
    fn names_read_back_and_others_list_the_known_ones() {
        for pll in Pll::ALL {
            assert_eq!(pll.name().parse(), Ok(pll));
        }
        let error = "word_l2r".parse::<Pll>().expect_err("unknown");
        assert!(error.contains("`word_l2r`") && error.contains("answer_l2r+word_l2r, mntp"), "{error}");
    }

    /// What minicons hides with the token `t`, loop for loop.
    fn hidden_by_minicons(words: &[Option<u32>], targets: &[usize], t: usize) -> Vec<usize> {
        let last = targets[targets.len() - 1];
        let later = (t + 1..=last).filter(|&j| words[j] == words[t] && words[t].is_some());
        std::iter::once(t).chain(later).collect()
    }

    /// What lm-pub-quiz hides with the `i`-th target, loop for loop.
    fn hidden_by_pubquiz(words: &[Option<u32>], targets: &[usize], i: usize) -> Vec<usize> {
        let word = words[targets[i]];
        let rest = targets[i + 1..].iter().take_while(|&&t| word.is_some() && words[t] == word);
        std::iter::once(targets[i]).chain(rest.copied()).collect()
    }

    proptest! {
        #[test]
        fn words_are_hidden_as_minicons_and_lm_pub_quiz_hide_them(
            lengths in prop::collection::vec(1_usize..5, 1..8),
            first in 0_usize..6,
        ) {
            let numbered = lengths.iter().zip(0_u32..).flat_map(|(&len, word)| vec![Some(word); len]);
            let words: Vec<_> = std::iter::once(None).chain(numbered).chain([None]).collect();
            let len = words.len();
            let counted: Vec<bool> = (0..len).map(|t| words[t].is_some() && t >= first).collect();
            let special = words.iter().map(Option::is_none).collect();
            let encoding = Encoding { ids: vec![9; len], offsets: vec![(0, 0); len], special, words };
            let ends = word_ends(&encoding, &counted);
            let targets: Vec<usize> = (0..len).filter(|&t| counted[t]).collect();
            for (i, &t) in targets.iter().enumerate() {
                let ours: Vec<usize> = (t..ends[t]).collect();
                prop_assert_eq!(&ours, &hidden_by_minicons(&encoding.words, &targets, t));
                prop_assert_eq!(&ours, &hidden_by_pubquiz(&encoding.words, &targets, i));
            }
        }
    }
}
