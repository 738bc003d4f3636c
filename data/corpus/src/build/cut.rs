//! The second reading: the documents that are taken, cut into tokens, put in order and written.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::Build;
use super::choose::Chosen;
use crate::Error;
use crate::record::{Amount, Record, TOKENIZER_FOLDER};
use crate::sample::draw;
use crate::shards::{SplitWriter, Spool, push_token};
use crate::source::{changed, unchanged};
use crate::walk::{Read, walk};

/// The files of a tokenizer; all but the first may be missing.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Documents of the second reading: where each begins in the spool, and its bytes.
pub(super) struct Cut {
    spool: Spool,
    places: BTreeMap<usize, (u64, usize)>,
}

impl Build<'_> {
    /// Reads the sources again and cuts the chosen documents.
    pub(super) fn cut(&self, chosen: &Chosen, folder: &Path) -> Result<Cut, Error> {
        let wanted: HashSet<u64> = chosen.train.iter().chain(&chosen.dev).map(|n| *n as u64).collect();
        let mut spool = Spool::new(folder.join("spool.tmp"))?;
        let mut places = BTreeMap::new();
        let mut numbers: Vec<_> = wanted.iter().map(|n| *n as usize).collect();
        numbers.sort_unstable();
        let mut numbers = numbers.into_iter();
        let files = walk(
            &self.all,
            self.effort,
            |number| wanted.contains(&number),
            |read| self.ids(read),
            |read, bytes| {
                let Some(number) = numbers.next() else {
                    return Err(changed(&self.all[read.source].file.path).into());
                };
                places.insert(number, (spool.push(&bytes)?, bytes.len()));
                Ok(())
            },
        )?;
        let mut pairs = self.all.iter().zip(chosen.survey.files.iter().zip(&files));
        pairs.try_for_each(|(source, (before, now))| unchanged(&source.file.path, before, now))?;
        Ok(Cut { spool, places })
    }

    /// What stands before documents.
    pub(super) fn bos(&self) -> Option<u32> {
        self.record.bos.filter(|bos| self.options.bos && *bos != self.record.eos)
    }

    /// A document's tokens with EOS behind and, where asked for, BOS before them, in bytes.
    fn ids(&self, read: &Read) -> Result<Vec<u8>, Error> {
        let path = || self.all[read.source].file.path.clone();
        let ids = self.tokenizer.ids(&read.document.text).map_err(|cause| Error::Document {
            file: path(),
            line: read.document.line,
            cause,
        })?;
        let bos = self.bos();
        let mut bytes = Vec::with_capacity((ids.len() + 2) * self.width as usize);
        for id in bos.into_iter().chain(ids).chain([self.record.eos]) {
            let fits = if id < self.record.vocab { push_token(&mut bytes, id, self.width) } else { Err(id) };
            fits.map_err(|id| {
                let vocab = self.record.vocab;
                Error::plan(format!(
                    "{}: the tokenizer made id {id}, beyond its vocabulary of {vocab}",
                    path().display()
                ))
            })?;
        }
        Ok(bytes)
    }

    pub(super) fn write(&self, chosen: &Chosen, cut: Cut, folder: &Path) -> Result<Record, Error> {
        let mut spool = cut.spool.reader()?;
        let seen = &chosen.survey.documents;
        let mut amounts = vec![(Amount::default(), Amount::default()); chosen.names.len()];
        let mut order = chosen.train.clone();
        order.sort_by_cached_key(|number| draw("order", self.options.seed, &seen[*number].content));
        let mut put = |writer: &mut SplitWriter, number: usize| -> Result<Amount, Error> {
            let (start, length) = cut.places[&number];
            let mut bytes = vec![0; length];
            spool.read(start, &mut bytes)?;
            let document = &seen[number];
            writer.push(&bytes, document.words, document.domain)?;
            let tokens = length as u64 / u64::from(self.width);
            Ok(Amount { documents: 1, words: u64::from(document.words), tokens })
        };
        let mut train = SplitWriter::new(folder, "train", self.width, Some(self.options.shard_tokens))?;
        for number in order {
            let amount = put(&mut train, number)?;
            add(&mut amounts[seen[number].domain as usize].0, amount);
        }
        let mut dev = None;
        if !chosen.dev.is_empty() {
            let mut writer = SplitWriter::new(folder, "dev", self.width, None)?;
            for number in &chosen.dev {
                let amount = put(&mut writer, *number)?;
                add(&mut amounts[seen[*number].domain as usize].1, amount);
            }
            dev = Some(writer.finish()?);
        }
        spool.remove()?;
        self.copy_tokenizer(&folder.join(TOKENIZER_FOLDER))?;
        Ok(self.record(chosen, &amounts, train.finish()?, dev))
    }

    fn copy_tokenizer(&self, to: &Path) -> Result<(), Error> {
        fs::create_dir(to).map_err(Error::io("make", to))?;
        for name in TOKENIZER_FILES {
            let from: PathBuf = self.tokenizer.folder().join(name);
            if from.exists() {
                fs::copy(&from, to.join(name)).map_err(Error::io("copy", &from))?;
            }
        }
        Ok(())
    }
}

fn add(to: &mut Amount, more: Amount) {
    to.documents += more.documents;
    to.words += more.words;
    to.tokens += more.tokens;
}
