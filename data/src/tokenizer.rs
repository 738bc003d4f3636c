//! Text to ids: any `tokenizer.json` of Hugging Face, and the special tokens that its model goes by.

mod charsmap;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// What can go wrong on the way from text to ids.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerError {
    /// No tokenizer in the folder.
    Missing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// The file is there, but it is none.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the reader's words.
        reason: String,
    },
    /// The tokenizer refused a text, or made nothing of it.
    NoTokens {
        /// Why.
        reason: String,
    },
    /// No token of the continuation is left to be scored.
    NothingScored {
        /// Why.
        reason: &'static str,
    },
    /// A masked model's tokenizer without a mask token.
    NoMask {
        /// Its folder.
        folder: PathBuf,
    },
    /// A text that holds the mask token itself.
    HoldsMask {
        /// The mask token.
        mask: String,
    },
    /// A reading that needs to know where the answer stands, and a text that has none.
    NoAnswer,
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(
                f,
                "no tokenizer at {}; `AutoTokenizer.from_pretrained(...).save_pretrained(DIR)` of transformers writes \
                 tokenizer.json, or name another folder with --tokenizer",
                path.display()
            ),
            Self::Damaged { path, reason } => {
                write!(
                    f,
                    "{} is not a tokenizer that can be read: {reason}; save or copy it again",
                    path.display()
                )
            }
            Self::NoTokens { reason } => write!(f, "the tokenizer makes no tokens of the text: {reason}"),
            Self::NothingScored { reason } => write!(f, "no token can be scored: {reason}"),
            Self::NoMask { folder } => write!(
                f,
                "the tokenizer in {} names no mask token, so nothing can be hidden from a masked model; `mask_token` belongs \
                 into its tokenizer_config.json or special_tokens_map.json (`bheval inspect` shows what is named)",
                folder.display()
            ),
            Self::HoldsMask { mask } => write!(
                f,
                "the text holds {mask:?}, which a masked model reads as a hidden token: its score would mean nothing"
            ),
            Self::NoAnswer => write!(
                f,
                "the reading answer_l2r+word_l2r needs to know which words are the answer, and this text has none; use \
                 within_word_l2r, which is the same outside answers"
            ),
        }
    }
}

impl std::error::Error for TokenizerError {}

/// A special token, and the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text: `<s>`.
    pub text: String,
    /// `tokenizer_config.json`, `special_tokens_map.json`, `config.json`, or for a mask token also `tokenizer.json`.
    pub file: &'static str,
}

/// The special tokens that scoring may need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begin of sequence.
    pub bos: Option<SpecialToken>,
    /// End of sequence.
    pub eos: Option<SpecialToken>,
    /// Padding.
    pub pad: Option<SpecialToken>,
    /// Unknown.
    pub unk: Option<SpecialToken>,
    /// What stands for a hidden token.
    pub mask: Option<SpecialToken>,
}

/// Ids of a text, with the characters that each covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token the range of Unicode characters it covers, end exclusive; empty for a special token.
    pub offsets: Vec<(usize, usize)>,
    /// For each token whether the tokenizer itself added it.
    pub special: Vec<bool>,
    /// For each token the number of its word: the piece of text that the tokenizer's pre-tokenization cut it from.
    pub words: Vec<Option<u32>>,
}

/// A tokenizer as its files define it, without truncation and padding.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    settings: Value,
    sha256: String,
    folder: PathBuf,
}

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const MODEL: &str = "config.json";

impl Tokenizer {
    /// Reads `tokenizer.json` and its companions from a model's folder.
    ///
    /// # Errors
    /// No `tokenizer.json`, or a file that can't be read.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        Self::load_for(folder, folder)
    }

    /// Reads a tokenizer for a model that may lie elsewhere: special tokens that the tokenizer's own files do not name
    /// are those of the model's `config.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load_for(folder: &Path, model: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => TokenizerError::Missing { path: path.clone() },
            _ => TokenizerError::Damaged { path: path.clone(), reason: e.to_string() },
        })?;
        let read = || {
            let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        };
        let damaged = |reason| TokenizerError::Damaged { path: path.clone(), reason };
        if let Some(reason) = charsmap::fault(&bytes) {
            return Err(damaged(reason));
        }
        let inner = contained(read).map_err(damaged)?;
        let model = if model.is_dir() { model } else { model.parent().unwrap_or(model) };
        let mut hash = Sha256::new();
        add(&mut hash, "tokenizer.json", &bytes);
        let settings = read_json(folder, CONFIG, &mut hash)?;
        let map = read_json(folder, MAP, &mut hash)?;
        let files = [(CONFIG, settings), (MAP, map), (MODEL, read_json(model, MODEL, &mut hash)?)];
        let special = special_tokens(&inner, &files);
        let [(_, settings), ..] = files;
        let sha256 = hex(&hash.finalize());
        Ok(Self { inner, special, settings, sha256, folder: folder.to_path_buf() })
    }

    /// The same tokenizer for text to learn from: where such a text spells a special token, that is cut as other text is,
    /// so that no document ends in its middle.
    #[must_use]
    pub fn special_as_text(mut self) -> Self {
        self.inner.set_encode_special_tokens(true);
        self
    }

    /// SHA-256 over the files that decide how text is cut, in hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The folder it was read from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The special tokens.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// One past the largest id.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        // The largest id of all has none past it; it is beyond every model's vocabulary either way.
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id.saturating_add(1))
    }

    /// The piece with this id as the vocabulary spells it, or `None` for an id it does not have.
    #[must_use]
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// A setting of `tokenizer_config.json`, if it is a boolean there.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.settings.get(name).and_then(Value::as_bool)
    }

    /// Ids and character offsets; with `special`, the tokens that the tokenizer adds by itself.
    ///
    /// # Errors
    /// A text that the tokenizer refuses or makes nothing of.
    pub fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizerError> {
        let encoded = contained(|| self.inner.encode_char_offsets(text, special)).map_err(no_tokens)?;
        let special: Vec<bool> = encoded.get_special_tokens_mask().iter().map(|&m| m != 0).collect();
        let words = encoded.get_word_ids().to_vec();
        if special.iter().all(|&s| s) {
            return Err(TokenizerError::NoTokens {
                reason: "the text is empty, or holds nothing the tokenizer keeps".into(),
            });
        }
        Ok(Encoding {
            ids: encoded.get_ids().to_vec(),
            offsets: encoded.get_offsets().to_vec(),
            special,
            words,
        })
    }

    /// The text of ids, special tokens included.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder refuses.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        contained(|| self.inner.decode(ids, false)).map_err(no_tokens)
    }

    /// Ids alone, without special tokens: faster.
    ///
    /// # Errors
    /// A text that the tokenizer refuses. An empty text has no ids.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(contained(|| self.inner.encode_fast(text, false)).map_err(no_tokens)?.get_ids().to_vec())
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

