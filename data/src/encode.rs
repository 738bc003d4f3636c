//! The one place that owns BOS, the leading space and the boundary between context and continuation.

use crate::protocol::{Boundary, Prefix, Protocol};
use crate::tokenizer::{Encoding, SpecialToken, Tokenizer, TokenizerError};

/// A text whose probability is asked for, after another that is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What is given; may be empty.
    pub context: String,
    /// What is scored. After a context it carries the space that separates the two.
    pub continuation: String,
    /// Where the answer to a question stands, for readings of masked models that treat it apart: a range of the
    /// characters of `context + continuation`, end exclusive.
    pub answer: Option<(usize, usize)>,
}

impl Query {
    /// A whole sentence, given nothing.
    #[must_use]
    pub fn sentence(text: impl Into<String>) -> Self {
        Self { context: String::new(), continuation: text.into(), answer: None }
    }

    /// `target` after `context`, with a space between them.
    #[must_use]
    pub fn after(context: &str, target: &str) -> Self {
        Self { context: context.to_owned(), continuation: format!(" {target}"), answer: None }
    }

    /// The same text, of which these characters of `context + continuation` are the answer.
    #[must_use]
    pub fn with_answer(self, start: usize, end: usize) -> Self {
        Self { answer: Some((start, end)), ..self }
    }
}

/// A token sequence and which of its positions count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request {
    /// Token ids, prefix included.
    pub ids: Vec<u32>,
    /// For each id whether its log-probability counts. The first never does: nothing stands before it.
    pub scored: Vec<bool>,
}

/// What a request was made from, for those who want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The request.
    pub request: Request,
    /// For each id the characters of the text that it covers, end exclusive.
    pub offsets: Vec<(usize, usize)>,
    /// Tokens of the text that can't be scored, because nothing stands before them.
    pub unscored: usize,
}

/// Cuts queries by a protocol.
#[derive(Clone, Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    protocol: Protocol,
}

