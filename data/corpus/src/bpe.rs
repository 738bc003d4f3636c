//! Training a byte-level BPE tokenizer, and the files that transformers reads.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bheval_data::atomic::write_atomic;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::{NFC, NFKC, NormalizerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

use crate::Error;
use crate::sample::is_in_share;
use crate::source::{DocumentReader, Finished, Watch};
use crate::sources::{Source, listed};
use crate::survey::content;
use crate::walk::Effort;

/// What is done to text before it is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalizer {
    /// Nothing: every text comes back from its tokens byte by byte.
    #[default]
    None,
    /// Unicode's composed form.
    Nfc,
    /// The same with compatibility characters replaced: ligatures, full-width letters.
    Nfkc,
}

/// The special tokens and the parts they play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Special {
    /// All of them, in the order of their ids from 0.
    pub tokens: Vec<String>,
    /// Begin of sequence.
    pub bos: Option<String>,
    /// End of sequence.
    pub eos: Option<String>,
    /// Padding.
    pub pad: Option<String>,
    /// Unknown. A byte-level tokenizer never makes it; some programs want a name for it.
    pub unk: Option<String>,
}

impl Default for Special {
    fn default() -> Self {
        let [bos, eos, pad, unk] = ["<s>", "</s>", "<pad>", "<unk>"].map(str::to_owned);
        let tokens = vec![bos.clone(), eos.clone(), pad.clone(), unk.clone()];
        Self { tokens, bos: Some(bos), eos: Some(eos), pad: Some(pad), unk: Some(unk) }
    }
}

impl Special {
    /// The tokens by the parts they play, as the files of Hugging Face name them.
    fn roles(&self) -> Map<String, Value> {
        let roles = [("bos", &self.bos), ("eos", &self.eos), ("unk", &self.unk), ("pad", &self.pad)];
        let named = roles.into_iter().filter_map(|(role, token)| Some((role, token.as_ref()?)));
        named.map(|(role, token)| (format!("{role}_token"), json!(token))).collect()
    }

    fn check(&self) -> Result<(), Error> {
        let roles = [&self.bos, &self.eos, &self.pad, &self.unk].into_iter().flatten();
        for token in self.tokens.iter().chain(roles) {
            if token.trim().is_empty() || token.chars().count() < 2 {
                return Err(Error::plan(format!(
                    "{token:?} can't be a special token: it has to differ from every byte; use a form like <s>"
                )));
            }
        }
        if let Some((_, token)) = self.tokens.iter().enumerate().find(|(i, t)| self.tokens[..*i].contains(t))
        {
            return Err(Error::plan(format!("the special token {token:?} was given twice")));
        }
        let roles = [("bos", &self.bos), ("eos", &self.eos), ("pad", &self.pad), ("unk", &self.unk)];
        for (role, token) in roles {
            let Some(token) = token.as_ref().filter(|token| !self.tokens.contains(token)) else { continue };
            return Err(Error::plan(format!(
                "the {role} token {token:?} is none of the special tokens {}; name it with --special too, or give --{role} none",
                listed(&self.tokens)
            )));
        }
        Ok(())
    }
}

/// How a tokenizer is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct BpeOptions {
    /// Entries, with special tokens and the 256 bytes.
    pub vocab: u32,
    /// Pairs that are rarer are not merged.
    pub min_frequency: u64,
    /// What is done to text before it is cut.
    pub normalizer: Normalizer,
    /// Special tokens.
    pub special: Special,
    /// Whether a blank is put before a text that begins with none, so that its first word is cut as any other.
    pub add_prefix_space: bool,
    /// The share of documents that is learnt from, chosen by a hash of their words; 1 for all.
    pub sample: f64,
}

impl BpeOptions {
    /// Refuses what no tokenizer can be made of.
    ///
    /// # Errors
    /// A vocabulary without room for bytes and special tokens, special tokens that are none.
    pub fn check(&self) -> Result<(), Error> {
        self.special.check()?;
        let least = 256 + self.special.tokens.len() as u32;
        if self.vocab < least {
            return Err(Error::plan(format!(
                "a vocabulary of {} has no room for the 256 bytes and {} special tokens; it takes {least} at least",
                self.vocab,
                self.special.tokens.len()
            )));
        }
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            return Err(Error::plan(format!(
                "a sample of {} is no share of the documents: above 0, at most 1",
                self.sample
            )));
        }
        Ok(())
    }
}

/// The most bytes of text that a tokenizer is trained on: the `tokenizers` crate counts pairs in 32 bits with a sign, and a
/// count that overflows would make a wrong vocabulary without a word.
const MOST_BYTES: u64 = i32::MAX as u64;

type Bpe = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>;

/// A trained tokenizer.
pub struct TrainedBpe {
    inner: Bpe,
    options: BpeOptions,
    /// Size and digest of each source.
    pub sources: Vec<Finished>,
}

