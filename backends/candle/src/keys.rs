//! The keys of a `config.json`, read one by one: what is missing or of the wrong kind is named, with what was found.

use std::path::Path;

use bheval_abi::{Failure, Status};
use serde_json::{Map, Value};

use crate::kernels::activation::Activation;
use crate::ops::attention::Heads;

/// Channels of a head, at most: no memory is taken on a file's word alone.
const WIDEST_HEAD: usize = 1 << 14;

/// The keys of one file. A key that is `null` counts as absent.
pub struct Keys<'a> {
    /// Where they were read, for error messages.
    pub file: &'a Path,
    /// All of them.
    pub keys: Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// Reads a file, as Python writes it.
    ///
    /// # Errors
    /// A file that can't be read, or holds no JSON object.
    pub fn read(file: &'a Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(file).map_err(|e| {
            Failure::model(format!("{}: {e}; is this the folder of a saved model?", file.display()))
        })?;
        let wrong = |what: String| {
            Failure::model(format!("{}: not a JSON object: {what}; copy the file again", file.display()))
        };
        match bheval_python_json::parse(&bytes).map_err(|e| wrong(e.to_string()))? {
            Value::Object(keys) => {
                let keys = Self { file, keys };
                keys.refuse_foreign_code()?;
                Ok(keys)
            }
            other => Err(wrong(format!("it holds {other}"))),
        }
    }

    /// `model_type`, which must be one of `known`.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for any other, with what is known.
    pub fn model_type(&self, known: &[&str]) -> Result<&str, Failure> {
        let names = known.join(", ");
        match self.get("model_type") {
            None => Err(self.wrong(&format!("the required key `model_type` is missing (known: {names})"))),
            Some(Value::String(found)) if known.contains(&found.as_str()) => Ok(found),
            Some(found) => {
                Err(self.unsupported(&format!("`model_type` is {found}, but this backend knows: {names}")))
            }
        }
    }

    /// Refuses a file in which `key` is given and is not `value`: anything else would change results unseen.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] with what was found.
    pub fn only(&self, key: &str, value: &Value) -> Result<(), Failure> {
        match self.get(key) {
            Some(found) if found != value => {
                Err(self.unsupported(&format!("`{key}` is {found}, but only {value} is implemented")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what changes a model's arithmetic whatever its architecture.
    fn refuse_foreign_code(&self) -> Result<(), Failure> {
        if self.get("quantization_config").is_some() {
            return Err(self.unsupported(
                "`quantization_config` asks for weights or activations that are quantised when the model runs, which is not \
                 implemented; save the model dequantised",
            ));
        }
        let code = |class: &str| self.get("auto_map").is_some_and(|map| map.get(class).is_some());
        if code("AutoModelForCausalLM") || code("AutoModelForMaskedLM") {
            return Err(self.unsupported(
                "`auto_map` says that the model has code of its own, which is not run; if it computes what the architecture of \
                 `model_type` does, take `auto_map` out of a copy of the file",
            ));
        }
        Ok(())
    }

    /// Refuses a file in which two names of one number disagree: which of them training used, nobody can tell.
    ///
    /// # Errors
    /// Both names with what they say.
    pub fn agree(&self, one: &str, other: &str) -> Result<(), Failure> {
        match (self.get(one), self.get(other)) {
            (Some(a), Some(b)) if a != b && (a.as_f64().is_none() || a.as_f64() != b.as_f64()) => Err(self.wrong(&format!(
                "`{one}` is {a}, but `{other}`, another name of it, is {b}; take out the one that training did not use"
            ))),
            _ => Ok(()),
        }
    }

    /// The text of a key.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        self.of_kind(key, "a text", |v| v.as_str().map(str::to_owned))
    }

    /// A finite number.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn number(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.of_kind(key, "a finite number", Value::as_f64)
    }

    /// A number from 0.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn count(&self, key: &str) -> Result<Option<usize>, Failure> {
        let count = |v: &Value| v.as_u64().filter(|&n| n < 1 << 31).map(|n| n as usize);
        self.of_kind(key, "a whole number from 0 to 2^31 - 1", count)
    }

    /// An activation function that is implemented.
    ///
    /// # Errors
    /// [`Status::UNSUPPORTED`] for another one.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation, Failure> {
        let name = self.text(key)?.unwrap_or_else(|| default.to_owned());
        Activation::named(&name).ok_or_else(|| {
            self.unsupported(&format!("`{key}` is {name:?}; relu, gelu, gelu_new and silu are implemented"))
        })
    }

    /// How `width` channels split into `count` heads, with `shared` ones of keys and values (as many, where the key is
    /// absent), each of `dim` channels where that is given.
    ///
    /// # Errors
    /// Numbers that do not divide each other.
    pub fn attention_heads(
        &self,
        width: usize,
        count: &str,
        shared: &str,
        dim: Option<usize>,
    ) -> Result<Heads, Failure> {
        let heads = self.required(count)?;
        let kv = self.size(shared)?.unwrap_or(heads);
        if dim.is_none() && !width.is_multiple_of(heads) {
            return Err(self.wrong(&format!("{width} channels do not split into `{count}` {heads} heads")));
        }
        if !heads.is_multiple_of(kv) {
            return Err(self.wrong(&format!("`{count}` {heads} is not a multiple of `{shared}` {kv}")));
        }
        let dim = dim.unwrap_or(width / heads);
        if dim > WIDEST_HEAD {
            return Err(
                self.wrong(&format!("a head of {dim} channels is beyond any model's ({WIDEST_HEAD})"))
            );
        }
        Ok(Heads { count: heads, shared: kv, dim })
    }

    /// The keys of an object inside this one, or none.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn object(&self, key: &str) -> Result<Keys<'a>, Failure> {
        let keys = self.of_kind(key, "an object", |v| v.as_object().cloned())?;
        Ok(Keys { file: self.file, keys: keys.unwrap_or_default() })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|v| !v.is_null())
    }

    /// A size that must be given.
    ///
    /// # Errors
    /// Its absence, or a value of another kind.
    pub fn required(&self, key: &str) -> Result<usize, Failure> {
        self.size(key)?.ok_or_else(|| {
            self.wrong(&format!(
                "the required key `{key}` is missing; was the file written by `save_pretrained`?"
            ))
        })
    }

    /// A size, at least 1.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn size(&self, key: &str) -> Result<Option<usize>, Failure> {
        let size = |v: &Value| v.as_u64().filter(|&n| (1..1 << 31).contains(&n)).map(|n| n as usize);
        self.of_kind(key, "a whole number from 1 to 2^31 - 1", size)
    }

    /// A number from 0 to 1.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn epsilon(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.of_kind(key, "a number from 0 to 1", |v| v.as_f64().filter(|e| (0.0..1.0).contains(e)))
    }

    /// A switch.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn switch(&self, key: &str, default: bool) -> Result<bool, Failure> {
        Ok(self.of_kind(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// What `read` makes of a value, or an error that says what it must be.
    ///
    /// # Errors
    /// A value that `read` does not take.
    pub fn of_kind<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let wrong = |v: &Value| self.wrong(&format!("`{key}` is {v}, but must be {kind}"));
        self.get(key).map(|v| read(v).ok_or_else(|| wrong(v))).transpose()
    }

    /// [`Status::BAD_MODEL`], led by the file.
    #[must_use]
    pub fn wrong(&self, what: &str) -> Failure {
        Failure::model(format!("{}: {what}", self.file.display()))
    }

    /// [`Status::UNSUPPORTED`], led by the file.
    #[must_use]
    pub fn unsupported(&self, what: &str) -> Failure {
        Failure::new(Status::UNSUPPORTED, format!("{}: {what}", self.file.display()))
    }
}
