//! `[distill]` of a plan, checked.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Error;

/// Which term `alpha` weighs; the other one has `1 - alpha`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlphaOf {
    /// The cross-entropy, as BabyLlama has it.
    #[default]
    Ce,
    /// The divergence, as the paper has it.
    Kl,
}

/// How the word of several teachers becomes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// The mean of their logits.
    #[default]
    Logits,
    /// The mean of their probabilities at the temperature.
    Probabilities,
    /// The mean of their log-probabilities at the temperature, normalised again: the same distribution as that of
    /// [`Average::Logits`], since they differ from `logits / T` by a number that is the same for all tokens.
    LogProbabilities,
}

/// How the divergences of rows are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// The mean over the targets of a step, as for the cross-entropy.
    #[default]
    Token,
    /// The sum over all positions divided by the number of windows: `batchmean` of PyTorch on `[batch, steps, vocab]`, as
    /// BabyLlama's trainer has it. It is about as many times larger as a window has tokens.
    Batchmean,
}

/// What is kept of the teachers' word, and so not computed again in the next epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheKind {
    /// Nothing.
    #[default]
    None,
    /// All logits.
    Full,
    /// The most probable tokens, and the probability of all others together.
    TopK,
    /// The last hidden states, and the head once.
    Hidden,
}

/// Number format of what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stored {
    /// As it was computed.
    #[default]
    F32,
    /// Rounded to the nearest f16: half the size, 11 significant bits, at most 65,504.
    F16,
}

impl Stored {
    /// Bytes of a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What distillation asks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DistillPlan {
    /// Folders or files of the teachers.
    pub teachers: Vec<PathBuf>,
    /// Backend of the teachers: `auto` (by their files), a name, or the path of a plugin.
    pub backend: String,
    /// From 0 to 1: the weight of the term that `alpha_of` names.
    pub alpha: f64,
    /// Which term that is.
    pub alpha_of: AlphaOf,
    /// `T`, above 0.
    pub temperature: f64,
    /// Whether the divergence is multiplied with `T²`, so that its gradient keeps its size whatever `T` is (Hinton et al. 2015).
    pub t2: bool,
    /// How several teachers become one.
    pub average: Average,
    /// How rows are put together.
    pub reduction: Reduction,
    /// What is kept on disk.
    pub cache: CacheKind,
    /// Tokens of a row that a top-k cache names.
    pub k: Option<usize>,
    /// Number format of the cache.
    pub cache_dtype: Stored,
    /// Folder of the cache, where it is not the run's.
    pub cache_dir: Option<PathBuf>,
}

/// `[distill]` as it may be typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    teachers: Option<Vec<PathBuf>>,
    backend: Option<String>,
    alpha: Option<f64>,
    #[serde(default)]
    alpha_of: AlphaOf,
    temperature: Option<f64>,
    t2: Option<bool>,
    #[serde(default)]
    average: Average,
    #[serde(default)]
    reduction: Reduction,
    #[serde(default)]
    cache: CacheKind,
    k: Option<usize>,
    #[serde(default)]
    cache_dtype: Stored,
    cache_dir: Option<PathBuf>,
}

/// Temperatures beyond these make all distributions one-hot, or all alike.
const TEMPERATURES: std::ops::RangeInclusive<f64> = 0.01..=1000.0;

