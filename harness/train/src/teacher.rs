//! What a teacher says of a batch, as a learner receives it: the types of the contract with what trains.

pub use bheval_host::{Teacher, TeacherKind};

/// The logit of a token that a teacher does not have. Finite, so that `0 · (ABSENT - x)` is 0 and not NaN.
pub const ABSENT: f32 = -1e30;
