//! Gates and cells of recurrent models, element by element: logarithms of gates, softplus, the LSTM's and the sLSTM's cell.

use super::activation::tanh;
use super::elementwise::{exp, sigmoids};
use super::{Isa, Kernel, launch};

/// `ln(1 + u)` for `u` in `[0, 1]`, within 3 units in the last place: `2 artanh(u / (2 + u))`, by its series, whose
/// argument is at most 1/3.
#[inline(always)]
#[must_use]
fn log1p_unit(u: f32) -> f32 {
    let s = u / (2.0 + u);
    let z = s * s;
    let p = 2.0 / 15.0_f32;
    let p = p.mul_add(z, 2.0 / 13.0);
    let p = p.mul_add(z, 2.0 / 11.0);
    let p = p.mul_add(z, 2.0 / 9.0);
    let p = p.mul_add(z, 2.0 / 7.0);
    let p = p.mul_add(z, 2.0 / 5.0);
    let p = p.mul_add(z, 2.0 / 3.0);
    (p * z).mul_add(s, 2.0 * s)
}

/// `ln(1 + eˣ)`, without overflow.
#[inline(always)]
#[must_use]
pub fn softplus(x: f32) -> f32 {
    // Not `max`, which would turn NaN into 0.
    let linear = if x < 0.0 { 0.0 } else { x };
    linear + log1p_unit(exp(-x.abs()))
}

/// `ln σ(x)`, at most 0 and never `-inf` for a finite `x`.
#[inline(always)]
#[must_use]
pub fn log_sigmoid(x: f32) -> f32 {
    -softplus(-x)
}

/// `x = clamp(softplus(x + bias), low, high)` for each row of `x[M, D]`.
///
/// # Panics
/// If `x` is not whole rows.
pub fn steps(isa: Isa, bias: &[f32], limit: (f32, f32), x: &mut [f32]) {
    assert!(x.len().is_multiple_of(bias.len()), "x and the bias differ in width");
    launch(isa, Steps { bias, limit, x });
}

struct Steps<'a> {
    bias: &'a [f32],
    limit: (f32, f32),
    x: &'a mut [f32],
}

impl Kernel for Steps<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (low, high) = self.limit;
        for x in self.x.chunks_exact_mut(self.bias.len()) {
            for (x, b) in x.iter_mut().zip(self.bias) {
                let step = softplus(*x + b);
                // Comparisons that NaN passes.
                let step = if step < low { low } else { step };
                *x = if step > high { high } else { step };
            }
        }
    }
}

/// `y = y ⊙ silu(z)`
///
/// # Panics
/// If the lengths differ.
pub fn gate_by_silu(isa: Isa, z: &[f32], y: &mut [f32]) {
    assert_eq!(z.len(), y.len());
    launch(isa, Gate { z, y, silu: true });
}

/// `y = y ⊙ σ(z)`
///
/// # Panics
/// If the lengths differ.
pub fn gate_by_sigmoid(isa: Isa, z: &[f32], y: &mut [f32]) {
    assert_eq!(z.len(), y.len());
    launch(isa, Gate { z, y, silu: false });
}

struct Gate<'a> {
    z: &'a [f32],
    y: &'a mut [f32],
    silu: bool,
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for (y, &z) in self.y.iter_mut().zip(self.z) {
            let open = sigmoids(z).0;
            *y *= if self.silu { z * open } else { open };
        }
    }
}

/// The LSTM's cell on rows of raw gates `[i | f | g | o]`, `gates[M, 4H]`: `c = σ(f) c + σ(i) tanh(g)`, from the `c` above to
/// the row's own, in place, and `h = σ(o) tanh(c)`.
///
/// # Panics
/// If the lengths do not fit.
pub fn lstm(isa: Isa, gates: &[f32], width: usize, c: &mut [f32], h: &mut [f32]) {
    assert!(gates.len() == 4 * c.len() && c.len() == h.len() && c.len().is_multiple_of(width));
    launch(isa, Lstm { gates, width, c, h });
}

struct Lstm<'a> {
    gates: &'a [f32],
    width: usize,
    c: &'a mut [f32],
    h: &'a mut [f32],
}

impl Kernel for Lstm<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let width = self.width;
        let rows = self.c.chunks_exact_mut(width).zip(self.h.chunks_exact_mut(width));
        for (gates, (c, h)) in self.gates.chunks_exact(4 * width).zip(rows) {
            let ((i, f), (g, o)) = (gates[..2 * width].split_at(width), gates[2 * width..].split_at(width));
            for j in 0..width {
                let kept = sigmoids(f[j]).0 * c[j];
                c[j] = sigmoids(i[j]).0.mul_add(tanh(g[j]), kept);
                h[j] = sigmoids(o[j]).0 * tanh(c[j]);
            }
        }
    }
}

/// State of sLSTM cells, `[M, H]` each: that above, and in its place that of the rows.
#[derive(Debug)]
pub struct SlstmState<'a> {
    /// `c`
    pub c: &'a mut [f32],
    /// `n`
    pub n: &'a mut [f32],
    /// `m`, the logarithm by which `c` and `n` are scaled down; `-inf` above a root.
    pub m: &'a mut [f32],
    /// `y = σ(o) c / n`, written only.
    pub y: &'a mut [f32],
}

