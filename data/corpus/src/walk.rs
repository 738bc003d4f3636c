//! Reads all documents of all sources in order, in batches that several threads work on.

use crate::Error;
use crate::parallel::{BATCH, map};
use crate::source::{DocumentReader, Finished, RawDocument, SourceError, Watch};
use crate::sources::Source;

/// A document on its way, with the number of its source.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) source: usize,
    pub(crate) document: RawDocument,
}

/// How many threads work, and who is told of bytes that were read.
#[derive(Clone)]
pub struct Effort {
    /// Threads, from 1. Results do not depend on it.
    pub threads: usize,
    /// Called with the stored bytes of the sources as they are read.
    pub watch: Option<Watch>,
}

/// Calls `work` for every document that `wanted` (given its number, counted over all sources), on several threads, and `take`
/// for each result, in order.
pub(crate) fn walk<T: Send>(
    sources: &[Source],
    effort: &Effort,
    mut wanted: impl FnMut(u64) -> bool,
    work: impl Fn(&Read) -> Result<T, Error> + Sync,
    mut take: impl FnMut(&Read, T) -> Result<(), Error>,
) -> Result<Vec<Finished>, Error> {
    let mut batch = Vec::new();
    let mut held = 0;
    let mut flush = |batch: &mut Vec<Read>| -> Result<(), Error> {
        let results = map(batch, effort.threads, &work);
        batch.drain(..).zip(results).try_for_each(|(read, result)| take(&read, result?))
    };
    let mut finished = Vec::new();
    let mut number = 0;
    for (i, source) in sources.iter().enumerate() {
        let mut reader = DocumentReader::open(&source.file, effort.watch.clone())?;
        while let Some(document) = reader.read()? {
            number += 1;
            if !wanted(number - 1) {
                continue;
            }
            held += document.text.len();
            batch.push(Read { source: i, document });
            if held >= BATCH {
                flush(&mut batch)?;
                held = 0;
            }
        }
        finished.push(reader.finish()?);
    }
    flush(&mut batch)?;
    Ok(finished)
}

/// Every source is opened before the first is read: what is missing should not show after an hour.
pub(crate) fn try_open(sources: &[Source]) -> Result<(), SourceError> {
    sources.iter().try_for_each(|source| DocumentReader::open(&source.file, None).map(drop))
}
