//! Rows by depth: what stands equally deep is independent, and its products with a recurrent matrix are one product.

use std::ops::Range;

use bheval_abi::NO_PARENT;

use super::forest::Walk;

/// The rows of a [`Walk`], the shallowest first. A place is a position in this order.
#[derive(Debug)]
pub struct Levels {
    rows: Vec<u32>,
    above: Vec<u32>,
    begin: Vec<usize>,
}

impl Levels {
    /// Sorts the rows of a walk by depth; equally deep ones stay in the order of the walk.
    #[must_use]
    pub fn new(walk: &Walk) -> Self {
        let levels = walk.depths().iter().max().map_or(0, |&d| d as usize + 1);
        let mut begin = vec![0; levels + 1];
        walk.depths().iter().for_each(|&d| begin[d as usize + 1] += 1);
        for level in 0..levels {
            begin[level + 1] += begin[level];
        }
        let (mut next, mut rows, mut place) = (begin.clone(), vec![0; walk.len()], vec![0; walk.len()]);
        for (row, &depth) in walk.depths().iter().enumerate() {
            let at = &mut next[depth as usize];
            rows[*at] = row as u32;
            place[row] = *at as u32;
            *at += 1;
        }
        let above = |&row: &u32| match walk.parents()[row as usize] {
            NO_PARENT => NO_PARENT,
            parent => place[parent as usize],
        };
        Self { above: rows.iter().map(above).collect(), rows, begin }
    }

    /// The row at each place.
    #[must_use]
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The place of each place's parent, or [`NO_PARENT`]; always on the level before.
    #[must_use]
    pub fn above(&self) -> &[u32] {
        &self.above
    }

    /// The places of each level.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        self.begin.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// Copies the states `[places, width]` above some places; above a root is zero.
    pub(crate) fn gather_above(&self, places: Range<usize>, states: &[f32], width: usize, out: &mut [f32]) {
        for (&above, out) in self.above[places].iter().zip(out.chunks_exact_mut(width)) {
            match above {
                NO_PARENT => out.fill(0.0),
                above => out.copy_from_slice(&states[above as usize * width..][..width]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::forest::Feed;
    use bheval_abi::ForestView;

    #[test]
    fn levels_by_hand() {
        //   0      4
        //  1 2     5
        //    3
        let parent = [NO_PARENT, 0, 0, 2, NO_PARENT, 4];
        let forest = ForestView::new(&[7; 6], &parent, &[1; 6]).expect("well formed");
        let walk = Walk::new(&forest, Feed::Wanted);
        let levels = Levels::new(&walk);
        assert_eq!(levels.iter().collect::<Vec<_>>(), [0..2, 2..5, 5..6]);
        for (place, (&row, &above)) in levels.rows().iter().zip(levels.above()).enumerate() {
            let node = walk.nodes()[row as usize] as usize;
            let node_above = if above == NO_PARENT {
                NO_PARENT
            } else {
                walk.nodes()[levels.rows()[above as usize] as usize]
            };
            assert_eq!(node_above, parent[node], "place {place}");
        }
        let empty = ForestView::new(&[], &[], &[]).expect("well formed");
        assert_eq!(Levels::new(&Walk::new(&empty, Feed::Wanted)).iter().count(), 0);
    }
}