/// The sLSTM's cell on rows of raw gates `[i | f | z | o]`, `gates[M, 4H]` (architectures.md 7.2).
///
/// # Panics
/// If the lengths do not fit.
pub fn slstm(isa: Isa, gates: &[f32], width: usize, state: SlstmState<'_>) {
    let SlstmState { c, n, m, y } = &state;
    assert!([c, n, m, y].iter().all(|s| 4 * s.len() == gates.len() && s.len().is_multiple_of(width)));
    launch(isa, Slstm { gates, width, state });
}

struct Slstm<'a> {
    gates: &'a [f32],
    width: usize,
    state: SlstmState<'a>,
}

impl Kernel for Slstm<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        let (width, SlstmState { c, n, m, y }) = (self.width, self.state);
        for (row, gates) in self.gates.chunks_exact(4 * width).enumerate() {
            let ((i, f), (z, o)) = (gates[..2 * width].split_at(width), gates[2 * width..].split_at(width));
            let at = row * width..(row + 1) * width;
            let (c, n) = (&mut c[at.clone()], &mut n[at.clone()]);
            let (m, y) = (&mut m[at.clone()], &mut y[at]);
            for j in 0..width {
                let forget = log_sigmoid(f[j]) + m[j];
                let largest = if forget > i[j] { forget } else { i[j] };
                let (forget, input) = (exp(forget - largest), exp(i[j] - largest));
                m[j] = largest;
                c[j] = input.mul_add(tanh(z[j]), forget * c[j]);
                n[j] = forget.mul_add(n[j], input);
                y[j] = sigmoids(o[j]).0 * (c[j] / n[j]);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Largest errors, shown by `--nocapture`.
mod tests {
    use super::*;
    use crate::random::Numbers;

    fn ulps(got: f32, exact: f64) -> f64 {
        let nearest = (exact as f32).abs();
        (f64::from(got) - exact).abs() / (f64::from(nearest.next_up()) - f64::from(nearest))
    }

    #[test]
    fn softplus_keeps_relative_accuracy_everywhere() {
        let exact = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let (mut worst, mut at) = (0.0, 0.0);
        for i in -102_000..=102_000 {
            let x = i as f32 * 1e-3;
            let error = ulps(softplus(x), exact(f64::from(x)));
            if error > worst {
                (worst, at) = (error, x);
            }
        }
        println!("softplus: worst {worst:.2} ulp at {at}");
        assert!(worst <= 4.0, "{worst} at {at}");
        let extremes = [f32::NEG_INFINITY, f32::MIN, f32::MAX, f32::INFINITY].map(softplus);
        assert_eq!(extremes, [0.0, 0.0, f32::MAX, f32::INFINITY]);
        assert_eq!((log_sigmoid(-1e4), log_sigmoid(f32::MIN), log_sigmoid(200.0)), (-1e4, f32::MIN, -0.0));
        assert!(softplus(f32::NAN).is_nan() && log_sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn steps_are_clamped_and_nan_stays() {
        let mut x = [-200.0, 0.0, 200.0, f32::NAN];
        steps(Isa::best(), &[0.0], (0.3, 1.5), &mut x);
        assert!((x[1] - 2f32.ln()).abs() < 1e-6 && x[3].is_nan());
        assert_eq!((x[0], x[2]), (0.3, 1.5));
        let mut x = [1.0, -200.0];
        steps(Isa::best(), &[2.0, 0.0], (0.0, f32::INFINITY), &mut x);
        assert!((x[0] - 3.048_587_3).abs() < 1e-6 && x[1] < 1e-38);
    }

    #[test]
    fn cells_are_the_same_on_every_instruction_set() {
        let (rows, width) = (5, 37);
        let mut numbers = Numbers::new(3);
        let gates = numbers.normal(rows * 4 * width, 20.0);
        let above = numbers.normal(rows * width, 1.0);
        let run = |isa| {
            let (mut c, mut h) = (above.clone(), vec![0.0; rows * width]);
            lstm(isa, &gates, width, &mut c, &mut h);
            let mut state = [above.clone(), vec![1.0; rows * width], above.clone(), vec![0.0; rows * width]];
            let [sc, n, m, y] = &mut state;
            slstm(isa, &gates, width, SlstmState { c: sc, n, m, y });
            (c, h, state)
        };
        let first = run(Isa::PORTABLE);
        assert!(Isa::available().into_iter().all(|isa| run(isa) == first));
    }

    #[test]
    fn the_first_step_of_an_slstm_forgets_nothing_and_divides_by_one() {
        for input in [-50.0, 0.0, 50.0] {
            let (mut c, mut n, mut m, mut y) = ([0.0], [0.0], [f32::NEG_INFINITY], [0.0]);
            let state = SlstmState { c: &mut c, n: &mut n, m: &mut m, y: &mut y };
            slstm(Isa::best(), &[input, 50.0, 0.5, 100.0], 1, state);
            assert_eq!((m[0], n[0]), (input, 1.0));
            assert!((y[0] - 0.5f32.tanh()).abs() < 1e-6);
        }
    }

    #[test]
    fn lstm_cells_by_their_formula() {
        let (mut c, mut h) = ([0.5], [0.0]);
        lstm(Isa::best(), &[0.3, -0.2, 0.7, 1.1], 1, &mut c, &mut h);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let exact = sigmoid(-0.2) * 0.5 + sigmoid(0.3) * 0.7f64.tanh();
        assert!((f64::from(c[0]) - exact).abs() < 1e-6);
        assert!((f64::from(h[0]) - sigmoid(1.1) * exact.tanh()).abs() < 1e-6);
    }
}
