//! The transformer that all its architectures are: an embedding, blocks of attention and MLP, and what comes before the
//! head. An architecture's file in [`crate::models`] fills it from its own names.
//!
//! It serves from left to right, where a row sees the path above it, and from both sides, where it sees its sequence.

use bheval_abi::{MaskedView, NO_PARENT};
use rayon::prelude::*;

use crate::body::Body;
use crate::head::Head;
use crate::kernels::Isa;
use crate::kernels::activation::Activation;
use crate::kernels::gemm::Store;
use crate::layers::linear::Linear;
use crate::layers::mlp::Mlp;
use crate::layers::norm::Norm;
use crate::layers::rope::{Frequencies, Rotations};
use crate::masked::Encoder;
use crate::ops::attention::{Heads, Seen, attend};
use crate::ops::forest::Walk;
use crate::room;
use crate::scorer::{BLOCK_ROWS, Network};

/// Rows that a row is planned to see: a model may promise more positions than any text has.
const LONGEST_PLANNED: usize = 1 << 16;
/// Rows whose attention one thread takes at a time.
const ATTENTION_ROWS: usize = 16;

/// From token ids to what enters the first block: `norm( project(E[token]) + P[position + offset] + constant )`.
#[derive(Debug)]
pub struct Embedding {
    /// `E [V, width]`
    pub tokens: Vec<f32>,
    /// Width of a row of `E`.
    pub width: usize,
    /// To the width of the model, where `E` is narrower.
    pub project: Option<Linear>,
    /// Learned positions `P [positions, D]` and the offset of the first one.
    pub positions: Option<(Vec<f32>, usize)>,
    /// A row that every token gets: BERT's token type 0.
    pub constant: Option<Vec<f32>>,
    /// Norm over the sum.
    pub norm: Option<Norm>,
}

impl Embedding {
    /// Of tokens alone, `[V, D]`.
    #[must_use]
    pub fn of_tokens(tokens: Vec<f32>, width: usize) -> Self {
        Self { tokens, width, project: None, positions: None, constant: None, norm: None }
    }

    /// `h [M, D]` for `M` tokens at their positions.
    fn rows(&self, isa: Isa, tokens: &[u32], positions: &[u32], s: &mut Scratch, h: &mut [f32]) {
        let plain = room(&mut s.a, tokens.len() * self.width);
        for (&token, x) in tokens.iter().zip(plain.chunks_exact_mut(self.width)) {
            x.copy_from_slice(&self.tokens[token as usize * self.width..][..self.width]);
        }
        match &self.project {
            Some(project) => project.apply(isa, plain, Store::Set, h),
            None => h.copy_from_slice(plain),
        }
        let width = h.len() / tokens.len();
        for (&position, h) in positions.iter().zip(h.chunks_exact_mut(width)) {
            if let Some(constant) = &self.constant {
                h.iter_mut().zip(constant).for_each(|(h, x)| *h += x);
            }
            if let Some((table, offset)) = &self.positions {
                let row = &table[(position as usize + offset) * width..][..width];
                h.iter_mut().zip(row).for_each(|(h, x)| *h += x);
            }
        }
        if let Some(norm) = &self.norm {
            let x = room(&mut s.b, h.len());
            norm.apply(isa, h, x);
            h.copy_from_slice(x);
        }
    }
}

/// Where a block's norms stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrangement {
    /// `h += attention(norm₁ h)`, then `h += mlp(norm₂ h)`
    PreNorm,
    /// `h += attention(norm₁ h) + mlp(norm₂ h)`, both of the same `h`
    Parallel,
    /// `h = norm₁(h + attention(h))`, then `h = norm₂(h + mlp(h))`
    PostNorm,
}

/// One block.
#[derive(Debug)]
pub struct Block {
    /// `norm₁`
    pub attention_norm: Norm,
    /// Queries, keys and values, one below the other.
    pub qkv: Linear,
    /// What the products of queries and keys are multiplied with.
    pub scale: f32,
    /// From the heads back to the model's width.
    pub out: Linear,
    /// `norm₂`
    pub mlp_norm: Norm,
    /// The MLP.
    pub mlp: Mlp,
}

/// What stands between the blocks and the head; each part may be absent.
#[derive(Debug, Default)]
pub struct Finish {
    /// BERT's transform, with its activation.
    pub dense: Option<(Linear, Activation)>,
    /// The final norm.
    pub norm: Option<Norm>,
    /// To the width of the embedding, where that is narrower.
    pub project: Option<Linear>,
}

