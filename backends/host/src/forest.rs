//! Builds a forest of token prefixes from sequences.

use std::collections::HashMap;
use std::ops::Range;

use bheval_abi::NO_PARENT;

/// A forest of token prefixes that grows by whole sequences; sequences that begin alike share nodes.
#[derive(Clone, Debug, Default)]
pub struct Forest {
    pub(crate) token: Vec<u32>,
    pub(crate) parent: Vec<u32>,
    pub(crate) wanted: Vec<u8>,
    children: HashMap<(u32, u32), u32>,
}

impl Forest {
    /// An empty forest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A forest from its arrays as they are, sharing nothing that is not shared already. Rules on parents are checked by
    /// the backend; this is the door for tests of that check.
    ///
    /// # Panics
    /// If the arrays differ in length: a backend reads them all to the same end.
    #[must_use]
    pub fn from_parts(token: Vec<u32>, parent: Vec<Option<u32>>, wanted: Vec<bool>) -> Self {
        assert_eq!(token.len(), parent.len(), "one parent for each token");
        assert_eq!(token.len(), wanted.len(), "one mark for each token");
        let parent = parent.into_iter().map(|p| p.unwrap_or(NO_PARENT)).collect();
        let wanted = wanted.into_iter().map(u8::from).collect();
        Self { token, parent, wanted, children: HashMap::new() }
    }

    /// A forest from its arrays as they crossed a boundary, or `None` where they differ in length.
    #[cfg(unix)]
    pub(crate) fn from_arrays(token: Vec<u32>, parent: Vec<u32>, wanted: Vec<u8>) -> Option<Self> {
        let alike = token.len() == parent.len() && token.len() == wanted.len();
        alike.then(|| Self { token, parent, wanted, children: HashMap::new() })
    }

    /// Adds a sequence and asks for the positions that `scored` marks. Returns the node of each position.
    ///
    /// # Panics
    /// If `scored` is not as long as `ids`.
    pub fn insert(&mut self, ids: &[u32], scored: &[bool]) -> Vec<u32> {
        assert_eq!(ids.len(), scored.len(), "one mark for each id");
        let mut above = NO_PARENT;
        let mut path = Vec::with_capacity(ids.len());
        for (&id, &scored) in ids.iter().zip(scored) {
            above = self.child(above, id);
            self.wanted[above as usize] |= u8::from(scored);
            path.push(above);
        }
        path
    }

    fn child(&mut self, parent: u32, token: u32) -> u32 {
        let next = u32::try_from(self.token.len()).unwrap_or(NO_PARENT);
        let node = *self.children.entry((parent, token)).or_insert(next);
        if node == next {
            self.token.push(token);
            self.parent.push(parent);
            self.wanted.push(0);
        }
        node
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.token.len()
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.token.is_empty()
    }

    /// The wanted nodes, in order.
    pub fn wanted(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted.iter().enumerate().filter(|&(_, &w)| w != 0).map(|(i, _)| i)
    }

    /// The nodes from a root down to `node`.
    pub(crate) fn path(&self, node: usize) -> Vec<u32> {
        let mut path = vec![node as u32];
        let mut above = self.parent[node];
        while above != NO_PARENT {
            path.push(above);
            above = self.parent[above as usize];
        }
        path.reverse();
        path
    }

    /// Nodes without children, in order.
    pub(crate) fn leaves(&self) -> Vec<usize> {
        let mut has_child = vec![false; self.len()];
        for &parent in self.parent.iter().filter(|&&p| p != NO_PARENT) {
            has_child[parent as usize] = true;
        }
        (0..self.len()).filter(|&i| !has_child[i]).collect()
    }

    /// Appends a chain of `(token, wanted)` that shares nothing; returns the range of its nodes.
    pub(crate) fn push_chain(&mut self, chain: &[(u32, bool)]) -> Range<usize> {
        let start = self.len();
        for (i, &(token, wanted)) in chain.iter().enumerate() {
            self.token.push(token);
            self.parent.push(if i == 0 { NO_PARENT } else { (start + i - 1) as u32 });
            self.wanted.push(u8::from(wanted));
        }
        start..self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_that_begin_alike_share_nodes() {
        let mut forest = Forest::new();
        let good = forest.insert(&[1, 5, 6, 7], &[false, true, true, true]);
        let bad = forest.insert(&[1, 5, 8, 7], &[false, true, true, true]);
        assert_eq!(forest.len(), 6);
        assert_eq!(good[..2], bad[..2]);
        assert_ne!(good[3], bad[3]);
        assert_eq!(forest.wanted().count(), 5);
    }

    #[test]
    #[should_panic(expected = "one parent for each token")]
    fn parts_of_unequal_length_never_reach_a_backend() {
        let _ = Forest::from_parts(vec![1, 2], vec![None], vec![false, true]);
    }

    #[test]
    fn a_prefix_may_be_wanted_in_one_sequence_only() {
        let mut forest = Forest::new();
        forest.insert(&[1, 5], &[false, false]);
        forest.insert(&[1, 5, 6], &[false, true, true]);
        assert_eq!(forest.wanted().collect::<Vec<_>>(), [1, 2]);
    }
}
