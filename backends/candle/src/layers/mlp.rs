//! The part of a block that works on each position by itself.

use crate::kernels::Isa;
use crate::kernels::activation::Activation;
use crate::kernels::elementwise::swiglu;
use crate::kernels::gemm::Store;
use crate::layers::linear::Linear;
use crate::room;

/// An MLP.
#[derive(Debug)]
pub enum Mlp {
    /// `down( silu(gate x) ⊙ up x )`
    Gated {
        /// Gate, then up projection: `[2I, D]`.
        gate_up: Linear,
        /// `[D, I]`
        down: Linear,
    },
    /// `down( f(up x) )`
    Plain {
        /// `[I, D]`
        up: Linear,
        /// `f`
        activation: Activation,
        /// `[D, I]`
        down: Linear,
    },
}

impl Mlp {
    /// Values of a row between the two products, at most.
    #[must_use]
    pub fn inner(&self) -> usize {
        match self {
            Self::Gated { gate_up, down } => gate_up.out() + down.weights.inner(),
            Self::Plain { up, .. } => up.out(),
        }
    }

    /// `y += MLP(x)` for `rows` rows; `wide` and `narrow` are room of its own.
    pub fn add(&self, isa: Isa, x: &[f32], y: &mut [f32], wide: &mut Vec<f32>, narrow: &mut Vec<f32>) {
        match self {
            Self::Gated { gate_up, down } => {
                let inner = down.weights.inner();
                let rows = x.len() / gate_up.weights.inner();
                let both = room(wide, rows * 2 * inner);
                gate_up.apply(isa, x, Store::Set, both);
                let gated = room(narrow, rows * inner);
                swiglu(isa, both, inner, gated);
                down.apply(isa, gated, Store::Add, y);
            }
            Self::Plain { up, activation, down } => {
                let hidden = room(wide, x.len() / up.weights.inner() * up.out());
                up.apply(isa, x, Store::Set, hidden);
                activation.apply(isa, hidden);
                down.apply(isa, hidden, Store::Add, y);
            }
        }
    }
}