impl Finish {
    fn apply(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        let mut now = h.to_vec();
        if let Some((dense, activation)) = &self.dense {
            let mut next = vec![0.0; now.len() / dense.weights.inner() * dense.out()];
            dense.apply(isa, &now, Store::Set, &mut next);
            activation.apply(isa, &mut next);
            now = next;
        }
        if let Some(norm) = &self.norm {
            let mut next = vec![0.0; now.len()];
            norm.apply(isa, &now, &mut next);
            now = next;
        }
        match &self.project {
            Some(project) => project.apply(isa, &now, Store::Set, x),
            None => x.copy_from_slice(&now),
        }
    }
}

/// A transformer, packed.
#[derive(Debug)]
pub struct Transformer {
    /// `D`
    pub width: usize,
    /// Longest path or sequence in tokens.
    pub context: usize,
    /// What enters the first block.
    pub embedding: Embedding,
    /// In order of depth.
    pub blocks: Vec<Block>,
    /// Where the norms stand.
    pub arrangement: Arrangement,
    /// How a row splits into heads.
    pub heads: Heads,
    /// Rotary positions, where the model has them.
    pub rope: Option<Frequencies>,
    /// What stands before the head.
    pub finish: Finish,
    /// The head.
    pub head: Head,
}

/// Activations of a call: queries and results of attention `[rows, heads · dim]`, keys and values `[rows, shared · dim]`.
#[derive(Default)]
pub struct Space {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    rotations: Rotations,
}

/// Room of one thread.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    wide: Vec<f32>,
    scores: Vec<f32>,
    seen: Vec<u32>,
}

/// A block of rows of queries, keys and values, and what to rotate them with.
struct Projected<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    rotations: &'a Rotations,
}

/// Rows with their tokens and positions.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    ids: &'a [u32],
    positions: &'a [u32],
}

impl Transformer {
    /// Runs the blocks. `seen` writes the rows that a row sees, in order.
    fn run(
        &self,
        isa: Isa,
        tokens: Tokens<'_>,
        seen: &(dyn Fn(u32, &mut Vec<u32>) + Sync),
        space: &mut Space,
        h: &mut [f32],
    ) {
        let rows = tokens.ids.len();
        space.q.resize(rows * self.heads.queries(), 0.0);
        space.o.resize(rows * self.heads.queries(), 0.0);
        space.k.resize(rows * self.heads.keys(), 0.0);
        space.v.resize(rows * self.heads.keys(), 0.0);
        if let Some(frequencies) = &self.rope {
            let last = tokens.positions.iter().max().map_or(0, |&p| p as usize + 1);
            space.rotations.cover(frequencies, last);
        }
        for l in 0..=self.blocks.len() {
            self.advance(isa, l, tokens, space, h);
            if let Some(block) = self.blocks.get(l) {
                self.attention(isa, block, seen, space);
            }
        }
    }

    /// From one attention to the next, block of rows by block of rows: the rest of layer `l - 1`, or the embedding, then
    /// the projections of layer `l`, if there is one.
    fn advance(&self, isa: Isa, l: usize, tokens: Tokens<'_>, space: &mut Space, h: &mut [f32]) {
        let Space { q, k, v, o, rotations } = space;
        let (wide, narrow) = (BLOCK_ROWS * self.heads.queries(), BLOCK_ROWS * self.heads.keys());
        let parts = (q.par_chunks_mut(wide), k.par_chunks_mut(narrow), v.par_chunks_mut(narrow));
        let rows = (tokens.ids.par_chunks(BLOCK_ROWS), tokens.positions.par_chunks(BLOCK_ROWS));
        let blocks = (h.par_chunks_mut(BLOCK_ROWS * self.width), o.par_chunks(wide), parts, rows);
        blocks.into_par_iter().for_each_init(Scratch::default, |s, (h, o, (q, k, v), (ids, positions))| {
            match l.checked_sub(1) {
                None => self.embedding.rows(isa, ids, positions, s, h),
                Some(done) => self.rest(isa, &self.blocks[done], o, h, s),
            }
            if let Some(block) = self.blocks.get(l) {
                self.project(isa, block, (h, positions), Projected { q, k, v, rotations }, s);
            }
        });
    }

    /// Queries, keys and values of some rows, rotated to their positions.
    fn project(
        &self,
        isa: Isa,
        block: &Block,
        (h, positions): (&[f32], &[u32]),
        out: Projected<'_>,
        s: &mut Scratch,
    ) {
        let x = if self.arrangement == Arrangement::PostNorm {
            h
        } else {
            let x = room(&mut s.a, h.len());
            block.attention_norm.apply(isa, h, x);
            x
        };
        let all = room(&mut s.wide, positions.len() * block.qkv.out());
        block.qkv.apply(isa, x, Store::Set, all);
        let (wide, narrow) = (self.heads.queries(), self.heads.keys());
        for (i, (row, &position)) in all.chunks_exact(block.qkv.out()).zip(positions).enumerate() {
            let q = &mut out.q[i * wide..][..wide];
            let k = &mut out.k[i * narrow..][..narrow];
            q.copy_from_slice(&row[..wide]);
            k.copy_from_slice(&row[wide..wide + narrow]);
            out.v[i * narrow..][..narrow].copy_from_slice(&row[wide + narrow..]);
            if let Some(rope) = &self.rope {
                let head = (self.heads.dim, rope.inverse.len());
                out.rotations.rotate(isa, head, position as usize, q);
                out.rotations.rotate(isa, head, position as usize, k);
            }
        }
    }

