//! Plans that come with the program.

use crate::Error;

/// A plan that comes with the program.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, text: include_str!(concat!("../../presets/", $name, ".toml")) }),*]
    };
}

/// All of them, small ones first.
pub const PRESETS: &[Preset] = presets![
    "hgrn2-nano",
    "llama-10m",
    "gpt2-10m",
    "lstm-10m",
    "mamba-10m",
    "mamba2-10m",
    "xlstm-10m",
    "babyllama-58m",
    "lstm-300m",
    "xlstm-340m",
    "mamba-350m",
    "transformer-360m",
    "babyhgrn-360m",
    "babyhgrn-1b",
];

impl Preset {
    /// Its first line: what it is.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

/// The preset of a name.
///
/// # Errors
/// An unknown name, with all that there are.
pub fn find(name: &str) -> Result<Preset, Error> {
    let found = PRESETS.iter().find(|preset| preset.name == name).copied();
    found.ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        Error::plan("preset", format!("there is none called \"{name}\"; there are: {}", names.join(", ")))
    })
}
