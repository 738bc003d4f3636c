//! What architectures share whichever way they read: the threads, the room, and the way from hidden states through the
//! head.

use bheval_abi::{Failure, Status};

use crate::head::Head;
use crate::kernels::softmax::COLUMNS;
use crate::kernels::{Isa, Threads};
use crate::room;

/// Rows whose logits are computed together.
pub(crate) const HEAD_ROWS: usize = 48;
/// Nodes that one call takes at most.
const MOST_NODES: u64 = 65_536;

/// What an architecture says of itself. [`crate::scorer::Network`] or [`crate::masked::Encoder`] adds how it reads.
pub trait Body: Send + Sync {
    /// Activations of a call, kept for the next one.
    type Space: Default + Send + Sync;

    /// `D`, the values of a hidden state.
    fn width(&self) -> usize;
    /// The head, after [`Body::last`].
    fn head(&self) -> &Head;
    /// Longest path or sequence in tokens, or 0 where there is no limit.
    fn context(&self) -> u32 {
        0
    }
    /// Bytes of activations that a row takes, its hidden state left out.
    fn row_bytes(&self) -> u64;
    /// Bytes that a thread takes, whatever the number of rows.
    fn thread_bytes(&self) -> u64;
    /// What stands between the layers and the head, the final norm as a rule, for some hidden states: from `h [M, D]` to
    /// `x [M, K]`, `K` being the inner width of the head.
    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]);
}

/// A body with its threads and its room.
pub(crate) struct Evaluator<B: Body> {
    pub(crate) body: B,
    pub(crate) isa: Isa,
    pub(crate) pool: Threads,
    pub(crate) space: B::Space,
    /// Hidden states of the last call, `[rows, D]`.
    pub(crate) h: Vec<f32>,
}

/// Room of one thread in the head.
#[derive(Default)]
pub(crate) struct Scratch {
    rows: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
}

impl<B: Body> Evaluator<B> {
    /// An evaluator on exactly so many threads.
    ///
    /// # Errors
    /// [`Status::EXHAUSTED`] if they can't be started.
    pub(crate) fn new(body: B, threads: usize, isa: Isa) -> Result<Self, Failure> {
        let pool = Threads::new(threads).map_err(|e| {
            Failure::new(Status::EXHAUSTED, format!("{threads} threads can't be started: {e}; ask for fewer"))
        })?;
        Ok(Self { body, isa, pool, space: B::Space::default(), h: Vec::new() })
    }

    pub(crate) fn vocab(&self) -> u32 {
        self.body.head().vocab() as u32
    }

    /// How many rows fit into `memory` bytes of activations, from `least` to 65,536.
    pub(crate) fn nodes(&self, memory: u64, least: u64) -> u32 {
        let (width, head) = (self.body.width() as u64, (HEAD_ROWS * COLUMNS) as u64 * 4);
        let thread = self.body.thread_bytes() + head + 3 * HEAD_ROWS as u64 * width * 4;
        let fixed = self.pool.count() as u64 * thread;
        // Beside its activations a row costs about 64 bytes of plan and targets.
        let row = self.body.row_bytes() + width * 4 + 64;
        (memory.saturating_sub(fixed) / row).clamp(least, MOST_NODES) as u32
    }

    /// What enters the head for some rows, `[rows, K]`.
    fn last<'a>(&self, rows: &[u32], state: &mut Vec<f32>, normed: &'a mut Vec<f32>) -> &'a [f32] {
        let width = self.body.width();
        let h = room(state, rows.len() * width);
        for (&row, h) in rows.iter().zip(h.chunks_exact_mut(width)) {
            h.copy_from_slice(&self.h[row as usize * width..][..width]);
        }
        let x = room(normed, rows.len() * self.body.head().weights.inner());
        self.body.last(self.isa, h, x);
        x
    }

    /// `ln p(token)` for each `(i, token)` asked of the `i`-th of some rows.
    pub(crate) fn log_probs(&self, rows: &[u32], asked: &[(usize, u32)], scratch: &mut Scratch) -> Vec<f32> {
        let Scratch { rows: state, normed, wide } = scratch;
        self.body.head().log_probs(self.isa, self.last(rows, state, normed), asked, wide)
    }

    /// What the head reads of some rows, `[rows, K]`.
    pub(crate) fn before_head<'a>(&self, rows: &[u32], scratch: &'a mut Scratch) -> &'a [f32] {
        self.last(rows, &mut scratch.rows, &mut scratch.normed)
    }

    /// Logits of some rows, `out [rows, V]`.
    pub(crate) fn logits(&self, rows: &[u32], scratch: &mut Scratch, out: &mut [f32]) {
        self.body.head().logits(self.isa, self.before_head(rows, scratch), out);
    }
}
