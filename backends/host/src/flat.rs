//! The shared adapter for backends that can't fork: a forest becomes flat chains, each from a root to a leaf.

use crate::Forest;

/// A batch of chains, and for each of their nodes the node of the forest whose value it carries.
pub(crate) struct Flat {
    pub(crate) chains: Forest,
    pub(crate) origin: Vec<Option<u32>>,
}

/// Cuts a forest into batches of chains of at most `nodes` nodes (a longer chain stands alone). A node that several
/// chains pass is wanted in the first of them only.
pub(crate) fn flatten(forest: &Forest, nodes: usize) -> Vec<Flat> {
    let mut batches = Vec::new();
    let mut batch = Flat { chains: Forest::new(), origin: Vec::new() };
    let mut taken = vec![false; forest.len()];
    for leaf in forest.leaves() {
        let path = forest.path(leaf);
        if !path.iter().any(|&n| wants(forest, &taken, n)) {
            continue;
        }
        if !batch.chains.is_empty() && batch.chains.len() + path.len() > nodes {
            batches.push(std::mem::replace(&mut batch, Flat { chains: Forest::new(), origin: Vec::new() }));
        }
        append(&mut batch, forest, &mut taken, &path);
    }
    if !batch.chains.is_empty() {
        batches.push(batch);
    }
    batches
}

fn wants(forest: &Forest, taken: &[bool], node: u32) -> bool {
    forest.wanted[node as usize] != 0 && !taken[node as usize]
}

fn append(batch: &mut Flat, forest: &Forest, taken: &mut [bool], path: &[u32]) {
    let mut chain = Vec::with_capacity(path.len());
    for &node in path {
        let wanted = wants(forest, taken, node);
        taken[node as usize] |= wanted;
        chain.push((forest.token[node as usize], wanted));
        batch.origin.push(wanted.then_some(node));
    }
    batch.chains.push_chain(&chain);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wanted_node_is_asked_for_once() {
        let mut forest = Forest::new();
        forest.insert(&[1, 5, 6], &[false, true, true]);
        forest.insert(&[1, 5, 7, 8], &[false, true, true, true]);
        forest.insert(&[2, 5], &[false, false]);
        let batches = flatten(&forest, 1000);
        assert_eq!(batches.len(), 1);
        let flat = &batches[0];
        assert_eq!(flat.chains.token, [1, 5, 6, 1, 5, 7, 8]);
        let asked: Vec<_> = flat.origin.iter().flatten().copied().collect();
        assert_eq!(asked, [1, 2, 3, 4]);
    }

    #[test]
    fn batches_keep_to_their_size_but_never_cut_a_chain() {
        let mut forest = Forest::new();
        for first in 0..4 {
            forest.insert(&[first, 9, 9], &[false, true, true]);
        }
        let sizes: Vec<_> = flatten(&forest, 7).iter().map(|f| f.chains.len()).collect();
        assert_eq!(sizes, [6, 6]);
        let sizes: Vec<_> = flatten(&forest, 2).iter().map(|f| f.chains.len()).collect();
        assert_eq!(sizes, [3, 3, 3, 3]);
    }
}
