//! Arithmetic on plain `f32` slices with a fixed order of operations.
//!
//! The one invariant: a result depends on its own operands alone. Every output is the same sequence of correctly rounded
//! operations whatever the number of rows, the place of a row, the thread or the instruction set. Products in bf16 alone
//! follow the instruction set: see [`product`](mod@product).

pub mod activation;
pub mod bf16;
mod buffer;
pub mod cells;
pub mod columns;
pub mod elementwise;
pub mod gemm;
mod launch;
mod pack;
pub mod product;
pub mod random;
pub mod small;
pub mod softmax;
mod threads;
mod tile;
mod view;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use launch::{Isa, Kernel, launch};
pub use product::{Precision, Right, Store, View, ViewMut, product, product_serial};
pub use threads::Threads;

/// Lanes of a sum: element `i` belongs to lane `i % LANES`, whatever the width of the machine's registers.
pub const LANES: usize = 16;
