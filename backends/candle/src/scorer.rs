//! What causal architectures share: a walk over the forest, the head, and who asks for what. An architecture adds a
//! [`Network`].

use bheval_abi::{Failure, ForestView, NO_PARENT};
use rayon::prelude::*;

use crate::body::{Body, Evaluator, HEAD_ROWS, Scratch};
use crate::head::{Head, check_finite};
use crate::kernels::Isa;
use crate::ops::forest::{Feed, Walk};

/// Rows of a block that one thread takes from layer to layer; a multiple of the product's tile.
pub const BLOCK_ROWS: usize = 96;

/// How an architecture reads a forest, between token ids and the head.
///
/// A row is a fed node, rows come depth first. All arithmetic keeps the order that [`crate::kernels`] fixes, so that a
/// row's hidden state depends on its path alone, bit for bit.
pub trait Network: Body {
    /// Writes the hidden states before [`Body::last`], `h [rows, D]`. `tokens` are those of the rows. Runs in the pool.
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Self::Space, h: &mut [f32]);
}

/// A causal model, whatever its architecture.
pub trait CausalScorer: Send {
    /// How many nodes fit into `memory` bytes of activations, between 256 and 65,536.
    fn nodes(&self, memory: u64) -> u32;
    /// Size of the vocabulary.
    fn vocab(&self) -> u32;
    /// Longest path in tokens, or 0 where there is no limit.
    fn context(&self) -> u32;
    /// Writes `ln p(token | path above)` of the wanted nodes; returns how many nodes were fed.
    ///
    /// # Errors
    /// Tokens beyond the vocabulary, wanted roots, paths longer than the context, and results that are not finite.
    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure>;
    /// Writes a row of logits `[V]` for each wanted node, in the order of the nodes.
    ///
    /// # Errors
    /// As [`CausalScorer::score`], but for roots.
    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure>;
    /// What turns hidden states into logits.
    fn head(&self) -> &Head;
    /// Writes what the head reads, `[K]` for each wanted node, in the order of the nodes.
    ///
    /// # Errors
    /// As [`CausalScorer::logits`].
    fn hidden(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure>;
}

/// A network that scores.
pub struct Causal<N: Network>(Evaluator<N>);

impl<N: Network> Causal<N> {
    /// A scorer on so many threads.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(network: N, threads: usize, isa: Isa) -> Result<Self, Failure> {
        Ok(Self(Evaluator::new(network, threads, isa)?))
    }

    /// Runs the layers over a forest.
    fn run(&mut self, forest: &ForestView<'_>, feed: Feed) -> Result<Walk, Failure> {
        forest.check_tokens(self.0.vocab())?;
        let walk = Walk::new(forest, feed);
        check_length(&walk, self.0.body.context())?;
        let tokens: Vec<u32> = walk.nodes().iter().map(|&n| forest.token[n as usize]).collect();
        let Evaluator { body, isa, pool, space, h } = &mut self.0;
        h.resize(walk.len() * body.width(), 0.0);
        if !walk.is_empty() {
            pool.install(|| body.hidden(*isa, &walk, &tokens, space, h));
        }
        Ok(walk)
    }
}

impl<N: Network> Causal<N> {
    /// Runs the layers, and writes `width` values for each wanted node with `write`, block by block.
    fn wanted_rows(
        &mut self,
        forest: ForestView<'_>,
        width: usize,
        out: &mut [f32],
        write: impl Fn(&Evaluator<N>, &[u32], &mut Scratch, &mut [f32]) + Sync,
    ) -> Result<(), Failure> {
        let walk = self.run(&forest, Feed::Wanted)?;
        let mut row_of = vec![0; forest.len()];
        for (row, &node) in walk.nodes().iter().enumerate() {
            row_of[node as usize] = row as u32;
        }
        let wanted: Vec<usize> = (0..forest.len()).filter(|&n| forest.is_wanted(n)).collect();
        let this = &self.0;
        this.pool.install(|| {
            let blocks = out.par_chunks_mut(HEAD_ROWS * width).zip(wanted.par_chunks(HEAD_ROWS));
            blocks.for_each_init(Scratch::default, |scratch, (out, nodes)| {
                let rows: Vec<u32> = nodes.iter().map(|&n| row_of[n]).collect();
                write(this, &rows, scratch, out);
            });
        });
        for (&node, row) in wanted.iter().zip(out.chunks_exact(width)) {
            let check = |&x: &f32| check_finite(x, forest.token[node], || format!("node {node}"));
            row.iter().try_for_each(check)?;
        }
        Ok(())
    }
}

