//! From items to the token sequences that must be scored, each once.

use std::collections::HashMap;

use bheval_data::encode::Query;
use bheval_data::tokenizer::TokenizerError;
use bheval_host::ModelInfo;
use bheval_tasks::{Item, Loaded};
use rayon::prelude::*;

use crate::ask::{Ask, Requests};
use crate::{Cutter, Error};

/// The distinct requests of all tasks of a run, and where each item finds its own.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Distinct requests.
    pub requests: Requests,
    /// For each task and item, the indices of its queries' requests; `None` for a query of which no token can be scored.
    pub of_items: Vec<Vec<Vec<Option<u32>>>>,
    /// Why some queries have no request, one sentence each.
    pub unscorable: Vec<String>,
}

impl Questions {
    /// Cuts every query of every task. Equal requests are kept once. A query that can't be scored fails its item alone.
    ///
    /// # Errors
    /// A token that the model does not have, an item longer than the model takes, a task without answers for a reading
    /// that needs them.
    pub fn new<'a>(
        tasks: impl IntoIterator<Item = &'a Loaded>,
        cutter: &Cutter<'_>,
        info: &ModelInfo,
    ) -> Result<Self, Error> {
        match cutter {
            Cutter::Causal(encoder) => Ok(collect(tasks, |q| encoder.request(q), info)?.of(Requests::Causal)),
            Cutter::Masked(encoder) => Ok(collect(tasks, |q| encoder.request(q), info)?.of(Requests::Masked)),
        }
    }

    /// The first item that needs a request, as task and item.
    pub(crate) fn item_of(&self, request: usize) -> Option<(usize, usize)> {
        let needs = |queries: &[Option<u32>]| queries.iter().flatten().any(|&q| q as usize == request);
        self.of_items
            .iter()
            .enumerate()
            .find_map(|(task, items)| Some((task, items.iter().position(|queries| needs(queries))?)))
    }
}

/// Questions whose requests are of one kind.
struct Collected<A> {
    requests: Vec<A>,
    known: HashMap<A, u32>,
    of_items: Vec<Vec<Vec<Option<u32>>>>,
    unscorable: Vec<String>,
}

fn collect<'a, A: Ask>(
    tasks: impl IntoIterator<Item = &'a Loaded>,
    request: impl Fn(&Query) -> Result<A, TokenizerError> + Sync,
    info: &ModelInfo,
) -> Result<Collected<A>, Error> {
    let mut all = Collected { requests: vec![], known: HashMap::new(), of_items: vec![], unscorable: vec![] };
    for task in tasks {
        let cut: Result<Vec<_>, Error> =
            task.items.par_iter().map(|item| cut(item, &request, info)).collect();
        let of_items = cut?.into_iter().map(|queries| all.indices(queries)).collect();
        all.of_items.push(of_items);
    }
    Ok(all)
}

impl<A: Ask> Collected<A> {
    fn of(self, requests: impl Fn(Vec<A>) -> Requests) -> Questions {
        Questions { requests: requests(self.requests), of_items: self.of_items, unscorable: self.unscorable }
    }

    fn indices(&mut self, queries: Vec<Result<A, Error>>) -> Vec<Option<u32>> {
        let mut indices = Vec::with_capacity(queries.len());
        for query in queries {
            indices.push(match query {
                Ok(request) => Some(self.index(request)),
                Err(error) => {
                    self.unscorable.push(error.to_string());
                    None
                }
            });
        }
        indices
    }

    fn index(&mut self, request: A) -> u32 {
        if let Some(&index) = self.known.get(&request) {
            return index;
        }
        let index = self.requests.len() as u32;
        self.requests.push(request.clone());
        self.known.insert(request, index);
        index
    }
}

/// An item's requests. The inner errors concern one query, the outer ones the whole run.
fn cut<A: Ask>(
    item: &Item,
    request: &impl Fn(&Query) -> Result<A, TokenizerError>,
    info: &ModelInfo,
) -> Result<Vec<Result<A, Error>>, Error> {
    let one = |query| {
        let uncut = |source| Error::Uncut { item: item.id.clone(), source };
        match request(query) {
            Ok(request) => {
                check(&item.id, request.ids(), info)?;
                Ok(Ok(request))
            }
            // No item of such a task has an answer.
            Err(source @ TokenizerError::NoAnswer) => Err(uncut(source)),
            Err(source) => Ok(Err(uncut(source))),
        }
    };
    item.queries.iter().map(one).collect()
}

/// Refuses what the model can't take, before anything is scored.
pub(crate) fn check(item: &str, ids: &[u32], info: &ModelInfo) -> Result<(), Error> {
    let tokens = ids.len();
    if let Some(limit) = info.context.map(|c| c as usize).filter(|&limit| tokens > limit) {
        return Err(Error::TooLong { item: item.to_owned(), tokens, limit });
    }
    if tokens > info.nodes {
        return Err(Error::TooLongAtOnce { item: item.to_owned(), tokens, limit: info.nodes });
    }
    match ids.iter().find(|&&id| id >= info.vocab) {
        None => Ok(()),
        Some(&id) => Err(Error::OtherVocabulary { item: item.to_owned(), id, vocab: info.vocab }),
    }
}
