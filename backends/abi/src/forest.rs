//! The unit of scoring: a forest of token prefixes.

use crate::growth::is_whole;
use crate::{Failure, Status};

/// The parent of a root.
pub const NO_PARENT: u32 = u32::MAX;

/// A forest of token prefixes, as three arrays of `len` elements. Node `i` stands for the token sequence on the path
/// from its root down to itself, so sentences that begin alike share nodes.
///
/// A node's parent comes before it (`parent[i] < i`) or is [`NO_PARENT`]. A flat batch of sequences is the special case
/// of a forest of chains. A backend without [`crate::FEATURE_FOREST`] is only ever given chains, each in consecutive
/// nodes and each a whole sequence, also where another one begins alike.
#[repr(C)]
#[derive(Debug)]
pub struct Forest {
    /// `sizeof(Forest)` as the caller knows it.
    pub size: usize,
    /// Number of nodes.
    pub len: usize,
    /// Token id of each node.
    pub token: *const u32,
    /// Index of each node's parent, or [`NO_PARENT`] for a root.
    pub parent: *const u32,
    /// 1 for a node whose value is asked for, else 0.
    pub wanted: *const u8,
}

/// The answer to a scoring call.
#[repr(C)]
#[derive(Debug)]
pub struct Scores {
    /// `sizeof(Scores)` as the caller knows it.
    pub size: usize,
    /// `len` elements, owned by the caller. The backend writes `log_prob[i] = ln p(token_i | the path above node i)`, in
    /// nats and at least f32 precision, for every wanted node and leaves the others alone.
    pub log_prob: *mut f32,
    /// Elements of `log_prob`: the forest's `len`.
    pub len: usize,
    /// Written by the backend: how many nodes it ran through the network.
    pub fed: u64,
}

/// A checked, borrowed [`Forest`].
#[derive(Clone, Copy, Debug)]
pub struct ForestView<'a> {
    /// Token id of each node.
    pub token: &'a [u32],
    /// Parent of each node, or [`NO_PARENT`].
    pub parent: &'a [u32],
    /// 1 where the node's value is asked for.
    pub wanted: &'a [u8],
}

impl<'a> ForestView<'a> {
    /// Checks lengths and the order of parents; not the token range, which only the model knows.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming the first node that breaks a rule.
    pub fn new(token: &'a [u32], parent: &'a [u32], wanted: &'a [u8]) -> Result<Self, Failure> {
        if token.len() != parent.len() || token.len() != wanted.len() || token.len() >= NO_PARENT as usize {
            return Err(Failure::input(
                "the forest's arrays differ in length, or have 2^32 - 1 nodes or more",
            ));
        }
        let stray = parent.iter().enumerate().find(|&(i, &p)| p != NO_PARENT && p as usize >= i);
        if let Some((i, p)) = stray {
            return Err(Failure::input(format!(
                "node {i} of the forest has parent {p}, which does not come before it"
            )));
        }
        Ok(Self { token, parent, wanted })
    }

    /// The view of a forest that came over the boundary.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] for null pointers, a size that is too small, or what [`ForestView::new`] refuses.
    ///
    /// # Safety
    /// `forest` is null or points to a [`Forest`] whose arrays hold `len` elements for `'a`.
    pub unsafe fn from_raw(forest: *const Forest) -> Result<Self, Failure> {
        if forest.is_null() {
            return Err(Failure::input("no forest was given"));
        }
        // SAFETY: not null, and the caller vouches for the pointer.
        if !unsafe { is_whole(forest) } {
            return Err(Failure::input("the forest is smaller than this version knows"));
        }
        // SAFETY: as above, and whole.
        let forest = unsafe { &*forest };
        if forest.len == 0 {
            return Ok(Self { token: &[], parent: &[], wanted: &[] });
        }
        if forest.token.is_null() || forest.parent.is_null() || forest.wanted.is_null() {
            return Err(Failure::input("an array of the forest is null"));
        }
        if forest.len >= NO_PARENT as usize {
            return Err(Failure::input("the forest has 2^32 - 1 nodes or more"));
        }
        // SAFETY: not null, and the caller vouches for `len` elements in each.
        let (token, parent, wanted) = unsafe {
            (
                std::slice::from_raw_parts(forest.token, forest.len),
                std::slice::from_raw_parts(forest.parent, forest.len),
                std::slice::from_raw_parts(forest.wanted, forest.len),
            )
        };
        Self::new(token, parent, wanted)
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.token.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.token.is_empty()
    }

    /// The parent of node `i`, or `None` for a root.
    #[must_use]
    pub fn parent_of(&self, i: usize) -> Option<usize> {
        let parent = self.parent[i];
        (parent != NO_PARENT).then_some(parent as usize)
    }

    /// Whether the value of node `i` is asked for.
    #[must_use]
    pub fn is_wanted(&self, i: usize) -> bool {
        self.wanted[i] != 0
    }

    /// Refuses a token that a vocabulary of `vocab` entries does not have.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming the first such node.
    pub fn check_tokens(&self, vocab: u32) -> Result<(), Failure> {
        match self.token.iter().position(|&t| t >= vocab) {
            None => Ok(()),
            Some(i) => Err(Failure::new(
                Status::BAD_INPUT,
                format!(
                    "token id {} is beyond the model's vocabulary of {vocab}; the tokenizer belongs to another model",
                    self.token[i]
                ),
            )),
        }
    }

    /// Refuses a wanted root: a causal model says nothing about a token that nothing stands before.
    ///
    /// # Errors
    /// [`Status::BAD_INPUT`] naming the first such node.
    pub fn check_causal(&self) -> Result<(), Failure> {
        match (0..self.len()).find(|&i| self.is_wanted(i) && self.parent[i] == NO_PARENT) {
            None => Ok(()),
            Some(i) => Err(Failure::input(format!(
                "node {i} is a root and wants a score, but a causal model can't score a token without context"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_must_come_first() {
        let bad = ForestView::new(&[1, 2], &[1, NO_PARENT], &[0, 0]);
        assert!(bad.is_err_and(|f| f.text.contains("node 0")));
    }

    #[test]
    fn a_wanted_root_is_refused_for_causal_models() {
        let forest = ForestView::new(&[1, 2], &[NO_PARENT, 0], &[1, 1]).expect("well formed");
        assert!(forest.check_causal().is_err_and(|f| f.text.contains("node 0")));
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_named() {
        let forest = ForestView::new(&[1, 9], &[NO_PARENT, 0], &[0, 1]).expect("well formed");
        assert!(forest.check_tokens(9).is_err_and(|f| f.text.contains("token id 9")));
    }
}