impl<N: Network> CausalScorer for Causal<N> {
    fn nodes(&self, memory: u64) -> u32 {
        self.0.nodes(memory, 256)
    }

    fn vocab(&self) -> u32 {
        self.0.vocab()
    }

    fn context(&self) -> u32 {
        self.0.body.context()
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_causal()?;
        check_depth(&forest, self.0.body.context())?;
        let walk = self.run(&forest, Feed::AboveWanted)?;
        let targets = Targets::new(&forest, &walk);
        let scored: Vec<u32> = (0..walk.len() as u32).filter(|&r| !targets.of(r).is_empty()).collect();
        let this = &self.0;
        let block = |scratch: &mut Scratch, rows: &[u32]| {
            this.log_probs(rows, &targets.asked(&forest, rows), scratch)
        };
        let scores: Vec<Vec<f32>> =
            this.pool.install(|| scored.par_chunks(HEAD_ROWS).map_init(Scratch::default, block).collect());
        let nodes = scored.iter().flat_map(|&row| targets.of(row));
        for (&node, score) in nodes.zip(scores.into_iter().flatten()) {
            check_finite(score, forest.token[node as usize], || format!("node {node}"))?;
            log_prob[node as usize] = score;
        }
        Ok(walk.len() as u64)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let vocab = self.0.vocab() as usize;
        self.wanted_rows(forest, vocab, out, |this, rows, scratch, out| this.logits(rows, scratch, out))
    }

    fn head(&self) -> &Head {
        self.0.body.head()
    }

    fn hidden(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let width = self.head().weights.inner();
        self.wanted_rows(forest, width, out, |this, rows, scratch, out| {
            out.copy_from_slice(this.before_head(rows, scratch));
        })
    }
}

/// Refuses rows that stand deeper than the model reads.
fn check_length(walk: &Walk, context: u32) -> Result<(), Failure> {
    match walk.depths().iter().position(|&d| context > 0 && d >= context) {
        None => Ok(()),
        Some(row) => Err(too_long(walk.nodes()[row] as usize, walk.depths()[row] + 1, context)),
    }
}

/// As [`check_length`] for every node: the last token of a path is scored and not fed, but it has a position all the same.
fn check_depth(forest: &ForestView<'_>, context: u32) -> Result<(), Failure> {
    if context == 0 {
        return Ok(());
    }
    let mut depth = vec![0u32; forest.len()];
    for node in 0..forest.len() {
        depth[node] = forest.parent_of(node).map_or(1, |parent| depth[parent] + 1);
        if depth[node] > context {
            return Err(too_long(node, depth[node], context));
        }
    }
    Ok(())
}

fn too_long(node: usize, tokens: u32, context: u32) -> Failure {
    Failure::input(format!(
        "node {node} is token {tokens} of its path, but the model reads {context} at most; shorten the text"
    ))
}

/// The wanted children of each row.
struct Targets {
    begin: Vec<u32>,
    nodes: Vec<u32>,
}

impl Targets {
    fn new(forest: &ForestView<'_>, walk: &Walk) -> Self {
        let mut row_of = vec![NO_PARENT; forest.len()];
        for (row, &node) in walk.nodes().iter().enumerate() {
            row_of[node as usize] = row as u32;
        }
        let wanted = || (0..forest.len()).filter(|&n| forest.is_wanted(n));
        let row_above = |n: usize| forest.parent_of(n).map_or(0, |p| row_of[p] as usize);
        let mut begin = vec![0u32; walk.len() + 1];
        wanted().for_each(|n| begin[row_above(n) + 1] += 1);
        for row in 0..walk.len() {
            begin[row + 1] += begin[row];
        }
        let (mut end, mut nodes) = (begin.clone(), vec![0; begin[walk.len()] as usize]);
        for n in wanted() {
            let at = &mut end[row_above(n)];
            nodes[*at as usize] = n as u32;
            *at += 1;
        }
        Self { begin, nodes }
    }

    /// The tokens asked of some rows: for each the row's index among them, and the token.
    fn asked(&self, forest: &ForestView<'_>, rows: &[u32]) -> Vec<(usize, u32)> {
        let tokens = |(i, &row): (usize, &u32)| {
            self.of(row).iter().map(move |&node| (i, forest.token[node as usize])).collect::<Vec<_>>()
        };
        rows.iter().enumerate().flat_map(tokens).collect()
    }

    fn of(&self, row: u32) -> &[u32] {
        &self.nodes[self.begin[row as usize] as usize..self.begin[row as usize + 1] as usize]
    }
}
