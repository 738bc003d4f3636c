//! Teachers that are asked.

use bheval_host::{Forest, HeadValues, Kind, Model, Status};

use super::mix::Mix;
use super::records::{Form, Records};
use super::{Average, CacheKind, DistillPlan, Error, Head, Lectern, TeacherFiles};
use crate::ABSENT;

/// Logits that a call may give.
const LOGITS: usize = 1 << 26;

/// Opened teachers of one student.
#[derive(Debug)]
pub(super) struct Live {
    teachers: Vec<Asked>,
    pub(super) mix: Mix,
    /// Rows of the student's embedding.
    pub(super) vocab: usize,
    pub(super) steps: usize,
    /// All heads side by side, where hidden states are given.
    head: Option<Head>,
}

#[derive(Debug)]
struct Asked {
    model: Model,
    vocab: usize,
    /// Width of its hidden states, where they are given.
    width: usize,
}

impl Live {
    pub(super) fn new(
        plan: &DistillPlan,
        files: &[TeacherFiles],
        models: Vec<Model>,
        lectern: Lectern<'_>,
    ) -> Result<Self, Error> {
        let mut teachers = Vec::new();
        for (files, mut model) in files.iter().zip(models) {
            fit(files, &mut model, lectern)?;
            let vocab = model.info().vocab as usize;
            teachers.push(Asked { model, vocab, width: 0 });
        }
        let shared = teachers.iter().map(|teacher| teacher.vocab).min().unwrap_or(0).min(lectern.vocab);
        let (vocab, steps) = (lectern.vocab, lectern.steps);
        let mut live = Self { teachers, mix: Mix::new(plan, shared), vocab, steps, head: None };
        let linear = plan.average != Average::Probabilities || live.teachers.len() == 1;
        if linear && matches!(plan.cache, CacheKind::None | CacheKind::Hidden) {
            live.take_heads(files, plan.cache == CacheKind::Hidden)?;
        }
        Ok(live)
    }

