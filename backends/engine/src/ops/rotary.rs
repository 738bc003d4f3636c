//! Rotary positions (Su et al. 2021), half-split as Hugging Face stores them: channel `j` of a head turns with channel
//! `j + pairs`.

use bheval_candle::layers::rope::Frequencies;

/// Cosines and sines of the positions of a sequence, `[steps, pairs]` each, made in f64.
#[derive(Clone, PartialEq, Debug)]
pub struct Rotary {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// For positions below `steps`.
    #[must_use]
    pub fn new(frequencies: &Frequencies, steps: usize) -> Self {
        let angle = |t: usize| frequencies.inverse.iter().map(move |f| t as f64 * f);
        let all = |of: fn(f64) -> f64| {
            (0..steps).flat_map(|t| angle(t).map(|a| (of(a) * frequencies.factor) as f32)).collect()
        };
        Self { pairs: frequencies.inverse.len(), cos: all(f64::cos), sin: all(f64::sin) }
    }

    /// Turns the first `2 · pairs` channels of a head at position `t`.
    #[inline(always)]
    pub fn turn(&self, t: usize, head: &mut [f32]) {
        let (cos, sin) = self.at(t);
        let (first, rest) = head.split_at_mut(self.pairs);
        for (((x, y), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
            (*x, *y) = (x.mul_add(*cos, -(*y * sin)), y.mul_add(*cos, *x * sin));
        }
    }

    /// The transpose of [`Rotary::turn`]: what turns a gradient back.
    #[inline(always)]
    pub fn turn_back(&self, t: usize, head: &mut [f32]) {
        let (cos, sin) = self.at(t);
        let (first, rest) = head.split_at_mut(self.pairs);
        for (((x, y), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
            (*x, *y) = (x.mul_add(*cos, *y * sin), y.mul_add(*cos, -(*x * sin)));
        }
    }

    #[inline(always)]
    fn at(&self, t: usize) -> (&[f32], &[f32]) {
        let at = t * self.pairs..(t + 1) * self.pairs;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_there_and_back() {
        let quarter = Frequencies { inverse: vec![std::f64::consts::FRAC_PI_2], factor: 2.0 };
        let rotary = Rotary::new(&quarter, 2);
        let mut head = [1.0, 0.0, 7.0];
        rotary.turn(1, &mut head);
        let near = |x: &[f32], y: [f32; 3]| x.iter().zip(y).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&head, [0.0, 2.0, 7.0]), "{head:?}");
        rotary.turn_back(1, &mut head);
        assert!(near(&head, [4.0, 0.0, 7.0]), "{head:?}");
    }
}
