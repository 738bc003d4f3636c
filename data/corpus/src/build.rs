//! Building a corpus: read all, choose, read again, cut, write.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use bheval_data::digest::sha256_file;
use bheval_data::tokenizer::Tokenizer;

use crate::Error;
use crate::bpe::write_json;
use crate::corpus::token_bytes;
use crate::mixture::{Asked, Budget, Budgets, Mixture};
use crate::record::{
    Amount, DomainRecord, Duplicates, FORMAT, MixtureRecord, RECORD_FILE, Record, SourceRecord, SplitRecord,
    TOKENIZER_FOLDER, TokenizerRecord, VERSION,
};
use crate::sample::{draw, is_held_out, pick};
use crate::shards::{SplitWriter, Spool, push_token};
use crate::source::{Finished, unchanged};
use crate::sources::{Source, Sources};
use crate::survey::{Seen, Survey, first_of, survey};
use crate::target::Target;
use crate::walk::{Effort, Read, try_open, walk};

/// How a corpus is to be.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Which words of which domains.
    pub mixture: Mixture,
    /// How many, and how shares are read.
    pub asked: Asked,
    /// Take what there is of domains that are short of their budgets.
    pub allow_short: bool,
    /// The share of documents that is held out where there are no dev files; 0 for none.
    pub dev_share: f64,
    /// Seed of all draws.
    pub seed: u64,
    /// Whether BOS stands before each document, if the tokenizer has one that is not its EOS.
    pub bos: bool,
    /// Most tokens of a shard.
    pub shard_tokens: u64,
    /// What wrote it, for the record.
    pub program: String,
}

/// What a build is doing, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first reading: what there is.
    Surveying,
    /// The second: documents are cut into tokens.
    Cutting,
    /// Tokens are put in order and written.
    Writing,
}

/// The files of a tokenizer; all but the first may be missing.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// Whether a corpus of this program may have a file of this name.
#[must_use]
pub fn is_corpus_file(name: &str) -> bool {
    let known = [RECORD_FILE, TOKENIZER_FOLDER, "dev.bin", "dev-documents.bin", "train-documents.bin"];
    known.contains(&name) || (name.starts_with("train-") && name.ends_with(".bin"))
}

/// Builds a corpus in `target` and returns its record.
///
/// # Errors
/// Anything that keeps it from being whole; then nothing is left in the target's place.
pub fn build(
    sources: &Sources,
    tokenizer: &Path,
    options: &BuildOptions,
    effort: &Effort,
    target: &Target,
    mut stage: impl FnMut(Stage),
) -> Result<Record, Error> {
    let build = Build::new(sources, tokenizer, options, effort)?;
    stage(Stage::Surveying);
    let chosen = build.choose()?;
    stage(Stage::Cutting);
    target.publish(|folder| {
        let cut = build.cut(&chosen, folder)?;
        stage(Stage::Writing);
        let record = build.write(&chosen, cut, folder)?;
        write_json(&folder.join(RECORD_FILE), &record)?;
        Ok(record)
    })
}

/// What stays the same through a build.
struct Build<'a> {
    /// Training files, then dev files.
    all: Vec<Source>,
    training: usize,
    sources: &'a Sources,
    tokenizer: Tokenizer,
    record: TokenizerRecord,
    width: u32,
    options: &'a BuildOptions,
    effort: &'a Effort,
}

/// The outcome of the first reading.
struct Chosen {
    names: Vec<String>,
    survey: Survey,
    /// Documents that are taken, by number.
    train: Vec<usize>,
    dev: Vec<usize>,
    duplicates: Duplicates,
    budgets: Budgets,
    /// Documents and words that each domain had to draw from.
    available: Vec<(u64, u64)>,
}

/// Documents of the second reading: where each begins in the spool, and its bytes.
struct Cut {
    spool: Spool,
    places: BTreeMap<usize, (u64, usize)>,
}

impl<'a> Build<'a> {
    fn new(
        sources: &'a Sources,
        folder: &Path,
        options: &'a BuildOptions,
        effort: &'a Effort,
    ) -> Result<Self, Error> {
        let all: Vec<_> = sources.train.iter().chain(&sources.dev).cloned().collect();
        try_open(&all)?;
        if !(0.0..1.0).contains(&options.dev_share) {
            return Err(Error::plan(format!("a held-out share of {} is none of 0 to 1", options.dev_share)));
        }
        if options.shard_tokens == 0 {
            return Err(Error::plan("shards of no tokens can hold none; give a number from 1"));
        }
        let tokenizer = Tokenizer::load(folder)?.special_as_text();
        let record = tokenizer_record(&tokenizer)?;
        let width = token_bytes(record.vocab);
        Ok(Self { all, training: sources.train.len(), sources, tokenizer, record, width, options, effort })
    }

