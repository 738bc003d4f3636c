//! Gated linear attention over a forest of prefixes, in f32: each node's state is its parent's, advanced by its own gates.
//!
//! Nodes are visited depth first. A chain updates one state in place; only a branching point saves its state, and since
//! its largest subtree comes last, no more than log2 of the nodes are saved at a time. The state of a node is the same
//! sequence of operations along its path whatever else is in the forest.

use bheval_abi::{ForestView, NO_PARENT};
use rayon::prelude::*;

use crate::kernels::{Isa, Kernel, launch};

/// Where a row finds the state above it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Above {
    /// Nothing stands above: zeros.
    Nothing,
    /// The parent is the row before.
    Before,
    /// The parent's state was saved here.
    Saved(u32),
}

/// One step of the depth-first walk.
#[derive(Clone, Copy, Debug)]
struct Step {
    above: Above,
    /// Where to save the state for later children; `u32::MAX` for nowhere.
    save: u32,
}

/// The nodes to run through the network, depth first. A row is a position in this order.
#[derive(Debug)]
pub struct Walk {
    nodes: Vec<u32>,
    parents: Vec<u32>,
    depths: Vec<u32>,
    steps: Vec<Step>,
    saved: usize,
}

/// Which nodes are run through the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feed {
    /// Those with a wanted descendant: a wanted leaf needs only its parent's logits.
    AboveWanted,
    /// Those that are wanted and what stands above them.
    Wanted,
}

impl Walk {
    /// Plans the walk over a forest, without recursion.
    #[must_use]
    pub fn new(forest: &ForestView<'_>, feed: Feed) -> Self {
        let fed = fed(forest, feed);
        let children = Children::new(forest, &fed);
        let mut walk = Walk { nodes: vec![], parents: vec![], depths: vec![], steps: vec![], saved: 0 };
        let mut row_of = vec![NO_PARENT; forest.len()];
        let mut free =
            Saved { slots: vec![], waiting: vec![0; forest.len()], slot: vec![u32::MAX; forest.len()] };
        let mut stack: Vec<u32> = children.roots.iter().rev().copied().collect();
        while let Some(node) = stack.pop() {
            let below = children.of(node);
            row_of[node as usize] = walk.nodes.len() as u32;
            let parent = forest.parent[node as usize];
            let parent_row = if parent == NO_PARENT { NO_PARENT } else { row_of[parent as usize] };
            let above = walk.above(parent, parent_row, &mut free);
            let save = if below.len() > 1 { free.take(node, below.len() - 1) } else { u32::MAX };
            walk.saved = walk.saved.max(free.slots.len());
            walk.nodes.push(node);
            walk.parents.push(parent_row);
            let depth = walk.depths.get(parent_row as usize).map_or(0, |above| above + 1);
            walk.depths.push(depth);
            walk.steps.push(Step { above, save });
            stack.extend(below.iter().rev());
        }
        walk
    }

