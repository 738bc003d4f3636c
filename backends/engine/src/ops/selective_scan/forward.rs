//! The scan over some channels of one sequence.

use bheval_kernels::elementwise::{exp, silu};
use bheval_kernels::{Isa, Kernel, LANES};

use super::{CHUNK, GROUPS, Inputs, Lanes, Place, Rates, lanes, softplus_lanes};

/// One task.
pub(super) struct Forward<'a> {
    pub(super) place: Place,
    pub(super) inputs: Inputs<'a>,
    pub(super) rates: &'a Rates,
    /// The task's columns of each row.
    pub(super) y: Vec<&'a mut [f32]>,
    /// States before each chunk, `[chunks, groups, states, LANES]`, where they are kept.
    pub(super) borders: Option<&'a mut [f32]>,
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(mut self, _: Isa) {
        let Inputs { states, steps, .. } = self.inputs;
        let mut all = vec![[0.0; LANES]; GROUPS * states];
        for chunk in 0..steps.div_ceil(CHUNK) {
            if let Some(borders) = &mut self.borders {
                let kept = &mut borders.as_chunks_mut::<LANES>().0[chunk * all.len()..][..all.len()];
                kept.copy_from_slice(&all);
            }
            for (group, state) in all.chunks_exact_mut(states).enumerate() {
                self.group(group, chunk * CHUNK..((chunk + 1) * CHUNK).min(steps), state);
            }
        }
    }
}

impl Forward<'_> {
    /// Some steps of one group of channels.
    #[inline(always)]
    fn group(&mut self, group: usize, range: std::ops::Range<usize>, state: &mut [Lanes]) {
        let (first, len) = self.inputs.group(self.place, group);
        if len == 0 {
            return;
        }
        let (rates, skip) = self.rates.of(self.place, self.inputs.states);
        let (rates, skip) = (&rates[group * state.len()..][..state.len()], skip[group]);
        for t in range {
            let row = self.place.row + t;
            let x = lanes(self.inputs.x, row, first, len);
            let step = softplus_lanes(lanes(self.inputs.step, row, first, len));
            let gate = lanes(self.inputs.gate, row, first, len);
            let mut y = [0.0; LANES];
            let mut added = [0.0; LANES];
            for l in 0..LANES {
                added[l] = step[l] * x[l];
            }
            let (b, c) = self.inputs.bc(row);
            for (((state, a), &b), &c) in state.iter_mut().zip(rates).zip(b).zip(c) {
                let mut s = *state;
                for l in 0..LANES {
                    s[l] = exp(step[l] * a[l]).mul_add(s[l], added[l] * b);
                    y[l] = c.mul_add(s[l], y[l]);
                }
                *state = s;
            }
            for l in 0..LANES {
                y[l] = skip[l].mul_add(x[l], y[l]) * silu(gate[l]);
            }
            self.y[t][group * LANES..][..len].copy_from_slice(&y[..len]);
        }
    }
}