    fn choose(&self) -> Result<Chosen, Error> {
        let mut domains = BTreeMap::new();
        let survey = survey(&self.all, &mut domains, self.effort)?;
        let mut names = vec![String::new(); domains.len()];
        domains.into_iter().for_each(|(name, number)| names[number as usize] = name);
        let train_end = survey.documents.partition_point(|d| (d.source as usize) < self.training);
        if train_end == 0 {
            return Err(Error::Empty { what: "the training files hold no documents".into() });
        }
        let (mut candidates, mut dev, duplicates) = self.unique(&survey.documents, train_end);
        let available = available(&survey.documents, &candidates, names.len());
        let with_words: Vec<_> = names.iter().cloned().zip(available.iter().map(|a| a.1)).collect();
        let budgets = self.options.mixture.budgets(&with_words, &self.options.asked)?;
        self.check_short(&with_words, &budgets)?;
        candidates = self.sampled(&survey.documents, &candidates, &budgets, &names)?;
        // A domain that gives nothing to learn from has no part in what is measured either.
        dev.retain(|number| budgets.of[survey.documents[*number].domain as usize].is_some());
        if candidates.is_empty() {
            return Err(Error::Empty { what: "no document is left to train on".into() });
        }
        Ok(Chosen { names, survey, train: candidates, dev, duplicates, budgets, available })
    }

    /// Training and dev documents by number, each content once: dev documents come first, so that none of them is trained on.
    fn unique(&self, documents: &[Seen], train_end: usize) -> (Vec<usize>, Vec<usize>, Duplicates) {
        let (training, held_out) = documents.split_at(train_end);
        let mut known = HashSet::new();
        let mut duplicates = Duplicates::default();
        let fresh = first_of(held_out, &mut known);
        let mut dev: Vec<_> = (0..held_out.len()).filter(|i| fresh[*i]).map(|i| i + train_end).collect();
        duplicates.dev = (held_out.len() - dev.len()) as u64;
        let in_dev = known.clone();
        let fresh = first_of(training, &mut known);
        let share = if self.sources.dev.is_empty() { self.options.dev_share } else { 0.0 };
        let mut train = Vec::new();
        for (number, document) in training.iter().enumerate() {
            match (fresh[number], in_dev.contains(&document.content)) {
                (_, true) => duplicates.train_in_dev += 1,
                (false, _) => duplicates.train += 1,
                (true, _) if is_held_out(share, &document.content) => dev.push(number),
                (true, _) => train.push(number),
            }
        }
        dev.sort_unstable();
        (train, dev, duplicates)
    }

    fn check_short(&self, domains: &[(String, u64)], budgets: &Budgets) -> Result<(), Error> {
        let short = domains.iter().zip(&budgets.of).filter_map(|((name, has), budget)| match budget {
            Some(Budget::Words(budget)) if budget > has => Some((name.clone(), *budget, *has)),
            _ => None,
        });
        let domains: Vec<_> = short.collect();
        if domains.is_empty() || self.options.allow_short { Ok(()) } else { Err(Error::Short { domains }) }
    }

    fn sampled(
        &self,
        documents: &[Seen],
        from: &[usize],
        budgets: &Budgets,
        names: &[String],
    ) -> Result<Vec<usize>, Error> {
        let mut picked = Vec::new();
        for (domain, budget) in budgets.of.iter().enumerate() {
            let Some(budget) = budget else { continue };
            let own: Vec<_> =
                from.iter().copied().filter(|n| documents[*n].domain as usize == domain).collect();
            let before = picked.len();
            picked.extend(pick(documents, &own, *budget, self.options.seed));
            if let (true, Budget::Words(words)) = (picked.len() == before && !own.is_empty(), budget) {
                let shortest = own.iter().map(|n| documents[*n].words).min().unwrap_or_default();
                return Err(Error::plan(format!(
                    "no document of {} fits into its {words} words, the shortest has {shortest}; ask for more words, or have \
                     documents cut with --cut WORDS",
                    names[domain]
                )));
            }
        }
        picked.sort_unstable();
        Ok(picked)
    }

