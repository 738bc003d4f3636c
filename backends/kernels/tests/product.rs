//! The matrix product against an obvious f64 twin, its definition in f32, and itself on other threads.

use bheval_kernels::random::Numbers;
use bheval_kernels::{Isa, Precision, Right, Store, View, ViewMut, bf16, gemm, product, product_serial};
use proptest::prelude::*;
use rayon::ThreadPool;
use rayon::prelude::*;

/// m, n, k: ragged against strips, panels and blocks of every size, and beyond them.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (5, 7, 3),
    (8, 32, 256),
    (9, 33, 257),
    (13, 100, 64),
    (20, 65, 600),
    (3, 70, 1030),
    (129, 10, 513),
    (64, 128, 64),
    (2, 2100, 40),
    (260, 70, 100),
    (1, 5, 2100),
    (4, 3, 0),
];

/// A matrix and how it lies: its elements, rows, columns, gap between lines, whether it lies transposed.
struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    gap: usize,
    transposed: bool,
}

impl Matrix {
    fn new(numbers: &mut Numbers, rows: usize, columns: usize, gap: usize, transposed: bool) -> Self {
        let (lines, length) = if transposed { (columns, rows) } else { (rows, columns) };
        Self { data: numbers.normal(lines * (length + gap), 1.0), rows, columns, gap, transposed }
    }

    fn view(&self) -> View<'_> {
        let (rows, columns) = (self.rows, self.columns);
        if self.transposed {
            View::with_stride(&self.data, columns, rows, rows + self.gap).t()
        } else {
            View::with_stride(&self.data, rows, columns, columns + self.gap)
        }
    }
}

fn rounded(precision: Precision, x: f32) -> f32 {
    if precision == Precision::Bf16 { bf16::round(x) } else { x }
}

/// Row `i` of `a` and column `j` of `b`, rounded.
fn factors(precision: Precision, a: View<'_>, b: View<'_>, i: usize, j: usize) -> (Vec<f32>, Vec<f32>) {
    let round = |x| rounded(precision, x);
    (0..a.columns).map(|k| (round(a.at(i, k)), round(b.at(k, j)))).unzip()
}

/// The sum in f64, and how far an f32 sum of blocks may lie from it: a rounding for each product and each block, each at
/// most 2^-24 of the sum of magnitudes. `vdpbf16ps` rounds as often, and takes numbers below 2^-126 for zero.
fn exact(x: &[f32], w: &[f32]) -> (f64, f64) {
    let terms = || x.iter().zip(w).map(|(&x, &w)| (f64::from(x), f64::from(w)));
    let size: f64 = terms().map(|(x, w)| (x * w).abs()).sum();
    let lost: f64 = terms().map(|(x, w)| (x.abs() + w.abs() + 2.0) * f64::from(f32::MIN_POSITIVE)).sum();
    let roundings = x.len().min(gemm::BLOCK) + x.len() / gemm::BLOCK + 2;
    (terms().map(|(x, w)| x * w).sum(), roundings as f64 * 2f64.powi(-24) * size + lost)
}

fn everywhere() -> Vec<Isa> {
    let mut all: Vec<Isa> = Isa::available().into_iter().flat_map(|isa| [isa.without_bf16(), isa]).collect();
    all.dedup();
    all
}

fn pool(threads: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start")
}

const GAP: usize = 3;

/// `c` with gaps of [`GAP`] that begin as 7 and are 7 afterwards, without them.
fn compute(isa: Isa, precision: Precision, a: View<'_>, b: View<'_>, store: Store) -> Vec<f32> {
    let (m, n) = (a.rows, b.columns);
    let mut c = vec![7.0; m * (n + GAP)];
    product(isa, precision, a, b, store, ViewMut::with_stride(&mut c, m, n, n + GAP));
    assert!(c.chunks(n + GAP).all(|row| row[n..] == [7.0; GAP]), "the product wrote between the rows");
    c.chunks(n + GAP).flat_map(|row| row[..n].to_vec()).collect()
}

