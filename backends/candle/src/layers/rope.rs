//! Rotary positions (Su et al. 2021), half-split as Hugging Face stores them, with the scalings of `config.json`.

use bheval_abi::Failure;

use crate::kernels::{Isa, Kernel, launch};
use crate::keys::Keys;

/// Cosines and sines for the positions met so far, `[positions, pairs]` each, made in f64. They grow with the texts: a
/// model may promise more positions than any text has.
#[derive(Default, Debug)]
pub struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// How the frequencies of the pairs follow from the base.
#[derive(Clone, PartialEq, Debug)]
pub struct Frequencies {
    /// One a pair: radians a position.
    pub inverse: Vec<f64>,
    /// What cosines and sines are multiplied with (YaRN's attention factor).
    pub factor: f64,
}

impl Frequencies {
    /// `θ^(-2j/d)` for the `d / 2` pairs of `d` rotated channels.
    #[must_use]
    pub fn plain(theta: f64, rotated: usize) -> Self {
        let inverse = (0..rotated / 2).map(|j| theta.powf(-2.0 * j as f64 / rotated as f64)).collect();
        Self { inverse, factor: 1.0 }
    }

    /// Reads `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before), for `rotated` channels. `base` is
    /// the architecture's own name of `rope_theta`.
    ///
    /// # Errors
    /// A scaling that is not implemented, or lacks a number it needs.
    pub(crate) fn read(keys: &Keys<'_>, base: &str, rotated: usize, context: usize) -> Result<Self, Failure> {
        keys.agree("rope_theta", base)?;
        let new = keys.object("rope_parameters")?;
        let scaling =
            if new.keys.is_empty() { keys.object("rope_scaling")? } else { keys.object("rope_parameters")? };
        let theta = match (new.number("rope_theta")?, keys.number("rope_theta")?) {
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => keys.number(base)?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(keys.wrong(&format!("the rotary base is {theta}, but must be above 0")));
        }
        let plain = Self::plain(theta, rotated);
        if !new.keys.is_empty() && !keys.object("rope_scaling")?.keys.is_empty() {
            return Err(keys.wrong(
                "both `rope_parameters` and `rope_scaling` are given; take out the one that is not meant",
            ));
        }
        scaling.agree("rope_type", "type")?;
        let kind = match scaling.text("rope_type")? {
            Some(kind) => Some(kind),
            None => scaling.text("type")?,
        };
        let kind = match kind {
            Some(kind) => kind,
            None if scaling.keys.keys().all(|k| PLAIN.contains(&k.as_str())) => "default".to_owned(),
            None => {
                return Err(
                    keys.wrong("the rotary scaling has no `rope_type`, so nobody can tell what is meant")
                );
            }
        };
        let need = |key: &str| positive(&scaling, &kind, key);
        match kind.as_str() {
            // `dynamic` changes the frequencies only beyond `max_position_embeddings`, which is where we stop.
            "default" | "dynamic" => Ok(plain),
            "linear" => {
                let factor = need("factor")?;
                Ok(Self { inverse: plain.inverse.iter().map(|f| f / factor).collect(), factor: 1.0 })
            }
            "llama3" => {
                let bands = Bands {
                    factor: need("factor")?,
                    low: need("low_freq_factor")?,
                    high: need("high_freq_factor")?,
                    original: need("original_max_position_embeddings")?,
                };
                Ok(Self { inverse: plain.inverse.iter().map(|&f| bands.scale(f)).collect(), factor: 1.0 })
            }
            "yarn" => Yarn::read(&scaling, theta, rotated, need("factor")?, context)?.apply(&plain),
            other => Err(keys.unsupported(&format!(
                "rotary scaling `{other}` is not implemented; default, linear, dynamic, llama3 and yarn are"
            ))),
        }
    }
}

/// Keys of `rope_parameters` that are no scaling.
const PLAIN: [&str; 2] = ["rope_theta", "partial_rotary_factor"];

