//! Forests as plain arrays, right or wrong: the host's builder makes only right ones.

use std::collections::HashMap;

use bheval_abi::{Forest, NO_PARENT};

use crate::random::Random;

/// A forest of token prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trees {
    pub(crate) token: Vec<u32>,
    pub(crate) parent: Vec<u32>,
    pub(crate) wanted: Vec<u8>,
}

impl Trees {
    /// Sequences that share their beginnings, and the nodes of each; everything but the roots is wanted.
    pub(crate) fn shared(sequences: &[Vec<u32>]) -> (Self, Vec<Vec<usize>>) {
        let mut trees = Self::default();
        let mut children = HashMap::new();
        let mut place = |trees: &mut Self, above: u32, token: u32| {
            *children.entry((above, token)).or_insert_with(|| trees.push(token, above)) as u32
        };
        let mut path = |sequence: &Vec<u32>| {
            let mut above = NO_PARENT;
            let step = |&token: &u32| {
                above = place(&mut trees, above, token);
                above as usize
            };
            sequence.iter().map(step).collect()
        };
        let paths = sequences.iter().map(&mut path).collect();
        (trees, paths)
    }

    /// Sequences that share nothing, each in consecutive nodes; everything but the roots is wanted.
    pub(crate) fn chains(sequences: &[Vec<u32>]) -> (Self, Vec<Vec<usize>>) {
        let mut trees = Self::default();
        let path = |sequence: &Vec<u32>| {
            let first = trees.len();
            for (i, &token) in sequence.iter().enumerate() {
                let parent = if i == 0 { NO_PARENT } else { (first + i - 1) as u32 };
                trees.push(token, parent);
            }
            (first..first + sequence.len()).collect()
        };
        let paths = sequences.iter().map(path).collect();
        (trees, paths)
    }

    /// Adds a node, wanted unless it is a root; returns its index.
    pub(crate) fn push(&mut self, token: u32, parent: u32) -> usize {
        self.token.push(token);
        self.parent.push(parent);
        self.wanted.push(u8::from(parent != NO_PARENT));
        self.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.token.len()
    }

    /// The same forest with its nodes in another order that has parents first, and where each node went.
    pub(crate) fn permuted(&self, random: &mut Random) -> (Self, Vec<usize>) {
        let mut children = vec![Vec::new(); self.len()];
        let mut open = Vec::new();
        for (i, &parent) in self.parent.iter().enumerate() {
            if parent == NO_PARENT { open.push(i) } else { children[parent as usize].push(i) }
        }
        let mut permuted = Self::default();
        let mut now_at = vec![0; self.len()];
        while !open.is_empty() {
            let node = open.swap_remove(random.below(open.len() as u32) as usize);
            let parent = self.parent[node];
            let above = if parent == NO_PARENT { parent } else { now_at[parent as usize] as u32 };
            now_at[node] = permuted.push(self.token[node], above);
            permuted.wanted[now_at[node]] = self.wanted[node];
            open.append(&mut children[node]);
        }
        (permuted, now_at)
    }

    /// The view that crosses the boundary; valid as long as `self` lives unchanged.
    pub(crate) fn raw(&self) -> Forest {
        Forest {
            size: size_of::<Forest>(),
            len: self.len(),
            token: self.token.as_ptr(),
            parent: self.parent.as_ptr(),
            wanted: self.wanted.as_ptr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(trees: &Trees, mut node: usize) -> Vec<u32> {
        let mut path = vec![trees.token[node]];
        while trees.parent[node] != NO_PARENT {
            assert!((trees.parent[node] as usize) < node, "a parent comes first");
            node = trees.parent[node] as usize;
            path.insert(0, trees.token[node]);
        }
        path
    }

    #[test]
    fn every_node_keeps_its_path_in_any_order() {
        let sequences = vec![vec![1, 2, 3], vec![1, 2, 4], vec![2, 2], vec![1, 5, 6, 7]];
        let (trees, paths) = Trees::shared(&sequences);
        assert_eq!(trees.len(), 9);
        let (permuted, now_at) = trees.permuted(&mut Random::new(1));
        assert_ne!(permuted, trees);
        for (sequence, path) in sequences.iter().zip(&paths) {
            for (t, &node) in path.iter().enumerate() {
                assert_eq!(path_of(&trees, node), sequence[..=t]);
                assert_eq!(path_of(&permuted, now_at[node]), sequence[..=t]);
            }
        }
    }

    #[test]
    fn chains_share_nothing() {
        let (trees, paths) = Trees::chains(&[vec![1, 2], vec![1, 2]]);
        assert_eq!(trees.parent, [NO_PARENT, 0, NO_PARENT, 2]);
        assert_eq!(paths, [[0, 1], [2, 3]]);
        assert_eq!(trees.wanted, [0, 1, 0, 1]);
    }
}
