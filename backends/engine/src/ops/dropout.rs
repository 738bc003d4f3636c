//! Dropout whose choices are a function of the pass, the place on the tape and the element.

use bheval_kernels::random::Numbers;
use rayon::prelude::*;

use crate::tape::{Back, Operation, Tape, Value};

/// Values that share one source.
const BLOCK: usize = 1 << 12;

/// Zeroes values with probability `p` and scales the others by `1 / (1 - p)`; outside training, `x` itself.
pub fn dropout(tape: &mut Tape<'_>, x: Value, p: f32) -> Value {
    let Some(seed) = seed(tape, p) else { return x };
    let mut y = tape.output(tape.width(x));
    let mask = Mask { seed, p };
    y.par_chunks_mut(BLOCK).zip(tape.get(x).par_chunks(BLOCK)).enumerate().for_each(|(b, (y, x))| {
        y.copy_from_slice(x);
        mask.apply(b, y);
    });
    tape.push(y, |y| Record { x, y, mask })
}

/// What the choices of the operation that comes next are drawn from; none where nothing is dropped.
pub(crate) fn seed(tape: &Tape<'_>, p: f32) -> Option<u64> {
    let pass = tape.setting.dropout.filter(|_| p > 0.0)?;
    Some(Numbers::new(pass ^ (tape.len() as u64).wrapping_mul(0xD134_2543_DE82_EF95)).bits())
}

#[derive(Clone, Copy)]
struct Mask {
    seed: u64,
    p: f32,
}

impl Mask {
    fn apply(self, block: usize, x: &mut [f32]) {
        let mut numbers = Numbers::new(self.seed.wrapping_add(block as u64));
        let keep = 1.0 / (1.0 - self.p);
        for x in x {
            *x = if numbers.unit() < f64::from(self.p) { 0.0 } else { *x * keep };
        }
    }
}

struct Record {
    x: Value,
    y: Value,
    mask: Mask,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(mut dy) = back.gradient(self.y) else { return };
        dy.par_chunks_mut(BLOCK).enumerate().for_each(|(b, g)| self.mask.apply(b, g));
        back.pass(self.x, dy);
    }
}
