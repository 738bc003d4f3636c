//! The table of a `Precompiled` normaliser, checked before the `tokenizers` crate reads it: that one makes room for as many
//! entries as the table claims to have, up to 8 GiB, and an allocation that fails ends the process.

use serde::Deserialize;
use serde_json::Value;

/// The one part of `tokenizer.json` that may hold such a table.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    normalizer: Value,
}

/// What is wrong with a table of a `tokenizer.json`, or with the file as JSON: the crate would read a table that stands
/// before the fault.
pub(super) fn fault(json: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Head>(json) {
        Ok(head) => table_fault(&head.normalizer),
        Err(error) => Some(error.to_string()),
    }
}

/// Looks through normalisers within normalisers; the JSON reader bounds their depth.
fn table_fault(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| match value.as_str() {
            Some(table) if key == "precompiled_charsmap" => size_fault(table),
            _ => table_fault(value),
        }),
        Value::Array(values) => values.iter().find_map(table_fault),
        _ => None,
    }
}

/// A table in base64 begins with the size of its first part in bytes.
fn size_fault(table: &str) -> Option<String> {
    let claimed = first_number(table)?;
    let held = table.len() / 4 * 3;
    (claimed as usize > held)
        .then(|| format!("the table of its normaliser claims {claimed} bytes and has at most {held}"))
}

/// The first four bytes of base64 as a number, low byte first. What is no base64 is left to the crate to refuse.
fn first_number(base64: &str) -> Option<u32> {
    let mut bits = 0_u64;
    for letter in base64.as_bytes().first_chunk::<6>()? {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u64::from(digit);
    }
    // 36 bits hold four bytes and half of the fifth.
    Some(((bits >> 4) as u32).swap_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_base64() {
        // python3 -c "import base64; print(base64.b64encode(bytes([0x78, 0x56, 0x34, 0x12, 0xff])))"
        assert_eq!(first_number("eFY0Ev8="), Some(0x1234_5678));
        assert_eq!((first_number("AAAA"), first_number("AAA=AA")), (None, None));
    }

    /// Found by fuzzing: 6 GB were asked for.
    #[test]
    fn a_table_that_claims_more_than_it_has_is_refused() {
        let json = |table: &str| {
            let inner = format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{table}"}}"#);
            format!(r#"{{"model": {{}}, "normalizer": {{"type": "Sequence", "normalizers": [{inner}]}}}}"#)
        };
        let told = fault(json("AAAnullAAA==").as_bytes()).expect("refused");
        assert!(told.contains("claims") && told.contains("at most 9"), "{told}");
        assert_eq!(fault(json("BAAAAAAAAAA=").as_bytes()), None);
        assert_eq!(fault(b"{}"), None);
        assert!(fault((json("AAAnullAAA==") + "}").as_bytes()).is_some(), "a fault behind the table");
    }
}
