//! Scores chains, each by itself: one sequence, at its own length, in one thread. So a score depends on its chain
//! alone, whatever kernels onnxruntime picks for a shape.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bheval_abi::{Failure, ForestView, Status};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::graph::{Graph, Rows};
use crate::runtime::Runtime;

/// A graph for each thread, and the threads.
pub(crate) struct Scorer {
    graphs: Vec<Mutex<Graph>>,
    pool: ThreadPool,
    vocab: u32,
    context: Option<usize>,
}

/// A chain of the forest: nodes `first..first + tokens.len()`.
struct Chain<'a> {
    first: usize,
    tokens: &'a [u32],
    wanted: &'a [u8],
}

impl Chain<'_> {
    /// Places in the chain whose value is asked for.
    fn wanted(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted.iter().enumerate().filter(|&(_, &w)| w != 0).map(|(t, _)| t)
    }
}

impl Scorer {
    /// Opens `path` for more threads; `first` is the graph of the first one. Chains longer than `context` are refused.
    pub(crate) fn new(
        runtime: &Runtime,
        path: &Path,
        first: Graph,
        threads: usize,
        vocab: u32,
        context: Option<usize>,
    ) -> Result<Self, Failure> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Failure::new(Status::EXHAUSTED, format!("can't start {threads} threads: {e}")))?;
        let mut graphs = vec![Mutex::new(first)];
        for _ in 1..threads {
            graphs.push(Mutex::new(Graph::open(runtime, path)?));
        }
        Ok(Self { graphs, pool, vocab, context })
    }

    /// `ln p(token | tokens before it)` for each wanted node; returns how many nodes were fed.
    pub(crate) fn score(&self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_tokens(self.vocab)?;
        forest.check_causal()?;
        let chains = chains(forest)?;
        let results = self.each(&chains, scores);
        let mut fed = 0;
        for (chain, result) in chains.iter().zip(results) {
            let values = result?;
            fed += if values.is_empty() { 0 } else { fed_tokens(chain).len() as u64 };
            for (t, value) in values {
                log_prob[chain.first + t] = value;
            }
        }
        Ok(fed)
    }

    /// One row of logits for each wanted node: what may follow it.
    pub(crate) fn logits(&self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        forest.check_tokens(self.vocab)?;
        let chains = chains(forest)?;
        let results = self.each(&chains, logits);
        let mut room = out.chunks_exact_mut(self.vocab as usize);
        for rows in results {
            for (row, room) in rows?.iter().zip(&mut room) {
                room.copy_from_slice(row);
            }
        }
        Ok(())
    }

    /// Works on every chain, and gives the results in the order of the chains.
    fn each<T: Send>(
        &self,
        chains: &[Chain<'_>],
        work: impl Fn(&mut Graph, &Chain<'_>) -> Result<T, Failure> + Send + Sync,
    ) -> Vec<Result<T, Failure>> {
        let one = |chain: &Chain<'_>| {
            let thread = rayon::current_thread_index().unwrap_or(0) % self.graphs.len();
            let mut graph = self.graphs[thread].lock().unwrap_or_else(PoisonError::into_inner);
            // Here, because the last token is not fed: the graph itself would take a chain of one token more.
            if let Some(limit) = self.context.filter(|&limit| chain.tokens.len() > limit) {
                let len = chain.tokens.len();
                return Err(Failure::input(format!(
                    "{len} tokens are more than the model's context of {limit}"
                )));
            }
            work(&mut graph, chain)
        };
        self.pool.install(|| chains.par_iter().map(one).collect())
    }
}

/// The chains of a flat forest.
fn chains(forest: ForestView<'_>) -> Result<Vec<Chain<'_>>, Failure> {
    let is_root = |i: usize| forest.parent_of(i).is_none();
    if let Some(i) = (0..forest.len()).find(|&i| forest.parent_of(i).is_some_and(|p| p + 1 != i)) {
        return Err(Failure::input(format!(
            "node {i} does not follow its parent: this backend takes chains of consecutive nodes only"
        )));
    }
    let starts: Vec<usize> = (0..forest.len()).filter(|&i| is_root(i)).collect();
    let ends = starts.iter().skip(1).copied().chain([forest.len()]);
    let chain = |(first, end): (usize, usize)| Chain {
        first,
        tokens: &forest.token[first..end],
        wanted: &forest.wanted[first..end],
    };
    Ok(starts.iter().copied().zip(ends).map(chain).collect())
}

/// The last token predicts nothing that could be asked for, in any chain: what is fed must not depend on what is wanted.
fn fed_tokens<'a>(chain: &Chain<'a>) -> &'a [u32] {
    &chain.tokens[..chain.tokens.len() - 1]
}

