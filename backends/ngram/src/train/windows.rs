//! From tokens to a trie of n-grams: one sort of all windows of N tokens gives the n-grams of every order, since those of
//! a window's beginnings lie together as well.

use std::ops::Range;

use rayon::prelude::*;

use super::{Counted, END};

/// Windows that are sorted together, unless more of them begin with one and the same token.
const GROUP: usize = 1 << 18;
/// Groups that are held before they are appended to the trie.
const WAVE: usize = 32;

/// The n-grams of every order, unigrams first. The highest order has its counts; lower ones have zeros, because theirs
/// follow from the order above.
pub(super) fn count(tokens: &[u32], vocab: u32, order: usize) -> Vec<Counted> {
    let mut levels = vec![Counted::default(); order];
    if order == 1 {
        levels[0].count = vec![0; vocab as usize];
        let predicted = tokens.windows(2).filter(|pair| pair[0] != END && pair[1] != END);
        predicted.for_each(|pair| levels[0].count[pair[1] as usize] += 1);
        return levels;
    }
    let windows = Windows::new(tokens, vocab);
    let groups = windows.groups();
    for wave in groups.chunks(WAVE) {
        let pieces: Vec<_> = wave.par_iter().map(|first| windows.piece(first.clone(), order)).collect();
        pieces.into_iter().for_each(|piece| append(&mut levels, piece));
    }
    for n in 0..order - 1 {
        let children = levels[n + 1].word.len() as u32;
        levels[n].child.push(children);
    }
    for level in &mut levels[..order - 1] {
        level.count = vec![0; level.child.len() - 1];
    }
    levels
}

/// Where windows begin, sorted by their first token.
struct Windows<'a> {
    tokens: &'a [u32],
    positions: Vec<u32>,
    /// For each token the index of its first position, and one more at the end.
    first: Vec<usize>,
}

impl<'a> Windows<'a> {
    fn new(tokens: &'a [u32], vocab: u32) -> Self {
        // The last token of a sequence begins no n-gram but a unigram.
        let begins = || (0..tokens.len() - 1).filter(|&i| tokens[i] != END && tokens[i + 1] != END);
        let mut first = vec![0; vocab as usize + 1];
        begins().for_each(|i| first[tokens[i] as usize + 1] += 1);
        for i in 1..first.len() {
            first[i] += first[i - 1];
        }
        let mut next = first.clone();
        let mut positions = vec![0; first[vocab as usize]];
        for i in begins() {
            let slot = &mut next[tokens[i] as usize];
            positions[*slot] = i as u32;
            *slot += 1;
        }
        Self { tokens, positions, first }
    }

    /// Ranges of first tokens, each with about [`GROUP`] windows.
    fn groups(&self) -> Vec<Range<usize>> {
        let mut groups = Vec::new();
        let mut begin = 0;
        for token in 1..self.first.len() {
            let last = token + 1 == self.first.len();
            if last || self.first[token + 1] - self.first[begin] > GROUP {
                groups.push(begin..token);
                begin = token;
            }
        }
        groups
    }

    /// The n-grams that begin with the tokens `first`; indices of children count from 0.
    fn piece(&self, first: Range<usize>, order: usize) -> Vec<Counted> {
        let mut levels = vec![Counted::default(); order];
        for token in first {
            let begin = levels[1].word.len() as u32;
            levels[0].child.push(begin);
            let own = &self.positions[self.first[token]..self.first[token + 1]];
            let mut keys: Vec<u128> =
                own.par_iter().map(|&at| self.key(at as usize + 1, order - 1)).collect();
            keys.par_sort_unstable();
            let mut before = 0;
            for key in keys {
                add(&mut levels, before, key);
                before = key;
            }
        }
        levels
    }

    /// The tokens from `at` on, at most `len` of them (up to four) and none beyond the sequence, so that keys sort as
    /// sequences do: 32 bits each, one more than the token, the first one highest, zeros behind.
    fn key(&self, at: usize, len: usize) -> u128 {
        let own = self.tokens[at..].iter().take(len).take_while(|&&t| t != END);
        own.zip(0..).fold(0, |key, (&token, i)| key | u128::from(token + 1) << (96 - 32 * i))
    }
}

/// Adds the window `key`, not below the window `before` it, to the n-grams of its first token.
fn add(levels: &mut [Counted], before: u128, key: u128) {
    let order = levels.len();
    // `before` is 0 for the first window of its token, and no key is.
    let same = (before ^ key).leading_zeros() as usize / 32;
    for n in 1..order {
        let word = (key >> (128 - 32 * n)) as u32;
        if word == 0 {
            return;
        }
        if n > same {
            levels[n].word.push(word - 1);
            if n + 1 < order {
                let begin = levels[n + 1].word.len() as u32;
                levels[n].child.push(begin);
            } else {
                levels[n].count.push(0);
            }
        }
    }
    *levels[order - 1].count.last_mut().expect("the window has N words, so its n-gram was added") += 1;
}

fn append(levels: &mut [Counted], piece: Vec<Counted>) {
    let order = levels.len();
    let begins: Vec<u32> = levels.iter().map(|level| level.word.len() as u32).collect();
    for (n, part) in piece.into_iter().enumerate() {
        levels[n].word.extend_from_slice(&part.word);
        levels[n].count.extend_from_slice(&part.count);
        if n + 1 < order {
            levels[n].child.extend(part.child.iter().map(|&c| c + begins[n + 1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trie_by_hand() {
        // 0 1 2 | 0 1 1: bigrams 01 11 12, trigrams 011 012.
        let levels = count(&[0, 1, 2, END, 0, 1, 1, END], 3, 3);
        assert_eq!(levels[0].child, [0, 1, 3, 3]);
        assert_eq!((&levels[1].word[..], &levels[1].child[..]), (&[1, 1, 2][..], &[0, 2, 2, 2][..]));
        assert_eq!((&levels[2].word[..], &levels[2].count[..]), (&[1, 2][..], &[1, 1][..]));
    }

    #[test]
    fn the_first_token_of_a_sequence_is_not_predicted() {
        assert_eq!(count(&[0, 1, 2, END, 0, 1, 1, END], 3, 1)[0].count, [0, 3, 1]);
    }
}
