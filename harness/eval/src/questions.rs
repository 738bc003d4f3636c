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
    /// For each task and item, the indices of its queries' requests; `None` for a query of which no token can be scored.
    pub of_items: Vec<Vec<Vec<Option<u32>>>>,
    /// Why some queries have no request, one sentence each.
    pub unscorable: Vec<String>,
}

impl Questions {
    /// Cuts every query of every task. Equal requests are kept once. A query that can't be scored fails its item alone.
    ///
    /// # Errors
    /// A token that the model does not have, an item longer than the model takes.
    pub fn new<'a>(
        tasks: impl IntoIterator<Item = &'a Loaded>,
        encoder: &Encoder<'_>,
        info: &ModelInfo,
    ) -> Result<Self, Error> {
        let mut questions = Self { requests: Vec::new(), of_items: Vec::new(), unscorable: Vec::new() };
        let mut known: HashMap<Request, u32> = HashMap::new();
        for task in tasks {
            let cut: Result<Vec<_>, Error> =
                task.items.par_iter().map(|item| cut(item, encoder, info)).collect();
            let of_items = cut?.into_iter().map(|queries| questions.indices(queries, &mut known)).collect();
            questions.of_items.push(of_items);
        }
        Ok(questions)
    }

    fn indices(
        &mut self,
        queries: Vec<Result<Request, Error>>,
        known: &mut HashMap<Request, u32>,
    ) -> Vec<Option<u32>> {
        let mut indices = Vec::with_capacity(queries.len());
        for query in queries {
            indices.push(match query {
                Ok(request) => Some(self.index(request, known)),
                Err(error) => {
                    self.unscorable.push(error.to_string());
                    None
                }
            });
        }
        indices
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

    /// The first item that needs a request, as task and item.
    pub(crate) fn item_of(&self, request: usize) -> Option<(usize, usize)> {
        let needs = |queries: &[Option<u32>]| queries.iter().flatten().any(|&q| q as usize == request);
        self.of_items
            .iter()
            .enumerate()
            .find_map(|(task, items)| Some((task, items.iter().position(|queries| needs(queries))?)))
    }
}

/// An item's requests. The inner errors concern one query, the outer ones the whole run.
fn cut(item: &Item, encoder: &Encoder<'_>, info: &ModelInfo) -> Result<Vec<Result<Request, Error>>, Error> {
    let one = |query| {
        let request = match encoder.request(query) {
            Ok(request) => request,
            Err(source) => return Ok(Err(Error::Uncut { item: item.id.clone(), source })),
        };
        check(&item.id, &request, info)?;
        Ok(Ok(request))
    };
    item.queries.iter().map(one).collect()
}

/// Refuses what the model can't take, before anything is scored.
pub(crate) fn check(item: &str, request: &Request, info: &ModelInfo) -> Result<(), Error> {
    let tokens = request.ids.len();
    if let Some(limit) = info.context.map(|c| c as usize).filter(|&limit| tokens > limit) {
        return Err(Error::TooLong { item: item.to_owned(), tokens, limit });
    }
    if tokens > info.nodes {
        return Err(Error::TooLongAtOnce { item: item.to_owned(), tokens, limit: info.nodes });
    }
    match request.ids.iter().find(|&&id| id >= info.vocab) {
        None => Ok(()),
        Some(&id) => Err(Error::OtherVocabulary { item: item.to_owned(), id, vocab: info.vocab }),
    }
}
