//! Requests of models that are read left to right: a batch is one forest of prefixes. A backend that takes chains only
//! promises a score for whole chains, so for it nothing is shared.

use bheval_data::encode::Request;
use bheval_host::{Error, Forest, Library, Model, Route};
use sha2::{Digest, Sha256};

use crate::ask::{Ask, sum};
use crate::store::Record;

impl Ask for Request {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn load(&self, before: Option<&Self>) -> usize {
        self.ids.len() - before.map_or(0, |before| common_prefix(&before.ids, &self.ids))
    }

    /// The last token needs no run: nothing is predicted after it.
    fn alone(&self) -> u64 {
        self.ids.len() as u64 - 1
    }

    fn digest(&self, hash: &mut Sha256) {
        for (id, scored) in self.ids.iter().zip(&self.scored) {
            hash.update(id.to_le_bytes());
            hash.update([u8::from(*scored)]);
        }
    }

    fn score(model: &mut Model, batch: &[&Self], route: Route) -> Result<(Vec<Record>, u64), Error> {
        let mut forest = Forest::new();
        let library = model.library();
        let paths: Vec<Vec<u32>> = batch.iter().map(|r| insert(&mut forest, library, r)).collect();
        let scored = model.score(&forest, route)?;
        let records = batch.iter().zip(&paths).map(|(r, path)| record(r, path, &scored.log_prob));
        Ok((records.collect(), scored.fed))
    }
}

/// Puts a request into a forest for this backend; returns the node of each position.
pub(crate) fn insert(forest: &mut Forest, library: &Library, request: &Request) -> Vec<u32> {
    if library.takes_forests() {
        forest.insert(&request.ids, &request.scored)
    } else {
        forest.insert_alone(&request.ids, &request.scored)
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn record(request: &Request, path: &[u32], log_prob: &[f32]) -> Record {
    let terms = path.iter().zip(&request.scored).filter(|&(_, &scored)| scored);
    sum(terms.map(|(&node, _)| log_prob[node as usize]))
}
