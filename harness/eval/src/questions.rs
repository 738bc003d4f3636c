//! From items to the token sequences that must be scored, each once.

use std::collections::HashMap;

use bheval_data::encode::{Encoder, Request};
use bheval_host::ModelInfo;
use bheval_tasks::{Item, Loaded};
use rayon::prelude::*;

use crate::Error;

/// The distinct requests of all tasks of a run, and where each item finds its own.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Distinct requests.
    pub requests: Vec<Request>,
    /// For each task and item, the indices of its queries' requests.
    pub of_items: Vec<Vec<Vec<u32>>>,
}

impl Questions {
    /// Cuts every query of every task. Equal requests are kept once.
    ///
    /// # Errors
    /// A text without tokens, a token that the model does not have, an item longer than the model's context.
    pub fn new(tasks: &[Loaded], encoder: &Encoder<'_>, info: &ModelInfo) -> Result<Self, Error> {
        let mut questions = Self { requests: Vec::new(), of_items: Vec::new() };
        let mut known: HashMap<Request, u32> = HashMap::new();
        for task in tasks {
            let cut: Result<Vec<_>, Error> =
                task.items.par_iter().map(|item| cut(item, encoder, info)).collect();
            let indices = |requests: Vec<Request>| {
                requests.into_iter().map(|r| questions.index(r, &mut known)).collect()
            };
            let of_items = cut?.into_iter().map(indices).collect();
            questions.of_items.push(of_items);
        }
        Ok(questions)
    }

    fn index(&mut self, request: Request, known: &mut HashMap<Request, u32>) -> u32 {
        if let Some(&index) = known.get(&request) {
            return index;
        }
        let index = self.requests.len() as u32;
        self.requests.push(request.clone());
        known.insert(request, index);
        index
    }

    /// Positions that count, over all distinct requests.
    #[must_use]
    pub fn scored_tokens(&self) -> usize {
        self.requests.iter().map(|r| r.scored.iter().filter(|&&s| s).count()).sum()
    }
}

fn cut(item: &Item, encoder: &Encoder<'_>, info: &ModelInfo) -> Result<Vec<Request>, Error> {
    item.queries
        .iter()
        .map(|query| {
            let request =
                encoder.request(query).map_err(|source| Error::Uncut { item: item.id.clone(), source })?;
            check(&item.id, &request, info)?;
            Ok(request)
        })
        .collect()
}

/// Refuses what the model can't take, before anything is scored.
pub(crate) fn check(item: &str, request: &Request, info: &ModelInfo) -> Result<(), Error> {
    let limit = info.context.map_or(usize::MAX, |c| c as usize);
    if request.ids.len() > limit {
        return Err(Error::TooLong { item: item.to_owned(), tokens: request.ids.len(), limit });
    }
    match request.ids.iter().find(|&&id| id >= info.vocab) {
        None => Ok(()),
        Some(&id) => Err(Error::OtherVocabulary { item: item.to_owned(), id, vocab: info.vocab }),
    }
}
