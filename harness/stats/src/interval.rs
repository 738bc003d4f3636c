//! Confidence intervals.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::mean::{mean, standard_error};

/// A two-sided interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson's score interval for a proportion (Wilson 1927): `p` of `n` trials succeeded, half points allowed. `n` may be
/// an effective number of trials, `p(1-p)/SE²`, for an estimate that is no plain proportion. `None` without trials.
#[must_use]
pub fn wilson(p: f64, n: f64, level: f64) -> Option<Interval> {
    if !(n > 0.0 && (0.0..=1.0).contains(&p)) {
        return None;
    }
    let z = normal_quantile(0.5 + level / 2.0)?;
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    // Rounding can take the ends a hair beyond the range at p = 0 and p = 1.
    Some(Interval { low: ((centre - half) / scale).max(0.0), high: ((centre + half) / scale).min(1.0) })
}

fn normal_quantile(p: f64) -> Option<f64> {
    Some(Normal::new(0.0, 1.0).ok()?.inverse_cdf(p))
}

/// Student's interval for the mean of `values`, each taken as one draw: `mean ± t·SD/√n` with n-1 degrees of freedom.
/// `None` for fewer than two values.
#[must_use]
pub fn student(values: &[f64], level: f64) -> Option<Interval> {
    let se = standard_error(values)?;
    let t = StudentsT::new(0.0, 1.0, (values.len() - 1) as f64).ok()?.inverse_cdf(0.5 + level / 2.0);
    let centre = mean(values)?;
    Some(Interval { low: centre - t * se, high: centre + t * se })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<Interval>, low: f64, high: f64) {
        let found = found.expect("an interval");
        assert!((found.low - low).abs() < 5e-5 && (found.high - high).abs() < 5e-5, "{found:?}");
    }

    #[test]
    fn wilson_as_in_newcombe_1998() {
        // Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3.
        close(wilson(81.0 / 263.0, 263.0, 0.95), 0.2553, 0.3662);
        close(wilson(15.0 / 148.0, 148.0, 0.95), 0.0624, 0.1605);
        close(wilson(0.0, 20.0, 0.95), 0.0, 0.1611);
        close(wilson(1.0 / 29.0, 29.0, 0.95), 0.0061, 0.1718);
    }

    #[test]
    fn student_by_hand() {
        // Mean 5.45, SD 0.5802298, and t(0.975, 3) = 3.182446 from the tables.
        close(student(&[5.1, 4.9, 6.2, 5.6], 0.95), 4.526727, 6.373273);
        assert_eq!(student(&[1.0], 0.95), None);
    }

    #[test]
    fn nothing_has_no_interval() {
        assert_eq!(wilson(0.5, 0.0, 0.95), None);
        assert_eq!(wilson(f64::NAN, 10.0, 0.95), None);
    }
}
