//! The smallest learner: a softmax over the next token from a table of the last one, `logits = table[token] + bias`, with its
//! gradient by hand and AdamW as in Loshchilov and Hutter (2019), all in plain loops.

use bheval_train::Error;
use bheval_train::learner::{Batch, Kept, Learner, LearnerInfo, Precision, Rates, Sums, Tensor};

/// A table, a bias, and what AdamW keeps of them.
pub(crate) struct Bigram {
    vocab: usize,
    tensors: Vec<Tensor>,
    weights: [Vec<f32>; 2],
    first: [Vec<f32>; 2],
    second: [Vec<f32>; 2],
    gradients: [Vec<f32>; 2],
    /// Share of inputs whose row of the table is dropped.
    pub(crate) dropout: f32,
    /// Calls of `read` that are answered before one fails.
    pub(crate) reads_left: Option<usize>,
    /// The pass whose loss is to be NaN.
    pub(crate) poison: Option<u64>,
    /// The update whose norm is to be infinite.
    pub(crate) burst: Option<u64>,
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn unit(state: &mut u64) -> f32 {
    (draw(state) >> 40) as f32 / (1_u64 << 24) as f32
}

impl Bigram {
    pub(crate) fn new(vocab: usize, seed: u64) -> Self {
        let tensor =
            |name: &str, shape: &[usize], decay| Tensor { name: name.into(), shape: shape.into(), decay };
        let sizes = [vocab * vocab, vocab];
        let mut state = seed;
        let table = (0..sizes[0]).map(|_| unit(&mut state) * 0.2 - 0.1).collect();
        let zeros = || sizes.map(|n| vec![0.0; n]);
        Self {
            vocab,
            tensors: vec![
                tensor("table.weight", &[vocab, vocab], true),
                tensor("table.bias", &[vocab], false),
            ],
            weights: [table, vec![0.0; vocab]],
            first: zeros(),
            second: zeros(),
            gradients: zeros(),
            dropout: 0.0,
            reads_left: None,
            poison: None,
            burst: None,
        }
    }

    /// All bits of the weights.
    pub(crate) fn bits(&self) -> Vec<u32> {
        self.weights.iter().flatten().map(|w| w.to_bits()).collect()
    }

    pub(crate) fn weights(&self) -> Vec<f32> {
        self.weights.concat()
    }

    fn kept(&mut self, kept: Kept) -> &mut [Vec<f32>; 2] {
        match kept {
            Kept::Weight => &mut self.weights,
            Kept::FirstMoment => &mut self.first,
            Kept::SecondMoment => &mut self.second,
        }
    }

    fn pass(&mut self, batch: &Batch<'_>, learn: bool) -> Sums {
        assert_eq!(
            (batch.tokens.len(), batch.targets.len()),
            (batch.batch * batch.steps, batch.batch * batch.steps)
        );
        let (vocab, mut sums, mut state) = (self.vocab, Sums::default(), batch.pass);
        for (token, target) in batch.tokens.iter().zip(batch.targets) {
            let keep = if learn && self.dropout > 0.0 && unit(&mut state) < self.dropout { 0.0 } else { 1.0 };
            let Ok(target) = usize::try_from(*target) else { continue };
            let row = *token as usize * vocab;
            let logits: Vec<f32> =
                (0..vocab).map(|j| keep * self.weights[0][row + j] + self.weights[1][j]).collect();
            let most = logits.iter().fold(f32::MIN, |a, b| a.max(*b));
            let total: f32 = logits.iter().map(|z| (z - most).exp()).sum();
            sums.nats += f64::from(total.ln() + most - logits[target]);
            sums.targets += 1;
            for (j, z) in logits.iter().enumerate().filter(|_| learn) {
                let slope = batch.weight * ((z - most).exp() / total - f32::from(u8::from(j == target)));
                self.gradients[0][row + j] += keep * slope;
                self.gradients[1][j] += slope;
            }
        }
        sums
    }
}

impl Learner for Bigram {
    fn info(&self, _: usize) -> Result<LearnerInfo, Error> {
        Ok(LearnerInfo {
            architecture: "bigram".into(),
            vocab: self.vocab,
            context: 0,
            parameters: self.weights.iter().map(|w| w.len() as u64).sum(),
            forward_flops: 2.0 * self.vocab as f64,
            threads: 1,
            precision: Precision::F32,
            device: "plain loops".into(),
            arithmetic: "bigram 1".into(),
        })
    }

    fn bytes(&self) -> u64 {
        16 * self.weights.iter().map(|w| w.len() as u64).sum::<u64>()
    }

    fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    fn accumulate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error> {
        let sums = self.pass(batch, true);
        let poisoned = self.poison == Some(batch.pass);
        Ok(Sums { nats: if poisoned { f64::NAN } else { sums.nats }, ..sums })
    }

    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<Sums, Error> {
        Ok(self.pass(batch, false))
    }

    fn update(&mut self, rates: &Rates) -> Result<f64, Error> {
        let squares = self.gradients.iter().flatten().map(|g| f64::from(*g).powi(2));
        let norm = if self.burst == Some(rates.step) { f64::INFINITY } else { squares.sum::<f64>().sqrt() };
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = rates.clip.map_or(1.0, |clip| (clip / norm).min(1.0));
        let correct = |beta: f64| 1.0 - beta.powi(rates.step as i32);
        for t in 0..2 {
            let decay = if rates.decay_all || self.tensors[t].decay { rates.weight_decay } else { 0.0 };
            for i in 0..self.weights[t].len() {
                let gradient = f64::from(self.gradients[t][i]) * scale;
                let first = rates.beta1 * f64::from(self.first[t][i]) + (1.0 - rates.beta1) * gradient;
                let second =
                    rates.beta2 * f64::from(self.second[t][i]) + (1.0 - rates.beta2) * gradient * gradient;
                (self.first[t][i], self.second[t][i]) = (first as f32, second as f32);
                let root = (second / correct(rates.beta2)).sqrt() + rates.epsilon;
                let weight = f64::from(self.weights[t][i]) * (1.0 - rates.learning_rate * decay);
                self.weights[t][i] =
                    (weight - rates.learning_rate * first / correct(rates.beta1) / root) as f32;
            }
            self.gradients[t].fill(0.0);
        }
        Ok(norm)
    }

    fn read(&mut self, tensor: usize, kept: Kept, out: &mut [f32]) -> Result<(), Error> {
        match &mut self.reads_left {
            Some(0) => return Err(Error::Learner { reason: "no more reads".into() }),
            Some(left) => *left -= 1,
            None => (),
        }
        out.copy_from_slice(&self.kept(kept)[tensor]);
        Ok(())
    }

    fn write(&mut self, tensor: usize, kept: Kept, values: &[f32]) -> Result<(), Error> {
        self.kept(kept)[tensor].copy_from_slice(values);
        Ok(())
    }
}
