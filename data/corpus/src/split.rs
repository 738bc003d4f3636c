//! The tokens of one part of a corpus, and where its documents lie in them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bheval_data::digest::sha256_file;
use memmap2::Mmap;

use crate::Error;
use crate::index::{Document, read_index};
use crate::map::map;
use crate::record::{Record, SplitRecord};

/// Training or held-out text as tokens.
#[derive(Debug)]
pub struct Split {
    shards: Vec<Shard>,
    documents: Vec<Document>,
    /// Words before each document, and of all.
    words: Vec<u64>,
    tokens: u64,
    width: usize,
    vocab: u32,
}

/// A mapped file of tokens.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Its first token's place in the split.
    start: u64,
    bytes: Mmap,
}

impl Split {
    /// Maps the files that a checked record names.
    pub(crate) fn open(folder: &Path, record: &Record, split: &SplitRecord) -> Result<Self, Error> {
        let width = record.token_bytes as usize;
        let mut shards = Vec::new();
        let mut tokens = 0_u64;
        for shard in &split.shards {
            let path = folder.join(&shard.file);
            let too_many =
                || Error::corpus(&path, format!("{} tokens are more than there can be", shard.tokens));
            let size = shard.tokens.checked_mul(width as u64).ok_or_else(too_many)?;
            let end = tokens.checked_add(shard.tokens).ok_or_else(too_many)?;
            let bytes = map(&path, size)?;
            shards.push(Shard { path, start: tokens, bytes });
            tokens = end;
        }
        if tokens != split.total.tokens {
            return Err(Error::corpus(
                folder,
                format!("its shards hold {tokens} tokens and corpus.json says {}", split.total.tokens),
            ));
        }
        let index = folder.join(&split.index.file);
        let documents = read_index(&index, &split.total, record.domains.len())?;
        let words = running_words(&documents);
        if words.last() != Some(&split.total.words) {
            return Err(Error::corpus(
                &index,
                "its words are not those of corpus.json; copy the corpus again",
            ));
        }
        Ok(Self { shards, documents, words, tokens, width, vocab: record.tokenizer.vocab })
    }

    /// Compares every file with the SHA-256 of the record.
    pub(crate) fn verify(&self, folder: &Path, split: &SplitRecord) -> Result<(), Error> {
        let shards = split.shards.iter().map(|s| (&s.file, &s.sha256));
        for (file, sha256) in shards.chain([(&split.index.file, &split.index.sha256)]) {
            let path = folder.join(file);
            let found = sha256_file(&path)?;
            if found != *sha256 {
                return Err(bheval_data::Error::WrongHash { path, expected: sha256.clone(), found }.into());
            }
        }
        Ok(())
    }

    /// Tokens in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there are no tokens at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Reads the tokens of a range into `ids`, whose former content is dropped.
    ///
    /// # Errors
    /// A range that is not within the split, or an id beyond the vocabulary: a damaged file.
    pub fn read(&self, range: Range<u64>, ids: &mut Vec<u32>) -> Result<(), Error> {
        ids.clear();
        if range.start > range.end || range.end > self.tokens {
            let Range { start, end } = range;
            let reason = format!("tokens {start} to {end} were asked for, and there are {}", self.tokens);
            return Err(Error::Range { reason });
        }
        ids.reserve((range.end - range.start) as usize);
        let mut at = range.start;
        while at < range.end {
            at += self.read_piece(at..range.end, ids)?;
        }
        Ok(())
    }

    /// Reads what the shard of the range's first token has of it.
    fn read_piece(&self, range: Range<u64>, ids: &mut Vec<u32>) -> Result<u64, Error> {
        let number = self.shards.partition_point(|shard| shard.start <= range.start) - 1;
        let shard = &self.shards[number];
        let from = (range.start - shard.start) as usize * self.width;
        let bytes = &shard.bytes[from..];
        let wanted = (range.end - range.start).min((bytes.len() / self.width) as u64);
        let first = ids.len();
        let bytes = &bytes[..wanted as usize * self.width];
        if self.width == 2 {
            ids.extend(bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))));
        } else {
            ids.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)));
        }
        match ids[first..].iter().position(|id| *id >= self.vocab) {
            None => Ok(wanted),
            Some(at) => Err(Error::corpus(
                &shard.path,
                format!(
                    "token {} is {}, beyond the vocabulary of {}; the file is damaged: copy or build the corpus again",
                    from / self.width + at,
                    ids[first + at],
                    self.vocab
                ),
            )),
        }
    }

    /// The tokens of a range.
    ///
    /// # Errors
    /// As [`Split::read`].
    pub fn tokens(&self, range: Range<u64>) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        self.read(range, &mut ids)?;
        Ok(ids)
    }

    /// The documents, in the order of their tokens.
    #[must_use]
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The number of the document that a token belongs to, or `None` beyond the last. A document ends with its EOS.
    #[must_use]
    pub fn document_at(&self, token: u64) -> Option<usize> {
        (token < self.tokens).then(|| self.documents.partition_point(|d| d.start <= token) - 1)
    }

    /// Words in the first `position` tokens: those of whole documents, and of the document that is cut the share that its
    /// tokens have, rounded down. Beyond the end it is all words.
    #[must_use]
    pub fn words_before(&self, position: u64) -> u64 {
        let Some(number) = self.document_at(position) else {
            return *self.words.last().expect("it ends with the words of all");
        };
        let document = &self.documents[number];
        let end = self.documents.get(number + 1).map_or(self.tokens, |next| next.start);
        let (read, length) = (u128::from(position - document.start), u128::from(end - document.start));
        self.words[number] + (u128::from(document.words) * read / length) as u64
    }

    /// Words in a range of tokens, by the rule of [`Split::words_before`]; so neighbouring ranges add up exactly.
    #[must_use]
    pub fn words_in(&self, range: Range<u64>) -> u64 {
        self.words_before(range.end) - self.words_before(range.start.min(range.end))
    }
}

/// Words before each document, then those of all.
fn running_words(documents: &[Document]) -> Vec<u64> {
    let mut total = 0_u64;
    let mut words = vec![0];
    words.extend(documents.iter().map(|document| {
        total += u64::from(document.words);
        total
    }));
    words
}