/// The wanted places of a chain with their log-probabilities.
fn scores(graph: &mut Graph, chain: &Chain<'_>) -> Result<Vec<(usize, f32)>, Failure> {
    if chain.wanted().next().is_none() {
        return Ok(Vec::new());
    }
    graph.run(fed_tokens(chain), |rows| {
        // The row after a token predicts the next one; a wanted root was refused.
        chain
            .wanted()
            .map(|t| match log_prob(&rows.row(t - 1), chain.tokens[t]) {
                Some(value) => Ok((t, value)),
                None => Err(not_finite(chain, t, &rows)),
            })
            .collect()
    })
}

fn logits(graph: &mut Graph, chain: &Chain<'_>) -> Result<Vec<Vec<f32>>, Failure> {
    if chain.wanted().next().is_none() {
        return Ok(Vec::new());
    }
    graph.run(chain.tokens, |rows| {
        let row = |t: usize| {
            let row = rows.row(t);
            // No token may follow with certainty of zero or one, but minus infinity is a logit that some models write.
            let broken = row.iter().any(|x| x.is_nan() || *x == f32::INFINITY);
            if broken { Err(not_finite(chain, t + 1, &rows)) } else { Ok(row) }
        };
        chain.wanted().map(row).collect()
    })
}

/// `ln softmax(logits)[token]`, with the sum in f64; none where it is not a finite number.
fn log_prob(logits: &[f32], token: u32) -> Option<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // NaN survives in the sum, although `max` passes it over.
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(highest)).exp()).sum();
    let value = f64::from(*logits.get(token as usize)?) - f64::from(highest) - sum.ln();
    (value.is_finite()).then_some(value as f32)
}

fn not_finite(chain: &Chain<'_>, t: usize, rows: &Rows<'_>) -> Failure {
    let row = rows.row(t - 1);
    let broken = row.iter().filter(|x| !x.is_finite()).count();
    let node = chain.first + t.min(chain.tokens.len() - 1);
    Failure::new(
        Status::NOT_FINITE,
        format!(
            "node {node}: {broken} of the {} logits that follow token {} are NaN or infinite; the model is damaged, or its \
             number format is too narrow",
            row.len(),
            chain.tokens[t - 1]
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bheval_abi::NO_PARENT;

    #[test]
    fn log_prob_by_hand() {
        let third = (1.0_f32 / 3.0).ln();
        assert_eq!(log_prob(&[5.0, 5.0, 5.0], 1), Some(third));
        assert_eq!(log_prob(&[1e30, 1e30], 0), Some(-std::f32::consts::LN_2));
        assert_eq!(log_prob(&[0.0, f32::NEG_INFINITY], 0), Some(0.0));
        for broken in [f32::NAN, f32::INFINITY] {
            assert_eq!(log_prob(&[0.0, broken], 0), None);
        }
        assert_eq!(log_prob(&[0.0, f32::NEG_INFINITY], 1), None);
        assert_eq!(log_prob(&[f32::NEG_INFINITY; 2], 1), None);
        assert_eq!(log_prob(&[0.0], 1), None);
    }

    #[test]
    fn a_forest_that_forks_is_refused() {
        let parent = [NO_PARENT, 0, 0];
        let forest = ForestView::new(&[1, 2, 3], &parent, &[0, 1, 1]).expect("well formed");
        assert!(chains(forest).is_err_and(|f| f.text.contains("node 2")));
    }

    #[test]
    fn chains_end_where_the_next_begins() {
        let parent = [NO_PARENT, 0, NO_PARENT, 2, 3];
        let forest = ForestView::new(&[1, 2, 3, 4, 5], &parent, &[0, 1, 0, 0, 1]).expect("well formed");
        let chains = chains(forest).expect("chains");
        let found: Vec<_> =
            chains.iter().map(|c| (c.first, c.tokens.to_vec(), c.wanted().collect())).collect();
        assert_eq!(found, [(0, vec![1, 2], vec![1]), (2, vec![3, 4, 5], vec![2_usize])]);
    }
}
