//! `a + b`, of two matrices or of a matrix and a vector.

use rayon::prelude::*;

use crate::ops::linear::bias_gradient;
use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// `a + b`, of one shape.
pub fn add(tape: &mut Tape<'_>, a: Value, b: Value) -> Value {
    let mut y = tape.output(tape.width(a));
    let (x, z) = (tape.get(a), tape.get(b));
    const TASK: usize = 1 << 14;
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK).zip(z.par_chunks(TASK))).for_each(|(y, (a, b))| {
        y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = a + b);
    });
    tape.push(y, |y| Record { a, b, y })
}

struct Record {
    a: Value,
    b: Value,
    y: Value,
}

impl Operation for Record {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (store, mut db) = back.open(self.b);
        crate::ops::rows::put(store, &mut db, &dy);
        back.close(self.b, db);
        back.pass(self.a, dy);
    }
}

/// `x + b`, `b [width]` for each row.
pub fn add_bias(tape: &mut Tape<'_>, x: Value, bias: Parameter) -> Value {
    let mut y = tape.output(tape.width(x));
    let (from, b) = (tape.get(x), tape.parameter(bias));
    y.par_chunks_mut(b.len()).zip(from.par_chunks(b.len())).for_each(|(y, x)| {
        y.iter_mut().zip(x).zip(b).for_each(|((y, x), b)| *y = x + b);
    });
    tape.push(y, |y| Shift { x, bias, y })
}

struct Shift {
    x: Value,
    bias: Parameter,
    y: Value,
}

impl Operation for Shift {
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        bias_gradient(back, self.bias, &dy);
        back.pass(self.x, dy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Case, hold, normal, setting};

    #[test]
    fn a_bias_for_each_row() {
        let (inputs, parameters) = ([normal(6 * 7, 1.0, 1)], [normal(7, 1.0, 2)]);
        let case = Case { setting: setting(2, 3), inputs: &inputs, parameters: &parameters, tolerance: 1e-6 };
        hold(
            &case,
            |tape, x, p| add_bias(tape, x[0], p[0]),
            |x, p| x[0].iter().zip(p[0].iter().cycle()).map(|(x, b)| x + b).collect(),
        );
    }
}
