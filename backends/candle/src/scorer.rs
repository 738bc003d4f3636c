//! What causal architectures share: a walk over the forest, the head, and who asks for what. An architecture adds a
//! [`Network`].

use bheval_abi::{Failure, ForestView, NO_PARENT, Status};
use rayon::prelude::*;

use crate::head::{Head, check_finite};
use crate::kernels::Isa;
use crate::kernels::softmax::COLUMNS;
use crate::ops::forest::{Feed, Walk};
use crate::room;

/// Rows of a block that one thread takes from layer to layer; a multiple of the product's tile.
pub const BLOCK_ROWS: usize = 96;
/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 48;

/// What an architecture puts between token ids and the head.
///
/// A row is a fed node, rows come depth first. All arithmetic keeps the order that [`crate::kernels`] fixes, so that a
/// row's hidden state depends on its path alone, bit for bit.
pub trait Network: Send + Sync {
    /// Activations of a call, kept for the next one.
    type Space: Default + Send + Sync;

    /// `D`, the values of a hidden state.
    fn width(&self) -> usize;
    /// The head.
    fn head(&self) -> &Head;
    /// Longest path in tokens, or 0 where there is no limit.
    fn context(&self) -> u32 {
        0
    }
    /// Bytes of activations that a row takes, its hidden state left out.
    fn row_bytes(&self) -> u64;
    /// Bytes that a thread takes, whatever the number of rows.
    fn thread_bytes(&self) -> u64;
    /// Writes the hidden states before the final norm, `h [rows, D]`. `tokens` are those of the rows. Runs in the pool.
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Self::Space, h: &mut [f32]);
    /// What stands between the layers and the head, the final norm as a rule, for some hidden states: from `h [M, D]` to
    /// `x [M, K]`, `K` being the inner width of the head.
    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]);
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
}

/// A network with its threads and its room.
pub struct Causal<N: Network> {
    network: N,
    isa: Isa,
    pool: rayon::ThreadPool,
    space: N::Space,
    /// Hidden states of the last walk, `[rows, D]`.
    h: Vec<f32>,
}

/// Room of one thread in the head.
#[derive(Default)]
struct Scratch {
    rows: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
}

/// A pool of exactly so many threads.
///
/// # Errors
/// [`Status::EXHAUSTED`] if they can't be started.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| {
        Failure::new(Status::EXHAUSTED, format!("{threads} threads can't be started: {e}; ask for fewer"))
    })
}

impl<N: Network> Causal<N> {
    /// A scorer on so many threads.
    ///
    /// # Errors
    /// If the threads can't be started.
    pub fn new(network: N, threads: usize, isa: Isa) -> Result<Self, Failure> {
        Ok(Self { network, isa, pool: pool(threads)?, space: N::Space::default(), h: Vec::new() })
    }

    /// Runs the layers over a forest.
    fn run(&mut self, forest: &ForestView<'_>, feed: Feed) -> Result<Walk, Failure> {
        forest.check_tokens(self.network.head().vocab() as u32)?;
        let walk = Walk::new(forest, feed);
        check_length(&walk, self.network.context())?;
        let tokens: Vec<u32> = walk.nodes().iter().map(|&n| forest.token[n as usize]).collect();
        self.h.resize(walk.len() * self.network.width(), 0.0);
        if !walk.is_empty() {
            let Self { network, isa, pool, space, h } = self;
            pool.install(|| network.hidden(*isa, &walk, &tokens, space, h));
        }
        Ok(walk)
    }

