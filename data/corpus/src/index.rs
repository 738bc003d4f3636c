//! Where documents lie: 16 bytes each, low byte first: its first token (u64), its words (u32), its domain (u32).

use std::path::Path;

use crate::Error;
use crate::map::map;
use crate::record::Amount;

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 16;

/// A document within a split. It ends where the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its first token, from 0.
    pub start: u64,
    /// Its words, by white space.
    pub words: u32,
    /// The number of its domain in the record.
    pub domain: u32,
}

impl Document {
    pub(crate) fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.words.to_le_bytes());
        bytes[12..].copy_from_slice(&self.domain.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY]) -> Self {
        let number = u128::from_le_bytes(*bytes);
        Self { start: number as u64, words: (number >> 64) as u32, domain: (number >> 96) as u32 }
    }
}

/// Reads an index and holds it against the record: starts rise from 0 and stay inside, domains exist.
pub(crate) fn read_index(path: &Path, total: &Amount, domains: usize) -> Result<Vec<Document>, Error> {
    let size = total.documents.checked_mul(ENTRY as u64);
    let size = size.ok_or_else(|| Error::corpus(path, "more documents than there can be"))?;
    let bytes = map(path, size)?;
    let documents: Vec<_> = bytes.as_chunks().0.iter().map(Document::from_bytes).collect();
    let starts = documents.iter().map(|d| d.start);
    let ends = starts.clone().skip(1).chain([total.tokens]);
    let first = documents.first().map_or(total.tokens, |d| d.start);
    if first != 0 || starts.zip(ends).any(|(start, end)| start >= end) {
        return Err(Error::corpus(
            path,
            "its documents do not follow each other; copy or build the corpus again",
        ));
    }
    match documents.iter().find(|d| d.domain as usize >= domains) {
        None => Ok(documents),
        Some(d) => Err(Error::corpus(
            path,
            format!(
                "a document is of domain {}, and corpus.json has {domains}; copy or build it again",
                d.domain
            ),
        )),
    }
}
