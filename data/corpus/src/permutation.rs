//! A pseudo-random order of 0..n without a list of it: any place of it is computed on its own.
//!
//! A Feistel network permutes the numbers of 2h bits, whatever its round function is; numbers that fall outside 0..n are
//! permuted again until they fall inside ("cycle walking", Black and Rogaway 2002), which keeps it a bijection on 0..n.

/// Rounds of the network. Luby and Rackoff (1988) need four of ideal functions; ours are not ideal, and the halves small.
const ROUNDS: usize = 8;
/// Halves of fewer bits have too few round functions to look random.
const LEAST_HALF: u32 = 4;

/// A bijection of 0..n, chosen by a seed and a number in a series (an epoch).
#[derive(Clone, Debug)]
pub(crate) struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The bijection of `0..n` that `seed` and `epoch` stand for. `n` may be 0: then there is nothing to map.
    pub(crate) fn new(n: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let half = bits.div_ceil(2).max(LEAST_HALF);
        let start = mix(seed ^ mix(epoch.wrapping_add(GOLDEN)));
        let key = |round: usize| mix(start.wrapping_add(GOLDEN.wrapping_mul(round as u64 + 1)));
        Self { n, half, keys: std::array::from_fn(key) }
    }

    /// What stands at place `i`, which must be below `n`.
    pub(crate) fn at(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        let mut value = self.shuffle(i);
        // At most 2^(2h) <= 4n (or 256) numbers are walked through, a handful on average, and the walk comes back to `i`.
        while value >= self.n {
            value = self.shuffle(value);
        }
        value
    }

    fn shuffle(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// 2^64 over the golden ratio: the step of SplitMix64.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's variant 13).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    // The first outputs of SplitMix64 from seed 1234567, as published with the reference code (Vigna, splitmix64.c).
    const SPLITMIX: [u64; 3] = [6457827717110365317, 3203168211198807973, 9817491932198370423];

    #[test]
    fn the_mixer_is_splitmix64() {
        let states = (1..4_u64).map(|i| 1_234_567_u64.wrapping_add(GOLDEN.wrapping_mul(i)));
        assert_eq!(states.map(mix).collect::<Vec<_>>(), SPLITMIX);
    }

    #[test]
    fn the_largest_sizes_stay_inside() {
        for n in [u64::MAX, 1 << 63, (1 << 62) + 1, 1 << 62, (1 << 32) - 1] {
            let order = Permutation::new(n, 3, 1);
            assert!([0, 1, n / 2, n - 1].into_iter().all(|i| order.at(i) < n), "{n}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_bijection(n in 1_u64..3000, seed: u64, epoch in 0_u64..100) {
            let order = Permutation::new(n, seed, epoch);
            let all: BTreeSet<_> = (0..n).map(|i| order.at(i)).collect();
            prop_assert_eq!(all.len() as u64, n);
            prop_assert_eq!(all.last(), Some(&(n - 1)));
        }
    }
}
