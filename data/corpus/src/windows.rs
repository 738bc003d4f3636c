//! Which tokens a training step sees: a pure function of (seed, epoch, cursor).
//!
//! A window has `length` inputs and, one further, `length` targets: `length + 1` tokens, where neighbours share one. So every
//! token but the first is a target once an epoch. Documents are not looked at: windows run over their borders, as they do in
//! the paper and in BabyLlama's trainer; [`crate::Split::documents`] says where those are.

use std::ops::Range;

use crate::Error;
use crate::permutation::{GOLDEN, Permutation, mix};

/// Where the windows of an epoch begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offset {
    /// Window `i` begins at `i * length`: the same windows in every epoch, in another order.
    #[default]
    Fixed,
    /// One random offset of `0..length` an epoch shifts all of its windows; they do not overlap.
    PerEpoch,
    /// A random offset of `0..length` for each window of each epoch, so that windows of an epoch may overlap or leave gaps:
    /// the chunking of BabyLlama's trainer.
    PerWindow,
}

/// The order of training windows over a run of tokens.
#[derive(Clone, Debug)]
pub struct Windows {
    length: u64,
    count: u64,
    seed: u64,
    offset: Offset,
}

impl Windows {
    /// Windows of `length` inputs over `tokens` tokens.
    ///
    /// What is left at the end, less than a window, is dropped. With an offset, room for the largest one is kept, so that
    /// every epoch has the same number of windows: `(tokens - 1) / length` without, `(tokens - length) / length` with one.
    ///
    /// # Errors
    /// A length of 0, or fewer tokens than one window needs.
    pub fn new(tokens: u64, length: usize, seed: u64, offset: Offset) -> Result<Self, Error> {
        let long = length as u64;
        if long == 0 {
            return Err(Error::Range {
                reason: "windows of no tokens teach nothing; give a length from 1".into(),
            });
        }
        let room = if offset == Offset::Fixed { 1 } else { long };
        let count = tokens.saturating_sub(room) / long;
        if count == 0 {
            return Err(Error::Range {
                reason: format!(
                    "{tokens} tokens hold no window of {length} inputs ({} are needed); use more text or shorter windows",
                    long.saturating_add(room)
                ),
            });
        }
        Ok(Self { length: long, count, seed, offset })
    }

