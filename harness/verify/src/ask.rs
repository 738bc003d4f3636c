//! Asks a model about sequences, causal or masked.

use bheval_abi::{Kind, Masked, Status};

use crate::corpus::Values;
use crate::raw::{Opened, Scored, UNTOUCHED};
use crate::trees::Trees;
use crate::verdict::Refusal;

impl Opened {
    /// Whether any forest may be asked about, or chains only.
    pub(crate) fn takes_forests(&self) -> bool {
        self.library.takes_forests()
    }

    /// All sequences in one call, in the form that the backend takes best.
    pub(crate) fn ask(&mut self, sequences: &[Vec<u32>]) -> Result<Values, Refusal> {
        if self.info.kind == Kind::MASKED {
            let batch = Batch::asking(sequences, self.info.vocab);
            return Ok(batch.by_sequence(&self.masked(&batch)?.log_prob));
        }
        let build = if self.takes_forests() { Trees::shared } else { Trees::chains };
        let (trees, paths) = build(sequences);
        Ok(values(&self.score(&trees)?.log_prob, &paths))
    }

    /// Each sequence in a call of its own.
    pub(crate) fn ask_each(&mut self, sequences: &[Vec<u32>]) -> Result<Values, Refusal> {
        let mut all = Values::new();
        for sequence in sequences {
            all.extend(self.ask(std::slice::from_ref(sequence))?);
        }
        Ok(all)
    }

    /// All sequences of a causal model in one call, as chains that share nothing.
    pub(crate) fn ask_chains(&mut self, sequences: &[Vec<u32>]) -> Result<Values, Refusal> {
        let (trees, paths) = Trees::chains(sequences);
        Ok(values(&self.score(&trees)?.log_prob, &paths))
    }

    /// Scores a batch of a masked model.
    pub(crate) fn masked(&mut self, batch: &Batch) -> Result<Scored, Refusal> {
        let mut log_prob = vec![UNTOUCHED; batch.target.len()];
        let action = "masked score";
        let none = || {
            let sentence = "a masked model, but no `bheval.masked.1`".to_owned();
            Refusal { action, status: Status::UNSUPPORTED, sentence }
        };
        let (answer, fed) = self.masked_into(&batch.raw(), &mut log_prob).ok_or_else(none)?;
        answer.granted(action)?;
        Ok(Scored { log_prob, fed })
    }
}

/// The values of each path after its first node.
pub(crate) fn values(log_prob: &[f32], paths: &[Vec<usize>]) -> Values {
    paths.iter().map(|path| path[1..].iter().map(|&node| log_prob[node]).collect()).collect()
}

/// A batch for a masked model as plain arrays, right or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) token: Vec<u32>,
    pub(crate) begin: Vec<u32>,
    pub(crate) position: Vec<u32>,
    pub(crate) target: Vec<u32>,
}

impl Batch {
    /// Asks for one token at each position of each sequence; which one follows from token and position.
    pub(crate) fn asking(sequences: &[Vec<u32>], vocab: u32) -> Self {
        let mut batch = Self { token: Vec::new(), begin: vec![0], position: Vec::new(), target: Vec::new() };
        for sequence in sequences {
            for (t, &token) in sequence.iter().enumerate() {
                batch.position.push(batch.token.len() as u32);
                batch.target.push(((u64::from(token) * 31 + t as u64) % u64::from(vocab)) as u32);
                batch.token.push(token);
            }
            batch.begin.push(batch.token.len() as u32);
        }
        batch
    }

    /// Asks for every token of the vocabulary that `targets` names at one position of one sequence.
    pub(crate) fn asking_for(sequence: &[u32], position: usize, targets: std::ops::Range<u32>) -> Self {
        Self {
            token: sequence.to_vec(),
            begin: vec![0, sequence.len() as u32],
            position: vec![position as u32; targets.len()],
            target: targets.collect(),
        }
    }

    fn by_sequence(&self, log_prob: &[f32]) -> Values {
        self.begin.windows(2).map(|ends| log_prob[ends[0] as usize..ends[1] as usize].to_vec()).collect()
    }

    /// The view that crosses the boundary; valid as long as `self` lives unchanged.
    pub(crate) fn raw(&self) -> Masked {
        Masked {
            size: size_of::<Masked>(),
            len: self.token.len(),
            token: self.token.as_ptr(),
            sequences: self.begin.len().saturating_sub(1),
            begin: self.begin.as_ptr(),
            queries: self.target.len(),
            position: self.position.as_ptr(),
            target: self.target.as_ptr(),
        }
    }
}
