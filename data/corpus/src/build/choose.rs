//! The first reading: which documents there are, and which of them are taken.

use std::collections::{BTreeMap, HashSet};

use super::Build;
use crate::Error;
use crate::mixture::{Budget, Budgets};
use crate::record::Duplicates;
use crate::sample::{is_in_share, pick};
use crate::survey::{Seen, Survey, first_of, survey};

/// The outcome of the first reading.
pub(super) struct Chosen {
    pub(super) names: Vec<String>,
    pub(super) survey: Survey,
    /// Documents that are taken, by number.
    pub(super) train: Vec<usize>,
    pub(super) dev: Vec<usize>,
    pub(super) duplicates: Duplicates,
    pub(super) budgets: Budgets,
    /// Documents and words that each domain had to draw from.
    pub(super) available: Vec<(u64, u64)>,
}

impl Build<'_> {
    pub(super) fn choose(&self) -> Result<Chosen, Error> {
        let mut domains = BTreeMap::new();
        let survey = survey(&self.all, &mut domains, self.effort)?;
        let train_end = survey.documents.partition_point(|d| (d.source as usize) < self.training);
        if train_end == 0 {
            return Err(Error::Empty { what: "the training files hold no documents".into() });
        }
        let names = training_names(domains, &survey.documents[..train_end]);
        let (mut candidates, mut dev, duplicates) = self.unique(&survey.documents, train_end);
        let available = available(&survey.documents, &candidates, names.len());
        let with_words: Vec<_> = names.iter().cloned().zip(available.iter().map(|a| a.1)).collect();
        let budgets = self.options.mixture.budgets(&with_words, &self.options.asked)?;
        self.check_short(&with_words, &budgets)?;
        candidates = self.sampled(&survey.documents, &candidates, &budgets, &names)?;
        // A domain that gives nothing to learn from has no part in what is measured either.
        let gives = |domain: u32| budgets.of.get(domain as usize).is_some_and(Option::is_some);
        dev.retain(|number| gives(survey.documents[*number].domain));
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
                (true, _) if is_in_share(share, "dev", &document.content) => dev.push(number),
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
}

/// Names of domains by their numbers; those of dev documents alone, which have the last numbers, are left out.
fn training_names(domains: BTreeMap<String, u32>, training: &[Seen]) -> Vec<String> {
    let count = training.iter().map(|d| d.domain as usize + 1).max().unwrap_or_default();
    let mut names = vec![String::new(); domains.len()];
    domains.into_iter().for_each(|(name, number)| names[number as usize] = name);
    names.truncate(count);
    names
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
