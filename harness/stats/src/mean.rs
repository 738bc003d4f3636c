//! Means and their standard errors.

use std::collections::BTreeMap;

/// Arithmetic mean, or `None` of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard error of the mean, `SD/√n` with the n-1 standard deviation (as lm-eval's `acc_stderr`). `None` for fewer
/// than two values.
#[must_use]
pub fn standard_error(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    let n = values.len() as f64;
    Some((squares / (n - 1.0) / n).sqrt())
}

/// Standard error of the mean where values of one cluster are not independent (Liang and Zeger 1986, with the
/// finite-cluster factor): `(1/n)·√(K/(K-1)·Σ_k (Σ_{i∈k} (x_i - x̄))²)`. With one value a cluster it is
/// [`standard_error`]. `None` for fewer than two clusters.
#[must_use]
pub fn clustered_standard_error(values: &[f64], clusters: &[usize]) -> Option<f64> {
    let centre = mean(values)?;
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        *sums.entry(*cluster).or_default() += value - centre;
    }
    let k = sums.len() as f64;
    let squares: f64 = sums.values().map(|s| s * s).sum();
    (sums.len() > 1).then(|| (k / (k - 1.0) * squares).sqrt() / values.len() as f64)
}

/// A subset's share in an average over subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stratum {
    /// Number of items.
    pub n: usize,
    /// Mean score of the items.
    pub mean: f64,
    /// Standard error of that mean over items, or `None` where there is one item only.
    pub standard_error: Option<f64>,
}

/// Mean of the subsets' means, each subset with the same weight.
#[must_use]
pub fn macro_mean(strata: &[Stratum]) -> Option<f64> {
    mean(&strata.iter().map(|s| s.mean).collect::<Vec<_>>())
}

/// Mean over all items.
#[must_use]
pub fn micro_mean(strata: &[Stratum]) -> Option<f64> {
    let n: usize = strata.iter().map(|s| s.n).sum();
    (n > 0).then(|| strata.iter().map(|s| s.mean * s.n as f64).sum::<f64>() / n as f64)
}

/// Standard error of [`macro_mean`] over items, the subsets held fixed: `(1/K)·√(Σ SE_k²)`.
#[must_use]
pub fn macro_standard_error(strata: &[Stratum]) -> Option<f64> {
    let squares: Option<f64> = strata.iter().map(|s| s.standard_error.map(|e| e * e)).sum();
    squares.filter(|_| !strata.is_empty()).map(|s| s.sqrt() / strata.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_as_numpy() {
        // numpy.std([1, 0, 1, 1], ddof=1) / 2 = 0.25
        assert_eq!(standard_error(&[1.0, 0.0, 1.0, 1.0]), Some(0.25));
        assert_eq!(standard_error(&[1.0]), None);
    }

    #[test]
    fn a_cluster_of_one_is_no_cluster_and_opposite_values_cancel() {
        let values = [1.0, 0.0, 1.0, 1.0];
        assert_eq!(clustered_standard_error(&values, &[0, 1, 2, 3]), Some(0.25));
        // Each cluster's deviations from the mean of one half cancel.
        assert_eq!(clustered_standard_error(&[1.0, 0.0, 1.0, 0.0], &[0, 0, 1, 1]), Some(0.0));
        // By hand: mean 0.6, cluster sums 0.8 and -0.8, sqrt(2 * (0.64 + 0.64)) / 5 = 0.32
        let se =
            clustered_standard_error(&[1.0, 1.0, 1.0, 0.0, 0.0], &[0, 0, 1, 1, 1]).expect("two clusters");
        assert!((se - 0.32).abs() < 1e-12, "{se}");
        assert_eq!(clustered_standard_error(&values, &[7, 7, 7, 7]), None);
    }

    #[test]
    fn macro_and_micro_differ_by_weight() {
        let strata = [
            Stratum { n: 1, mean: 1.0, standard_error: None },
            Stratum { n: 3, mean: 0.0, standard_error: Some(0.0) },
        ];
        assert_eq!(macro_mean(&strata), Some(0.5));
        assert_eq!(micro_mean(&strata), Some(0.25));
        assert_eq!(macro_standard_error(&strata), None);
        assert_eq!(macro_standard_error(&[]), None);
    }
}
