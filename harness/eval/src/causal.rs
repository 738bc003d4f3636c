//! Requests of models that are read left to right: a batch is one forest of prefixes.

use bheval_data::encode::Request;
use bheval_host::{Error, Forest, Model, Route};
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
        let paths: Vec<Vec<u32>> = batch.iter().map(|r| forest.insert(&r.ids, &r.scored)).collect();
        let scored = model.score(&forest, route)?;
        let records = batch.iter().zip(&paths).map(|(r, path)| record(r, path, &scored.log_prob));
        Ok((records.collect(), scored.fed))
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn record(request: &Request, path: &[u32], log_prob: &[f32]) -> Record {
    let terms = path.iter().zip(&request.scored).filter(|&(_, &scored)| scored);
    sum(terms.map(|(&node, _)| log_prob[node as usize]))
}
