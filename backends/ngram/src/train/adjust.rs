//! Suffixes, and the adjusted counts that follow from them.
//!
//! Heafield et al. 2013, section 3.2: below the highest order, a(g) is the number of words that g was seen after; an
//! n-gram that begins a sentence can't be seen after any, and keeps its count. Here each n-gram names its suffix, so a(g)
//! is how often g is named, and one for each sequence that begins with it.

use rayon::prelude::*;

use super::{Counted, END};

/// Contexts whose children are looked up together.
const PART: usize = 1 << 14;

/// Fills in the suffixes of every order, and the adjusted counts below the highest.
pub(super) fn adjust(levels: &mut [Counted], tokens: &[u32]) {
    for n in 1..levels.len() {
        let suffix = suffixes(levels, n);
        for &s in &suffix {
            levels[n - 1].count[s as usize] += 1;
        }
        levels[n].suffix = suffix;
    }
    for sequence in tokens.split(|&t| t == END).filter(|s| !s.is_empty()) {
        add_beginnings(levels, sequence);
    }
}

/// For each n-gram of order `n + 1` the index of its suffix.
fn suffixes(levels: &[Counted], n: usize) -> Vec<u32> {
    let words = &levels[n].word;
    if n == 1 {
        return words.clone();
    }
    let contexts = levels[n - 1].word.len();
    let mut suffix = vec![0; words.len()];
    let mut parts = Vec::new();
    let mut rest = &mut suffix[..];
    for begin in (0..contexts).step_by(PART) {
        let end = contexts.min(begin + PART);
        let len = (levels[n - 1].child[end] - levels[n - 1].child[begin]) as usize;
        let (part, behind) = rest.split_at_mut(len);
        parts.push((begin..end, part));
        rest = behind;
    }
    parts.into_par_iter().for_each(|(contexts, out)| {
        let mut out = out.iter_mut();
        for context in contexts {
            let shorter = levels[n - 1].suffix[context] as usize;
            for i in levels[n - 1].child[context]..levels[n - 1].child[context + 1] {
                let found = child(levels, n - 2, shorter, words[i as usize]);
                *out.next().expect("one for each child") =
                    found.expect("every n-gram's suffix was seen") as u32;
            }
        }
    });
    suffix
}

/// The child `word` of n-gram `index` of order `n + 1`.
fn child(levels: &[Counted], n: usize, index: usize, word: u32) -> Option<usize> {
    let range = levels[n].child[index] as usize..levels[n].child[index + 1] as usize;
    let words = &levels[n + 1].word[range.clone()];
    words.binary_search(&word).ok().map(|i| range.start + i)
}

/// Counts the n-grams that a sequence begins with, from order 2 to the one below the highest.
fn add_beginnings(levels: &mut [Counted], sequence: &[u32]) {
    let mut index = sequence[0] as usize;
    for (n, &word) in (1..levels.len() - 1).zip(&sequence[1..]) {
        index = child(levels, n - 1, index, word).expect("every n-gram of a sequence was counted");
        levels[n].count[index] += 1;
    }
}
