//! What teachers say of some rows, in the form that a learner takes.

use bheval_host::TeacherKind;

use super::Head;

/// Room that is used again for each micro-batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Records {
    pub(super) form: Form,
    /// Logits `[rows, vocab]`, log-probabilities `[rows, k]` or hidden states `[rows, width]`.
    pub(super) values: Vec<f32>,
    /// `[rows, k]`
    pub(super) ids: Vec<u32>,
    /// `[rows]`
    pub(super) rest: Vec<f32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Logits,
    Top(usize),
    Hidden,
}

impl Records {
    /// Forgets what it holds.
    pub(super) fn clear(&mut self, form: Form) {
        self.form = form;
        self.values.clear();
        self.ids.clear();
        self.rest.clear();
    }

    /// As a learner takes it. `head` is there where these are hidden states.
    pub(super) fn kind<'a>(&'a self, head: Option<&'a Head>) -> TeacherKind<'a> {
        match (self.form, head) {
            (Form::Top(k), _) => {
                TeacherKind::Top { k, ids: &self.ids, log_probs: &self.values, rest: &self.rest }
            }
            (Form::Hidden, Some(head)) => head.kind(&self.values),
            (Form::Hidden | Form::Logits, _) => TeacherKind::Logits(&self.values),
        }
    }
}
