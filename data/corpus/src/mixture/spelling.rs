//! Shares and numbers of words as they are typed.

use std::fmt;
use std::str::FromStr;

use super::Share;

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Rest => f.write_str("rest"),
            Self::Words(words) => write!(f, "{words}w"),
            Self::Part(part) => write!(f, "{part}"),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    /// `all`, `rest`, a part (`0.25`, `25%`), or words (`4.2M`, `300K`, `900000w`).
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no share: give all, rest, a part (0.25 or 25%) or words (4.2M, 300K, 900w)")
        };
        match text {
            "all" => return Ok(Self::All),
            "rest" => return Ok(Self::Rest),
            _ => {}
        }
        if text.ends_with(|c: char| c.is_ascii_alphabetic()) {
            return words(text).map(Self::Words).map_err(|_| wrong());
        }
        let (digits, scale) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
        let part = digits.parse::<f64>().map_err(|_| wrong())? / scale;
        if (0.0..=1.0).contains(&part) { Ok(Self::Part(part)) } else { Err(wrong()) }
    }
}

/// A number of words: `10M`, `2.5M`, `300K`, `900w`, `900`.
///
/// # Errors
/// Another form, or a number that is no whole one.
pub fn words(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of words: write 10M, 2.5M, 300K or 12345");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "W" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" | "B" => 1e9,
        _ => return Err(wrong()),
    };
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(wrong)? * scale;
    // Rounded, because 4.2 and the like are no binary fractions.
    let whole = number.round();
    let fits = (number - whole).abs() < 1e-3 && (1.0..1e15).contains(&whole);
    if fits { Ok(whole as u64) } else { Err(wrong()) }
}