    fn above(&self, parent: u32, parent_row: u32, saved: &mut Saved) -> Above {
        if parent == NO_PARENT {
            Above::Nothing
        } else if parent_row as usize + 1 == self.nodes.len() {
            Above::Before
        } else {
            Above::Saved(saved.give(parent))
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node of each row.
    #[must_use]
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// The row of each row's parent, or [`NO_PARENT`].
    #[must_use]
    pub fn parents(&self) -> &[u32] {
        &self.parents
    }

    /// How many rows stand above each row.
    #[must_use]
    pub fn depths(&self) -> &[u32] {
        &self.depths
    }

    /// How many states are saved at once, at most.
    #[must_use]
    pub fn saved(&self) -> usize {
        self.saved
    }
}

/// Slots for saved states, given back when the last child took its copy.
struct Saved {
    /// Free flag of each slot.
    slots: Vec<bool>,
    /// Children of each node that still wait for its state.
    waiting: Vec<u32>,
    slot: Vec<u32>,
}

impl Saved {
    fn take(&mut self, node: u32, children: usize) -> u32 {
        let slot = self.slots.iter().position(|&free| free).unwrap_or_else(|| {
            self.slots.push(true);
            self.slots.len() - 1
        });
        self.slots[slot] = false;
        self.waiting[node as usize] = children as u32;
        self.slot[node as usize] = slot as u32;
        slot as u32
    }

    fn give(&mut self, node: u32) -> u32 {
        let (waiting, slot) = (&mut self.waiting[node as usize], self.slot[node as usize]);
        *waiting -= 1;
        if *waiting == 0 {
            self.slots[slot as usize] = true;
        }
        slot
    }
}

fn fed(forest: &ForestView<'_>, feed: Feed) -> Vec<bool> {
    let mut fed = vec![false; forest.len()];
    for node in (0..forest.len()).rev() {
        let wanted = forest.is_wanted(node);
        fed[node] |= wanted && feed == Feed::Wanted;
        if let Some(parent) = forest.parent_of(node) {
            fed[parent] |= fed[node] || wanted;
        }
    }
    fed
}

/// Fed children of each node, the largest subtree last.
struct Children {
    begin: Vec<u32>,
    nodes: Vec<u32>,
    roots: Vec<u32>,
}

impl Children {
    fn new(forest: &ForestView<'_>, fed: &[bool]) -> Self {
        let mut size = vec![1u32; forest.len()];
        let mut begin = vec![0u32; forest.len() + 1];
        let below = || (0..forest.len()).filter(|&n| fed[n]);
        for node in below().rev() {
            if let Some(parent) = forest.parent_of(node) {
                size[parent] += size[node];
                begin[parent + 1] += 1;
            }
        }
        for n in 0..forest.len() {
            begin[n + 1] += begin[n];
        }
        let mut nodes = vec![0; begin[forest.len()] as usize];
        let mut end = begin.clone();
        for node in below() {
            if let Some(parent) = forest.parent_of(node) {
                nodes[end[parent] as usize] = node as u32;
                end[parent] += 1;
            }
        }
        for n in 0..forest.len() {
            nodes[begin[n] as usize..begin[n + 1] as usize].sort_by_key(|&c| size[c as usize]);
        }
        let roots = below().filter(|&n| forest.parent_of(n).is_none()).map(|n| n as u32).collect();
        Self { begin, nodes, roots }
    }

    fn of(&self, node: u32) -> &[u32] {
        &self.nodes[self.begin[node as usize] as usize..self.begin[node as usize + 1] as usize]
    }
}

/// What a recurrence does with the state of each row. Methods must be `#[inline(always)]`: [`carry`] runs inside a kernel.
pub(crate) trait Advance {
    /// Writes the state above a root.
    fn begin(&self, state: &mut [f32]);
    /// Takes the state above `row` to that of `row`.
    fn advance(&mut self, row: usize, state: &mut [f32]);
}

/// Runs a recurrence whose state has `size` values along a walk: each row's state is its parent's, advanced. No closure
/// takes part: one that is not inlined would be compiled without the kernel's instruction set.
#[inline(always)]
pub(crate) fn carry(walk: &Walk, size: usize, rule: &mut impl Advance) {
    // The running state, then the saved ones.
    let mut states = vec![0.0; (walk.saved + 1) * size];
    let (running, saved) = states.split_at_mut(size);
    for (row, plan) in walk.steps.iter().enumerate() {
        match plan.above {
            Above::Nothing => rule.begin(running),
            Above::Before => {}
            Above::Saved(s) => running.copy_from_slice(&saved[s as usize * size..][..size]),
        }
        rule.advance(row, running);
        if plan.save != u32::MAX {
            saved[plan.save as usize * size..][..size].copy_from_slice(running);
        }
    }
}

/// Inputs of the recurrence, one row per row of a [`Walk`]: `[rows, heads · head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Queries, already scaled.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Forget gates.
    pub f: &'a [f32],
}

/// Runs the recurrence over a walk, in parallel over heads. Writes `o` head by head: `[heads, rows, head_dim]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn recurrence(isa: Isa, walk: &Walk, x: Rows<'_>, heads: usize, o: &mut [f32]) {
    if walk.is_empty() {
        return;
    }
    let width = o.len() / walk.len();
    let fits = [x.q, x.k, x.v, x.f].iter().all(|x| x.len() == o.len());
    assert!(fits && width.is_multiple_of(heads) && width * walk.len() == o.len(), "the rows differ in shape");
    let head_dim = width / heads;
    o.par_chunks_mut(walk.len() * head_dim).enumerate().for_each(|(head, o)| {
        launch(isa, Head { walk, x, width, head_dim, first: head * head_dim, o });
    });
}