    /// Reads the sources again and cuts the chosen documents.
    fn cut(&self, chosen: &Chosen, folder: &Path) -> Result<Cut, Error> {
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
                let Some(number) = numbers.next() else { return Err(self.changed(read.source)) };
                places.insert(number, (spool.push(&bytes)?, bytes.len()));
                Ok(())
            },
        )?;
        let pairs = self.all.iter().zip(chosen.survey.files.iter().zip(&files));
        pairs
            .map(|(source, (before, now))| unchanged(&source.file.path, before, now))
            .collect::<Result<(), _>>()?;
        Ok(Cut { spool, places })
    }

    fn changed(&self, source: usize) -> Error {
        let nothing = Finished { bytes: 0, sha256: String::new() };
        let other = Finished { bytes: 1, sha256: String::new() };
        let error = unchanged(&self.all[source].file.path, &nothing, &other).err();
        error.expect("they differ").into()
    }

    /// What stands before documents.
    fn bos(&self) -> Option<u32> {
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

    fn write(&self, chosen: &Chosen, cut: Cut, folder: &Path) -> Result<Record, Error> {
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

    fn record(
        &self,
        chosen: &Chosen,
        amounts: &[(Amount, Amount)],
        train: SplitRecord,
        dev: Option<SplitRecord>,
    ) -> Record {
        let options = self.options;
        let source = match &options.mixture {
            Mixture::Preset(preset) => Some(preset.source.to_owned()),
            _ => None,
        };
        Record {
            format: FORMAT.into(),
            version: VERSION,
            program: options.program.clone(),
            seed: options.seed,
            tokenizer: self.record.clone(),
            token_bytes: self.width,
            bos: self.bos().is_some(),
            mixture: MixtureRecord {
                name: options.mixture.name(),
                source,
                words: options.asked.words,
                renormalised: chosen.budgets.renormalised,
                allow_short: options.allow_short,
            },
            rules: rules(options, self.sources),
            duplicates: chosen.duplicates,
            domains: self.domain_records(chosen, amounts),
            sources: self.source_records(chosen),
            train,
            dev,
        }
    }

    fn domain_records(&self, chosen: &Chosen, amounts: &[(Amount, Amount)]) -> Vec<DomainRecord> {
        let one = |(i, name): (usize, &String)| DomainRecord {
            name: name.clone(),
            licence: self.sources.licences.get(name).cloned(),
            available_documents: chosen.available[i].0,
            available_words: chosen.available[i].1,
            budget: match chosen.budgets.of[i] {
                None => Some(0),
                Some(Budget::All) => None,
                Some(Budget::Words(words)) => Some(words),
            },
            train: amounts[i].0,
            dev: amounts[i].1,
        };
        chosen.names.iter().enumerate().map(one).collect()
    }

    fn source_records(&self, chosen: &Chosen) -> Vec<SourceRecord> {
        let mut totals = vec![(0, 0); self.all.len()];
        for document in &chosen.survey.documents {
            let total: &mut (u64, u64) = &mut totals[document.source as usize];
            *total = (total.0 + 1, total.1 + u64::from(document.words));
        }
        let files = self.all.iter().zip(&chosen.survey.files).zip(totals).enumerate();
        let one =
            |(i, ((source, file), (documents, words))): (usize, ((&Source, &Finished), _))| SourceRecord {
                file: source.file.path.display().to_string(),
                domain: source.domain.clone(),
                split: if i < self.training { "train" } else { "dev" }.into(),
                bytes: file.bytes,
                sha256: file.sha256.clone(),
                documents,
                words,
            };
        files.map(one).collect()
    }
}

fn add(to: &mut Amount, more: Amount) {
    to.documents += more.documents;
    to.words += more.words;
    to.tokens += more.tokens;
}

/// Documents and words of each domain among these.
fn available(documents: &[Seen], of: &[usize], domains: usize) -> Vec<(u64, u64)> {
    let mut all = vec![(0, 0); domains];
    for number in of {
        let document = &documents[*number];
        let total = &mut all[document.domain as usize];
        *total = (total.0 + 1, total.1 + u64::from(document.words));
    }
    all
}

fn tokenizer_record(tokenizer: &Tokenizer) -> Result<TokenizerRecord, Error> {
    let special = tokenizer.special();
    let missing = |role: &str, why: &str| {
        Error::plan(format!(
            "the tokenizer in {} names no {role} token, which {why}; `{role}_token` belongs into its tokenizer_config.json",
            tokenizer.folder().display()
        ))
    };
    let eos = special.eos.as_ref().ok_or_else(|| missing("eos", "ends every document"))?.id;
    Ok(TokenizerRecord {
        json_sha256: sha256_file(&tokenizer.folder().join("tokenizer.json"))?,
        sha256: tokenizer.sha256().to_owned(),
        vocab: tokenizer.vocab(),
        bos: special.bos.as_ref().map(|bos| bos.id),
        eos,
    })
}

/// What was done, for whoever reads the record.
fn rules(options: &BuildOptions, sources: &Sources) -> Vec<String> {
    let held_out = match (sources.dev.is_empty(), options.dev_share) {
        (false, _) => "dev: the documents of the dev files, of domains that give training text".to_owned(),
        (true, 0.0) => "dev: none".to_owned(),
        (true, share) => {
            format!("dev: a share of {share} of all documents, by a hash of their words, whatever the seed")
        }
    };
    let mut rules: Vec<String> = [
        "words: runs of characters between white space",
        "documents: in text files ended by an empty line, in JSON Lines one a row",
        "duplicates: documents with the same words in the same order; the first is kept, and what is in dev is not trained on",
        "sampling: whole documents without replacement, in a random order by the seed and their words; one that has more words \
         than the budget has left is passed over, so a budget is never exceeded",
        "order: training documents in a random order by the seed and their words, dev documents as they were read",
        "special tokens that a text spells are cut as text; EOS stands behind every document",
    ]
    .map(str::to_owned)
    .into();
    rules.push(held_out);
    rules
}
