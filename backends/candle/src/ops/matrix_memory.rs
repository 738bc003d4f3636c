//! A matrix as memory: `S = f S + i k ⊗ v`, read as `qᵀ S`, with one decay a head. The state of Mamba-2 and of mLSTM.

/// Columns whose sums stay in registers.
const WIDE: usize = 64;
const NARROW: usize = 16;

/// What one step of one head brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update<'a> {
    /// `f`: what is kept of the state.
    pub(crate) decay: f32,
    /// `i`: the weight of what is added.
    pub(crate) input: f32,
    /// `[K]`
    pub(crate) k: &'a [f32],
    /// `[V]`
    pub(crate) v: &'a [f32],
    /// `[K]`
    pub(crate) q: &'a [f32],
}

/// Updates the state `[K, V]` and writes what is read from it, `o [V]`, summed over the keys in order.
#[inline(always)]
pub(crate) fn update_and_read(state: &mut [f32], x: Update<'_>, o: &mut [f32]) {
    let width = o.len();
    let mut column = 0;
    while width - column >= WIDE {
        columns::<WIDE>(state, x, column, o);
        column += WIDE;
    }
    while width - column >= NARROW {
        columns::<NARROW>(state, x, column, o);
        column += NARROW;
    }
    while column < width {
        columns::<1>(state, x, column, o);
        column += 1;
    }
}

/// `W` columns of the state, the same operations for any `W`.
#[inline(always)]
fn columns<const W: usize>(state: &mut [f32], x: Update<'_>, column: usize, o: &mut [f32]) {
    let width = o.len();
    let mut v = [0.0f32; W];
    v.copy_from_slice(&x.v[column..column + W]);
    let mut sums = [0.0f32; W];
    for ((state, &k), &q) in state.chunks_exact_mut(width).zip(x.k).zip(x.q) {
        let k = x.input * k;
        // A copy, so that the compiler sees whole registers.
        let mut s = [0.0f32; W];
        s.copy_from_slice(&state[column..column + W]);
        for j in 0..W {
            s[j] = x.decay.mul_add(s[j], k * v[j]);
        }
        for j in 0..W {
            sums[j] = q.mul_add(s[j], sums[j]);
        }
        state[column..column + W].copy_from_slice(&s);
    }
    o[column..column + W].copy_from_slice(&sums);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::random::Numbers;

    #[test]
    fn agrees_with_the_formula_in_f64_at_any_width() {
        for (keys, width) in [(1, 1), (3, 5), (8, 16), (7, 64), (16, 150)] {
            let mut numbers = Numbers::new(width as u64);
            let (mut state, mut exact) = (vec![0.0; keys * width], vec![0.0; keys * width]);
            for _ in 0..5 {
                let (k, q) = (numbers.normal(keys, 1.0), numbers.normal(keys, 1.0));
                let (v, mut o) = (numbers.normal(width, 1.0), vec![f32::NAN; width]);
                let (decay, input) = (0.7, 0.3);
                update_and_read(&mut state, Update { decay, input, k: &k, v: &v, q: &q }, &mut o);
                for (j, o) in o.iter().enumerate() {
                    let mut sum = 0.0;
                    for i in 0..keys {
                        let added = f64::from(input) * f64::from(k[i]) * f64::from(v[j]);
                        exact[i * width + j] = f64::from(decay) * exact[i * width + j] + added;
                        sum += f64::from(q[i]) * exact[i * width + j];
                    }
                    assert!((f64::from(*o) - sum).abs() < 1e-5, "{keys} {width} {j}");
                }
            }
        }
    }
}
