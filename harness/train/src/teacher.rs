//! What a teacher says of a batch, as a learner receives it.

/// A teacher's distributions over the rows of a batch, row `b * steps + t` being what may follow token `t` of window `b`,
/// and how much they count.
///
/// With `p` the teacher's distribution and `q = softmax(z / T)` that of the student's logits `z`, a row adds
/// `weight · KL(p || q)` to the loss.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// The distributions.
    pub kind: TeacherKind<'a>,
    /// `T`, above 0.
    pub temperature: f32,
    /// Weight of one row's KL at temperature `T`: `T²`, the share of KL in the loss and `1 / count` are in it.
    pub weight: f32,
    /// Whether rows count whose target is ignored, too.
    pub every_position: bool,
}

/// The ways in which a distribution is handed over. All values are finite; a token that the teacher does not have is
/// given [`ABSENT`], which every softmax turns into 0.
#[derive(Clone, Copy, Debug)]
pub enum TeacherKind<'a> {
    /// `[rows, vocab]`: `p = softmax(logits / T)`.
    Logits(&'a [f32]),
    /// The most probable tokens of each row, and the others together as one event, for teacher and student alike:
    /// `KL = Σ_k p_k (ln p_k - ln q_k) + r (ln r - ln Σ_others q)`.
    Top {
        /// Tokens named in a row; below the vocabulary's size.
        k: usize,
        /// `[rows, k]`: their ids, all different within a row.
        ids: &'a [u32],
        /// `[rows, k]`: `ln p` of each at the temperature `T`.
        log_probs: &'a [f32],
        /// `[rows]`: `ln r`, `r` being the probability of all others at the temperature `T`.
        rest: &'a [f32],
    },
    /// What the teacher's head reads: `p = softmax((hidden · headᵀ + bias) / T)`.
    Hidden {
        /// Columns of `hidden` and of `head`.
        width: usize,
        /// `[rows, width]`
        hidden: &'a [f32],
        /// `[vocab, width]`
        head: &'a [f32],
        /// `[vocab]`
        bias: Option<&'a [f32]>,
    },
}

/// The logit of a token that a teacher does not have. Finite, so that `0 · (ABSENT - x)` is 0 and not NaN.
pub const ABSENT: f32 = -1e30;
