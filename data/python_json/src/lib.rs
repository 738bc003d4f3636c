//! JSON as Python writes it: `json.dump` puts `Infinity`, `-Infinity` and `NaN` into files that no strict reader takes.
//! Configurations of real models have them (Mamba-2's `time_step_limit`).

use serde_json::Value;

/// Words that Python writes where JSON has no number. The longest first, since one contains another.
const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Reads JSON; a number that is not finite reads as null.
///
/// # Errors
/// What a strict reader refuses for other reasons, with its line and column.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(bytes).or_else(|error| {
        let replaced = without_words(bytes);
        // Where nothing was replaced, the first error is the true one.
        if replaced == bytes { Err(error) } else { serde_json::from_slice(&replaced) }
    })
}

/// Puts `null` for each of the words outside strings.
fn without_words(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut in_string) = (bytes, false);
    while let [first, ..] = rest {
        let word = WORDS.iter().find(|w| !in_string && rest.starts_with(w));
        let step = match (word, first) {
            (Some(word), _) => word.len(),
            (None, b'\\') if in_string => 2.min(rest.len()),
            _ => 1,
        };
        out.extend_from_slice(if word.is_some() { b"null" } else { &rest[..step] });
        in_string ^= *first == b'"';
        rest = &rest[step..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_words_are_read() {
        let text = br#"{"limit": [NaN, Infinity], "low": -Infinity, "text": "NaN \" Infinity"}"#;
        let value = parse(text).expect("read");
        assert_eq!(value["limit"][0], Value::Null);
        assert_eq!(value["limit"][1], Value::Null);
        assert_eq!(value["low"], Value::Null);
        assert_eq!(value["text"], "NaN \" Infinity");
    }

    #[test]
    fn other_faults_are_still_faults() {
        assert!(parse(b"{").is_err());
        assert!(parse(b"{\"a\": Infinite}").is_err());
    }
}
