//! Notices a loss that stays above what guessing gives.

/// Nats above ln(vocabulary) from which a loss counts as diverged: guessing every token alike gives ln(vocabulary).
const ABOVE: f64 = 0.5;
/// Steps in a row before it is said.
const STEPS: u32 = 50;

/// Watches the loss of each step.
#[derive(Debug)]
pub(crate) struct Watch {
    limit: f64,
    above: u32,
}

impl Watch {
    pub(crate) fn new(vocab: u64) -> Self {
        Self { limit: (vocab.max(1) as f64).ln() + ABOVE, above: 0 }
    }

    /// What to say after a step, once each time that the loss has stayed above.
    pub(crate) fn look(&mut self, step: u64, loss: f64) -> Option<String> {
        self.above = if loss > self.limit { self.above + 1 } else { 0 };
        (self.above == STEPS).then(|| {
            format!(
                "the loss has been above {:.2} for {STEPS} steps (step {step}: {loss:.2}); guessing every token alike would \
                 give {:.2}. The learning rate is probably too high: lower optimizer.learning_rate, or warm up for longer",
                self.limit,
                self.limit - ABOVE
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_stays_above_is_told_once() {
        let mut watch = Watch::new(1000);
        let high = 1000_f64.ln() + 0.6;
        let told: Vec<_> = (1..=120).filter(|step| watch.look(*step, high).is_some()).collect();
        assert_eq!(told, [50]);
        assert!(watch.look(121, 1000_f64.ln() + 0.4).is_none());
        assert_eq!((1..=60).filter(|step| watch.look(*step, high).is_some()).count(), 1);
    }
}