    fn attention(
        &self,
        isa: Isa,
        block: &Block,
        seen: &(dyn Fn(u32, &mut Vec<u32>) + Sync),
        space: &mut Space,
    ) {
        let Space { q, k, v, o, .. } = space;
        let (width, rows) = (self.heads.queries(), Seen { k, v });
        let blocks = (o.par_chunks_mut(ATTENTION_ROWS * width), q.par_chunks(ATTENTION_ROWS * width));
        blocks.into_par_iter().enumerate().for_each_init(Scratch::default, |s, (block_index, (o, q))| {
            for (i, (o, q)) in o.chunks_exact_mut(width).zip(q.chunks_exact(width)).enumerate() {
                seen((block_index * ATTENTION_ROWS + i) as u32, &mut s.seen);
                attend(isa, self.heads, block.scale, (q, rows), &s.seen, &mut s.scores, o);
            }
        });
    }

    /// What a block does after its attention, whose result is `o`.
    fn rest(&self, isa: Isa, block: &Block, o: &[f32], h: &mut [f32], s: &mut Scratch) {
        let (x, wide, narrow) = (room(&mut s.a, h.len()), &mut s.wide, &mut s.b);
        match self.arrangement {
            Arrangement::PreNorm => {
                block.out.apply(isa, o, Store::Add, h);
                block.mlp_norm.apply(isa, h, x);
                block.mlp.add(isa, x, h, wide, narrow);
            }
            Arrangement::Parallel => {
                block.mlp_norm.apply(isa, h, x);
                block.out.apply(isa, o, Store::Add, h);
                block.mlp.add(isa, x, h, wide, narrow);
            }
            Arrangement::PostNorm => {
                block.out.apply(isa, o, Store::Add, h);
                block.attention_norm.apply(isa, h, x);
                h.copy_from_slice(x);
                block.mlp.add(isa, x, h, wide, narrow);
                block.mlp_norm.apply(isa, h, x);
                h.copy_from_slice(x);
            }
        }
    }
}

/// The rows on the path down to `row`, itself included, root first.
fn path(parents: &[u32], row: u32, seen: &mut Vec<u32>) {
    seen.clear();
    seen.push(row);
    let mut above = parents[row as usize];
    while above != NO_PARENT {
        seen.push(above);
        above = parents[above as usize];
    }
    seen.reverse();
}

impl Body for Transformer {
    type Space = Space;

    fn width(&self) -> usize {
        self.width
    }

    fn head(&self) -> &Head {
        &self.head
    }

    fn context(&self) -> u32 {
        self.context as u32
    }

    fn row_bytes(&self) -> u64 {
        8 * (self.heads.queries() + self.heads.keys()) as u64
    }

    fn thread_bytes(&self) -> u64 {
        let inner = self.blocks.iter().map(|b| b.mlp.inner().max(b.qkv.out())).max().unwrap_or(0);
        let embedding = self.embedding.width.max(self.width);
        let seen = 8 * self.context.min(LONGEST_PLANNED);
        (4 * BLOCK_ROWS * (2 * embedding + 2 * inner) + seen) as u64
    }

    fn last(&self, isa: Isa, h: &[f32], x: &mut [f32]) {
        self.finish.apply(isa, h, x);
    }
}

impl Network for Transformer {
    fn hidden(&self, isa: Isa, walk: &Walk, tokens: &[u32], space: &mut Space, h: &mut [f32]) {
        let tokens = Tokens { ids: tokens, positions: walk.depths() };
        self.run(isa, tokens, &|row, seen| path(walk.parents(), row, seen), space, h);
    }
}

impl Encoder for Transformer {
    fn hidden(&self, isa: Isa, batch: &MaskedView<'_>, space: &mut Space, h: &mut [f32]) {
        let mut positions = vec![0; batch.token.len()];
        let mut sequence_of = vec![0u32; batch.token.len()];
        for s in 0..batch.sequences() {
            for (i, at) in batch.range(s).enumerate() {
                (positions[at], sequence_of[at]) = (i as u32, s as u32);
            }
        }
        let seen = |row: u32, seen: &mut Vec<u32>| {
            let range = batch.range(sequence_of[row as usize] as usize);
            seen.clear();
            seen.extend(range.start as u32..range.end as u32);
        };
        self.run(isa, Tokens { ids: batch.token, positions: &positions }, &seen, space, h);
    }
}
