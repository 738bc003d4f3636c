//! The recurrence token by token in f64, and its way back word for word (architectures.md 1.2, 1.6 and 1.8). A bound of 0
//! is none and has no gradient.

/// One sequence.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) steps: usize,
    pub(super) heads: usize,
    pub(super) dim: usize,
    /// `[u | z | i]`
    pub(super) x: Vec<f32>,
    pub(super) bound: Vec<f32>,
    /// `[heads, K, V]`
    pub(super) initial: Vec<f32>,
    pub(super) d_o: Vec<f32>,
    /// `[heads, K, V]`
    pub(super) d_final: Vec<f32>,
}

/// Outputs, the final state, and all gradients.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Found<T = f32> {
    pub(super) o: Vec<T>,
    pub(super) last: Vec<T>,
    pub(super) dx: Vec<T>,
    pub(super) d_bound: Vec<T>,
    pub(super) d_initial: Vec<T>,
}

impl<T: Copy + Into<f64>> Found<T> {
    /// Everything by name, the gradients of `u`, `z` and `i` apart: each has a scale of its own.
    pub(super) fn parts(&self, case: &Case) -> Vec<(&'static str, Vec<f64>)> {
        let wide = |x: &[T]| x.iter().map(|&x| x.into()).collect::<Vec<f64>>();
        let width = case.heads * case.dim;
        let third =
            |n: usize| self.dx.chunks(3 * width).flat_map(|row| wide(&row[n * width..][..width])).collect();
        vec![
            ("o", wide(&self.o)),
            ("final state", wide(&self.last)),
            ("du", third(0)),
            ("dz", third(1)),
            ("dv", third(2)),
            ("dβ", wide(&self.d_bound)),
            ("initial state's gradient", wide(&self.d_initial)),
        ]
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The outputs of one sequence from an empty state, added to `o`.
pub(super) fn outputs(x: &[f64], heads: usize, dim: usize, beta: impl Fn(usize) -> f64, o: &mut [f64]) {
    let width = heads * dim;
    let mut state = vec![0.0; width * dim];
    for (x, o) in x.chunks(3 * width).zip(o.chunks_mut(width)) {
        for c in 0..width {
            let open = sigmoid(x[width + c]);
            for v in 0..dim {
                let s = &mut state[c * dim + v];
                let f = beta(c) + (1.0 - beta(c)) * open;
                *s = f * *s + (1.0 - f) * x[2 * width + c / dim * dim + v];
                o[c / dim * dim + v] += (dim as f64).powf(-0.5) * x[c] * sigmoid(x[c]) * *s;
            }
        }
    }
}

pub(super) fn twin(case: &Case) -> Found<f64> {
    let width = case.heads * case.dim;
    let mut found = Found {
        o: vec![0.0; case.steps * width],
        dx: vec![0.0; case.steps * 3 * width],
        d_bound: vec![0.0; width],
        ..Found::default()
    };
    (0..case.heads).for_each(|h| one_head(case, h, &mut found));
    found
}

fn one_head(case: &Case, h: usize, found: &mut Found<f64>) {
    let (dim, width) = (case.dim, case.heads * case.dim);
    let scale = (dim as f64).powf(-0.5);
    let at = |part: usize, t: usize, c: usize| t * 3 * width + part * width + h * dim + c;
    let x = |part: usize, t: usize, c: usize| f64::from(case.x[at(part, t, c)]);
    let beta = |c: usize| f64::from(case.bound[h * dim + c]);
    let q = |t: usize, c: usize| scale * x(0, t, c) * sigmoid(x(0, t, c));
    let f = |t: usize, c: usize| beta(c) + (1.0 - beta(c)) * sigmoid(x(1, t, c));
    let k = |t: usize, c: usize| (1.0 - beta(c)) * sigmoid(-x(1, t, c));
    let v = |t: usize, c: usize| x(2, t, c);
    let square = h * dim * dim..(h + 1) * dim * dim;
    let mut states = vec![case.initial[square.clone()].iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()];
    for t in 0..case.steps {
        let state: Vec<f64> =
            (0..dim * dim).map(|n| f(t, n / dim) * states[t][n] + k(t, n / dim) * v(t, n % dim)).collect();
        for c in 0..dim {
            found.o[t * width + h * dim + c] = (0..dim).map(|r| q(t, r) * state[r * dim + c]).sum();
        }
        states.push(state);
    }
    found.last.extend(&states[case.steps]);
    let d_o = |t: usize, c: usize| f64::from(case.d_o[t * width + h * dim + c]);
    let mut d_state: Vec<f64> = case.d_final[square].iter().map(|&x| f64::from(x)).collect();
    for t in (0..case.steps).rev() {
        (0..dim * dim).for_each(|n| d_state[n] += q(t, n / dim) * d_o(t, n % dim));
        for c in 0..dim {
            let row =
                |m: &[f64], f: &dyn Fn(usize) -> f64| (0..dim).map(|j| m[c * dim + j] * f(j)).sum::<f64>();
            let (u, z) = (x(0, t, c), x(1, t, c));
            let dq = scale * row(&states[t + 1], &|j| d_o(t, j));
            found.dx[at(0, t, c)] = dq * sigmoid(u) * (1.0 + u * sigmoid(-u));
            let (df, dk) = (row(&states[t], &|j| d_state[c * dim + j]), row(&d_state, &|j| v(t, j)));
            found.dx[at(1, t, c)] = (df - dk) * (1.0 - beta(c)) * sigmoid(z) * sigmoid(-z);
            if beta(c) > 0.0 {
                found.d_bound[h * dim + c] += (df - dk) * sigmoid(-z);
            }
            found.dx[at(2, t, c)] = (0..dim).map(|r| d_state[r * dim + c] * k(t, r)).sum();
        }
        (0..dim * dim).for_each(|n| d_state[n] *= f(t, n / dim));
    }
    found.d_initial.extend(d_state);
}
