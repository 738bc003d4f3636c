//! Rows of a table, picked by token or by position.

use bheval_kernels::gemm::Store;
use rayon::prelude::*;

use crate::parameters::Parameter;
use crate::tape::{Back, Operation, Tape, Value};

/// `y[row] = scale * table[ids[row]]`, `[rows, width]`. Every id is a row of the table.
pub fn embedding(tape: &mut Tape<'_>, table: Parameter, width: usize, ids: &[u32], scale: f32) -> Value {
    let mut y = tape.output(width);
    let rows = tape.parameter(table);
    y.par_chunks_mut(width).zip(ids).for_each(|(y, &id)| {
        let row = &rows[id as usize * width..][..width];
        y.iter_mut().zip(row).for_each(|(y, x)| *y = scale * x);
    });
    let ids = ids.to_vec();
    tape.push(y, |y| Record { y, table, width, ids, scale })
}

struct Record {
    y: Value,
    table: Parameter,
    width: usize,
    ids: Vec<u32>,
    scale: f32,
}

impl Operation for Record {
    /// Adds each row's gradient to its token's, in the order of the rows: tokens go to threads, not rows.
    fn backward(self: Box<Self>, back: &mut Back<'_, '_>) {
        let Some(dy) = back.gradient(self.y) else { return };
        let (store, mut table) = back.open_parameter(self.table);
        if store == Store::Set {
            table.par_chunks_mut(1 << 14).for_each(|part| part.fill(0.0));
        }
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|&row| self.ids[row as usize]);
        let mut touched = Vec::new();
        let mut rest = table.as_mut_slice();
        let mut begin = 0;
        for same in order.chunk_by(|&a, &b| self.ids[a as usize] == self.ids[b as usize]) {
            let at = self.ids[same[0] as usize] as usize * self.width;
            let (row, tail) = std::mem::take(&mut rest)[at - begin..].split_at_mut(self.width);
            touched.push((row, same));
            (rest, begin) = (tail, at + self.width);
        }
        touched.into_par_iter().for_each(|(row, same)| {
            for &r in same {
                let g = &dy[r as usize * self.width..][..self.width];
                row.iter_mut().zip(g).for_each(|(sum, g)| *sum += self.scale * g);
            }
        });
        back.close_parameter(self.table, table);
        back.recycle(dy);
    }
}