    /// Inputs of a window.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length as usize
    }

    /// Windows of an epoch; the same for every epoch.
    #[must_use]
    pub fn per_epoch(&self) -> u64 {
        self.count
    }

    /// The tokens of window `cursor` (counted from 0) of an epoch: `length + 1` of them.
    ///
    /// # Panics
    /// If `cursor` is not below [`Windows::per_epoch`].
    #[must_use]
    pub fn window(&self, epoch: u64, cursor: u64) -> Range<u64> {
        assert!(cursor < self.count, "window {cursor} of an epoch of {}", self.count);
        let place = Permutation::new(self.count, self.seed, epoch).at(cursor);
        let start = place * self.length + self.shift(epoch, place);
        start..start + self.length + 1
    }

    /// Offset of a window, from draws that have nothing to do with the order of windows.
    fn shift(&self, epoch: u64, place: u64) -> u64 {
        let which = match self.offset {
            Offset::Fixed => return 0,
            Offset::PerEpoch => 0,
            Offset::PerWindow => place + 1,
        };
        let draw = mix(mix(!self.seed ^ mix(epoch.wrapping_add(GOLDEN))) ^ mix(which.wrapping_mul(GOLDEN)));
        // The upper half of a 128-bit product: 0..length, uneven by less than length / 2^64.
        ((u128::from(draw) * u128::from(self.length)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const OFFSETS: [Offset; 3] = [Offset::Fixed, Offset::PerEpoch, Offset::PerWindow];

    #[test]
    fn one_window_needs_its_targets_and_room_for_its_offset() {
        for (offset, least) in OFFSETS.into_iter().zip([5, 8, 8]) {
            let told = Windows::new(least - 1, 4, 0, offset).unwrap_err().to_string();
            assert!(told.contains(&format!("({least} are needed)")), "{told}");
            assert_eq!(Windows::new(least, 4, 0, offset).unwrap().per_epoch(), 1);
        }
        assert!(Windows::new(10, 0, 0, Offset::Fixed).is_err());
        assert!(Windows::new(10, usize::MAX, 0, Offset::PerWindow).is_err());
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let order = |seed, epoch| {
            let windows = Windows::new(1001, 10, seed, Offset::Fixed).unwrap();
            (0..windows.per_epoch()).map(|i| windows.window(epoch, i).start).collect::<Vec<_>>()
        };
        let (first, second, other) = (order(1, 0), order(1, 1), order(2, 0));
        assert_eq!(first, order(1, 0));
        assert!(first != second && first != other && second != other);
        assert_eq!(first.iter().collect::<BTreeSet<_>>(), second.iter().collect());
    }

    /// Pearson's chi-square over (place, window): 24 windows, 4,800 seeds, so 200 expected in each of 576 cells. With rows and
    /// columns fixed it has 23 * 23 = 529 degrees of freedom: mean 529, standard deviation 32.5.
    #[test]
    fn every_window_comes_at_every_place_equally_often() {
        for by_epoch in [false, true] {
            let mut cells = [[0_f64; 24]; 24];
            for draw in 0..4800 {
                let (seed, epoch) = if by_epoch { (7, draw) } else { (draw, 0) };
                let windows = Windows::new(24 * 8 + 1, 8, seed, Offset::Fixed).unwrap();
                (0..24).for_each(|i| cells[i as usize][(windows.window(epoch, i).start / 8) as usize] += 1.0);
            }
            let chi: f64 = cells.iter().flatten().map(|n| (n - 200.0).powi(2) / 200.0).sum();
            assert!((529.0 - 5.0 * 32.5..529.0 + 5.0 * 32.5).contains(&chi), "{chi}");
        }
    }

    /// The step from one window to the next, in a large epoch: a count of 16 equal classes of (next - this) mod n, 15 degrees
    /// of freedom, standard deviation 5.5.
    #[test]
    fn neighbours_in_order_are_no_neighbours_in_text() {
        let windows = Windows::new(100_001 * 4, 4, 11, Offset::Fixed).unwrap();
        let n = windows.per_epoch();
        let at = |i| windows.window(3, i).start / 4;
        let mut classes = [0_f64; 16];
        (1..n).for_each(|i| classes[(((at(i) + n - at(i - 1)) % n) * 16 / n) as usize] += 1.0);
        let expected = (n - 1) as f64 / 16.0;
        let chi: f64 = classes.iter().map(|c| (c - expected).powi(2) / expected).sum();
        assert!(chi < 15.0 + 5.0 * 5.5, "{chi}");
    }

    /// 64 classes of offsets, 63 degrees of freedom, standard deviation 11.2.
    #[test]
    fn offsets_are_spread_evenly() {
        for offset in [Offset::PerEpoch, Offset::PerWindow] {
            let windows = Windows::new(64 * 100 + 64, 64, 5, offset).unwrap();
            let mut classes = [0_f64; 64];
            for epoch in 0..6400 {
                classes[(windows.window(epoch, epoch % 100).start % 64) as usize] += 1.0;
            }
            let chi: f64 = classes.iter().map(|c| (c - 100.0).powi(2) / 100.0).sum();
            assert!(chi < 63.0 + 5.0 * 11.2, "{offset:?}: {chi}");
        }
    }

    proptest! {
        /// Every token but the first and the ragged ends is a target exactly once, or with own offsets at most twice.
        #[test]
        fn an_epoch_covers_the_text(tokens in 2_u64..3000, length in 1_usize..50, seed: u64, epoch in 0_u64..9) {
            for offset in OFFSETS {
                let Ok(windows) = Windows::new(tokens, length, seed, offset) else { continue };
                let mut seen = vec![0; tokens as usize];
                for cursor in 0..windows.per_epoch() {
                    let window = windows.window(epoch, cursor);
                    prop_assert_eq!(window.end - window.start, length as u64 + 1);
                    prop_assert!(window.end <= tokens);
                    (window.start + 1..window.end).for_each(|i| seen[i as usize] += 1);
                }
                let once = seen.iter().filter(|n| **n == 1).count() as u64;
                let most = if offset == Offset::PerWindow { 2 } else { 1 };
                prop_assert!(seen.iter().all(|n| *n <= most));
                if offset != Offset::PerWindow {
                    prop_assert_eq!(once, windows.per_epoch() * length as u64);
                }
                let dropped = tokens - windows.per_epoch() * length as u64;
                prop_assert!(dropped <= 2 * length as u64);
            }
        }
    }
}
