//! Where a key's value comes from: `--set` before the file, the file before its preset, the preset before the defaults.

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::keys::Keys;
use super::preset;
use crate::Error;

/// The longest plan that is read.
const LIMIT: usize = 1 << 20;

/// Keys of which one rules the others out: a layer that gives one takes the others of the layers below away.
const RIVALS: [(&str, &[&str]); 2] =
    [("train", &["steps", "epochs", "words"]), ("schedule", &["warmup_steps", "warmup_share"])];

/// One source of keys.
struct Layer {
    /// What it is called: `plan.toml`, `preset gpt2-10m`, `--set`.
    name: String,
    text: String,
    table: Table,
}

impl Layer {
    fn parse(name: &str, text: &str) -> Result<(Self, Keys), Error> {
        if text.len() > LIMIT {
            return Err(Error::plan(name, format!("{} bytes are no plan", text.len())));
        }
        let failed = |e: toml::de::Error| {
            let place = e.span().map_or_else(|| name.to_owned(), |span| placed(name, text, span.start));
            Error::plan(place, e.message().to_owned())
        };
        let keys: Keys = toml::from_str(text).map_err(failed)?;
        let table: Table = toml::from_str(text).map_err(failed)?;
        let layer = Self { name: name.to_owned(), text: text.to_owned(), table };
        layer.refuse_rivals()?;
        Ok((layer, keys))
    }

    fn refuse_rivals(&self) -> Result<(), Error> {
        for (section, rivals) in RIVALS {
            let Some(keys) = self.table.get(section).and_then(Value::as_table) else { continue };
            let given: Vec<_> = rivals.iter().filter(|key| keys.contains_key(**key)).collect();
            if let [first, second, ..] = given[..] {
                let place = self.place(&[section, second]).unwrap_or_else(|| self.name.clone());
                let reason = format!(
                    "{section}.{first} and {section}.{second} are two answers to one question; give one"
                );
                return Err(Error::plan(place, reason));
            }
        }
        Ok(())
    }

    /// The layer's name and the key's line, if the layer has the key.
    fn place(&self, path: &[&str]) -> Option<String> {
        let document = DeTable::parse(&self.text).ok()?;
        let mut table = document.get_ref();
        for (depth, name) in path.iter().enumerate() {
            let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
            if depth + 1 == path.len() {
                return Some(placed(&self.name, &self.text, key.span().start));
            }
            let DeValue::Table(inner) = value.get_ref() else { return None };
            table = inner;
        }
        None
    }
}

fn placed(name: &str, text: &str, at: usize) -> String {
    // What `--set` and presets hold is short, or not the user's to edit by line.
    if text.lines().count() <= 1 {
        return name.to_owned();
    }
    let line = text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
    format!("{name}, line {line}")
}

/// All sources of keys, the strongest first.
pub(super) struct Layers {
    layers: Vec<Layer>,
    /// The preset at the bottom.
    pub(super) preset: Option<String>,
}

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of a file.
    pub file: Option<(String, String)>,
    /// Name of a preset, where the file names none.
    pub preset: Option<String>,
    /// `section.key=value`, each; a value that is no TOML is taken for text.
    pub set: Vec<String>,
    /// Folder of the corpus, stronger than any other.
    pub corpus: Option<String>,
}

impl Layers {
    /// Reads all sources.
    pub(super) fn read(sources: &Sources) -> Result<Self, Error> {
        let mut layers = Vec::new();
        if let Some(corpus) = &sources.corpus {
            let text = format!("data.corpus = {}", quoted(corpus));
            layers.push(Layer::parse("--corpus", &text)?.0);
        }
        // The last one that was typed is the strongest.
        for set in sources.set.iter().rev() {
            layers.push(setting(set)?);
        }
        let mut named = sources.preset.clone();
        if let Some((name, text)) = &sources.file {
            let (layer, keys) = Layer::parse(name, text)?;
            named = one_preset(&layer, keys.preset, named)?;
            layers.push(layer);
        }
        if let Some(name) = &named {
            let preset = preset::find(name)?;
            layers.push(Layer::parse(&format!("preset {name}"), preset.text)?.0);
        }
        Ok(Self { layers, preset: named })
    }

    /// The keys that hold.
    pub(super) fn merged(&self) -> Result<Keys, Error> {
        let mut all = Table::new();
        for layer in self.layers.iter().rev() {
            refuse_other_architecture(&all, layer)?;
            for (section, rivals) in RIVALS {
                let Some(new) = layer.table.get(section).and_then(Value::as_table) else { continue };
                let old = all.get_mut(section).and_then(Value::as_table_mut);
                if let Some(old) = old.filter(|_| rivals.iter().any(|key| new.contains_key(*key))) {
                    rivals.iter().for_each(|key| drop(old.remove(*key)));
                }
            }
            merge(&mut all, &layer.table);
        }
        Keys::deserialize(all).map_err(|e| Error::plan("the plan", e.message().to_owned()))
    }

    /// Where a key's value comes from.
    pub(super) fn place(&self, path: &[&str]) -> String {
        let place = self.layers.iter().find_map(|layer| layer.place(path));
        place.unwrap_or_else(|| {
            self.layers.iter().find(|l| l.text.contains('\n')).map_or("the plan", |l| &l.name).into()
        })
    }
}

impl Layers {
    /// Whether a key was given by the user, not by a preset.
    pub(super) fn is_own(&self, path: &[&str]) -> bool {
        let own = self.layers.len() - usize::from(self.preset.is_some());
        self.layers[..own].iter().any(|layer| layer.place(path).is_some())
    }
}

fn one_preset(layer: &Layer, named: Option<String>, typed: Option<String>) -> Result<Option<String>, Error> {
    match (named, typed) {
        (Some(in_file), Some(typed)) if in_file != typed => {
            let place = layer.place(&["preset"]).unwrap_or_else(|| layer.name.clone());
            Err(Error::plan(
                place,
                format!("preset is \"{in_file}\", and --preset {typed} was typed; give one of them"),
            ))
        }
        (in_file, typed) => Ok(in_file.or(typed)),
    }
}

/// A preset's sizes mean nothing to another architecture.
fn refuse_other_architecture(below: &Table, layer: &Layer) -> Result<(), Error> {
    let kind = |table: &Table| Some(table.get("model")?.as_table()?.get("model_type")?.as_str()?.to_owned());
    match (kind(below), kind(&layer.table)) {
        (Some(base), Some(own)) if base != own => {
            let place = layer.place(&["model", "model_type"]).unwrap_or_else(|| layer.name.clone());
            let reason = format!(
                "model.model_type is \"{own}\", but the preset's is \"{base}\"; choose a preset of that architecture \
                 (`bheval train --list-presets`), or none"
            );
            Err(Error::plan(place, reason))
        }
        _ => Ok(()),
    }
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}

fn setting(typed: &str) -> Result<Layer, Error> {
    let name = format!("--set {typed}");
    let Some((key, value)) = typed.split_once('=') else {
        return Err(Error::plan(name, "it must be section.key=value: --set optimizer.learning_rate=4e-4"));
    };
    if key.trim() == "preset" {
        return Err(Error::plan(name, "a preset is named by --preset"));
    }
    let as_typed = format!("{key} = {value}");
    let text = if toml::from_str::<Table>(&as_typed).is_ok() {
        as_typed
    } else {
        format!("{key} = {}", quoted(value))
    };
    Ok(Layer::parse(&name, &text)?.0)
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            c if c.is_control() => format!("\\u{:04X}", u32::from(c)).chars().collect(),
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}
