//! How much is taken off a count, from the counts of counts.

/// The discounts of an order whose counts of counts give none: what KenLM's `--discount_fallback` takes.
pub const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// The three discounts of one order.
#[derive(Clone, Debug, PartialEq)]
pub struct Discounts {
    /// The order.
    pub order: u32,
    /// N-grams with an adjusted count above 0.
    pub ngrams: u64,
    /// t1 to t4: n-grams with an adjusted count of 1, 2, 3 and 4.
    pub counts_of_counts: [u64; 4],
    /// D(1), D(2) and D(3), which serves every count from 3 on.
    pub values: [f64; 3],
    /// Why these are [`FALLBACK`] and not estimated, where that is so.
    pub fallback: Option<String>,
}

impl Discounts {
    /// The discounts of the n-grams with these adjusted counts.
    ///
    /// D(k) = k - (k+1) Y t(k+1) / t(k) with Y = t1 / (t1 + 2 t2) (Chen and Goodman 1999, equation 26). Each must lie
    /// above 0, lest a context give unseen words nothing, and not above k, lest a probability be negative.
    pub(super) fn of(order: u32, counts: &[u32]) -> Self {
        let mut t = [0_u64; 4];
        let mut ngrams = 0;
        for &count in counts.iter().filter(|&&c| c > 0) {
            ngrams += 1;
            if let Some(t) = t.get_mut(count as usize - 1) {
                *t += 1;
            }
        }
        let (values, fallback) = match estimate(t) {
            Ok(values) => (values, None),
            Err(why) => (FALLBACK, Some(why)),
        };
        Self { order, ngrams, counts_of_counts: t, values, fallback }
    }

    /// D(count).
    pub(super) fn discount(&self, count: u32) -> f64 {
        match count {
            0 => 0.0,
            k => self.values[k.min(3) as usize - 1],
        }
    }
}

fn estimate(t: [u64; 4]) -> Result<[f64; 3], String> {
    if let Some(k) = (0..3).find(|&k| t[k] == 0) {
        return Err(format!("none has an adjusted count of {}", k + 1));
    }
    let t = t.map(|t| t as f64);
    let y = t[0] / (t[0] + 2.0 * t[1]);
    let mut values = [0.0; 3];
    for (i, value) in values.iter_mut().enumerate() {
        let k = (i + 1) as f64;
        *value = k - (k + 1.0) * y * t[i + 1] / t[i];
        if !(*value > 0.0 && *value <= k) {
            return Err(format!("D({k}) would be {value:.3}, and must lie above 0 and not above {k}"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discounts_by_hand() {
        // t = 4, 2, 1, 1: Y = 4/8; D1 = 1 - 2/2·2/4, D2 = 2 - 3/2·1/2, D3 = 3 - 4/2·1/1.
        let d = Discounts::of(2, &[1, 1, 1, 1, 2, 2, 3, 4, 9, 0]);
        assert_eq!((d.values, d.fallback.as_deref(), d.ngrams), ([0.5, 1.25, 1.0], None, 9));
        assert_eq!([0, 1, 2, 3, 4, 900].map(|c| d.discount(c)), [0.0, 0.5, 1.25, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn what_cannot_be_estimated_falls_back_and_says_why() {
        let why = |counts: &[u32]| {
            let d = Discounts::of(1, counts);
            assert_eq!(d.values, FALLBACK);
            d.fallback.expect("a reason")
        };
        assert!(why(&[]).contains("count of 1"));
        assert!(why(&[1, 1, 3]).contains("count of 2"));
        assert!(why(&[1, 2, 4]).contains("count of 3"));
        // t = 1, 1, 2, 0: Y = 1/3 and D2 = 2 - 3/3·2 = 0: a context of twos only would give unseen words nothing.
        assert!(why(&[1, 2, 3, 3]).contains("D(2) would be 0.000"));
    }
}
