//! What a tokenizer and a model make of a text, and the classic faults to be warned of.

use bheval_data::encode::Query;
use bheval_data::masked::Pll;
use bheval_data::tokenizer::{Tokenizer, TokenizerError};

use crate::{AnyCut, Cutter};

/// Sentences that show most faults: a plain one, one with a capital and a clitic, one outside ASCII.
pub const SENTENCES: [&str; 3] =
    ["The cat sat on the mat.", "Who hasn't Amy's sister called?", "Zoë ordered crème brûlée."];

/// A fault that changes scores, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Nothing stands before a sentence, so its first token is not scored.
    FirstTokenUnscored {
        /// The first token of a sample sentence.
        piece: String,
    },
    /// There is no BOS; EOS or PAD stands in for it.
    OtherForBos {
        /// What stands in.
        piece: String,
    },
    /// The tokenizer adds BOS by itself, so a pipeline that also adds one gets two.
    AddsBos {
        /// What it adds.
        piece: String,
    },
    /// The tokenizer's settings and its `tokenizer.json` disagree on BOS.
    BosSetting {
        /// `add_bos_token` of the settings.
        setting: bool,
    },
    /// The tokenizer appends a token.
    AppendsToken {
        /// What it appends.
        piece: String,
    },
    /// A leading space becomes a token of its own; protocols that put a space in front score it.
    SpaceToken {
        /// The token.
        piece: String,
    },
    /// The tokenizer has ids that the model does not.
    TokenizerLarger {
        /// Ids of the tokenizer.
        tokenizer: u32,
        /// Entries of the model.
        model: u32,
    },
    /// The model has entries that the tokenizer never makes: probability mass that no text can get.
    ModelLarger {
        /// Ids of the tokenizer.
        tokenizer: u32,
        /// Entries of the model.
        model: u32,
    },
    /// A sample sentence holds the unknown token.
    Unknown {
        /// The sentence.
        sentence: String,
    },
    /// The tokenizer finds no words, so a reading that goes by words hides the rest of the sentence.
    OneWord {
        /// The reading.
        pll: Pll,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstTokenUnscored { piece } => write!(
                f,
                "nothing stands before a sentence, so its first token (here {piece:?}) is not scored; pairs that differ in \
                 their first word are compared without it. For causal models the default protocol puts BOS or EOS there, \
                 where the model names one"
            ),
            Self::OtherForBos { piece } => {
                write!(f, "the model names no BOS; {piece:?} stands before each sentence instead")
            }
            Self::AddsBos { piece } => write!(
                f,
                "the tokenizer adds {piece:?} by itself; a program that puts one there too feeds two. This one feeds one"
            ),
            Self::BosSetting { setting } => write!(
                f,
                "tokenizer_config.json has add_bos_token: {setting}, but tokenizer.json does the contrary; some \
                 tokenizer classes of transformers follow the setting. babylm2025 follows tokenizer.json here"
            ),
            Self::AppendsToken { piece } => {
                write!(
                    f,
                    "the tokenizer appends {piece:?}; it is never scored here, except with --as-encoded"
                )
            }
            Self::SpaceToken { piece } => write!(
                f,
                "a leading space becomes a token of its own ({piece:?}); babylm2024 and lm-eval put a space before each \
                 sentence and score that token"
            ),
            Self::TokenizerLarger { tokenizer, model } => write!(
                f,
                "the tokenizer has {tokenizer} ids and the model {model} entries: a text that uses the ids beyond is \
                 refused. The tokenizer may belong to another model"
            ),
            Self::ModelLarger { tokenizer, model } => write!(
                f,
                "the model has {model} entries and the tokenizer {tokenizer} ids; the rest is padding, whose probability \
                 no text can get (harmless where small)"
            ),
            Self::Unknown { sentence } => {
                write!(
                    f,
                    "{sentence:?} holds the unknown token: sentences that differ there only get equal scores"
                )
            }
            Self::OneWord { pll } => write!(
                f,
                "the tokenizer takes a whole sentence for one word, so {pll} hides everything after a token, as \
                 sentence_l2r does but for the end; --pll original hides the token alone"
            ),
        }
    }
}

/// A sentence and its cut.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The sentence.
    pub sentence: String,
    /// How it is cut.
    pub cut: AnyCut,
}