    /// Asks for the heads. Where one is not given, all teachers are asked for logits, unless hidden states are a must.
    fn take_heads(&mut self, files: &[TeacherFiles], must: bool) -> Result<(), Error> {
        let mut heads = Vec::new();
        for (teacher, files) in self.teachers.iter_mut().zip(files) {
            match teacher.model.head() {
                Ok(head) => heads.push(head),
                Err(error) if must => {
                    return Err(Error::unfit(&files.path, format!("{error}; use another cache")));
                }
                Err(bheval_host::Error::Refused { status: Status::UNSUPPORTED, .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        for (teacher, head) in self.teachers.iter_mut().zip(&heads) {
            teacher.width = head.width;
        }
        self.head = Some(side_by_side(&heads, self.mix.shared, self.vocab));
        Ok(())
    }

    /// The head of the hidden states, where these are given.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// What the teachers say of windows of `steps` inputs.
    pub(super) fn ask(&mut self, tokens: &[u32], records: &mut Records) -> Result<(), Error> {
        if let Some(width) = self.head.as_ref().map(|head| head.width) {
            records.clear(Form::Hidden);
            records.values.resize(tokens.len() * width, 0.0);
            return self.hidden(tokens, width, &mut records.values);
        }
        records.clear(Form::Logits);
        records.values.resize(tokens.len() * self.vocab, 0.0);
        self.logits(tokens, self.vocab, &mut records.values)
    }

    /// Their logits as rows of `width`, the tokens that all have and no more than the student's.
    pub(super) fn logits(&mut self, tokens: &[u32], width: usize, out: &mut [f32]) -> Result<(), Error> {
        let per_call = self.windows_a_call() * self.steps;
        for (tokens, out) in tokens.chunks(per_call).zip(out.chunks_mut(per_call * width)) {
            let forest = chains(tokens, self.steps);
            let said = |teacher: &mut Asked| Ok((teacher.model.logits(&forest)?, teacher.vocab));
            let rows = self.teachers.iter_mut().map(said).collect::<Result<Vec<_>, Error>>()?;
            self.mix.write(&rows, width, out);
        }
        Ok(())
    }

    /// Their hidden states, side by side in rows of `width`.
    pub(super) fn hidden(&mut self, tokens: &[u32], width: usize, out: &mut [f32]) -> Result<(), Error> {
        let per_call = self.windows_a_call() * self.steps;
        for (tokens, out) in tokens.chunks(per_call).zip(out.chunks_mut(per_call * width)) {
            let forest = chains(tokens, self.steps);
            let mut first = 0;
            for teacher in &mut self.teachers {
                let states = teacher.model.hidden(&forest, teacher.width)?;
                for (row, state) in out.chunks_mut(width).zip(states.chunks(teacher.width)) {
                    row[first..first + teacher.width].copy_from_slice(state);
                }
                first += teacher.width;
            }
        }
        Ok(())
    }

    /// Windows that every teacher takes in a call, and whose logits take no more than 256 MB; at least one.
    pub(super) fn windows_a_call(&self) -> usize {
        let of = |teacher: &Asked| teacher.model.info().nodes.min(LOGITS / teacher.vocab);
        let rows = self.teachers.iter().map(of).min().unwrap_or(0);
        (rows / self.steps).max(1)
    }
}

/// Refuses a teacher that can't read these windows.
fn fit(files: &TeacherFiles, model: &mut Model, lectern: Lectern<'_>) -> Result<(), Error> {
    let unfit = |reason: String| Err(Error::unfit(&files.path, reason));
    let info = model.info();
    if info.kind != Kind::CAUSAL {
        return unfit("it is a masked model, which gives no probability of a next token".to_owned());
    }
    if let Some(context) = info.context.filter(|&context| (context as usize) < lectern.steps) {
        return unfit(format!(
            "it reads {context} tokens at most, and windows have {}; make data.sequence_length {context} or less",
            lectern.steps
        ));
    }
    let entries = lectern.tokenizer.vocab();
    if info.vocab < entries {
        return unfit(format!(
            "it gives {} tokens a probability, and the tokenizer has {entries} entries: model and tokenizer do not belong \
             together",
            info.vocab
        ));
    }
    let probe = chains(&[0], 1);
    match model.logits(&probe) {
        Ok(_) => Ok(()),
        Err(error) => unfit(format!("{error}; a teacher's backend must offer logits")),
    }
}

/// Windows as chains of their own, each position asked for.
fn chains(tokens: &[u32], steps: usize) -> Forest {
    let mut forest = Forest::new();
    for window in tokens.chunks(steps) {
        forest.insert_alone(window, &vec![true; window.len()]);
    }
    forest
}

/// One head for the hidden states of all teachers side by side: `mean of h_i · W_iᵀ + b_i` is `[h_1 … h_n] · [W_1/n … W_n/n]ᵀ`
/// with the mean of the biases.
fn side_by_side(heads: &[HeadValues], shared: usize, vocab: usize) -> Head {
    let (width, share) = (heads.iter().map(|head| head.width).sum(), 1.0 / heads.len() as f32);
    let mut weight = Vec::with_capacity(vocab * width);
    for token in 0..shared {
        for head in heads {
            weight.extend(head.weight[token * head.width..][..head.width].iter().map(|w| w * share));
        }
    }
    weight.resize(vocab * width, 0.0);
    let needed = shared < vocab || heads.iter().any(|head| head.bias.is_some());
    let of = |token: usize| -> f32 {
        let biases = heads.iter().map(|head| head.bias.as_ref().map_or(0.0, |bias| bias[token]));
        if token < shared { biases.map(|bias| bias * share).sum() } else { ABSENT }
    };
    Head { width, weight, bias: needed.then(|| (0..vocab).map(of).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_side_by_side_give_the_mean_of_the_logits() {
        let one = HeadValues { width: 2, weight: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], bias: None };
        let two = HeadValues { width: 1, weight: vec![-1.0, 7.0], bias: Some(vec![0.5, -0.5]) };
        let head = side_by_side(&[one, two], 2, 4);
        let logits = |hidden: [f32; 3]| -> Vec<f32> {
            let bias = head.bias.as_ref().expect("a bias");
            let row = |(row, b): (&[f32], &f32)| row.iter().zip(hidden).map(|(w, h)| w * h).sum::<f32>() + b;
            head.weight.chunks(3).zip(bias).map(row).collect()
        };
        // By hand: ((1·2 + 2·4) + (-1·6 + 0.5)) / 2 and ((3·2 + 4·4) + (7·6 - 0.5)) / 2.
        assert_eq!(logits([2.0, 4.0, 6.0]), [2.25, 31.75, ABSENT, ABSENT]);
    }

    #[test]
    fn a_lone_head_without_padding_stays_as_it_is() {
        let head = HeadValues { width: 1, weight: vec![0.1, 0.2], bias: None };
        assert_eq!(side_by_side(&[head], 2, 2), Head { width: 1, weight: vec![0.1, 0.2], bias: None });
    }
}
