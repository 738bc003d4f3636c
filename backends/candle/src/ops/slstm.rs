//! The sLSTM's cells over a forest, level by level: their outputs feed back into the gates (architectures.md 7.2).

use rayon::prelude::*;

use super::levels::Levels;
use crate::kernels::Isa;
use crate::kernels::cells::{SlstmState, slstm};
use crate::kernels::gemm::{Packed, Store, matmul};

/// Runs the cells, in parallel over heads, which do not see each other. `recurrent` is one matrix `[4d, d]` a head; `gates`
/// holds what comes from the input, bias included, head by head, `[places, 4d]` each, in the order `[i | f | z | o]`; `y` is
/// head by head, `[places, d]` each.
pub(crate) fn run(isa: Isa, levels: &Levels, recurrent: &[Packed], gates: &mut [f32], y: &mut [f32]) {
    let (places, heads) = (levels.rows().len(), recurrent.len());
    assert!(
        gates.len() == 4 * y.len() && y.len().is_multiple_of(places * heads),
        "gates and y differ in shape"
    );
    let size = y.len() / heads;
    let tasks = recurrent.par_iter().zip(gates.par_chunks_mut(4 * size)).zip(y.par_chunks_mut(size));
    tasks.for_each(|((recurrent, gates), y)| Head { isa, levels, recurrent, gates, y }.run());
}

struct Head<'a> {
    isa: Isa,
    levels: &'a Levels,
    recurrent: &'a Packed,
    gates: &'a mut [f32],
    y: &'a mut [f32],
}

impl Head<'_> {
    fn run(self) {
        let unit = self.recurrent.inner();
        let mut states = [0; 3].map(|_: i32| vec![0.0f32; self.y.len()]);
        let mut above = vec![];
        for (depth, level) in self.levels.iter().enumerate() {
            let at = level.start * unit..level.end * unit;
            let gates = &mut self.gates[4 * at.start..4 * at.end];
            let (before, y) = self.y.split_at_mut(at.start);
            let y = &mut y[..at.len()];
            let [c, n, m] = states.each_mut().map(|state| {
                let (before, now) = state.split_at_mut(at.start);
                let now = &mut now[..at.len()];
                self.levels.gather_above(level.clone(), before, unit, now);
                now
            });
            if depth == 0 {
                m.fill(f32::NEG_INFINITY);
            } else {
                above.resize(at.len(), 0.0);
                self.levels.gather_above(level, before, unit, &mut above);
                matmul(self.isa, &above, self.recurrent, Store::Add, gates);
            }
            slstm(self.isa, gates, unit, SlstmState { c, n, m, y });
        }
    }
}