/// Trains on the documents of the sources. `merging` is called once all are read and counted.
///
/// # Errors
/// A source that can't be read, no text at all, or more than 2 GiB of it.
pub fn train_bpe(
    sources: &[Source],
    options: &BpeOptions,
    effort: &Effort,
    merging: impl Fn() + Send + Sync,
) -> Result<TrainedBpe, Error> {
    options.check()?;
    crate::walk::try_open(sources)?;
    let mut inner = untrained(options)?;
    let added = |token: &String| AddedToken::from(token.clone(), true).normalized(false);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(options.vocab as usize)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .special_tokens(options.special.tokens.iter().map(added).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let texts = Texts::new(sources, effort.watch.clone(), options.sample, &merging);
    let training = |reason: String| Error::Training { reason };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(effort.threads).build();
    let pool = pool.map_err(|e| training(format!("no threads: {e}")))?;
    let trained =
        pool.install(|| inner.train(&mut trainer, texts.iter()).map(drop).map_err(|e| e.to_string()));
    let sources = texts.finish()?;
    trained.map_err(training)?;
    Ok(TrainedBpe { inner, options: options.clone(), sources })
}

fn untrained(options: &BpeOptions) -> Result<Bpe, Error> {
    let normalizer = match options.normalizer {
        Normalizer::None => None,
        Normalizer::Nfc => Some(NormalizerWrapper::from(NFC)),
        Normalizer::Nfkc => Some(NormalizerWrapper::from(NFKC)),
    };
    let cutter = ByteLevel::default().add_prefix_space(options.add_prefix_space);
    TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(normalizer)
        .with_pre_tokenizer(Some(cutter))
        .with_post_processor(Some(cutter))
        .with_decoder(Some(cutter))
        .build()
        .map_err(|e| Error::Training { reason: e.to_string() })
}

/// The texts of all documents for a trainer that takes an iterator without errors: the first one ends it, and is kept.
struct Texts<'a>(Mutex<State<'a>>);

struct State<'a> {
    sources: std::slice::Iter<'a, Source>,
    sample: f64,
    merging: &'a (dyn Fn() + Send + Sync),
    reader: Option<DocumentReader>,
    watch: Option<Watch>,
    finished: Vec<Finished>,
    bytes: u64,
    error: Option<Error>,
}

impl<'a> Texts<'a> {
    fn new(
        sources: &'a [Source],
        watch: Option<Watch>,
        sample: f64,
        merging: &'a (dyn Fn() + Send + Sync),
    ) -> Self {
        let (sources, finished) = (sources.iter(), Vec::new());
        let state = State { sources, sample, merging, reader: None, watch, finished, bytes: 0, error: None };
        Self(Mutex::new(state))
    }

    fn iter(&self) -> impl Iterator<Item = String> + Send + '_ {
        std::iter::from_fn(|| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.error.is_some() {
                return None;
            }
            state.next().unwrap_or_else(|error| {
                state.error = Some(error);
                None
            })
        })
    }

    fn finish(self) -> Result<Vec<Finished>, Error> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.error {
            Some(error) => Err(error),
            None if state.bytes == 0 => Err(Error::Empty {
                what: "the texts hold no documents: there is nothing to learn from".into(),
            }),
            None => Ok(state.finished),
        }
    }
}

impl State<'_> {
    fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(document) = reader.read()?
            {
                if self.sample < 1.0 && !is_in_share(self.sample, "tokenizer", &content(&document.text).0) {
                    continue;
                }
                self.count(document.text.len())?;
                return Ok(Some(document.text));
            }
            if let Some(reader) = self.reader.take() {
                self.finished.push(reader.finish()?);
            }
            let Some(source) = self.sources.next() else {
                (self.merging)();
                return Ok(None);
            };
            self.reader = Some(DocumentReader::open(&source.file, self.watch.clone())?);
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes as u64;
        if self.bytes <= MOST_BYTES {
            return Ok(());
        }
        Err(Error::plan(format!(
            "more than {MOST_BYTES} bytes of text: counts would overflow; learn from a part of the documents, as --sample 0.1"
        )))
    }
}

impl TrainedBpe {
    /// Entries that came of it: fewer than asked for where the text has no more pairs.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let text = self.inner.to_string(true).map_err(|e| Error::Training { reason: e.to_string() })?;
        write_atomic(&folder.join("tokenizer.json"), text.as_bytes())?;
        let roles = self.options.special.roles();
        write_json(&folder.join("tokenizer_config.json"), &self.config())?;
        write_json(&folder.join("special_tokens_map.json"), &Value::Object(roles))
    }

    fn config(&self) -> Value {
        let added = self.options.special.tokens.iter().enumerate().map(|(id, token)| {
            let flags = json!({
                "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": true,
            });
            (id.to_string(), flags)
        });
        let mut config = Map::new();
        config.insert("add_prefix_space".into(), self.options.add_prefix_space.into());
        config.insert("added_tokens_decoder".into(), Value::Object(added.collect()));
        config.extend(self.options.special.roles());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        Value::Object(config)
    }
}

/// Writes JSON for people to read.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::corpus(path, format!("could not be written as JSON: {e}")))?;
    text.push('\n');
    Ok(write_atomic(path, text.as_bytes())?)
}