struct Head<'a> {
    walk: &'a Walk,
    x: Rows<'a>,
    width: usize,
    head_dim: usize,
    /// First channel of the head.
    first: usize,
    o: &'a mut [f32],
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        // The same operations in each; a known width keeps `o` in registers.
        let (walk, size) = (self.walk, self.head_dim * self.head_dim);
        match self.head_dim {
            16 => carry(walk, size, &mut Wide::<16>(self)),
            32 => carry(walk, size, &mut Wide::<32>(self)),
            64 => carry(walk, size, &mut Wide::<64>(self)),
            128 => carry(walk, size, &mut Wide::<128>(self)),
            _ => carry(walk, size, &mut Wide::<0>(self)),
        }
    }
}

/// A head whose width is `V`, or 0 for any.
struct Wide<'a, const V: usize>(Head<'a>);

impl<const V: usize> Advance for Wide<'_, V> {
    #[inline(always)]
    fn begin(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn advance(&mut self, row: usize, state: &mut [f32]) {
        let Head { x, width, head_dim, first, o, .. } = &mut self.0;
        let at = row * *width + *first..row * *width + *first + *head_dim;
        let x = Rows { q: &x.q[at.clone()], k: &x.k[at.clone()], v: &x.v[at.clone()], f: &x.f[at] };
        let o = &mut o[row * *head_dim..][..*head_dim];
        match <&mut [f32; V]>::try_from(&mut *o) {
            Ok(o) if V > 0 => advance(state, x, o),
            _ => advance_any(state, x, o),
        }
    }
}

/// `S = diag(f) S + k ⊗ v`, then `o = qᵀ S`, summed over the keys in order.
#[inline(always)]
fn advance<const V: usize>(state: &mut [f32], x: Rows<'_>, o: &mut [f32; V]) {
    let v: [f32; V] = x.v.try_into().expect("a head's row has its width");
    let mut sums = [0.0f32; V];
    let (rows, _) = state.as_chunks_mut::<V>();
    for ((state, &f), (&k, &q)) in rows.iter_mut().zip(x.f).zip(x.k.iter().zip(x.q)) {
        // Copies, so that the compiler sees whole registers.
        let mut s = *state;
        for j in 0..V {
            s[j] = f.mul_add(s[j], k * v[j]);
        }
        for j in 0..V {
            sums[j] = q.mul_add(s[j], sums[j]);
        }
        *state = s;
    }
    *o = sums;
}

/// [`advance`] for any width.
#[inline(always)]
fn advance_any(state: &mut [f32], x: Rows<'_>, o: &mut [f32]) {
    o.fill(0.0);
    for ((state, &f), (&k, &q)) in state.chunks_exact_mut(o.len()).zip(x.f).zip(x.k.iter().zip(x.q)) {
        for ((s, &v), o) in state.iter_mut().zip(x.v).zip(&mut *o) {
            *s = f.mul_add(*s, k * v);
            *o = q.mul_add(*s, *o);
        }
    }
}