/// How sentences are cut. For a reading that treats answers apart, each sentence is its own answer.
///
/// # Errors
/// A sentence that the tokenizer makes nothing of.
pub fn show(cutter: &Cutter<'_>, sentences: &[String]) -> Result<Vec<Shown>, TokenizerError> {
    let query = |s: &String| Query::sentence(s).with_answer(0, s.chars().count());
    let one = |s: &String| Ok(Shown { sentence: s.clone(), cut: cutter.cut(&query(s))? });
    sentences.iter().map(one).collect()
}

/// The faults that this tokenizer, model and protocol have together.
///
/// # Errors
/// As [`show`].
pub fn warnings(
    tokenizer: &Tokenizer,
    cutter: &Cutter<'_>,
    model_vocab: u32,
    sentences: &[String],
) -> Result<Vec<Warning>, TokenizerError> {
    let mut found = Vec::new();
    for shown in show(cutter, sentences)? {
        first_token(tokenizer, cutter, &shown, &mut found);
        one_word(cutter, &shown, &mut found);
        if tokenizer.special().unk.as_ref().is_some_and(|unk| shown.cut.ids()[1..].contains(&unk.id)) {
            found.push(Warning::Unknown { sentence: shown.sentence });
        }
    }
    if cutter.pll().is_none() {
        own_tokens(tokenizer, &sentences[0], &mut found)?;
    }
    vocabularies(tokenizer.vocab(), model_vocab, &mut found);
    found.dedup();
    Ok(found)
}

fn first_token(tokenizer: &Tokenizer, cutter: &Cutter<'_>, shown: &Shown, found: &mut Vec<Warning>) {
    let already =
        found.iter().any(|w| matches!(w, Warning::FirstTokenUnscored { .. } | Warning::OtherForBos { .. }));
    if already {
        return;
    }
    if shown.cut.unscored() > 0 {
        let piece = tokenizer.piece(shown.cut.ids()[0]).unwrap_or_default();
        found.push(Warning::FirstTokenUnscored { piece });
    } else if let (None, Cutter::Causal(encoder)) = (&tokenizer.special().bos, cutter)
        && let Some(prefix) = encoder.prefix_token()
    {
        found.push(Warning::OtherForBos { piece: prefix.text.clone() });
    }
}

/// A sentence with a blank in it has two words at least.
fn one_word(cutter: &Cutter<'_>, shown: &Shown, found: &mut Vec<Warning>) {
    let by_words = cutter.pll().filter(|pll| matches!(pll, Pll::WithinWordL2r | Pll::AnswerL2rWordL2r));
    let (Some(pll), Some(cut)) = (by_words, shown.cut.masked()) else { return };
    let already = found.iter().any(|w| matches!(w, Warning::OneWord { .. }));
    if !already && cut.words < 2 && shown.sentence.trim().contains(' ') {
        found.push(Warning::OneWord { pll });
    }
}

fn own_tokens(tokenizer: &Tokenizer, sentence: &str, found: &mut Vec<Warning>) -> Result<(), TokenizerError> {
    let encoding = tokenizer.encode(sentence, true)?;
    let piece = |i: usize| tokenizer.piece(encoding.ids[i]).unwrap_or_default();
    let adds = encoding.special[0];
    if adds {
        found.push(Warning::AddsBos { piece: piece(0) });
    }
    if let Some(setting) = tokenizer.flag("add_bos_token").filter(|&s| s != adds) {
        found.push(Warning::BosSetting { setting });
    }
    let last = encoding.ids.len() - 1;
    if encoding.special[last] {
        found.push(Warning::AppendsToken { piece: piece(last) });
    }
    let plain = tokenizer.ids(sentence)?;
    let spaced = tokenizer.ids(&format!(" {sentence}"))?;
    if spaced.len() > plain.len() && spaced[1..] == plain[..] {
        found.push(Warning::SpaceToken { piece: tokenizer.piece(spaced[0]).unwrap_or_default() });
    }
    Ok(())
}

fn vocabularies(tokenizer: u32, model: u32, found: &mut Vec<Warning>) {
    match tokenizer.cmp(&model) {
        std::cmp::Ordering::Greater => found.push(Warning::TokenizerLarger { tokenizer, model }),
        std::cmp::Ordering::Less => found.push(Warning::ModelLarger { tokenizer, model }),
        std::cmp::Ordering::Equal => {}
    }
}