    /// The final norm of some rows.
    fn last<'a>(&self, rows: &[u32], scratch: &'a mut Scratch) -> &'a [f32] {
        let width = self.network.width();
        let h = room(&mut scratch.rows, rows.len() * width);
        for (&row, h) in rows.iter().zip(h.chunks_exact_mut(width)) {
            h.copy_from_slice(&self.h[row as usize * width..][..width]);
        }
        let x = room(&mut scratch.normed, rows.len() * self.network.head().weights.inner());
        self.network.last(self.isa, h, x);
        x
    }

    /// Log-probabilities of the targets of some rows, in their order.
    fn targets_of(
        &self,
        forest: &ForestView<'_>,
        targets: &Targets,
        rows: &[u32],
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let asked: Vec<(usize, u32)> = rows
            .iter()
            .enumerate()
            .flat_map(|(i, &row)| targets.of(row).iter().map(move |&n| (i, forest.token[n as usize])))
            .collect();
        self.last(rows, scratch);
        let x = &scratch.normed[..rows.len() * self.network.head().weights.inner()];
        self.network.head().log_probs(self.isa, x, &asked, &mut scratch.wide)
    }
}

impl<N: Network> CausalScorer for Causal<N> {
    fn nodes(&self, memory: u64) -> u32 {
        let (width, head) = (self.network.width() as u64, (HEAD_ROWS * COLUMNS) as u64 * 4);
        let thread = self.network.thread_bytes() + head + 2 * HEAD_ROWS as u64 * width * 4;
        let fixed = self.pool.current_num_threads() as u64 * thread;
        // Beside its activations a node costs about 64 bytes of plan and targets.
        let row = self.network.row_bytes() + width * 4 + 64;
        (memory.saturating_sub(fixed) / row).clamp(256, 65_536) as u32
    }

    fn vocab(&self) -> u32 {
        self.network.head().vocab() as u32
    }

    fn context(&self) -> u32 {
        self.network.context()
    }

    fn score(&mut self, forest: ForestView<'_>, log_prob: &mut [f32]) -> Result<u64, Failure> {
        forest.check_causal()?;
        check_depth(&forest, self.network.context())?;
        let walk = self.run(&forest, Feed::AboveWanted)?;
        let targets = Targets::new(&forest, &walk);
        let scored: Vec<u32> = (0..walk.len() as u32).filter(|&r| !targets.of(r).is_empty()).collect();
        let this = &*self;
        let block = |scratch: &mut Scratch, rows: &[u32]| this.targets_of(&forest, &targets, rows, scratch);
        let scores: Vec<Vec<f32>> =
            self.pool.install(|| scored.par_chunks(HEAD_ROWS).map_init(Scratch::default, block).collect());
        let nodes = scored.iter().flat_map(|&row| targets.of(row));
        for (&node, score) in nodes.zip(scores.into_iter().flatten()) {
            check_finite(score, forest.token[node as usize], || format!("node {node}"))?;
            log_prob[node as usize] = score;
        }
        Ok(walk.len() as u64)
    }

    fn logits(&mut self, forest: ForestView<'_>, out: &mut [f32]) -> Result<(), Failure> {
        let walk = self.run(&forest, Feed::Wanted)?;
        let mut row_of = vec![0; forest.len()];
        for (row, &node) in walk.nodes().iter().enumerate() {
            row_of[node as usize] = row as u32;
        }
        let wanted: Vec<usize> = (0..forest.len()).filter(|&n| forest.is_wanted(n)).collect();
        let vocab = self.network.head().vocab();
        let this = &*self;
        self.pool.install(|| {
            let blocks = out.par_chunks_mut(HEAD_ROWS * vocab).zip(wanted.par_chunks(HEAD_ROWS));
            blocks.for_each_init(Scratch::default, |scratch, (out, nodes)| {
                let rows: Vec<u32> = nodes.iter().map(|&n| row_of[n]).collect();
                this.network.head().logits(this.isa, this.last(&rows, scratch), out);
            });
        });
        for (&node, row) in wanted.iter().zip(out.chunks_exact(vocab)) {
            let check = |&x: &f32| check_finite(x, forest.token[node], || format!("node {node}"));
            row.iter().try_for_each(check)?;
        }
        Ok(())
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

    fn of(&self, row: u32) -> &[u32] {
        &self.nodes[self.begin[row as usize] as usize..self.begin[row as usize + 1] as usize]
    }
}
