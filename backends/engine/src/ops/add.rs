//! `a + b`

use rayon::prelude::*;

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