fn no_tokens(reason: String) -> TokenizerError {
    TokenizerError::NoTokens { reason }
}

/// Calls into the `tokenizers` crate, which panics on some files that it should refuse: a `Precompiled` normaliser with
/// an empty table, for one, is read and then indexed when a text is cut. The file is the user's, so it must end as a
/// message and not as a crash.
fn contained<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // AssertUnwindSafe: a tokenizer changes nothing but its cache of words, which takes an entry whole or not at all.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizers library panicked: tokenizer.json contradicts itself".to_owned()),
    }
}

/// Adds a file to a digest, with its name and length, so that no two sets of files run into each other.
fn add(hash: &mut Sha256, name: &str, bytes: &[u8]) {
    hash.update(format!("{name}\0{}\0", bytes.len()));
    hash.update(bytes);
}

/// An optional JSON file; null where there is none.
fn read_json(folder: &Path, name: &str, hash: &mut Sha256) -> Result<Value, TokenizerError> {
    let path = &folder.join(name);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(e) => return Err(TokenizerError::Damaged { path: path.to_path_buf(), reason: e.to_string() }),
    };
    add(hash, name, &bytes);
    bheval_python_json::parse(&bytes)
        .map_err(|e| TokenizerError::Damaged { path: path.to_path_buf(), reason: e.to_string() })
}

type Files = [(&'static str, Value); 3];

fn special_tokens(inner: &tokenizers::Tokenizer, files: &Files) -> SpecialTokens {
    let find = |name: &str| special_token(inner, files, name);
    let mask = find("mask").or_else(|| added_mask(inner));
    SpecialTokens { bos: find("bos"), eos: find("eos"), pad: find("pad"), unk: find("unk"), mask }
}

/// Files that know no roles may still hold the token by the names that BERT and RoBERTa gave it.
fn added_mask(inner: &tokenizers::Tokenizer) -> Option<SpecialToken> {
    let added = inner.get_added_tokens_decoder();
    let named = |text: &str| {
        let id = inner.token_to_id(text)?;
        added.get(&id).filter(|token| token.special)?;
        Some(SpecialToken { id, text: text.to_owned(), file: "tokenizer.json" })
    };
    ["[MASK]", "<mask>"].into_iter().find_map(named)
}

/// The tokenizer's own files come first; `config.json` knows ids only, and speaks where the others are silent.
fn special_token(inner: &tokenizers::Tokenizer, files: &Files, name: &str) -> Option<SpecialToken> {
    let key = format!("{name}_token");
    for (file, json) in &files[..2] {
        let value = &json[&key];
        let text = value.as_str().or_else(|| value["content"].as_str());
        if let Some((id, text)) = text.and_then(|t| Some((inner.token_to_id(t)?, t))) {
            return Some(SpecialToken { id, text: text.to_owned(), file });
        }
    }
    let (file, json) = &files[2];
    let id = u32::try_from(json[format!("{key}_id")].as_u64()?).ok()?;
    Some(SpecialToken { id, text: inner.id_to_token(id)?, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(model: Value, normalizer: Value) -> Result<Tokenizer, TokenizerError> {
        let folder = tempfile::tempdir().expect("a folder");
        let json = serde_json::json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model});
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).expect("written");
        Tokenizer::load(folder.path())
    }

    /// Found by fuzzing: the crate reads the empty table, and indexes it when a text is cut.
    #[test]
    fn a_panic_of_the_tokenizers_crate_becomes_an_error() {
        let model = serde_json::json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
        let table = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="});
        let tokenizer = load(model, table).expect("it is read");
        for error in [tokenizer.ids("a").err(), tokenizer.encode("a", true).err()] {
            let text = error.expect("it can't be cut").to_string();
            assert!(text.contains("panicked") && text.contains("tokenizer.json"), "{text}");
        }
    }

    /// Found by fuzzing: one past it overflowed.
    #[test]
    fn the_largest_id_of_all_does_not_overflow_the_vocabulary() {
        let model = serde_json::json!({"type": "WordLevel", "vocab": {"a": u32::MAX}, "unk_token": "a"});
        assert_eq!(load(model, Value::Null).expect("it is read").vocab(), u32::MAX);
    }
}