/// A number above 0 that a scaling can't do without.
fn positive(scaling: &Keys<'_>, kind: &str, key: &str) -> Result<f64, Failure> {
    let value = scaling.number(key)?;
    value
        .filter(|&v| v > 0.0)
        .ok_or_else(|| scaling.wrong(&format!("rotary scaling `{kind}` needs a number above 0 as `{key}`")))
}

/// As [`positive`] where the number has a default.
fn positive_or(scaling: &Keys<'_>, key: &str, default: f64) -> Result<f64, Failure> {
    if scaling.number(key)?.is_some() { positive(scaling, "yarn", key) } else { Ok(default) }
}

/// Llama 3's scaling: long waves are stretched, short ones kept, those between blended.
struct Bands {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Bands {
    fn scale(&self, frequency: f64) -> f64 {
        let wave = 2.0 * std::f64::consts::PI / frequency;
        if wave < self.original / self.high {
            frequency
        } else if wave > self.original / self.low {
            frequency / self.factor
        } else {
            let smooth = (self.original / wave - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// YaRN (Peng et al. 2023): interpolation by how often a pair turns within the original context.
struct Yarn {
    theta: f64,
    rotated: usize,
    factor: f64,
    original: f64,
    fast: f64,
    slow: f64,
    truncate: bool,
    attention: f64,
}

impl Yarn {
    fn read(
        scaling: &Keys<'_>,
        theta: f64,
        rotated: usize,
        factor: f64,
        context: usize,
    ) -> Result<Self, Failure> {
        let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let attention = match (
            scaling
                .number("attention_factor")?
                .map(|_| positive(scaling, "yarn", "attention_factor"))
                .transpose()?,
            scaling.number("mscale")?,
            scaling.number("mscale_all_dim")?,
        ) {
            (Some(given), _, _) => given,
            (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => mscale(factor, m) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        if theta == 1.0 {
            return Err(scaling.wrong("rotary scaling `yarn` can't be computed from the base 1"));
        }
        Ok(Self {
            theta,
            rotated,
            factor,
            original: positive_or(scaling, "original_max_position_embeddings", context as f64)?,
            fast: positive_or(scaling, "beta_fast", 32.0)?,
            slow: positive_or(scaling, "beta_slow", 1.0)?,
            truncate: scaling.switch("truncate", true)?,
            attention,
        })
    }

    /// The pair, as a real number, that turns `turns` times within the original context.
    fn pair(&self, turns: f64) -> f64 {
        let wave = self.original / (turns * 2.0 * std::f64::consts::PI);
        self.rotated as f64 * wave.ln() / (2.0 * self.theta.ln())
    }

    fn apply(&self, plain: &Frequencies) -> Result<Frequencies, Failure> {
        let (mut low, mut high) = (self.pair(self.fast), self.pair(self.slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(self.rotated as f64 - 1.0));
        let high = if low == high { high + 0.001 } else { high };
        let blend = |(j, f): (usize, &f64)| {
            let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / self.factor * ramp + f * (1.0 - ramp)
        };
        Ok(Frequencies {
            inverse: plain.inverse.iter().enumerate().map(blend).collect(),
            factor: self.attention,
        })
    }
}

impl Rotations {
    /// Makes sure of the positions below `positions`.
    pub fn cover(&mut self, frequencies: &Frequencies, positions: usize) {
        let pairs = frequencies.inverse.len();
        for t in self.cos.len() / pairs.max(1)..positions {
            let angles = || frequencies.inverse.iter().map(move |f| t as f64 * f);
            self.cos.extend(angles().map(|a| (a.cos() * frequencies.factor) as f32));
            self.sin.extend(angles().map(|a| (a.sin() * frequencies.factor) as f32));
        }
    }

    /// Rotates the first `2 · pairs` channels of each head, of `dim` channels, of a row at `position`: channel `j` with
    /// `j + pairs`.
    ///
    /// # Panics
    /// If the position is not covered.
    pub fn rotate(&self, isa: Isa, (dim, pairs): (usize, usize), position: usize, row: &mut [f32]) {
        let at = position * pairs..(position + 1) * pairs;
        launch(isa, Rotate { dim, cos: &self.cos[at.clone()], sin: &self.sin[at], row });
    }
}

struct Rotate<'a> {
    dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    row: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    fn run(self, _: Isa) {
        for head in self.row.chunks_exact_mut(self.dim) {
            let (first, rest) = head.split_at_mut(self.cos.len());
            let second = &mut rest[..self.cos.len()];
            for (((x, y), &cos), &sin) in first.iter_mut().zip(second).zip(self.cos).zip(self.sin) {
                (*x, *y) = (x.mul_add(cos, -(*y * sin)), y.mul_add(cos, *x * sin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(keys: serde_json::Value, rotated: usize) -> Result<Frequencies, Failure> {
        let keys = keys.as_object().expect("an object").clone();
        Frequencies::read(
            &Keys { file: std::path::Path::new("m/config.json"), keys },
            "rotary_emb_base",
            rotated,
            64,
        )
    }

    #[test]
    fn both_spellings_give_the_base() {
        let old = read(json!({"rope_theta": 500.0}), 8).expect("well formed");
        let new = read(json!({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}), 8);
        assert_eq!(Ok(&old), new.as_ref());
        assert_eq!(read(json!({"rotary_emb_base": 500}), 8).as_ref(), Ok(&old));
        assert!((old.inverse[1] - 500f64.powf(-0.25)).abs() < 1e-15);
    }

    #[test]
    fn scalings_by_hand() {
        let linear =
            read(json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), 4).expect("well formed");
        assert_eq!(linear.inverse, [0.25, 0.01 / 4.0]);
        let keys = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}});
        let llama3 = read(keys, 4).expect("well formed");
        // Waves of 6.28 and 628 positions: below 64 / 4, and above 64 / 1.
        assert_eq!(llama3.inverse, [1.0, 0.01 / 8.0]);
    }

    #[test]
    fn unknown_or_incomplete_scalings_are_refused() {
        for (scaling, essential) in [
            (json!({"type": "longrope"}), "longrope"),
            (json!({"type": "linear"}), "factor"),
            (json!({"factor": 8.0}), "no `rope_type`"),
            (json!({"type": "linear", "rope_type": "default", "factor": 2.0}), "another name"),
            (json!({"type": "yarn", "factor": 2.0, "beta_fast": -1}), "beta_fast"),
            (json!({"type": "yarn", "factor": 2.0, "attention_factor": -3}), "attention_factor"),
            (json!({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}), "original_max"),
        ] {
            let failure = read(json!({"rope_scaling": scaling}), 4).expect_err(essential);
            assert!(
                failure.text.contains(essential) && failure.text.contains("m/config.json"),
                "{}",
                failure.text
            );
        }
    }

    #[test]
    fn names_that_disagree_are_refused() {
        for keys in [
            json!({"rope_theta": 10000.0, "rotary_emb_base": 500}),
            json!({"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ] {
            assert!(read(keys, 4).is_err_and(|f| f.text.contains("take out the one")));
        }
        assert!(read(json!({"rope_theta": 10000.0, "rotary_emb_base": 10000}), 4).is_ok());
    }

    #[test]
    fn a_rotation_turns_pairs_and_leaves_the_rest() {
        let quarter = Frequencies { inverse: vec![std::f64::consts::FRAC_PI_2], factor: 1.0 };
        let mut rope = Rotations::default();
        rope.cover(&quarter, 1);
        rope.cover(&quarter, 2);
        let mut row = [1.0, 0.0, 7.0, 0.0, 2.0, 8.0];
        rope.rotate(Isa::best(), (3, 1), 1, &mut row);
        let exact = [0.0, 1.0, 7.0, -2.0, 0.0, 8.0];
        assert!(row.iter().zip(exact).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6), "{row:?}");
    }
}
