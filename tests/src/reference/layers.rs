//! What the networks have in common, each as its textbook formula.

/// One vector a token.
pub type Rows = Vec<Vec<f64>>;

/// `y = x W + b`. `W` is kept by input, so that the inner loop runs over outputs that lie side by side.
pub struct Linear {
    by_input: Rows,
    bias: Option<Vec<f64>>,
    outputs: usize,
}

impl Linear {
    /// A projection from one row of weights per input.
    pub(super) fn new(by_input: Rows, bias: Option<Vec<f64>>) -> Self {
        let outputs = by_input.first().map_or(0, Vec::len);
        Self { by_input, bias, outputs }
    }

    /// A projection from one row of weights per output.
    pub(super) fn from_outputs(by_output: &[Vec<f64>], bias: Option<Vec<f64>>) -> Self {
        let inputs = by_output.first().map_or(0, Vec::len);
        Self::new((0..inputs).map(|i| by_output.iter().map(|row| row[i]).collect()).collect(), bias)
    }

    /// Number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The projection of one vector.
    #[must_use]
    pub fn apply(&self, input: &[f64]) -> Vec<f64> {
        let mut output = self.bias.clone().unwrap_or_else(|| vec![0.0; self.outputs]);
        for (x, weights) in input.iter().zip(&self.by_input) {
            for (y, w) in output.iter_mut().zip(weights) {
                *y += x * w;
            }
        }
        output
    }

    /// The projection of every row.
    pub(super) fn apply_rows(&self, rows: &[Vec<f64>]) -> Rows {
        rows.iter().map(|row| self.apply(row)).collect()
    }
}

/// `y = w (x - mean) / sqrt(variance + epsilon) + b`.
pub(super) struct LayerNorm {
    pub(super) weight: Vec<f64>,
    pub(super) bias: Vec<f64>,
    pub(super) epsilon: f64,
}

impl LayerNorm {
    /// The norm of every row.
    pub(super) fn apply_rows(&self, rows: &[Vec<f64>]) -> Rows {
        rows.iter().map(|row| self.apply(row)).collect()
    }

    pub(super) fn apply(&self, row: &[f64]) -> Vec<f64> {
        let mean = mean(row.iter().copied());
        let scale = (mean_of_squares(row.iter().map(|x| x - mean)) + self.epsilon).sqrt().recip();
        let weights = self.weight.iter().zip(&self.bias);
        row.iter().zip(weights).map(|(x, (w, b))| w * (x - mean) * scale + b).collect()
    }
}

/// `y = w x / sqrt(mean(x^2) + epsilon)`.
pub(super) struct RmsNorm {
    pub(super) weight: Vec<f64>,
    pub(super) epsilon: f64,
}

impl RmsNorm {
    /// The norm of every row.
    pub(super) fn apply_rows(&self, rows: &[Vec<f64>]) -> Rows {
        rows.iter().map(|row| self.apply(row)).collect()
    }

    pub(super) fn apply(&self, row: &[f64]) -> Vec<f64> {
        let scale = (mean_of_squares(row.iter().copied()) + self.epsilon).sqrt().recip();
        row.iter().zip(&self.weight).map(|(x, w)| w * x * scale).collect()
    }
}

/// How the channels of queries, keys and values fall into heads.
pub(super) struct Heads {
    /// Heads of the queries.
    pub(super) queries: usize,
    /// Heads of keys and values; each serves as many consecutive query heads as the quotient says.
    pub(super) keys: usize,
    /// Channels of a head.
    pub(super) width: usize,
}

impl Heads {
    /// Causal attention: `softmax(q k / sqrt(width)) v`, over a token and what stands before it.
    pub(super) fn attend(&self, queries: &[Vec<f64>], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Rows {
        self.attend_before(queries, keys, values, queries.len())
    }

    /// As [`Heads::attend`], where the tokens from `padding` on are padding on the right: they attend, but nothing attends
    /// to them, not even they themselves.
    pub(super) fn attend_before(
        &self,
        queries: &[Vec<f64>],
        keys: &[Vec<f64>],
        values: &[Vec<f64>],
        padding: usize,
    ) -> Rows {
        let row = |(t, query): (usize, &Vec<f64>)| {
            let seen = padding.min(t + 1);
            self.attend_from(query, &keys[..seen], &values[..seen])
        };
        queries.iter().enumerate().map(row).collect()
    }

    /// Attention over all tokens: `softmax(q k / sqrt(width)) v`.
    pub(super) fn attend_to_all(&self, queries: &[Vec<f64>], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Rows {
        queries.iter().map(|query| self.attend_from(query, keys, values)).collect()
    }

    fn attend_from(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let group = self.queries / self.keys;
        let heads = query.chunks_exact(self.width).enumerate();
        heads.flat_map(|(h, query)| self.attend_with(query, h / group, keys, values)).collect()
    }

    fn attend_with(&self, query: &[f64], head: usize, keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let channels = head * self.width..(head + 1) * self.width;
        let scale = (self.width as f64).sqrt().recip();
        let scores: Vec<f64> = keys.iter().map(|key| scale * dot(query, &key[channels.clone()])).collect();
        let total = log_sum_exp(&scores);
        let mut output = vec![0.0; self.width];
        for (score, value) in scores.iter().zip(values) {
            let weight = (score - total).exp();
            for (y, v) in output.iter_mut().zip(&value[channels.clone()]) {
                *y += weight * v;
            }
        }
        output
    }
}

/// Rotary positions: channel `j` of `d` turns with channel `j + d/2`, by `t theta^(-2j/d)`.
pub(super) fn rotate(channels: &mut [f64], t: usize, theta: f64) {
    let (width, half) = (channels.len() as f64, channels.len() / 2);
    for j in 0..half {
        let angle = t as f64 * theta.powf(-2.0 * j as f64 / width);
        let (a, b) = (channels[j], channels[j + half]);
        channels[j] = a * angle.cos() - b * angle.sin();
        channels[j + half] = b * angle.cos() + a * angle.sin();
    }
}

/// Adds a branch to the residual stream.
pub(super) fn add(rows: &mut Rows, branch: Rows) {
    for (row, addend) in rows.iter_mut().zip(branch) {
        for (x, y) in row.iter_mut().zip(addend) {
            *x += y;
        }
    }
}

/// `ln sum(exp x)`, with the largest taken out so that nothing overflows.
pub(super) fn log_sum_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + values.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let len = values.len() as f64;
    values.sum::<f64>() / len
}

fn mean_of_squares(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    mean(values.map(|x| x * x))
}
