//! What a build puts on record.

use bheval_data::digest::sha256_file;
use bheval_data::tokenizer::Tokenizer;

use super::choose::Chosen;
use super::{Build, BuildOptions};
use crate::Error;
use crate::mixture::{Budget, Mixture};
use crate::record::{
    Amount, DomainRecord, FORMAT, MixtureRecord, Record, SourceRecord, SplitRecord, TokenizerRecord, VERSION,
};
use crate::source::Finished;
use crate::sources::{Source, Sources};

impl Build<'_> {
    pub(super) fn record(
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

pub(super) fn tokenizer(tokenizer: &Tokenizer) -> Result<TokenizerRecord, Error> {
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
