//! A flat forest, cut into its chains.

use bheval_abi::{Failure, ForestView, NO_PARENT, Status};

/// A root and what hangs below it, in consecutive nodes.
pub(super) struct Chain<'a> {
    /// Node of the root.
    pub(super) first: usize,
    /// Tokens from the root on.
    pub(super) tokens: &'a [u32],
    wanted: &'a [u8],
}

impl Chain<'_> {
    /// Positions in the chain whose value is asked for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = usize> {
        self.wanted.iter().enumerate().filter(|&(_, &w)| w != 0).map(|(t, _)| t)
    }
}

/// The chains of `forest`, in order; refuses branches, and chains of more than `context` tokens.
pub(super) fn chains(forest: ForestView<'_>, context: usize) -> Result<Vec<Chain<'_>>, Failure> {
    let branch = (0..forest.len()).find(|&i| forest.parent_of(i).is_some_and(|p| p + 1 != i));
    if let Some(i) = branch {
        let text = format!("node {i} does not follow its parent; a reference model takes flat chains only");
        return Err(Failure::new(Status::UNSUPPORTED, text));
    }
    let mut starts: Vec<usize> = (0..forest.len()).filter(|&i| forest.parent[i] == NO_PARENT).collect();
    starts.push(forest.len());
    starts.windows(2).map(|pair| chain(forest, pair[0], pair[1], context)).collect()
}

fn chain(forest: ForestView<'_>, first: usize, end: usize, context: usize) -> Result<Chain<'_>, Failure> {
    if end - first > context {
        return Err(Failure::input(format!(
            "the chain at node {first} has {} tokens; the model's context is {context}",
            end - first
        )));
    }
    Ok(Chain { first, tokens: &forest.token[first..end], wanted: &forest.wanted[first..end] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_cut_at_their_roots() {
        let forest =
            ForestView::new(&[5, 6, 7], &[NO_PARENT, 0, NO_PARENT], &[0, 1, 0]).expect("well formed");
        let chains = chains(forest, 2).expect("flat");
        assert_eq!(
            chains.iter().map(|c| (c.first, c.tokens)).collect::<Vec<_>>(),
            [(0, &[5, 6][..]), (2, &[7])]
        );
        assert_eq!(chains[0].wanted().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_branch_is_refused() {
        let forest = ForestView::new(&[5, 6, 7], &[NO_PARENT, 0, 0], &[0, 1, 1]).expect("well formed");
        assert!(
            chains(forest, 9).is_err_and(|f| f.status == Status::UNSUPPORTED && f.text.contains("node 2"))
        );
    }

    #[test]
    fn a_chain_beyond_the_context_is_refused() {
        let forest = ForestView::new(&[5, 6, 7], &[NO_PARENT, 0, 1], &[0, 1, 1]).expect("well formed");
        assert!(chains(forest, 2).is_err_and(|f| f.text.contains("context is 2")));
    }
}