#[test]
fn every_layout_agrees_with_f64() {
    let pool = pool(2);
    for (m, n, k) in SHAPES {
        for layout in 0..8 {
            let mut numbers = Numbers::new((m * n + k) as u64);
            let gap = if layout & 4 == 0 { 0 } else { 5 };
            let a = Matrix::new(&mut numbers, m, k, gap, layout & 1 != 0);
            let b = Matrix::new(&mut numbers, k, n, gap, layout & 2 != 0);
            let (a, b) = (a.view(), b.view());
            for precision in [Precision::F32, Precision::Bf16] {
                let set = pool.install(|| compute(Isa::best(), precision, a, b, Store::Set));
                let add = pool.install(|| compute(Isa::best(), precision, a, b, Store::Add));
                for (at, (set, add)) in set.iter().zip(add).enumerate() {
                    let (x, w) = factors(precision, a, b, at / n, at % n);
                    let (exact, bound) = exact(&x, &w);
                    let name = format!("{m} x {n} x {k}, layout {layout}, {precision:?}, at {at}");
                    assert!((f64::from(*set) - exact).abs() <= bound, "{name}: {set} is not {exact}");
                    let bound = bound + 2f64.powi(-24) * (exact.abs() + 7.0) * (k / gemm::BLOCK + 1) as f64;
                    assert!(
                        (f64::from(add) - 7.0 - exact).abs() <= bound,
                        "{name}: {add} is not 7 + {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_definition() {
    for (m, n, k) in [(13, 33, 257), (9, 70, 600), (8, 32, 64), (3, 5, 1100)] {
        let mut numbers = Numbers::new((m * n * k) as u64);
        let (a, b) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0));
        let (a, b) = (View::new(&a, m, k), View::new(&b, n, k).t());
        for isa in Isa::available() {
            for (isa, precision) in [(isa, Precision::F32), (isa.without_bf16(), Precision::Bf16)] {
                for (at, c) in compute(isa, precision, a, b, Store::Set).into_iter().enumerate() {
                    let (x, w) = factors(precision, a, b, at / n, at % n);
                    assert_eq!(
                        c.to_bits(),
                        gemm::dot(&x, &w).to_bits(),
                        "{isa:?} {precision:?} {m} {n} {k} {at}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let pools = [1, 2, 5].map(pool);
    for (m, n, k) in [(300, 200, 600), (40, 2500, 64), (1100, 33, 40), (16, 700, 1300)] {
        let mut numbers = Numbers::new(m as u64);
        let a = Matrix::new(&mut numbers, m, k, 2, true);
        let b = Matrix::new(&mut numbers, k, n, 1, false);
        let (a, b) = (a.view(), b.view());
        for precision in [Precision::F32, Precision::Bf16] {
            for store in [Store::Set, Store::Add] {
                let mut serial = vec![7.0; m * n];
                product_serial(Isa::best(), precision, a, b, store, ViewMut::new(&mut serial, m, n));
                let right = Right::new(Isa::best(), precision, b);
                for pool in &pools {
                    let parallel = pool.install(|| compute(Isa::best(), precision, a, b, store));
                    assert_eq!(parallel, serial, "{m} {n} {k} {precision:?} {pool:?}");
                    let mut packed = vec![7.0; m * n];
                    pool.install(|| right.product(a, store, ViewMut::new(&mut packed, m, n)));
                    assert_eq!(packed, serial, "{m} {n} {k} {precision:?} packed {pool:?}");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (m, n, k) = (37, 65, 700);
    let mut numbers = Numbers::new(4);
    let (a, b) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0));
    let (a, b) = (View::new(&a, m, k), View::new(&b, k, n));
    for precision in [Precision::F32, Precision::Bf16] {
        let whole = compute(Isa::best(), precision, a, b, Store::Set);
        for i in 0..m {
            let one = compute(Isa::best(), precision, a.rows(i..i + 1), b.columns(1..n), Store::Set);
            assert_eq!(one, whole[i * n + 1..(i + 1) * n], "{precision:?} row {i}");
        }
    }
}

#[test]
fn products_run_inside_parallel_work() {
    let (m, n, k) = (64, 256, 128);
    let mut numbers = Numbers::new(6);
    let (a, b) = (numbers.normal(m * k, 1.0), numbers.normal(k * n, 1.0));
    let (a, b) = (View::new(&a, m, k), View::new(&b, k, n));
    let one = compute(Isa::best(), Precision::F32, a, b, Store::Set);
    let all: Vec<Vec<f32>> = pool(3).install(|| {
        (0..40).into_par_iter().map(|_| compute(Isa::best(), Precision::F32, a, b, Store::Set)).collect()
    });
    assert!(all.iter().all(|c| *c == one));
}

#[test]
fn what_is_not_finite_stays_visible() {
    let (m, n, k) = (20, 40, 301);
    let hidden = f32::from_bits(0x7F80_0001);
    for isa in everywhere() {
        for precision in [Precision::F32, Precision::Bf16] {
            for bad in [f32::NAN, hidden, f32::INFINITY, f32::NEG_INFINITY] {
                // Every place of a pair, a block and the ragged end.
                for place in [0, 1, 255, 256, 300] {
                    let (mut a, b) = (vec![1.0; m * k], vec![2.0; k * n]);
                    a[11 * k + place] = bad;
                    let c = compute(isa, precision, View::new(&a, m, k), View::new(&b, k, n), Store::Set);
                    for (i, row) in c.chunks(n).enumerate() {
                        let seen = |c: &f32| if bad.is_nan() { c.is_nan() } else { *c == bad };
                        let fine = if i == 11 {
                            row.iter().all(seen)
                        } else {
                            row.iter().all(|c| *c == 2.0 * k as f32)
                        };
                        assert!(fine, "{isa:?} {precision:?} {bad} at {place}, row {i}: {:?}", &row[..3]);
                    }
                }
            }
        }
    }
}

#[test]
fn subnormal_numbers_are_lost_at_most() {
    let k = 300;
    let tiny = vec![f32::MIN_POSITIVE / 4.0; k];
    for (isa, other) in everywhere().into_iter().flat_map(|isa| [(isa, 1.0f32), (isa, 1e-30), (isa, 1e30)]) {
        let (a, b) = (View::new(&tiny, 1, k), vec![other; k]);
        let c = f64::from(compute(isa, Precision::Bf16, a, View::new(&b, k, 1), Store::Set)[0]);
        let (x, w) = factors(Precision::Bf16, a, View::new(&b, k, 1), 0, 0);
        let (exact, bound) = exact(&x, &w);
        assert!((c - exact).abs() <= bound, "{isa:?} {other:e}: {c:e} is not {exact:e}");
    }
}

#[test]
fn a_right_hand_side_is_packed_again_into_its_memory() {
    let mut numbers = Numbers::new(8);
    let (a, b) = (numbers.normal(3 * 600, 1.0), numbers.normal(600 * 50, 1.0));
    let mut right = Right::new(Isa::best(), Precision::F32, View::new(&b, 600, 50));
    let smaller = View::new(&b, 50, 600).t().columns(0..40).rows(20..590);
    right.set(smaller);
    let a = View::new(&a, 3, 600).columns(0..570);
    let mut c = vec![0.0; 3 * 40];
    right.clone().product_serial(a, Store::Set, ViewMut::new(&mut c, 3, 40));
    assert_eq!(c, compute(Isa::best(), Precision::F32, a, smaller, Store::Set));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (x, mut y) = (vec![0.0; 12], vec![0.0; 12]);
    let view = |rows, columns| View::new(&x[..rows * columns], rows, columns);
    let refused =
        |work: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    let (isa, f32) = (Isa::best(), Precision::F32);
    assert!(refused(&mut || product(
        isa,
        f32,
        view(2, 3),
        view(2, 3),
        Store::Set,
        ViewMut::new(&mut y[..6], 2, 3)
    )));
    assert!(refused(&mut || product(
        isa,
        f32,
        view(2, 3),
        view(3, 2),
        Store::Set,
        ViewMut::new(&mut y[..6], 2, 3)
    )));
    assert!(refused(&mut || _ = View::new(&x, 5, 3)));
    assert!(refused(&mut || _ = View::with_stride(&x, 3, 3, 5)));
    assert!(refused(&mut || _ = ViewMut::with_stride(&mut y.clone(), 3, 4, 3)));
    assert!(refused(&mut || _ = view(3, 4).rows(2..4)));
    assert!(refused(&mut || _ = view(3, 4).columns(3..5)));
    let long = View { row_stride: 100, ..view(3, 4) };
    assert!(refused(&mut || product(
        isa,
        f32,
        long,
        view(4, 1),
        Store::Set,
        ViewMut::new(&mut y[..3], 3, 1)
    )));
    product(isa, f32, view(3, 4), view(4, 3), Store::Set, ViewMut::new(&mut y[..9], 3, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_has_the_bits_of_the_definition(
        (m, n, k) in (1usize..70, 1usize..70, 1usize..600),
        (gap, layout, seed) in (0usize..3, 0usize..4, any::<u64>()),
        (serial, bf16) in any::<(bool, bool)>(),
    ) {
        let mut numbers = Numbers::new(seed);
        let a = Matrix::new(&mut numbers, m, k, gap, layout & 1 != 0);
        let b = Matrix::new(&mut numbers, k, n, gap, layout & 2 != 0);
        let (a, b, isa) = (a.view(), b.view(), Isa::best());
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let mut c = vec![f32::NAN; m * n];
        let product = if serial { product_serial } else { product };
        product(isa, precision, a, b, Store::Set, ViewMut::new(&mut c, m, n));
        for (at, &c) in c.iter().enumerate() {
            let (x, w) = factors(precision, a, b, at / n, at % n);
            if bf16 {
                let (exact, bound) = exact(&x, &w);
                prop_assert!((f64::from(c) - exact).abs() <= bound, "{c} is not {exact} at {at}");
            } else {
                prop_assert_eq!(c.to_bits(), gemm::dot(&x, &w).to_bits(), "at {}", at);
            }
        }
    }
}