impl<'a> Encoder<'a> {
    /// An encoder.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, protocol: Protocol) -> Self {
        Self { tokenizer, protocol }
    }

    /// What cuts text into ids.
    #[must_use]
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// The token that the protocol puts before a text without context, if the tokenizer has one.
    #[must_use]
    pub fn prefix_token(&self) -> Option<&'a SpecialToken> {
        let special = self.tokenizer.special();
        let own = |t: &'a Option<SpecialToken>| t.as_ref().filter(|t| t.file != "config.json");
        match self.protocol.prefix() {
            Prefix::Always => special.bos.as_ref().or(special.eos.as_ref()),
            // The references ask the tokenizer alone.
            Prefix::EmptyContext => own(&special.bos).or(own(&special.eos)),
            Prefix::EmptyContextOrPad => own(&special.bos).or(own(&special.eos)).or(own(&special.pad)),
            Prefix::Tokenizer => None,
        }
    }

    /// The request of a query.
    ///
    /// # Errors
    /// A text without tokens, or one of which no token can be scored.
    pub fn request(&self, query: &Query) -> Result<Request, TokenizerError> {
        if self.protocol == Protocol::Bheval && query.context.is_empty() {
            // Every token of the sentence counts, so offsets, which cost time, are not needed.
            return self.prefixed(self.tokenizer.ids(&query.continuation)?);
        }
        some_scored(self.cut(query)?.request)
    }

    /// A sentence as models learn it that this protocol scores: the prefix in front, which is not predicted, and EOS at the
    /// end, where the tokenizer has one. A text without tokens gives none.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn training_ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.tokenizer.ids(text)?;
        if ids.is_empty() {
            return Ok(ids);
        }
        let end = self.tokenizer.special().eos.as_ref();
        Ok(self.prefix_token().into_iter().map(|t| t.id).chain(ids).chain(end.map(|t| t.id)).collect())
    }

    fn prefixed(&self, ids: Vec<u32>) -> Result<Request, TokenizerError> {
        if ids.is_empty() {
            return Err(TokenizerError::NoTokens { reason: "it is empty".into() });
        }
        let prefix = self.prefix_token().map(|t| t.id);
        let mut scored = vec![true; ids.len() + usize::from(prefix.is_some())];
        scored[0] = false;
        some_scored(Request { ids: prefix.into_iter().chain(ids).collect(), scored })
    }

    /// The request of a query, with offsets in the characters of `context + continuation`. It may score nothing.
    ///
    /// # Errors
    /// A text without tokens, or a continuation that melts into its context.
    pub fn cut(&self, query: &Query) -> Result<Cut, TokenizerError> {
        match self.protocol.boundary() {
            Boundary::ContextLength => self.cut_by_length(query),
            Boundary::Offsets => self.cut_by_offsets(query),
        }
    }

    /// As lm-eval and BabyLM 2024: trailing spaces of the context go to the continuation, both are encoded as one, and
    /// the continuation is what follows as many tokens as the context alone has.
    fn cut_by_length(&self, query: &Query) -> Result<Cut, TokenizerError> {
        if query.context.is_empty() {
            let space = if self.protocol.leading_space() { " " } else { "" };
            let encoding = self.tokenizer.encode(&format!("{space}{}", query.continuation), false)?;
            let whole = encoding.ids.len();
            return Ok(finish(shifted(encoding, space.len()), whole, self.prefix_token()));
        }
        let encoding = self.tokenizer.encode(&format!("{}{}", query.context, query.continuation), false)?;
        let context = query.context.trim_end();
        let given = if context.is_empty() { 0 } else { self.tokenizer.ids(context)?.len() };
        if given >= encoding.ids.len() {
            return Err(TokenizerError::NothingScored {
                reason: "the continuation melts into the context's last token",
            });
        }
        let counted = encoding.ids.len() - given;
        Ok(finish(encoding, counted, None))
    }

    /// As BabyLM 2025: every token counts that ends beyond the first character of the continuation.
    fn cut_by_offsets(&self, query: &Query) -> Result<Cut, TokenizerError> {
        let own = self.protocol.prefix() == Prefix::Tokenizer;
        let encoding = self.tokenizer.encode(&format!("{}{}", query.context, query.continuation), own)?;
        let mut start = query.context.chars().count();
        if own {
            // The reference adds where its first token begins, which is not 0 where the tokenizer trims spaces.
            start += encoding.offsets[0].0;
        }
        let whole = !own && query.context.is_empty();
        let marks = encoding.offsets.iter().map(|&(_, end)| whole || end > start).collect();
        Ok(join(self.prefix_token(), encoding, marks))
    }

    /// The ids that the tokenizer gives, special tokens of its own included, nothing added, all but the first scored.
    ///
    /// # Errors
    /// A text without tokens.
    pub fn as_encoded(tokenizer: &Tokenizer, text: &str) -> Result<Cut, TokenizerError> {
        let encoding = tokenizer.encode(text, true)?;
        let marks = vec![true; encoding.ids.len()];
        let mut cut = join(None, encoding, marks);
        cut.unscored = 0;
        Ok(cut)
    }
}

/// Puts a prefix in front; the last `counted` tokens are the continuation.
fn finish(encoding: Encoding, counted: usize, prefix: Option<&SpecialToken>) -> Cut {
    let first = encoding.ids.len() - counted;
    let marks = (0..encoding.ids.len()).map(|i| i >= first).collect();
    join(prefix, encoding, marks)
}

/// Offsets of a text that got characters in front, as offsets of the text itself.
fn shifted(mut encoding: Encoding, by: usize) -> Encoding {
    for (start, end) in &mut encoding.offsets {
        *start = start.saturating_sub(by);
        *end = end.saturating_sub(by);
    }
    encoding
}

fn join(prefix: Option<&SpecialToken>, encoding: Encoding, marks: Vec<bool>) -> Cut {
    let before = usize::from(prefix.is_some());
    let mut scored: Vec<bool> = std::iter::repeat_n(false, before).chain(marks).collect();
    let unscored = usize::from(before == 0 && scored[0] && !encoding.special[0]);
    scored[0] = false;
    let ids = prefix.map(|t| t.id).into_iter().chain(encoding.ids).collect();
    let offsets = std::iter::repeat_n((0, 0), before).chain(encoding.offsets).collect();
    Cut { request: Request { ids, scored }, offsets, unscored }
}

fn some_scored(request: Request) -> Result<Request, TokenizerError> {
    if request.scored.iter().any(|&s| s) {
        return Ok(request);
    }
    Err(TokenizerError::NothingScored { reason: "the text is one token, and nothing stands before it" })
}
