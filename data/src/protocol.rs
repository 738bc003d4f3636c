//! The named protocols: how a text becomes the token sequence whose log-probability counts, and what a tie is worth.
//!
//! The differences between published pipelines come down to four rules, read from their code: what is put in front
//! (`prefix`), whether a bare sentence gets a space (`space`), how a context is told from its continuation
//! (`boundary`), and what equal scores are worth (`ties`).

use std::fmt;
use std::str::FromStr;

/// A named way to score. The name is stored with every result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The default: BOS where the model has one, every token scored, ties worth ½ and counted.
    Bheval,
    /// BabyLM 2024 evaluation pipeline, which BabyHGRN used.
    Babylm2024,
    /// BabyLM 2025 evaluation pipeline (`sentence_zero_shot`, causal).
    Babylm2025,
    /// lm-evaluation-harness 0.4.
    LmEval,
}

/// What stands before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// BOS, or EOS where there is no BOS; always.
    Always,
    /// BOS, or EOS where there is no BOS; only where the context is empty.
    EmptyContext,
    /// As before, and PAD as the last resort.
    EmptyContextOrPad,
    /// What the tokenizer adds by itself, at either end.
    Tokenizer,
}

/// How the tokens of a continuation are told from those of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Whatever follows as many tokens as the context alone has. Wrong, silently, for a token that spans the join;
    /// that is how the reference does it.
    ContextLength,
    /// Every token that ends beyond the context's last character.
    Offsets,
}

/// What two equal scores are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// One half.
    Half,
    /// As if the right one had won: the first maximum counts, and the right one stands first.
    FirstWins,
}

impl Protocol {
    /// All of them, the default first.
    pub const ALL: [Protocol; 4] =
        [Protocol::Bheval, Protocol::Babylm2024, Protocol::Babylm2025, Protocol::LmEval];

    /// The name as it is typed and stored.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Bheval => "bheval",
            Protocol::Babylm2024 => "babylm2024",
            Protocol::Babylm2025 => "babylm2025",
            Protocol::LmEval => "lm-eval",
        }
    }

    /// What stands before the text.
    #[must_use]
    pub fn prefix(self) -> Prefix {
        match self {
            Protocol::Bheval => Prefix::Always,
            Protocol::Babylm2024 => Prefix::EmptyContextOrPad,
            Protocol::Babylm2025 => Prefix::Tokenizer,
            Protocol::LmEval => Prefix::EmptyContext,
        }
    }

    /// Whether a sentence without context gets a space in front.
    #[must_use]
    pub fn leading_space(self) -> bool {
        matches!(self, Protocol::Babylm2024 | Protocol::LmEval)
    }

    /// How context and continuation are told apart.
    #[must_use]
    pub fn boundary(self) -> Boundary {
        match self {
            Protocol::Babylm2024 | Protocol::LmEval => Boundary::ContextLength,
            Protocol::Bheval | Protocol::Babylm2025 => Boundary::Offsets,
        }
    }

    /// What equal scores are worth.
    #[must_use]
    pub fn ties(self) -> Ties {
        match self {
            Protocol::Bheval => Ties::Half,
            _ => Ties::FirstWins,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|p| p.name()).collect();
            format!("unknown protocol `{name}`; there are: {}", names.join(", "))
        })
    }
}
