//! The LSTM's cell, forward and back, for some units of one sequence at one step.

use bheval_kernels::activation::tanh;
use bheval_kernels::elementwise::sigmoids;
use bheval_kernels::{Isa, Kernel};

/// `c = f ⊙ c + i ⊙ g`, `h = o ⊙ tanh(c)`; everything `[units]`.
pub(super) struct Forward<'a> {
    /// i, f, g and o: what the input brings, and then the gates.
    pub(super) gates: [&'a mut [f32]; 4],
    /// What the output before brings, `[4 units]`.
    pub(super) recurrent: &'a [f32],
    /// `c` before, and then after.
    pub(super) c: &'a mut [f32],
    pub(super) h: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let units = self.c.len();
        let [i, f, g, o] = self.gates.map(|gate| &mut gate[..units]);
        let ((ri, rf), (rg, ro)) = quarters(self.recurrent, units);
        let (c, h) = (self.c, &mut self.h[..units]);
        for j in 0..units {
            i[j] = sigmoids(i[j] + ri[j]).0;
            f[j] = sigmoids(f[j] + rf[j]).0;
            g[j] = tanh(g[j] + rg[j]);
            o[j] = sigmoids(o[j] + ro[j]).0;
            c[j] = i[j].mul_add(g[j], f[j] * c[j]);
            h[j] = o[j] * tanh(c[j]);
        }
    }
}

type Pair<'a> = (&'a [f32], &'a [f32]);

#[inline(always)]
fn quarters(x: &[f32], units: usize) -> (Pair<'_>, Pair<'_>) {
    let (a, b) = x[..4 * units].split_at(2 * units);
    (a.split_at(units), b.split_at(units))
}

/// From the gradients of `h` and of the `c` after to those of the raw gates and of the `c` before (architectures.md 4).
pub(super) struct Backward<'a> {
    /// i, f, g and o, and then their gradients before σ and tanh.
    pub(super) gates: [&'a mut [f32]; 4],
    /// The same gradients once more, side by side with those of the other units.
    pub(super) copies: [&'a mut [f32]; 4],
    /// `c` after this step.
    pub(super) c: &'a [f32],
    /// `c` before it; nothing at the first step, where it is 0.
    pub(super) above: Option<&'a [f32]>,
    /// Gradient of `h` from above this layer.
    pub(super) dy: &'a [f32],
    /// Gradient of `h` from the step after.
    pub(super) dh: &'a [f32],
    /// Gradient of `c`: after this step, and then before it.
    pub(super) dc: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let units = self.dc.len();
        let [i, f, g, o] = self.gates.map(|gate| &mut gate[..units]);
        let (c, dy, dh, dc) = (&self.c[..units], &self.dy[..units], &self.dh[..units], self.dc);
        for j in 0..units {
            let (dh, th) = (dy[j] + dh[j], tanh(c[j]));
            let sum = (dh * o[j]).mul_add(1.0 - th * th, dc[j]);
            o[j] = dh * th * o[j] * (1.0 - o[j]);
            let di = sum * g[j] * i[j] * (1.0 - i[j]);
            g[j] = sum * i[j] * (1.0 - g[j] * g[j]);
            i[j] = di;
            dc[j] = sum * f[j];
            f[j] = sum * f[j] * (1.0 - f[j]);
        }
        match self.above {
            Some(above) => f.iter_mut().zip(above).for_each(|(f, c)| *f *= c),
            None => f.fill(0.0),
        }
        for (copy, gate) in self.copies.into_iter().zip([i, f, g, o]) {
            copy.copy_from_slice(gate);
        }
    }
}
