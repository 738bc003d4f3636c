//! How well a tokenizer fits a text, domain by domain.

use std::collections::BTreeMap;

use bheval_data::tokenizer::Tokenizer;
use serde::Serialize;

use crate::Error;
use crate::sources::Source;
use crate::walk::{Effort, Read, walk};

/// Counts over the documents of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Documents.
    pub documents: u64,
    /// Words, by white space.
    pub words: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens.
    pub tokens: u64,
    /// Words that exactly one token covers.
    pub whole_words: u64,
    /// Tokens that stand for what the vocabulary can't spell.
    pub unknown: u64,
}

impl Coverage {
    /// Tokens a word.
    #[must_use]
    pub fn fertility(&self) -> f64 {
        self.tokens as f64 / self.words as f64
    }

    /// The share of words that are one token.
    #[must_use]
    pub fn whole_share(&self) -> f64 {
        self.whole_words as f64 / self.words as f64
    }

    /// Bytes a token.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens as f64
    }

    /// Adds the counts of other documents.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.words += other.words;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        self.whole_words += other.whole_words;
        self.unknown += other.unknown;
    }
}

/// Counts over all documents of the sources, by domain.
///
/// # Errors
/// A source that can't be read, a document that the tokenizer refuses.
pub fn coverage(
    sources: &[Source],
    tokenizer: &Tokenizer,
    effort: &Effort,
) -> Result<BTreeMap<String, Coverage>, Error> {
    let mut all = BTreeMap::<String, Coverage>::new();
    let count = |read: &Read| {
        of_text(&read.document.text, tokenizer).map_err(|cause| Error::Document {
            file: sources[read.source].file.path.clone(),
            line: read.document.line,
            cause,
        })
    };
    walk(
        sources,
        effort,
        |_| true,
        count,
        |read, counts| {
            all.entry(domain(&sources[read.source], read).to_owned()).or_default().add(&counts);
            Ok(())
        },
    )?;
    Ok(all)
}

/// A document's domain: its source's, or the one its row names.
pub(crate) fn domain<'a>(source: &'a Source, read: &'a Read) -> &'a str {
    source.domain.as_deref().or(read.document.label.as_deref()).unwrap_or_default()
}

fn of_text(text: &str, tokenizer: &Tokenizer) -> Result<Coverage, bheval_data::tokenizer::TokenizerError> {
    let encoding = tokenizer.encode(text, false)?;
    let unk = tokenizer.special().unk.as_ref().map(|unk| unk.id);
    let words = words(text);
    Ok(Coverage {
        documents: 1,
        words: words.len() as u64,
        bytes: text.len() as u64,
        tokens: encoding.ids.len() as u64,
        whole_words: whole(&words, &encoding.offsets),
        unknown: encoding.ids.iter().filter(|id| Some(**id) == unk).count() as u64,
    })
}

/// Where words stand, in characters.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.chars().chain([' ']).enumerate() {
        match (start, c.is_whitespace()) {
            (None, false) => start = Some(at),
            (Some(from), true) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// Words that exactly one token has characters of. Both lists rise.
fn whole(words: &[(usize, usize)], tokens: &[(usize, usize)]) -> u64 {
    let mut first = 0;
    let mut whole = 0;
    for &(start, end) in words {
        first += tokens[first..].iter().take_while(|t| t.1 <= start).count();
        // Bytes of one character are tokens with the same place.
        let touching = tokens[first..].iter().take_while(|t| t.0 < end).take(2).count();
        whole += u64::from(touching == 1);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_by_white_space_in_characters() {
        assert_eq!(words(" é\u{a0}ab\nc "), [(1, 2), (3, 5), (6, 7)]);
        assert!(words(" \n").is_empty());
    }

    #[test]
    fn a_word_is_whole_if_one_token_covers_it() {
        // "ab cd e": ab | ␣c | d | ␣e
        assert_eq!(whole(&[(0, 2), (3, 5), (6, 7)], &[(0, 2), (2, 4), (4, 5), (5, 7)]), 2);
        // An emoji of two byte tokens, then a word.
        assert_eq!(whole(&[(0, 1), (2, 3)], &[(0, 1), (0, 1), (1, 3)]), 1);
        assert_eq!(whole(&[(0, 1)], &[]), 0);
    }
}