impl DistillPlan {
    /// Reads `[distill]`. `alpha` is 0.5 and `temperature` 2 unless they are given: BabyLlama's.
    ///
    /// # Errors
    /// Unknown keys, numbers out of range, and keys that contradict each other.
    pub fn read(table: &Map<String, Value>) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Plan { reason };
        let keys: Keys =
            serde_json::from_value(Value::Object(table.clone())).map_err(|e| wrong(e.to_string()))?;
        let plan = Self {
            teachers: keys.teachers.unwrap_or_default(),
            backend: keys.backend.unwrap_or_else(|| "auto".to_owned()),
            alpha: keys.alpha.unwrap_or(0.5),
            alpha_of: keys.alpha_of,
            temperature: keys.temperature.unwrap_or(2.0),
            t2: keys.t2.unwrap_or(true),
            average: keys.average,
            reduction: keys.reduction,
            cache: keys.cache,
            k: keys.k.or((keys.cache == CacheKind::TopK).then_some(64)),
            cache_dtype: keys.cache_dtype,
            cache_dir: keys.cache_dir,
        };
        match plan.fault() {
            None => Ok(plan),
            Some(reason) => Err(wrong(reason)),
        }
    }

    fn fault(&self) -> Option<String> {
        let (_, kl) = self.shares();
        if self.teachers.is_empty() {
            return Some("teachers is empty; name the folder of a model: teachers = [\"DIR\"]".to_owned());
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            return Some(format!("alpha is {}, but a weight from 0 to 1", self.alpha));
        }
        if kl == 0.0 {
            return Some(format!(
                "alpha = {} of {} leaves nothing to the teachers; leave [distill] out, or choose another alpha",
                self.alpha,
                if self.alpha_of == AlphaOf::Ce { "ce" } else { "kl" }
            ));
        }
        if !TEMPERATURES.contains(&self.temperature) {
            return Some(format!("temperature is {}, but a number from 0.01 to 1000", self.temperature));
        }
        self.cache_fault()
    }

    fn cache_fault(&self) -> Option<String> {
        let text = match (self.cache, self.k) {
            (CacheKind::TopK, Some(0)) => "k is 0, but a number of tokens from 1",
            (CacheKind::TopK, _) if self.cache_dtype == Stored::F16 => {
                "cache_dtype = \"f16\" is for full and hidden caches: log-probabilities of few tokens are small as they are"
            }
            (CacheKind::Full | CacheKind::Hidden | CacheKind::None, Some(_)) => {
                "k is given, but cache is not \"top-k\""
            }
            (CacheKind::Hidden, _) if self.average == Average::Probabilities => {
                "a cache of hidden states gives logits, whose mean is taken; use average = \"logits\", or another cache"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// The weights of cross-entropy and divergence in the loss, `T²` not included.
    #[must_use]
    pub fn shares(&self) -> (f64, f64) {
        match self.alpha_of {
            AlphaOf::Ce => (self.alpha, 1.0 - self.alpha),
            AlphaOf::Kl => (1.0 - self.alpha, self.alpha),
        }
    }

    /// The weight of a row's divergence in the loss of a step that has so many targets and windows.
    #[must_use]
    pub fn row_weight(&self, targets: u64, windows: u64) -> f64 {
        let factor = if self.t2 { self.temperature * self.temperature } else { 1.0 };
        let count = match self.reduction {
            Reduction::Token => targets,
            Reduction::Batchmean => windows,
        };
        self.shares().1 * factor / count.max(1) as f64
    }

    /// The part of the plan that decides what a cache holds.
    pub(super) fn cached(&self) -> Value {
        let depends = self.cache == CacheKind::TopK || self.average == Average::Probabilities;
        // Log-probabilities average to what logits average to.
        let average = if self.average == Average::Probabilities { "probabilities" } else { "logits" };
        json!({
            "kind": self.cache, "k": self.k, "dtype": self.cache_dtype, "average": average,
            "temperature": depends.then_some(self.temperature),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: Value) -> Result<DistillPlan, String> {
        DistillPlan::read(table.as_object().expect("a table")).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_babyllamas() {
        let plan = read(json!({"teachers": ["a", "b"]})).expect("a plan");
        assert_eq!((plan.shares(), plan.temperature, plan.t2), ((0.5, 0.5), 2.0, true));
        assert_eq!(
            (plan.average, plan.reduction, plan.cache),
            (Average::Logits, Reduction::Token, CacheKind::None)
        );
    }

    #[test]
    fn alpha_weighs_what_it_says() {
        let of =
            |which: &str| read(json!({"teachers": ["a"], "alpha": 0.25, "alpha_of": which})).expect("a plan");
        assert_eq!(of("ce").shares(), (0.25, 0.75));
        assert_eq!(of("kl").shares(), (0.75, 0.25));
    }

    /// paper.md 7: at alpha 0.5 and T 2, windows of 128 tokens make `batchmean` weigh KL 512 times as much as one KL a token.
    #[test]
    fn a_row_weighs_what_the_reduction_says() {
        let of = |extra: Value| {
            let mut table = json!({"teachers": ["a"]});
            table.as_object_mut().expect("a table").extend(extra.as_object().expect("a table").clone());
            read(table).expect("a plan").row_weight(32 * 128, 32)
        };
        let token = of(json!({"t2": false}));
        assert_eq!(token, 0.5 / 4096.0);
        assert_eq!(of(json!({"reduction": "batchmean"})) / token, 512.0);
        assert_eq!(of(json!({"temperature": 3.0})) / token, 9.0);
        assert_eq!(of(json!({"alpha": 0.0})) / token, 8.0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (table, essential) in [
            (json!({}), "teachers is empty"),
            (json!({"teachers": ["a"], "temprature": 1}), "unknown field `temprature`"),
            (json!({"teachers": ["a"], "alpha": 1.5}), "alpha is 1.5"),
            (json!({"teachers": ["a"], "alpha": 1.0}), "leaves nothing to the teachers"),
            (json!({"teachers": ["a"], "alpha": 0.0, "alpha_of": "kl"}), "alpha = 0 of kl leaves nothing"),
            (json!({"teachers": ["a"], "temperature": 0.0}), "temperature is 0"),
            (json!({"teachers": ["a"], "temperature": "hot"}), "invalid type"),
            (json!({"teachers": ["a"], "reduction": "sum"}), "unknown variant `sum`"),
            (json!({"teachers": ["a"], "cache": "top-k", "k": 0}), "k is 0"),
            (json!({"teachers": ["a"], "cache": "full", "k": 8}), "cache is not \"top-k\""),
            (json!({"teachers": ["a"], "cache": "top-k", "cache_dtype": "f16"}), "full and hidden"),
            (json!({"teachers": ["a"], "cache": "hidden", "average": "probabilities"}), "hidden states"),
        ] {
            let told = read(table).expect_err("refused");
            assert!(told.contains(essential), "{told:?} does not say {essential:?}");
        }
    }

    #[test]
    fn only_what_decides_the_content_is_in_a_caches_key() {
        let key = |extra: Value| {
            let mut table = json!({"teachers": ["a"], "cache": "full"});
            table.as_object_mut().expect("a table").extend(extra.as_object().expect("a table").clone());
            read(table).expect("a plan").cached()
        };
        assert_eq!(
            key(json!({})),
            key(json!({"temperature": 3.0, "alpha": 0.1, "average": "log-probabilities"}))
        );
        assert_ne!(key(json!({})), key(json!({"average": "probabilities"})));
        assert_ne!(key(json!({"cache": "top-k"})), key(json!({"cache": "top-k", "temperature": 3.0})));
    }
}
